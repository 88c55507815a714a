"""What a person or a program reads of a file that was written: its sizes, and the line of Python that loads it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.writing import Sizes
from lptool.export.accuracy import Change
from lptool.export.conversion import Conversion
from lptool.export.timm_config import is_timm
from lptool.networks.cifar import OWN_ARCHS
from lptool.report.terminal import whole_line
from lptool.scoring.score import Score
from lptool.tables import percent


def how_to_load(metadata: Metadata, path: Path, *, kind: str, plain_names: bool) -> str:
    """One line of Python, after the words `load it`; `model` is the network, where it has to be there already.

    Args:
        kind: see `Conversion`.
        plain_names: whether the tensors have the network's own names.
    """
    file, arch = str(path), metadata.arch
    if kind == "onnx":
        return f"load it: import onnxruntime; session = onnxruntime.InferenceSession({file!r})"
    if kind == "program":
        return f"load it: import torch; model = torch.export.load({file!r}).module()"
    if kind == "prune keys":
        line = f"import torch; model.load_state_dict(torch.load({file!r}, weights_only=True))"
        return f"load it, after torch.nn.utils.prune: {line}"
    if kind != "packed" and is_timm(arch) and plain_names:
        return f"load it: {_timm_line(metadata, file, kind)}"
    if kind != "dense" and arch is not None and (":" in arch or is_timm(arch)):
        named = f", arch={arch!r}" if ":" in arch else ""  # code is run only where it is named
        return f"load it: import lptool; model = lptool.load_model({file!r}{named})"
    if kind == "dense":
        return f"load it: import safetensors.torch; model.load_state_dict(safetensors.torch.load_file({file!r}))"
    return f"load it: import lptool; model.load_state_dict(lptool.load_state_dict({file!r}))"


def _timm_line(metadata: Metadata, file: str, kind: str) -> str:
    """Networks that are ours have to be registered with timm before."""
    imports = "import timm, lptool.networks" if metadata.arch in OWN_ARCHS else "import timm"
    if kind == "folder":
        return f"{imports}; model = timm.create_model({'local-dir:' + file!r}, pretrained=True)"
    arguments = "".join(f", {name}={value!r}" for name, value in metadata.arch_kwargs.items())
    return f"{imports}; model = timm.create_model({metadata.arch!r}{arguments}, checkpoint_path={file!r})"


def sizes_line(sizes: Sizes) -> str:
    """Dense and packed in units that a person reads."""
    return f"bytes: {in_units(sizes.dense)} dense, {in_units(sizes.packed)} packed"


def in_units(count: int) -> str:
    """Bytes as a person reads them, of which a kB has 1,000."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def conversion_document(conversion: Conversion) -> dict[str, Any]:
    """The `--json` document of `convert`."""
    return {
        "source": str(conversion.source),
        "output": str(conversion.output),
        "kind": conversion.kind,
        "sha256": conversion.sha256,
        "sparsity": conversion.sparsity,
        "bytes": {"written": conversion.bytes, **asdict(conversion.sizes)},
        "chosen": _chosen(conversion),
        "val": _before_and_after(conversion.change, "val"),
        "test": _before_and_after(conversion.change, "test"),
        "onnx_difference": conversion.difference if conversion.kind == "onnx" else None,
        "program_difference": conversion.difference if conversion.kind == "program" else None,
        "warnings": list(conversion.warnings),
    }


def _chosen(conversion: Conversion) -> dict[str, Any] | None:
    """What was chosen to fit a size."""
    if conversion.fitting is None:
        return None
    form, reason = conversion.fitting.form, conversion.fitting.reason
    return {"packed": form.packed, "values": form.values, "most": form.most, "reason": reason}


def _before_and_after(change: Change | None, part: str) -> dict[str, Any] | None:
    scores = _scores(change, part)
    return dict(zip(("before", "after"), (score.to_json() for score in scores), strict=True)) if scores else None


def _scores(change: Change | None, part: str) -> list[Score]:
    """Before and after, on `val` or `test`; empty where they are not known."""
    found = [getattr(scores, part) for scores in (change.before, change.after)] if change else []
    return [score for score in found if score is not None]


def conversion_view(conversion: Conversion) -> RenderableType:
    """The same for a person."""
    wrote = (
        f"wrote {conversion.output} ({conversion.kind}, {in_units(conversion.bytes)}, "
        f"sha256 {conversion.sha256[:16]}…), {percent(conversion.sparsity)} sparse"
    )
    lines = [sizes_line(conversion.sizes)]
    if (fitting := conversion.fitting) is not None:
        lines.append(f"chosen to fit {fitting.form.most:,} bytes: {fitting.form} ({fitting.reason})")
    for part in ("val", "test"):
        if scores := _scores(conversion.change, part):
            before, after = (percent(score.accuracy) for score in scores)
            lines.append(f"accuracy on {part}: {before} before, {after} after, of {scores[0].n} images")
    if conversion.difference is not None:
        runs = "onnxruntime's logits" if conversion.kind == "onnx" else "its logits"
        lines.append(f"{runs} differ from torch's by {conversion.difference:.1e} at most")
    kind, plain_names = conversion.kind, conversion.plain_names
    load = how_to_load(conversion.metadata, conversion.output, kind=kind, plain_names=plain_names)
    return Group(whole_line(wrote), *lines, whole_line(load))
