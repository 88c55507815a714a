"""Where the tickets of `lptool pool` come from: files that are there, or a run made first."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lptool.cli.options import TICKETS
from lptool.cli.train import RunToMake
from lptool.cli.train_options import QUICKSTART, chosen
from lptool.errors import CheckpointError, PoolError, first_ten

if TYPE_CHECKING:
    from lptool.cli.output import Document
    from lptool.pooling.setup import PoolOptions

_HOW_TO_MAKE = "`lptool train` makes tickets, and so does this command with --train"
_NOTHING_NAMED = f"name the checkpoints to pool, as in `lptool pool {TICKETS}/*.safetensors`; {_HOW_TO_MAKE}"


def refuse_nothing(given: Sequence[Path], train_first: bool) -> None:
    """Refuse, before anything is imported, to pool nothing, where nobody is there to be asked."""
    if not (given or train_first or _at_terminal()):
        raise click.UsageError(_NOTHING_NAMED)


def _at_terminal() -> bool:
    """Whether one process alone talks to a person."""
    return os.environ.get("WORLD_SIZE", "1") == "1" and sys.stdin.isatty() and sys.stderr.isatty()


def run_to_make(
    given: Sequence[Path], out: Path, preset: str | None, levels: int | None, seed: int | None, options: PoolOptions
) -> RunToMake | None:
    """The run that `--train` makes: where tickets are looked for, else beside the output; None where they are there.

    Raises:
        TrainError: what the options of `pool` say about it contradicts itself.
        CheckpointError: it cannot be told in which folder.
    """
    folder = _run_folder(given) if given else out.parent / f"{out.stem or 'pooled'}_tickets"
    if given and not lacks_tickets(given):
        return None
    if folder is None or glob.has_magic(str(folder)):
        raise CheckpointError(f"{first_ten([*map(str, given)], ', ')}: no single folder to train in; name one")
    names = ("arch", "arch_kwargs", "dataset", "val_fraction", "split_seed", "augment", "crop_padding", "flip")
    shaped = {name: getattr(options, name) for name in names}
    # `auto` is the default here, and does not mean that the preset shall not decide.
    precision = None if options.precision == "auto" else options.precision
    run_options, run_levels = chosen(preset, levels, {**shaped, "precision": precision, "seed": seed})
    if options.crop_padding is not None and run_options.augment == "resized-crop":
        raise click.UsageError("--augment resized-crop does not use --crop-padding; leave it out")
    return RunToMake(run_options, run_levels, folder, options.data_dir, options.device)


def run_offered(given: Sequence[Path], seed: int | None, options: PoolOptions) -> RunToMake | None:
    """The quickstart, where no ticket is there, a person sits at a terminal, and says yes."""
    folder = _run_folder(given or [TICKETS])
    if folder is None or glob.has_magic(str(folder)) or options.arch or options.dataset or not _at_terminal():
        return None
    if _names_a_file(given) or not (_finds_nothing(given) and _finds_nothing([folder])):
        return None
    question = f"no tickets there; train the {QUICKSTART} (digits, half a minute on two CPU cores) into {folder} now?"
    return run_to_make([folder], folder, QUICKSTART, None, seed, options) if click.confirm(question, err=True) else None


def run_document(run: RunToMake) -> Document:
    """What `--dry-run` of `pool --train` prints of the run that comes first."""
    return {"train": {"folder": str(run.folder), "levels": run.levels, **run.options.to_json()}}


def found_tickets(given: Sequence[Path], made: RunToMake | None, target: str) -> tuple[list[Path], list[str]]:
    """The files of the run that was made, else of what was named, and what a person should know of them.

    Raises:
        CheckpointError: there are none. PoolError: there is one, of a run that was cut off.
    """
    from lptool.checkpoints.finding import find_tickets

    if made is None and not given:
        raise click.UsageError(_NOTHING_NAMED)
    named = given if made is None else [made.folder]
    try:
        found, no_tickets = find_tickets(named)
    except CheckpointError as error:
        if _finds_nothing(named) and not _names_a_file(named):
            raise CheckpointError(f"{error}; {_HOW_TO_MAKE}") from error
        raise
    kept, left_out = without_pooled(found, named, target)
    return kept, [*no_tickets, *left_out, *_unfinished(kept, _run_folder(named))]


def without_pooled(found: Sequence[Path], named: Sequence[Path], target: str) -> tuple[list[Path], list[str]]:
    """Files without the pooled models that a folder or a glob brought along, and a line that says so.

    The shell expands globs before we see them, so a pooled model counts as named alone where it is the only file named
    of its folder, the only one in a folder that is named, or the target.
    """
    files, models = [path for path in named if path.is_file()], map(_only_file, named)
    alone = [path for path in files if [file.parent for file in files].count(path.parent) == 1]
    meant = {path.resolve() for path in (*alone, *(model for model in models if model), Path(target))}
    pooled = [path for path in found if path.resolve() not in meant and _is_pooled(path)]
    rest = [path for path in found if path not in pooled]
    if not pooled or not rest:  # where all are pooled models, they were meant
        return list(found), []
    verb = "is a pooled model and no ticket" if len(pooled) == 1 else "are pooled models and no tickets"
    return rest, [f"{first_ten([*map(str, pooled)], ', ')} {verb}; left out (to pool one too, name it alone)"]


def _is_pooled(path: Path) -> bool:
    """Whether a file's header calls it a pooled model; what cannot be read is told by who reads it whole."""
    from lptool.checkpoints.reading import metadata_of

    try:
        return path.suffix == ".safetensors" and metadata_of(path).kind == "pooled"
    except CheckpointError:
        return False


def _unfinished(found: Sequence[Path], folder: Path | None) -> list[str]:
    """A line where a run of the trainer was cut off in the folder. Raises PoolError where there is nothing to pool."""
    from lptool.training.folder import RunFolder

    if folder is None or not RunFolder(folder).unfinished:
        return []
    line = f"{folder}: its run is not finished; the same `lptool train` goes on"
    if len(found) < 2:
        raise PoolError(f"{line}, and a pool needs at least two tickets")
    return [f"{line}, and gives sparser tickets"]


def _run_folder(paths: Sequence[Path]) -> Path | None:
    """The one folder in which the files named lie, or would lie; None where there is not one."""
    folders = {path if _is_folder(path) else path.parent for path in paths}
    return folders.pop() if len(folders) == 1 else None


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not (path.exists() or path.suffix or glob.has_magic(str(path)))


def _names_a_file(paths: Sequence[Path]) -> bool:
    """Whether one of them is, or would be, a single file."""
    return any(path.is_file() or (path.suffix and not glob.has_magic(str(path))) for path in paths)


def _only_file(path: Path) -> Path | None:
    """The checkpoint of a folder that holds one, such as a model in the Hugging Face layout."""
    from lptool.checkpoints.finding import checkpoint_file

    try:
        return checkpoint_file(path) if path.is_dir() else None
    except CheckpointError:
        return None


def lacks_tickets(paths: Sequence[Path]) -> bool:
    """Whether training has to make them: there is no checkpoint, or a folder or glob holds a run that was cut off."""
    from lptool.training.folder import RunFolder

    folder = None if _names_a_file(paths) else _run_folder(paths)
    return _finds_nothing(paths) or (folder is not None and RunFolder(folder).unfinished)


def _finds_nothing(paths: Sequence[Path]) -> bool:
    """Whether none of these files, folders and globs leads to a checkpoint."""
    from lptool.checkpoints.finding import find_checkpoints

    def found(path: Path) -> list[Path]:
        try:
            return find_checkpoints([path])
        except CheckpointError:
            return []

    return not any(map(found, paths))
