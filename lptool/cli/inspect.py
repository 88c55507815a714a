"""`lptool inspect`: what files are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lptool.cli import options as shared
from lptool.cli.ending import clear_errors
from lptool.cli.options import SectionedCommand, options_of
from lptool.cli.output import print_result, progress_bar, warn
from lptool.cli.threads import choose_threads
from lptool.errors import CheckpointError

if TYPE_CHECKING:
    from lptool.pooling.comparisons import Barrier

OPTIONS = {
    "Loss barriers": [
        shared.dataset_option("Measure the loss barrier between neighbours on this.", "--data"),
        shared.data_dir_option(),
        shared.arch_option(f"For files that do not say: {shared.ARCHITECTURES}."),
        shared.ARCH_KWARGS,
        shared.MEAN,
        shared.STD,
        shared.DEVICE,
        shared.THREADS,
    ],
    "Files of other programs": [*shared.KEYS],
    "Output": [shared.JSON],
}


@click.command(cls=SectionedCommand)
@click.argument("files", nargs=-1, type=shared.PATH, metavar="FILE...")
@options_of(OPTIONS)
@clear_errors
def inspect(files: tuple[Path, ...], as_json: bool, threads: int | None, **given: Any) -> None:
    """Show what tickets and pooled models are made of, and whether they can be pooled.

    \b
    lptool inspect
    lptool inspect runs/digits/*.safetensors
    lptool inspect runs/digits --data digits
    lptool inspect pooled.safetensors

    With nothing named it shows what lies here: the tickets in ckpts/, and pooled*.safetensors.
    """
    here = None if files else _lying_here()
    from lptool.checkpoints.finding import find_tickets
    from lptool.checkpoints.inspection import Inspection, inspect_files
    from lptool.checkpoints.nested import Keys
    from lptool.report import inspect as report

    keys = Keys(given["state_key"], given["mask_key"])
    found, pooled = here or ([], None)
    if here is None:
        found, left_out = find_tickets(files)
        warn(left_out)
    inspection = inspect_files(found, keys) if found else Inspection(())
    comparable = len(found) > 1 and not inspection.problems
    if given["dataset"] and not comparable:
        warn(["no barrier is measured: that takes two tickets or more that can be pooled"])
    barriers = _barriers(found, threads, given) if given["dataset"] and comparable else []
    document = report.inspect_document(inspection)
    document["pool"]["barriers"] = report.barrier_documents(barriers)
    views = [report.inspect_view(inspection)] if found else []
    views += [report.barrier_view(barriers)] if barriers else []
    if pooled is not None:
        models = [inspect_files([file]) for file in pooled]
        document["pooled"] = [report.inspect_document(model)["tickets"][0] for model in models]
        views += map(report.inspect_view, models)
    print_result(document, views, as_json=as_json)


def _lying_here() -> tuple[list[Path], list[Path]]:
    """The tickets and the pooled models that the other commands put here unless told otherwise.

    Raises:
        CheckpointError: there are none.
    """

    def in_folder(folder: Path) -> list[Path]:
        try:
            if not folder.is_dir() or not any(folder.iterdir()):
                return []
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be read ({error.strerror})") from error
        from lptool.checkpoints.finding import find_checkpoints

        try:
            return find_checkpoints(folder)
        except CheckpointError:  # other things lie in it
            return []

    tickets = in_folder(shared.TICKETS)
    pooled = sorted(file for file in Path().glob("pooled*.safetensors") if file.is_file()) + in_folder(
        Path(shared.POOLED_ALL)
    )
    if not tickets and not pooled:
        raise CheckpointError(
            f"nothing to show here: looked for tickets in {shared.TICKETS}/, and for pooled*.safetensors and "
            f"{shared.POOLED_ALL}/; `lptool train` makes tickets, or name the files"
        )
    return tickets, pooled


def _barriers(files: Sequence[Path], threads: int | None, given: dict[str, Any]) -> list[Barrier]:
    from lptool.pooling.comparisons import barriers
    from lptool.pooling.setup import PoolOptions, open_bench

    choose_threads(threads, given["device"])
    bench = open_bench(files, PoolOptions(**given))
    found: list[Barrier] = []
    with progress_bar("barriers") as advance:
        for barrier in barriers(bench):
            found.append(barrier)
            advance(len(found), len(bench.pool) - 1, "barriers")
    return found
