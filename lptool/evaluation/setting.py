"""The network and the images that files ask for: what is named on the way in, else what they say, else a guess."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.nested import Keys
from lptool.checkpoints.reading import reopened
from lptool.checkpoints.summary import Summary
from lptool.data.classes import check_named, names_known
from lptool.data.dataset import Data, load_data
from lptool.errors import DataError, one_line, said_by
from lptool.networks.architecture import architecture_of, classes_and_channels
from lptool.networks.running import check_forward

# Of BN recalibration and of reported scores: a part of the result, so it does not depend on the machine.
BATCH_SIZE = 256

EXAMPLES = "(npz:FILE, folder:DIR, cifar10, …)"

Normalisation = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class SettingOptions:
    """What is named on the way in, and what it is computed on.

    Attributes:
        arch, dataset, data_dir: None takes what the files say; an architecture is also guessed from the tensors.
        arch_kwargs: arguments of the architecture, over those that the files say.
        mean, std: per channel, of images scaled to [0, 1]; None takes what the files say, else measures both.
        batch_size: of all images; None takes 256, and for scoring in a search what the device is fastest with.
        state_key, mask_key: see `Keys`.
    """

    arch: str | None = None
    dataset: str | None = None
    data_dir: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    device: str = "auto"
    batch_size: int | None = None
    arch_kwargs: Mapping[str, Any] = field(default_factory=dict)
    state_key: str | None = None
    mask_key: str | None = None

    @property
    def keys(self) -> Keys:
        """Where PyTorch files have weights and masks."""
        return Keys(self.state_key, self.mask_key)


def architecture(summaries: Sequence[Summary], options: SettingOptions) -> tuple[str, dict[str, Any], list[str]]:
    """Name, arguments, and a warning where it was guessed: from the option, else the metadata, else the tensors.

    Args:
        summaries: of files with the same tensors.
        options: what the user names.

    Raises:
        ArchError: no architecture known has these tensors.
    """
    summary = next((s for s in summaries if s.metadata.arch), summaries[0])
    return architecture_of(summary.metadata, summary.shapes, summary.file, options.arch, options.arch_kwargs)


def try_scoring(model: nn.Module, data: Data, arch: str, device: torch.device) -> None:
    """Let a network see two black images of the data.

    Raises:
        ArchError: it cannot take them, or lacks classes. DataError: the classes have names, and it knows more of them.
    """
    check_named(data.class_names, check_forward(model, data.shape, data.num_classes, arch, device), data.name)


def naming_data(summaries: Sequence[Summary]) -> list[Summary]:
    """Those that say which data they were trained on."""
    return [summary for summary in summaries if summary.metadata.dataset]


def matching_data(
    summaries: Sequence[Summary],
    dataset: str | None,
    data_dir: Path | None,
    normalisation: Normalisation | None,
    val_fraction: float | None = None,
    split_seed: int | None = None,
) -> Data:
    """The data set named, else the one that the files say, split, sized and numbered as when they were trained.

    Raises:
        DataError: neither names a data set; or it is missing or damaged, has other classes, or is named by a file alone
            and would be downloaded or lies anywhere.
    """
    named = naming_data(summaries)
    metadata = named[0].metadata if named else Metadata()
    name, split = dataset or metadata.data.name, metadata.data.split
    if not name:
        raise DataError(f"{(named or summaries)[0].file}: does not say its data set; name it with --dataset {EXAMPLES}")
    if not dataset:
        _check_allowed(name, data_dir, named[0].file)
    _check_same_classes(named)
    # Where the user says what to load, the file is not to blame.
    with said_by(None if dataset or val_fraction is not None else named[0].file):
        return load_data(
            name,
            data_dir,
            val_fraction=_first(val_fraction, split.fraction, 0.1),
            split_seed=_first(split_seed, split.seed, 0),
            image_size=metadata.image_size,
            normalisation=normalisation,
            like=metadata.data,
            download=bool(dataset or data_dir),
        )


def _check_allowed(name: str, data_dir: Path | None, file: str) -> None:
    """Refuse a data set that only a file names, unless it has a name of its own or lies where the user said.

    Whoever wrote the file chose the name: to read it shall download nothing, and open no path that they chose.

    Raises:
        DataError: says what to add.
    """
    kind, _, place = name.partition(":")
    if kind in ("npz", "folder"):
        allowed = data_dir is not None and Path(place).resolve().is_relative_to(data_dir.resolve())
    else:
        allowed = data_dir is not None or "/" not in name
    if not allowed:
        shown = one_line(name)
        raise DataError(
            f"{file}: says that its data set is {shown}, which is read or downloaded only if you name it: "
            f"--dataset {shlex.quote(shown)}"
        )


def _check_same_classes(named: Sequence[Summary]) -> None:
    """Refuse files that were trained on classes of other names. Raises DataError."""
    listing = [(summary.file, names) for summary in named if (names := names_known(summary.metadata.data))]
    odd = next((file for file, names in listing if names != listing[0][1]), None)
    if odd is not None:
        raise DataError(f"{odd}: was trained on other classes than {listing[0][0]}, or on another order of them")


def normalisation_of(
    summaries: Sequence[Summary], mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalisation | None:
    """Mean and std as asked for, else as the files say; None where it takes measuring.

    Raises:
        DataError: one is asked for, and nothing says the other.
    """
    said = _said_normalisation(summaries)
    known = (mean or said[0], std or said[1])
    if bool(mean or std) and not all(known):
        given, lacking = ("--mean", "--std") if mean else ("--std", "--mean")
        raise DataError(
            f"{summaries[0].file}: does not say how its images are normalised, so {given} needs {lacking} too"
        )
    return known if all(known) else None


def _said_normalisation(summaries: Sequence[Summary]) -> Normalisation:
    """Of the first header with data; else of the first file: a `normalize` module's, or what its `config.json` says.

    Both are empty where nothing says both. In `config.json` timm has three channels whatever the network takes.
    """
    named, first = naming_data(summaries), summaries[0]
    data, config = (named[0].metadata if named else Metadata()).data, first.metadata.timm_images
    if data.mean and data.std:
        return data.mean, data.std
    if {"normalize.mean", "normalize.std"} <= set(first.tensors):
        file = reopened(first)
        mean, std = (tuple(file.tensor(f"normalize.{part}").flatten().tolist()) for part in ("mean", "std"))
        return mean, std
    channels = classes_and_channels(first.shapes)["in_chans"]
    return (config.mean, config.std) if len(config.mean) == len(config.std) == channels else ((), ())


def check_normalisation(data: Data) -> None:
    """Refuse a normalisation of other channels, or one that divides by nothing. Raises DataError."""
    if len(data.mean) != data.shape[0] or len(data.std) != data.shape[0]:
        raise DataError(
            f"{data.name}: images have {data.shape[0]} channels, but the normalisation has {len(data.mean)} means and "
            f"{len(data.std)} standard deviations; give one of each per channel with --mean and --std"
        )
    if not all(map(math.isfinite, (*data.mean, *data.std))) or min(data.std) <= 0:
        raise DataError("the normalisation needs finite means and standard deviations above 0; check --mean and --std")
    odd = next((value for value in (*data.mean, *data.std) if not 0 <= value <= 1), None)
    if odd is not None:
        scaled = f"; of a scale to 255, give {odd / 255:.4g}" if odd > 1 else ""
        raise DataError(f"mean and std are of pixels scaled to [0, 1], found {odd:g}{scaled}; check --mean and --std")


def check_image_shape(data: Data, summaries: Sequence[Summary]) -> None:
    """Refuse images of another shape than the first file that says so was trained on. Raises DataError."""
    named = naming_data(summaries)
    shape = named[0].metadata.data.image_shape if named else ()
    if shape and data.shape != shape:
        raise DataError(
            f"{named[0].file}: does not go with {data.name}: images are {list(data.shape)}, the tickets were trained "
            f"on {list(shape)}; use their data"
        )


def measured_note(data: Data) -> str:
    """The warning about a normalisation that no file and no option says."""
    shown = ", ".join(f"{value:.4f}" for value in (*data.mean, *data.std))
    return f"images are normalised as measured on train (mean and std {shown}); else: --mean and --std"


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)  # `or` would pass over 0, which is a seed
