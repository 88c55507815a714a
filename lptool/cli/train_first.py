"""Where the tickets of `lptool pool` come from: files that are there, or with `--train` a run made first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lptool.cli.train import train_under_bars
from lptool.cli.train_options import chosen
from lptool.errors import CheckpointError
from lptool.training.options import Levels, TrainOptions

if TYPE_CHECKING:
    from lptool.cli.output import Document
    from lptool.pooling.setup import PoolOptions
    from lptool.ranks import Ranks


@dataclass(frozen=True)
class RunToMake:
    """A run that has to be trained before there is anything to pool."""

    folder: Path
    options: TrainOptions
    levels: Levels

    def document(self) -> Document:
        """What `--dry-run` says of it."""
        return {"train": {"folder": str(self.folder), "levels": self.levels, **self.options.to_json()}}

    def make(self, options: PoolOptions, ranks: Ranks) -> None:
        """Train it under progress bars; a run that was cut off goes on."""
        train_under_bars(self.options, self.levels, self.folder, options.data_dir, options.device, ranks)


def run_to_make(
    given: Sequence[Path], out: Path, preset: str | None, levels: int | None, seed: int | None, options: PoolOptions
) -> RunToMake | None:
    """The run that `--train` makes: in the folder named, else in one beside the output; None where tickets are there.

    Raises:
        TrainError: what the options of `pool` say about it contradicts itself.
    """
    folder = _folder_to_train(given, out)
    if folder is None:
        return None
    shaped = {key: getattr(options, key) for key in ("arch", "dataset", "val_fraction", "split_seed")}
    precision = None if options.precision == "auto" else options.precision
    return RunToMake(folder, *chosen(preset, levels, {**shaped, "precision": precision, "seed": seed}))


def found_tickets(given: Sequence[Path], made: RunToMake | None) -> list[Path]:
    """The files of the run that was made, else of what was named. Raises CheckpointError."""
    from lptool.checkpoints.finding import find_checkpoints

    if made is None and not given:
        raise click.UsageError("name the checkpoints to pool, or add --train to make them first")
    return find_checkpoints(given if made is None else [made.folder])


def _folder_to_train(given: Sequence[Path], out: Path) -> Path | None:
    if not given:
        return out.parent / f"{out.stem or 'pooled'}_tickets"
    if len(given) == 1 and _lacks_tickets(given[0]):
        return given[0]
    click.echo("tickets found; nothing is trained", err=True)
    return None


def _lacks_tickets(folder: Path) -> bool:
    """Whether training has to make them: there is no checkpoint, or a run was cut off."""
    from lptool.checkpoints.finding import find_checkpoints
    from lptool.training.folder import RunFolder

    try:
        return not find_checkpoints([folder]) or RunFolder(folder).unfinished
    except CheckpointError:
        return True
