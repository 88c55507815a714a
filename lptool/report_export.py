"""What a person or a program reads of a file that was written: its sizes, and the line of Python that loads it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from lptool.convert import Conversion
from lptool.export import Sizes
from lptool.networks import OWN_ARCHS
from lptool.report import percent
from lptool.tickets import Metadata


def how_to_load(metadata: Metadata, path: Path, *, kind: str, plain_names: bool) -> str:
    """One line of Python, after the words `load it`.

    Args:
        kind: `dense`, `packed`, `folder`, `onnx` or `prune keys`.
        plain_names: whether the tensors have the network's own names.
    """
    file, of_timm = str(path), metadata.arch is not None and ":" not in metadata.arch and plain_names
    if kind == "onnx":
        return f"load it: onnxruntime.InferenceSession({file!r})"
    if kind == "prune keys":
        return f"load it, after torch.nn.utils.prune: model.load_state_dict(torch.load({file!r}, weights_only=True))"
    if kind != "packed" and of_timm:
        return f"load it: {_timm_line(metadata, file, kind)}"
    if kind != "dense" and metadata.arch is not None:
        named = f", arch={metadata.arch!r}" if ":" in metadata.arch else ""  # code is run only where it is named
        return f"load it: lptool.load_model({file!r}{named})"
    reader = "lptool.load_state_dict" if kind == "packed" else "safetensors.torch.load_file"
    return f"load it: model.load_state_dict({reader}({file!r}))"


def _timm_line(metadata: Metadata, file: str, kind: str) -> str:
    """Networks that are ours have to be registered with timm before."""
    ours = "import lptool.networks; " if metadata.arch in OWN_ARCHS else ""
    if kind == "folder":
        return f"{ours}timm.create_model({'local-dir:' + file!r}, pretrained=True)"
    arguments = "".join(f", {name}={value!r}" for name, value in metadata.arch_kwargs.items())
    return f"{ours}timm.create_model({metadata.arch!r}{arguments}, checkpoint_path={file!r})"


def sizes_line(sizes: Sizes) -> str:
    """Dense, packed and gzip in units that a person reads."""
    return f"bytes: {_size(sizes.dense)} dense, {_size(sizes.packed)} packed, {_size(sizes.gzip)} dense through gzip"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def conversion_document(conversion: Conversion) -> dict[str, Any]:
    """The `--json` document of `convert`."""
    scores = [score.to_json() for score in conversion.test or ()]
    return {
        "source": str(conversion.source),
        "output": str(conversion.output),
        "kind": conversion.kind,
        "sha256": conversion.sha256,
        "sparsity": conversion.sparsity,
        "bytes": {"written": conversion.bytes, **asdict(conversion.sizes)},
        "test": dict(zip(("before", "after"), scores, strict=True)) if scores else None,
        "onnx_difference": conversion.difference,
        "warnings": list(conversion.warnings),
    }


def conversion_view(conversion: Conversion) -> RenderableType:
    """The same for a person."""
    lines = [
        f"wrote {conversion.output} ({conversion.kind}, {_size(conversion.bytes)}, sha256 {conversion.sha256[:16]}…), "
        f"{percent(conversion.sparsity)} sparse",
        sizes_line(conversion.sizes),
    ]
    if conversion.test is not None:
        before, after = conversion.test
        lines.append(
            f"accuracy on test: {percent(before.accuracy)} before, {percent(after.accuracy)} after, of {after.n} images"
        )
    if conversion.difference is not None:
        lines.append(f"onnxruntime's logits differ from torch's by {conversion.difference:.1e} at most")
    loading = how_to_load(
        conversion.metadata, conversion.output, kind=conversion.kind, plain_names=conversion.plain_names
    )
    return Group(*lines, loading)
