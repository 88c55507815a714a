"""`lptool compare`: the gains of several runs, with tests, as tables and a figure."""

from __future__ import annotations

from functools import partial
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
    from lptool.report.terminal import on_terminal

    _check_suffixes(csv, latex, figure)
    document = compare_document(gains_in(files))
    made: dict[Path, bytes] = {}
    if csv:
        made[csv] = csv_of(document).encode()
    if latex:
        made[latex] = latex_of(document).encode()
    if figure:
        from lptool.report.figure import figure_of  # draws with matplotlib, which takes long to import

        made[figure] = figure_of(document, figure.suffix)
    _write(made, files, overwrite=overwrite)
    print_result(document, [*map(on_terminal, tables_of(document)), *notes_of(document)], as_json=as_json)
    if not as_json:
        for path in made:
            say(f"wrote {path}")


def _check_suffixes(csv: Path | None, latex: Path | None, figure: Path | None) -> None:
    """Raises OutputError."""
    from lptool.errors import OutputError, listed
    from lptool.report.compare import FIGURES

    for path, suffixes in ((csv, (".csv",)), (latex, (".tex",)), (figure, FIGURES)):
        if path and path.suffix not in suffixes:
            expected = suffixes[0] if len(suffixes) == 1 else listed(suffixes)
            raise OutputError(f"{path}: expected a name that ends in {expected}")


def _write(made: dict[Path, bytes], inputs: tuple[Path, ...], *, overwrite: bool) -> None:
    """All of them, or none where one must not be written. Raises OutputError."""
    from lptool.checkpoints.places import check_output, write_atomically

    # What is there already, to the byte, may be written again: so the same command goes on after a full disk.
    replace = {path: overwrite or _holds(path, content) for path, content in made.items()}
    for path in made:
        check_output(path, inputs, overwrite=replace[path], suffix=path.suffix)
    for path, content in made.items():
        write_atomically(path, partial(_fill, content), replace=replace[path])


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False


def _fill(content: bytes, draft: Path) -> None:
    draft.write_bytes(content)
