"""`lptool inspect`: what files are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lptool.cli import options as shared
from lptool.cli.options import SectionedCommand, options_of
from lptool.cli.output import clear_errors, print_result, progress_bar, warn

if TYPE_CHECKING:
    from lptool.pooling.comparisons import Barrier

OPTIONS = {
    "Loss barriers": [
        shared.dataset_option("Measure the loss barrier between neighbours on this.", "--data"),
        shared.data_dir_option(),
        shared.arch_option(f"For files that do not say: {shared.ARCHITECTURES}."),
        shared.MEAN,
        shared.STD,
        shared.DEVICE,
    ],
    "Output": [shared.JSON],
}


@click.command(cls=SectionedCommand)
@shared.FILES
@options_of(OPTIONS)
@clear_errors
def inspect(files: tuple[Path, ...], as_json: bool, **given: Any) -> None:
    """Show what tickets and pooled models are made of, and whether they can be pooled.

    \b
    lptool inspect runs/digits/*.safetensors
    lptool inspect runs/digits --data digits
    lptool inspect pooled.safetensors
    """
    from lptool.checkpoints.finding import find_checkpoints
    from lptool.checkpoints.inspection import inspect_files
    from lptool.report import inspect as report

    found = find_checkpoints(files)
    inspection = inspect_files(found)
    comparable = len(found) > 1 and not inspection.problems
    if given["dataset"] and not comparable:
        warn(["no barrier is measured: that takes two tickets or more that can be pooled"])
    barriers = _barriers(found, given) if given["dataset"] and comparable else []
    document = report.inspect_document(inspection)
    document["pool"]["barriers"] = report.barrier_documents(barriers)
    measured = [report.barrier_view(barriers)] if barriers else []
    print_result(document, [report.inspect_view(inspection), *measured], as_json=as_json)


def _barriers(files: Sequence[Path], given: dict[str, Any]) -> list[Barrier]:
    from lptool.pooling.comparisons import barriers
    from lptool.pooling.setup import PoolOptions, open_bench

    bench = open_bench(files, PoolOptions(**given))
    found: list[Barrier] = []
    with progress_bar("barriers") as advance:
        for barrier in barriers(bench):
            found.append(barrier)
            advance(len(found), len(bench.pool) - 1, "barriers")
    return found
