"""One IMP run, opened: options, network, images and processes, all of it checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lptool.data.dataset import Data, load_data
from lptool.device import autocast_dtype
from lptool.errors import TrainError
from lptool.networks.building import prunable_weights
from lptool.ranks import Ranks
from lptool.training.folder import Record, RunFolder
from lptool.training.options import Levels, TrainOptions, check_levels, count_of
from lptool.training.parallel import check_processes, noticing_peers, spread
from lptool.training.schedule import rewind_step
from lptool.training.start import initial_model


@dataclass(frozen=True)
class Where:
    """How far a run has come: `images` out of `of` in this epoch, and `step` out of `steps` over all levels.

    Levels and epochs count from 0.
    """

    level: int
    epoch: int
    images: int
    of: int
    step: int
    steps: int


@dataclass(frozen=True)
class Watch:
    """Called as a run goes on.

    Attributes:
        on_step: after each step. on_epoch: with each record of `train.jsonl`. on_note: with what is odd in the data.
        on_level: with a level and the epoch that it begins with, or goes on with, before that.
    """

    on_step: Callable[[Where], None] = lambda where: None
    on_epoch: Callable[[Record], None] = lambda record: None
    on_note: Callable[[str], None] = lambda note: None
    on_level: Callable[[int, int], None] = lambda level, epoch: None


UNWATCHED = Watch()
FEW = 200  # images of val, below which one of them is more than half a point


@dataclass(frozen=True)
class Run:
    """What stays the same over all levels of a run. `network` is what a step calls, `model` what is kept of it."""

    options: TrainOptions
    levels: Levels
    data: Data
    model: nn.Module
    network: nn.Module
    device: torch.device
    compute: torch.dtype
    prunable: tuple[str, ...]
    origin: dict[str, str]
    folder: RunFolder
    ranks: Ranks
    watch: Watch

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.data.train) / self.options.batch_size)

    @cached_property
    def batches(self) -> tuple[Tensor, ...]:
        """The places in an epoch's order that make up each batch: even ones, for BatchNorm's sake."""
        return torch.arange(len(self.data.train)).tensor_split(self.steps_per_epoch)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes a run the one that a folder was begun with, besides how sparse its levels are.

        A rerun with another of these would go on with weights that it could not have made.
        """
        data = {f"data {key}": value for key, value in self.data.describe().items()}
        # With synchronised BatchNorm the number of processes makes no difference, so another one may go on.
        processes = None if self.options.sync_bn else self.ranks.count
        kwargs = {"arch_kwargs": self.options.arch_kwargs or None}
        return {**self.options.to_json(), **kwargs, **self.origin, **data, "processes": processes}

    @property
    def sparsities(self) -> list[float] | None:
        """The sparsity after each pruning where they were asked for."""
        return None if isinstance(self.levels, int) else list(self.levels)

    @property
    def rewind_step(self) -> int:
        return rewind_step(self.options, self.steps_per_epoch)

    def where(self, level: int, epoch: int, step: int) -> Where:
        """The place after so many steps of an epoch."""
        whole = self.options.epochs * self.steps_per_epoch
        later = whole - self.rewind_step  # steps of each level but the first
        at = epoch * self.steps_per_epoch + step
        done = at if level == 0 else whole + (level - 1) * later + at - self.rewind_step
        of = len(self.data.train)
        images = int(self.batches[step][0]) if step < self.steps_per_epoch else of  # the places before the next batch
        return Where(level, epoch, images, of, done, whole + count_of(self.levels) * later)

    def first_step(self, level: int, epoch: int) -> int:
        """The step of an epoch that a level begins with: not 0 only where it rewinds into the middle of one."""
        of_epoch = self.rewind_step - epoch * self.steps_per_epoch
        return of_epoch if level and 0 < of_epoch < self.steps_per_epoch else 0


def open_run(
    options: TrainOptions,
    levels: Levels,
    out: Path,
    data_dir: str | Path | None,
    device: torch.device,
    data: Data | None,
    ranks: Ranks,
    watch: Watch,
) -> Run:
    """Everything checked but the network, which `tried` then tries; nothing written.

    Arguments and errors: see `lptool.training.job.train_tickets`.
    """
    check_levels(levels)
    data = data or load_data(
        options.dataset,
        data_dir,
        val_fraction=options.val_fraction,
        split_seed=options.split_seed,
        image_size=options.image_size,
    )
    for note in (*data.notes, *_on_small_val(data)):
        watch.on_note(note)
    model, origin = initial_model(options, data.num_classes, data.shape)
    prunable = prunable_weights(model, options.prune)
    if not prunable:
        raise TrainError(f"architecture {options.arch!r} has no weights that --prune {options.prune} may touch")
    compute = autocast_dtype(options.precision, device)
    run = Run(
        options, levels, data.to(device), model, model, device, compute, prunable, origin, RunFolder(out), ranks, watch
    )
    _check_parts(run)
    check_processes(model, device, ranks, sync_bn=options.sync_bn)
    _ = run.rewind_step  # refused here where there is no such step
    return run


def _on_small_val(data: Data) -> list[str]:
    """A line where one image of val is more than half a point, so that what is chosen on it is chosen by chance."""
    found, total = len(data.val), len(data.val) + len(data.train)
    if found >= FEW:
        return []
    more = f"take a larger --val-fraction (at least {math.ceil(100 * FEW / total) / 100:g} for {FEW} of {total:,})"
    if data.split.get("fraction") is None:
        more = "put more images into the val part of the data set"
    elif total < 2 * FEW:
        more = "take a larger --val-fraction, such as 0.5, or more images"
    return [f"val has {found} images, so that one of them is {100 / found:.2g} points; {more}"]


def _check_parts(run: Run) -> None:
    """Every process needs images of every batch."""
    smallest = len(run.data.train) // run.steps_per_epoch
    if smallest < run.ranks.count * (1 if run.options.sync_bn else 2):
        raise TrainError(
            f"batch_size: batches of {smallest} images are too small for {run.ranks.count} processes; "
            "take larger ones or fewer processes"
        )


def over_processes(run: Run) -> Run:
    """The run with a network that trains on all processes together. Every process has to call this."""
    with noticing_peers(run.ranks):
        model, network = spread(run.model, run.device, run.ranks, sync_bn=run.options.sync_bn)
    if run.options.compile:
        network = torch.compile(network)  # type: ignore[assignment]
    return replace(run, model=model, network=network)
