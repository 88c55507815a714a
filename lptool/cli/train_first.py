"""Where the tickets of `lptool pool` come from: files that are there, or with `--train` a run made first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lptool.cli.train import RunToMake
from lptool.cli.train_options import chosen
from lptool.errors import CheckpointError

if TYPE_CHECKING:
    from lptool.cli.output import Document
    from lptool.pooling.setup import PoolOptions


def run_to_make(
    given: Sequence[Path], out: Path, preset: str | None, levels: int | None, seed: int | None, options: PoolOptions
) -> RunToMake | None:
    """The run that `--train` makes: in the folder named, else in one beside the output; None where tickets are there.

    Raises:
        TrainError: what the options of `pool` say about it contradicts itself.
    """
    if not given:
        folder = out.parent / f"{out.stem or 'pooled'}_tickets"
    elif len(given) == 1 and _lacks_tickets(given[0]):
        folder = given[0]
    else:
        click.echo("tickets found; nothing is trained", err=True)
        return None
    names = ("arch", "dataset", "val_fraction", "split_seed", "augment", "crop_padding", "flip")
    shaped = {name: getattr(options, name) for name in names}
    # `auto` is the default here, and does not mean that the preset shall not decide.
    precision = None if options.precision == "auto" else options.precision
    run_options, run_levels = chosen(preset, levels, {**shaped, "precision": precision, "seed": seed})
    if options.crop_padding is not None and run_options.augment == "resized-crop":
        raise click.UsageError("--augment resized-crop does not use --crop-padding; leave it out")
    return RunToMake(run_options, run_levels, folder, options.data_dir, options.device)


def run_document(run: RunToMake) -> Document:
    """What `--dry-run` of `pool --train` prints of the run that comes first."""
    return {"train": {"folder": str(run.folder), "levels": run.levels, **run.options.to_json()}}


def found_tickets(given: Sequence[Path], made: RunToMake | None) -> list[Path]:
    """The files of the run that was made, else of what was named. Raises CheckpointError."""
    from lptool.checkpoints.finding import find_checkpoints

    if made is None and not given:
        raise click.UsageError("name the checkpoints to pool, or add --train to make them first")
    return find_checkpoints(given if made is None else [made.folder])


def _lacks_tickets(folder: Path) -> bool:
    """Whether training has to make them: there is no checkpoint, or a run was cut off."""
    from lptool.checkpoints.finding import find_checkpoints
    from lptool.training.folder import RunFolder

    try:
        return not find_checkpoints([folder]) or RunFolder(folder).unfinished
    except CheckpointError:
        return True
