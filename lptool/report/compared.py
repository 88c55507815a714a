"""The document of `compare` as tables, sentences, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from lptool.errors import one_line
from lptool.report.compare import AGAINST
from lptool.report.runs import BETTER, Document
from lptool.report.tables import NOTHING
from lptool.scoring.paired import FEWEST, LUCK, Spread
from lptool.tables import Table, latex


def tables_of(document: Document) -> list[Table]:
    """For each data set and architecture a table of pooled models, and one of the files that `evaluate` compared."""
    return [
        (_pool_table if kind == "pool" else _files_table)(_caption(list(rows)), list(rows))
        for kind, _, _, rows in _by_setting(document["rows"])
    ]


def _by_setting(rows: Sequence[Document]) -> Iterator[tuple[str, Any, Any, list[Document]]]:
    settings: dict[tuple[Any, ...], list[Document]] = {}
    for row in rows:
        settings.setdefault((row["kind"], row["dataset"], row["arch"]), []).append(row)
    yield from ((*setting, found) for setting, found in settings.items())


def _caption(rows: Sequence[Document]) -> str:
    counts = sorted({row["n"] for row in rows if row["kind"] != "pool" or row["against"] == BETTER})
    runs = f"{counts[0]}–{counts[-1]} runs" if len(counts) > 1 else f"{counts[0]} run{'s' * (counts[0] > 1)}"
    named = ", ".join(filter(None, [rows[0]["dataset"] or "unnamed data set", rows[0]["arch"]]))
    return f"{named}: {runs}, {rows[0]['runs'][0]['n']:,} test images; gains in points"


def _pool_table(caption: str, rows: Sequence[Document]) -> Table:
    """A line for each method and level, with the gain over each control."""
    headings = ["method", "level, density", "% right", *(f"over {name}" for name in AGAINST.values()), "p", "McNemar"]
    lines = []
    for (name, *_), same in _lines(rows):
        found = {row["against"]: row for row in same}
        better = found[BETTER]
        gains = (_gain(found.get(against), better) for against in AGAINST)
        lines.append([name, _place(better), _right(better), *gains, *_tests(better)])
    return Table(caption, headings, lines, spare=("% right", "McNemar", headings[4], headings[3]))


def _files_table(caption: str, rows: Sequence[Document]) -> Table:
    """A line for each two files that were compared."""
    headings = ["model", "over", "level, density", "% right", "gain", "p", "McNemar"]
    lines = [[row["name"], row["against"], _place(row), _right(row), _gain(row, row), *_tests(row)] for row in rows]
    return Table(caption, headings, lines, words=("over",))


def _lines(rows: Sequence[Document]) -> Iterator[tuple[tuple[Any, ...], list[Document]]]:
    """Rows of one method and place, which differ in what they are compared with."""
    found: dict[tuple[Any, ...], list[Document]] = {}
    for row in rows:
        found.setdefault((row["name"], json.dumps([row["options"], row["setting"]])), []).append(row)
    for (name, _), same in found.items():
        places: dict[tuple[Any, ...], list[Document]] = {}
        for row in same:
            density = None if row["density"] is None else round(row["density"], 4)
            places.setdefault((name, row["over"], row["level"], density), []).append(row)
        yield from ((place, each) for place, each in places.items() if any(r["against"] == BETTER for r in each))


def _place(row: Document) -> str:
    if row["over"] == "levels":
        return f"mean of {len(row['levels'])}"
    density = f"{100 * row['density']:.1f} %"
    return density if row["level"] is None else f"{row['level']}, {density}"


def _right(row: Document) -> str:
    return f"{100 * row['accuracy']['mean']:.2f}"


def _gain(row: Document | None, better: Document) -> str:
    """A dash where not every run of the line was scored beside it, as the others may be those with a gain."""
    if row is None or row["n"] < better["n"] or row["levels"] != better["levels"]:
        return NOTHING
    return Spread(row["gain"], row["error"], row["n"]).shown(sign="+")


def _tests(row: Document) -> tuple[str, str]:
    """The p over the runs, and on the images of each run: of one run its p, of several how many are below 0.05."""
    over_runs = NOTHING if row["p"] is None else f"{row['p']:.2g}"
    found = [run["p"] for run in row["runs"] if run["p"] is not None]
    if not found or len(found) < len(row["runs"]):
        return over_runs, NOTHING
    return over_runs, f"{found[0]:.2g}" if len(found) == 1 else f"{sum(p < LUCK for p in found)} of {len(found)}"


def csv_of(document: Document) -> str:
    """All rows as comma-separated values: fractions, with the gain and McNemar's p of each run between semicolons."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(row) for row in document["rows"])
    return stream.getvalue()


_COLUMNS = (
    *("dataset", "arch", "method", "against", "level", "density", "runs", "accuracy", "accuracy_error", "base"),
    *("base_error", "gain", "gain_error", "p", "gains", "mcnemar_p", "test_images", "files"),
)


def _flat(row: Document) -> Document:
    runs = row["runs"]
    return {  # what comes from documents is fit to be written; the names of their files are as the user's disk has them
        **{key: row[key] for key in ("dataset", "arch", "against", "density", "gain", "p")},
        "method": row["name"],
        "level": "mean" if row["over"] == "levels" else row["level"],
        "runs": row["n"],
        "accuracy": row["accuracy"]["mean"],
        "accuracy_error": row["accuracy"]["error"],
        "base": row["base"]["mean"],
        "base_error": row["base"]["error"],
        "gain_error": row["error"],
        "gains": ";".join(str(run["gain"]) for run in runs),
        "mcnemar_p": ";".join("" if run["p"] is None else str(run["p"]) for run in runs),
        "test_images": runs[0]["n"],
        "files": ";".join(one_line(run["file"]) for run in runs),
    }


def latex_of(document: Document) -> str:
    """The tables for a paper, to be put into its floats."""
    parts = [f"% {note}" for note in [r"needs \usepackage{booktabs}", *notes_of(document)]]
    return (
        "\n".join([*parts, *(f"\n% {one_line(table.caption)}\n{latex(table)}" for table in tables_of(document))]) + "\n"
    )


def notes_of(document: Document) -> list[str]:
    """What the columns mean, in sentences."""
    rows = document["rows"]
    lines = ["gain: mean ± standard error over the runs"] if any(row["n"] > 1 for row in rows) else []
    if any(row["kind"] == "pool" for row in rows):
        lines.append("better control: of each run and level the one that is better on val")
    if any(row["n"] > 1 for row in rows):
        lines.append(f"p: paired t-test over the runs; McNemar: runs whose exact test on the images has p < {LUCK}")
    else:
        lines.append("McNemar: p of the exact test on the images")
    if any(row["n"] < FEWEST for row in rows):
        lines.append("p needs three runs")
    if any(row["n"] >= FEWEST and row["p"] is None for row in rows):
        lines.append(f"p is {NOTHING} where all runs have exactly the same gain: there is no spread to test against")
    lines.append("no p is corrected for the number of rows")
    if any(NOTHING in row[3:5] for table in tables_of(document) for row in table.rows if len(row) > 7):
        lines.append(f"{NOTHING}: not every run was scored beside that control, as where the ticket is left as it is")
    return lines
