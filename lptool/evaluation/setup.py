"""The files to evaluate and the images to evaluate them on, everything checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lptool.checkpoints.evidence import of_pruning
from lptool.checkpoints.files import changed
from lptool.checkpoints.names import Names
from lptool.checkpoints.reading import reopened, summarise_file
from lptool.checkpoints.summary import Summary, notes_of
from lptool.checkpoints.ticket import Ticket
from lptool.data.corruptions import Corruptions, generated, standard, standard_folder
from lptool.data.dataset import Data
from lptool.data.images import channel_statistics
from lptool.device import pick_device
from lptool.errors import CheckpointError, DataError, first_ten, one_line, said_by
from lptool.evaluation.setting import (
    BATCH_SIZE,
    Normalisation,
    SettingOptions,
    architecture,
    check_image_shape,
    check_normalisation,
    matching_data,
    measured_note,
    normalisation_of,
    try_scoring,
)
from lptool.networks.building import build_for
from lptool.networks.matching import differing_copies, fit_names
from lptool.networks.onnx_file import FORMAT, OnnxNetwork, is_onnx, onnx_summary, onnx_ticket
from lptool.networks.running import make_ready
from lptool.provenance import data_name
from lptool.scoring.batching import BatchSize
from lptool.scoring.cost import Cost, Flops, cost_of, cost_of_tensors, count_flops
from lptool.scoring.latency import BATCH
from lptool.scoring.weights import put_weights


@dataclass(frozen=True)
class EvaluateOptions(SettingOptions):
    """What to evaluate on: besides `SettingOptions`, in which each file speaks for itself, this.

    Attributes:
        corruptions: also score under corruptions: those of the `.npy` files in `data_dir`, else made of test.
        latency: also measure how long a forward pass takes: of one image, and of a batch of `batch_size`, else of 32.

    >>> EvaluateOptions(dataset="npz:photos.npz", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).batch_size is None
    True
    """

    corruptions: bool = False
    latency: bool = False


@dataclass(frozen=True)
class Network:
    """Takes the weights of any file of one architecture in turn: memory does not grow with the number of files.

    Attributes:
        arch_kwargs: all that it was built with.
    """

    arch: str
    arch_kwargs: dict[str, Any]
    model: nn.Module
    image_shape: tuple[int, int, int]

    @property
    def runtime(self) -> str:
        """What runs it: `torch` or `onnxruntime`."""
        return "onnxruntime" if isinstance(self.model, OnnxNetwork) else "torch"

    @cached_property
    def flops(self) -> Flops:
        """Of one image; whatever the weights are."""
        return count_flops(self.model, self.image_shape)


@dataclass(frozen=True)
class Subject:
    """One file, the network it goes into, and the data normalised as it wants them.

    Attributes:
        summary: under the network's names. names: what the network calls the tensors of the file.
    """

    summary: Summary
    names: Names
    network: Network
    data: Data

    def load(self) -> Ticket:
        """Put the file's weights into the network."""
        ticket = reopened(self.summary).ticket().renamed(self.names)
        put_weights(self.network.model, ticket.state, ticket.mask)
        prunable = set(self.summary.prunable)
        return replace(ticket, mask={name: kept for name, kept in ticket.mask.items() if name in prunable})

    def cost(self, ticket: Ticket) -> Cost:
        """Of the network with the weights of the file, as `load` gives them."""
        return cost_of(self.network.model, ticket, self.network.flops)


class OnnxSubject(Subject):
    """An ONNX file, whose network has its weights already."""

    def load(self) -> Ticket:
        """What the file holds, to count it."""
        ticket, sha256 = onnx_ticket(self.summary.file)
        if sha256 != self.summary.sha256:
            raise changed(self.summary.file)
        return replace(ticket, mask={name: ticket.state[name] != 0 for name in self.summary.prunable})

    def cost(self, ticket: Ticket) -> Cost:
        """Of its tensors; what arithmetic they take is not known."""
        return cost_of_tensors(ticket, Path(self.summary.file).stat().st_size)


@dataclass(frozen=True)
class Plan:
    """Files and images, all checked; nothing is computed yet."""

    subjects: tuple[Subject, ...]
    data: Data
    device: torch.device
    batch_size: BatchSize
    corruptions: Corruptions | None
    latency: int | None  # images in a batch to measure
    warnings: tuple[str, ...]


def plan_evaluation(files: Sequence[str | Path], options: EvaluateOptions) -> Plan:
    """Open and check everything. Raises LptoolError."""
    summaries = summaries_of(files, options)
    check_finite(summaries)
    archs = [architecture_in(summary, options) for summary in summaries]
    _check_classes(summaries, [kwargs.get("num_classes") for _, kwargs, _ in archs])
    device = pick_device(options.device)
    folder = standard_folder(options.data_dir) if options.corruptions else None
    data, normalised, assumed = _data(summaries, options, folder)
    # Arguments may be a header's where the user names the architecture.
    own = [bool(options.arch and not kwargs) for _, kwargs, _ in archs]
    networks = networks_for([(name, kwargs) for name, kwargs, _ in archs], summaries, own, data, device)
    subjects = [subject_of(*parts) for parts in zip(summaries, networks, normalised, strict=True)]
    corruptions = None
    if options.corruptions:
        corruptions = standard(folder, data) if folder else generated(data, device)
    notes = notes_of(summaries)
    notes += [
        line
        for summary, one in zip(summaries, subjects, strict=True)
        for line in differing_copies([summary], one.names)
    ]
    guessed = [line for _, _, lines in archs for line in lines]
    return Plan(
        subjects=tuple(subjects),
        data=data,
        device=device,
        batch_size=BatchSize(options.batch_size or BATCH_SIZE),
        corruptions=corruptions,
        latency=(options.batch_size or BATCH) if options.latency else None,
        warnings=(*notes, *guessed, *assumed),
    )


def summaries_of(files: Sequence[str | Path], options: SettingOptions) -> list[Summary]:
    """What the files are, ONNX files among them. Raises LptoolError."""
    found = [onnx_summary(file) if is_onnx(file) else summarise_file(file, options.keys) for file in files]
    pruned = iter(of_pruning([summary for summary in found if summary.format != FORMAT]))
    return [summary if summary.format == FORMAT else next(pruned) for summary in found]


def architecture_in(summary: Summary, options: SettingOptions) -> tuple[str, dict[str, Any], list[str]]:
    """As `architecture`, of one file; of an ONNX file, which is its own network, what it says. Raises ArchError."""
    if summary.format != FORMAT:
        return architecture([summary], options)
    classes = summary.metadata.arch_kwargs.get("num_classes")
    return summary.metadata.arch or FORMAT, {} if classes is None else {"num_classes": classes}, []


def check_finite(summaries: Sequence[Summary]) -> None:
    """Refuse weights that are no numbers. Raises CheckpointError."""
    for summary in summaries:
        if summary.not_finite:
            broken = first_ten(summary.not_finite, ", ")
            raise CheckpointError(f"{summary.file}: {broken} holds NaN or infinite values; leave this file out")


def _check_classes(summaries: Sequence[Summary], classes: Sequence[int | None]) -> None:
    """Refuse files of different class counts, as far as they are known."""
    known = [(summary.file, count) for summary, count in zip(summaries, classes, strict=True) if count is not None]
    for file, found in known[1:]:
        if found != known[0][1]:
            raise DataError(
                f"{file}: tells {found} classes apart, but {known[0][0]} tells {known[0][1]}; evaluate files of one "
                "data set together"
            )


def _data(
    summaries: Sequence[Summary], options: EvaluateOptions, folder: Path | None
) -> tuple[Data, list[Data], list[str]]:
    """The data, the same as each file wants them normalised, and what had to be assumed."""
    stated = [normalisation_of([summary], options.mean, options.std) for summary in summaries]
    known = next((normalisation for normalisation in stated if normalisation), None)
    data = matching_data(summaries, options.dataset, _place_of_test(folder, options.data_dir), known)
    if not len(data.test):
        raise DataError(f"{data.name}: its test set has no images; choose a data set that has some")
    # Measured here too: where another file says a normalisation, `load_data` went by that.
    measured = _normalised(data, channel_statistics(data.train)) if None in stated else data
    normalised = [_normalised(data, normalisation) if normalisation else measured for normalisation in stated]
    for summary, own in zip(summaries, normalised, strict=True):
        check_image_shape(own, [summary])
        with said_by(None if options.mean or options.std else summary.file):
            check_normalisation(own)
    notes = [f"{summaries[stated.index(None)].file}: {measured_note(measured)}"] if None in stated else []
    if notes and known and _normalised(data, known) != measured:
        shown = ", ".join(f"{value:.4f}" for value in (*known[0], *known[1]))
        other = next(s.file for s, normalisation in zip(summaries, stated, strict=True) if normalisation)
        notes = [f"{notes[0]}; {other} says {shown}: give one to all, to compare them on the same inputs"]
    return data, normalised, [*data.notes, *_trained_on_others(summaries, data), *notes]


def _place_of_test(folder: Path | None, data_dir: Path | None) -> Path | None:
    """Where the uncorrupted images lie: beside the folder of `.npy` files where `data_dir` is that folder."""
    # torchvision keeps CIFAR itself in `cifar-10-batches-py` or `cifar-100-python`.
    if folder is None or folder != data_dir or any(folder.glob("cifar-*")):
        return data_dir
    return folder.absolute().parent


def _normalised(data: Data, normalisation: Normalisation) -> Data:
    mean, std = map(tuple, normalisation)
    return replace(data, mean=mean, std=std)


def _trained_on_others(summaries: Sequence[Summary], data: Data) -> list[str]:
    """A line for each file that says it was trained on another data set."""
    return [
        f"{s.file}: was trained on {one_line(name)}, and is scored on {data.name}"
        for s in summaries
        if data_name(name := s.metadata.data.name or data.name) != data_name(data.name)
    ]


def networks_for(
    archs: Sequence[tuple[str, dict[str, Any]]],
    summaries: Sequence[Summary],
    own: Sequence[bool],
    data: Data,
    device: torch.device,
) -> list[Network]:
    """The network of each file, one for all that are alike.

    Args:
        archs: name and arguments of each. own: whether all of that is the user's, and the file is not to blame.

    Raises:
        ArchError: a network cannot be built, or cannot take the images.
    """
    built: dict[str, Network] = {}
    # By `repr`, because arguments may hold lists, which cannot be keys. An ONNX file is a network for itself.
    keys = [
        repr((arch, summary.format == FORMAT and summary.file)) for arch, summary in zip(archs, summaries, strict=True)
    ]
    for key, (arch, kwargs), summary, named in zip(keys, archs, summaries, own, strict=True):
        if key not in built:
            whole = {"num_classes": data.num_classes, "in_chans": data.shape[0], **kwargs}
            with said_by(None if named else summary.file):
                built[key] = Network(arch, whole, _ready(arch, whole, summary, data, device), data.shape)
    return [built[key] for key in keys]


def _ready(arch: str, kwargs: dict[str, Any], summary: Summary, data: Data, device: torch.device) -> nn.Module:
    """A network that takes the images of the data."""
    if summary.format == FORMAT:
        model: nn.Module = OnnxNetwork(summary.file)
        try_scoring(model, data, arch, device)
        return model
    model = build_for(arch, kwargs, summary.shapes)
    make_ready(model, device, partial(try_scoring, model, data, arch, device))
    return model


def subject_of(summary: Summary, network: Network, data: Data) -> Subject:
    """A file and its network. Raises ArchError where they do not fit."""
    if summary.format == FORMAT:
        return OnnxSubject(summary, Names({name: name for name in summary.tensors}), network, data)
    names = fit_names(network.model, summary.shapes, network.arch, summary.file)
    return Subject(summary.renamed(names), names, network, data)
