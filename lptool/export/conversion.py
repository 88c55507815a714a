"""One file made into another form: dense, packed, a Hugging Face folder, ONNX, or keys of `torch.nn.utils.prune`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lptool.checkpoints.finding import checkpoint_file
from lptool.checkpoints.masks import sparsity
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.places import WEIGHTS, check_folder, check_output, is_folder, new_folder
from lptool.checkpoints.reading import file_sha256
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import Form, Sizes, save_prune_keys, sizes_of
from lptool.errors import LptoolError, OutputError
from lptool.evaluation.job import carry_out
from lptool.evaluation.setting import SettingOptions
from lptool.evaluation.setup import EvaluateOptions, plan_evaluation
from lptool.export.folder import for_folder, write_folder
from lptool.export.onnx import check_packages, save_onnx
from lptool.export.source import complete, with_masks_of
from lptool.scoring.score import Score

_CHECKED_ON = 64  # test images that an ONNX file is compared with torch on
_KINDS = {".safetensors": "dense", ".onnx": "onnx", ".pt": "prune keys"}


@dataclass(frozen=True)
class Conversion:
    """One file as written.

    Attributes:
        kind: `dense`, `packed`, `folder`, `onnx` or `prune keys`.
        sha256: of the file, or of the weights in the folder. bytes: likewise.
        sparsity: in [0, 1]. sizes: of the safetensors files that these weights make.
        plain_names: whether its tensors have the network's own names.
        test: scores on test before and after, where values were shortened and the data can be had.
        difference: largest absolute difference of logits between ONNX and torch.
        warnings: what a person should know.
    """

    source: Path
    output: Path
    kind: str
    sha256: str
    bytes: int
    sparsity: float
    sizes: Sizes
    metadata: Metadata
    plain_names: bool
    test: tuple[Score, Score] | None = None
    difference: float | None = None
    warnings: tuple[str, ...] = ()


def convert(
    source: Path,
    output: str | Path,
    form: Form,
    options: SettingOptions,
    *,
    overwrite: bool = False,
    command: str | None = None,
) -> Conversion:
    """Write a checkpoint of any program in the form that the name of the output asks for.

    Args:
        source: a file, or a folder with one.
        output: `.safetensors` (dense or packed), `.onnx`, `.pt` (keys of `torch.nn.utils.prune`), or a folder, which a
            name without a suffix is, and a text that ends in a slash.
        form: of a `.safetensors`.
        options: the architecture and the data, for files that do not say.
        command: for the model card of a folder.

    Raises:
        CheckpointError: the source cannot be read. OutputError: the output must not or cannot be written.
        ArchError, DataError: a folder or ONNX needs the architecture, ONNX the data too, and they are not known.

    >>> import lptool
    >>> lptool.save_ticket(lptool.Ticket({"w": torch.eye(64)}, {"w": torch.eye(64) == 1}), "dense.safetensors")
    >>> made = lptool.convert(Path("dense.safetensors"), "packed.safetensors", Form(packed=True), SettingOptions())
    >>> made.sizes.dense > 10 * made.sizes.packed
    True
    """
    source = checkpoint_file(source)
    kind, output = _kind(output, form), Path(output)
    _check(kind, source, output, overwrite=overwrite)
    ticket, warnings = complete(source, options, needs_arch=kind in ("folder", "onnx"))
    ticket, warnings = _as_kind(kind, ticket), (*warnings, *_unsaid(kind, ticket))
    difference = None
    if kind == "onnx":
        difference = _write_onnx(source, ticket, output, options, overwrite=overwrite)
    elif kind == "prune keys":
        save_prune_keys(ticket, output, replace=overwrite)
    elif kind == "folder":
        with new_folder(output, overwrite=overwrite) as folder:
            write_folder(ticket, folder, command=command, documents={})
    else:
        form.save(ticket, output, replace=overwrite)
    conversion = replace(_described(kind, source, output, ticket), difference=difference, warnings=warnings)
    return _with_accuracy(conversion, options) if form.values else conversion


def _kind(output: str | Path, form: Form) -> str:
    kind = "folder" if is_folder(output) else _KINDS.get(Path(output).suffix)
    if kind is None:
        raise OutputError(
            f"{output}: expected a name that ends in {', '.join(_KINDS)}, or a folder, "
            "whose name has no suffix or ends in /"
        )
    if form.packed and kind != "dense":
        raise OutputError(f"{output}: only a .safetensors file can be packed; leave out --packed, or name one")
    return "packed" if form.packed else kind


def _check(kind: str, source: Path, output: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, what must not or cannot be written. Raises OutputError, or SetupError for a package."""
    if kind == "folder":
        check_folder(output, [source], overwrite=overwrite)
    else:
        check_output(output, [source], overwrite=overwrite, suffix=output.suffix)
    if kind == "onnx":
        check_packages()


def _as_kind(kind: str, ticket: Ticket) -> Ticket:
    """The ticket as a file of this kind holds it."""
    if kind == "prune keys":  # with masks of ones, where its own program goes on with them
        return ticket
    ticket = with_masks_of(ticket.metadata.prunable, ticket)
    return for_folder(ticket) if kind == "folder" else ticket


def _unsaid(kind: str, ticket: Ticket) -> list[str]:
    """A warning of what a file of this kind cannot say."""
    if kind != "folder" or ticket.metadata.dataset:
        return []
    unknown = "does not say its data set, so config.json cannot say its mean and std; name it with --dataset"
    return [f"{ticket.file}: {unknown}"]


def _described(kind: str, source: Path, output: Path, ticket: Ticket) -> Conversion:
    """What was written, as it lies there."""
    written = output / WEIGHTS if kind == "folder" else output
    return Conversion(
        source=source,
        output=output,
        kind=kind,
        sha256=file_sha256(written),
        bytes=written.stat().st_size,
        sparsity=sparsity(ticket.mask),
        sizes=sizes_of(ticket),
        metadata=ticket.metadata,
        plain_names=ticket.plain_names,
    )


def _write_onnx(source: Path, ticket: Ticket, output: Path, options: SettingOptions, *, overwrite: bool) -> float:
    """Export through the network on the CPU, and compare with it on test images: the largest difference of logits."""
    # On the CPU, as the file is checked there too.
    plan = plan_evaluation([source], EvaluateOptions(**vars(replace(options, device="cpu"))))
    (subject,) = plan.subjects
    subject.load()
    data, device = subject.data, torch.device("cpu")
    chosen = torch.arange(min(_CHECKED_ON, len(data.test)))
    images = (batch for batch, _ in data.batches(data.test.subset(chosen), _CHECKED_ON, device))
    header = ticket.metadata.to_json(sparsity(ticket.mask))
    metadata = {"lptool": header, "mean": json.dumps(data.mean), "std": json.dumps(data.std)}
    return save_onnx(subject.network.model, output, images, metadata, replace=overwrite)


def _with_accuracy(conversion: Conversion, options: SettingOptions) -> Conversion:
    """With the scores on test before and after values were shortened; a warning where they cannot be had."""
    try:
        plan = plan_evaluation([conversion.source, conversion.output], EvaluateOptions(**vars(options)))
        before, after = (file.test.score for file in carry_out(plan, lambda done, total, text: None).files)
    except LptoolError as error:
        missing = f"accuracy before and after is not known: {error}"
        return replace(conversion, warnings=(*conversion.warnings, missing))
    return replace(conversion, test=(before, after))
