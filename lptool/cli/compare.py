"""`lptool compare`: the gains of several runs, with tests, as tables and a figure."""

from __future__ import annotations

from pathlib import Path

import click

from lptool.cli import options as shared
from lptool.cli.ending import clear_errors
from lptool.cli.options import SectionedCommand, option, options_of
from lptool.cli.output import print_result, say

_FILE = click.Path(path_type=Path, dir_okay=False)
OPTIONS = {
    "Output": [
        option("--csv", type=_FILE, metavar="FILE.csv", help="Write every row as comma-separated values."),
        option("--latex", type=_FILE, metavar="FILE.tex", help="Write the tables for LaTeX with booktabs."),
        option(
            "--figure",
            type=_FILE,
            metavar="FILE.pdf",
            help="Draw gain against density, a panel for each data set; .pdf, .svg or .png.",
        ),
        shared.overwrite_option("Replace files that exist."),
        shared.JSON,
    ],
}


@click.command(cls=SectionedCommand)
@shared.FILES
@options_of(OPTIONS)
@clear_errors
def compare(
    files: tuple[Path, ...],
    csv: Path | None,
    latex: Path | None,
    figure: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Bring together what `pool --json` and `evaluate --json` printed for several runs, methods and data sets.

    \b
    lptool compare seed0.json seed1.json seed2.json
    lptool compare runs/*.json --figure gain.pdf --latex gain.tex

    Runs that differ in nothing but their tickets are repetitions. Gains are on test, over the ticket, over the ticket
    with BatchNorm recalibrated, and over the better of the two on val.
    """
    from lptool.report.compare import compare_document
    from lptool.report.compared import csv_of, latex_of, notes_of, tables_of
    from lptool.report.runs import gains_in

    _check(files, csv, latex, figure, overwrite=overwrite)
    document = compare_document(gains_in(files))
    made: dict[Path, bytes] = {}
    if csv:
        made[csv] = csv_of(document).encode()
    if latex:
        made[latex] = latex_of(document).encode()
    if figure:
        from lptool.report.figure import figure_of  # draws with matplotlib, which takes long to import

        made[figure] = figure_of(document, figure.suffix)
    for path, content in made.items():
        _write(path, content, replace=overwrite)
    from lptool.report.tables import on_terminal

    print_result(document, [*map(on_terminal, tables_of(document)), *notes_of(document)], as_json=as_json)
    if not as_json:
        for path in made:
            say(f"wrote {path}")


def _check(
    files: tuple[Path, ...], csv: Path | None, latex: Path | None, figure: Path | None, *, overwrite: bool
) -> None:
    """Refuse, before anything is read, outputs that must not be written. Raises OutputError."""
    from lptool.checkpoints.places import check_output
    from lptool.errors import OutputError, listed
    from lptool.report.compare import FIGURES

    if figure and figure.suffix not in FIGURES:
        raise OutputError(f"{figure}: expected a name that ends in {listed(FIGURES)}")
    for path, suffix in ((csv, ".csv"), (latex, ".tex"), (figure, figure.suffix if figure else "")):
        if path:
            check_output(path, files, overwrite=overwrite, suffix=suffix)


def _write(path: Path, content: bytes, *, replace: bool) -> None:
    from lptool.checkpoints.places import write_atomically

    write_atomically(path, lambda draft: draft.write_bytes(content), replace=replace)
