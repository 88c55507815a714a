"""One file made into another form: dense, packed, a Hugging Face folder, ONNX, or keys of `torch.nn.utils.prune`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lptool.checkpoints.evidence import of_pruning
from lptool.checkpoints.finding import checkpoint_file
from lptool.checkpoints.masks import sparsity
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.places import WEIGHTS, check_folder, check_output, is_folder, new_folder
from lptool.checkpoints.reading import file_sha256, open_checkpoint
from lptool.checkpoints.summary import Summary, notes_of
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import Form, Sizes, save_prune_keys, sizes_of
from lptool.data.classes import check_named
from lptool.errors import ArchError, LptoolError, OutputError
from lptool.evaluation.job import carry_out
from lptool.evaluation.setting import (
    SettingOptions,
    architecture,
    check_normalisation,
    matching_data,
    measured_note,
    normalisation_of,
)
from lptool.evaluation.setup import EvaluateOptions, plan_evaluation
from lptool.export.folder import for_folder, write_folder
from lptool.export.onnx import PACKAGES, save_onnx
from lptool.export.timm_config import is_timm
from lptool.networks.architecture import check_fit, classes_and_channels
from lptool.networks.onnx_file import check_packages
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
    if kind == "folder":
        check_folder(output, [source], overwrite=overwrite)
    else:
        check_output(output, [source], overwrite=overwrite, suffix=output.suffix)
    if kind == "onnx":
        check_packages(PACKAGES)
    ticket, warnings = _complete(source, options, needs_arch=kind in ("folder", "onnx"))
    difference = None
    if kind != "prune keys":
        ticket = _with_masks_of(ticket.metadata.prunable, ticket)
    if kind == "onnx":
        difference = _write_onnx(source, ticket, output, options, overwrite=overwrite)
    elif kind == "prune keys":
        # With masks of ones, where its own program goes on with them.
        save_prune_keys(ticket, output, replace=overwrite)
    elif kind == "folder":
        if not ticket.metadata.dataset:
            unknown = "does not say its data set, so config.json cannot say its mean and std; name it with --dataset"
            warnings = (*warnings, f"{ticket.file}: {unknown}")
        ticket = for_folder(ticket)
        with new_folder(output, overwrite=overwrite) as folder:
            write_folder(ticket, folder, command=command, documents={})
    else:
        form.save(ticket, output, replace=overwrite)
    written = output / WEIGHTS if kind == "folder" else output
    conversion = Conversion(
        source=source,
        output=output,
        kind=kind,
        sha256=file_sha256(written),
        bytes=written.stat().st_size,
        sparsity=sparsity(ticket.mask),
        sizes=sizes_of(ticket),
        metadata=ticket.metadata,
        plain_names=ticket.plain_names,
        difference=difference,
        warnings=warnings,
    )
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


def _complete(source: Path, options: SettingOptions, *, needs_arch: bool) -> tuple[Ticket, tuple[str, ...]]:
    """The ticket, saying what is prunable in it, its architecture where that is known or needed, its data; warnings."""
    checkpoint = open_checkpoint(source, options.keys)
    (summary,) = of_pruning([checkpoint.summary])
    ticket, metadata, notes = checkpoint.ticket(), checkpoint.metadata, notes_of([summary])
    prunable = tuple(ticket.own_names.get(name, name) for name in summary.prunable)
    # Else a dense output, which has no masks in it, would be read by the zeros of all its tensors.
    metadata = replace(metadata, prunable=metadata.prunable or prunable)
    if options.arch or options.arch_kwargs or (needs_arch and metadata.arch is None):
        arch, kwargs, guessed = architecture([summary], options)
        kwargs = {**classes_and_channels(summary.shapes), **kwargs}
        if options.arch:
            check_fit(arch, kwargs, summary.shapes, summary.file)
        metadata, notes = replace(metadata, arch=arch, arch_kwargs=kwargs), [*notes, *guessed]
    if options.dataset and not metadata.dataset:
        data, measured = _images(summary, options, metadata.arch_kwargs.get("num_classes"))
        metadata, notes = replace(metadata, dataset=data), [*notes, *measured]
    return _with_all_names(replace(ticket, metadata=metadata), options.arch), tuple(notes)


def _with_all_names(ticket: Ticket, named: str | None) -> Ticket:
    """The ticket with all names of shared tensors and all masks that its network has, where that may be built."""
    arch, kwargs = ticket.metadata.arch, ticket.metadata.arch_kwargs
    if arch is None or not (arch == named or is_timm(arch)):
        return ticket
    try:
        names = check_fit(arch, kwargs, ticket.shapes, ticket.file)
    except ArchError:  # a file in another form needs no network
        return ticket
    return ticket.renamed(names) if names.copies or names.mask_names else ticket


def _with_masks_of(prunable: tuple[str, ...], ticket: Ticket) -> Ticket:
    """The ticket with the masks of tensors of these names, which are its own program's, and no others."""
    names = set(prunable)
    return replace(ticket, mask={n: m for n, m in ticket.mask.items() if ticket.own_names.get(n, n) in names})


def _images(summary: Summary, options: SettingOptions, logits: int | None) -> tuple[dict[str, Any], list[str]]:
    """What the header says of data that were named; not how they were split, which is not known. And warnings."""
    known = normalisation_of([summary], options.mean, options.std)
    data = matching_data([summary], options.dataset, options.data_dir, known)
    check_normalisation(data)
    check_named(data.class_names, logits or len(data.class_names), data.name)
    document = {key: value for key, value in data.describe().items() if key != "split"}
    return document, [*data.notes, *([] if known else [f"{summary.file}: {measured_note(data)}"])]


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
