"""A file to be converted, completed by what is named on the way in: what is prunable in it, its network, its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lptool.checkpoints.evidence import of_pruning
from lptool.checkpoints.reading import open_checkpoint
from lptool.checkpoints.summary import Summary, notes_of
from lptool.checkpoints.ticket import Ticket
from lptool.data.classes import check_named
from lptool.errors import ArchError, said_by
from lptool.evaluation.setting import (
    SettingOptions,
    architecture,
    check_normalisation,
    matching_data,
    measured_note,
    normalisation_of,
)
from lptool.export.timm_config import is_timm
from lptool.networks.architecture import check_fit, classes_and_channels


def complete(source: Path, options: SettingOptions, *, needs_arch: bool) -> tuple[Ticket, str, tuple[str, ...]]:
    """The ticket, its file's sha256, and warnings.

    The ticket says what is prunable in it, its architecture where that is known or needed, and its data.
    """
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
            with said_by(summary.file):  # whose header may say the arguments
                check_fit(arch, kwargs, summary.shapes, summary.file)
        metadata, notes = replace(metadata, arch=arch, arch_kwargs=kwargs), [*notes, *guessed]
    if options.dataset and not metadata.dataset:
        data, measured = _images(summary, options, metadata.arch_kwargs.get("num_classes"))
        metadata, notes = replace(metadata, dataset=data), [*notes, *measured]
    return _with_all_names(replace(ticket, metadata=metadata), options.arch), summary.sha256, tuple(notes)


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


def with_masks_of(prunable: tuple[str, ...], ticket: Ticket) -> Ticket:
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
