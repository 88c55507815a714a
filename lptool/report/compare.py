"""Gains of several runs brought together: the document of `compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from lptool.errors import DocumentError
from lptool.provenance import command_line
from lptool.report.runs import BETTER, CONTROLS, OLDER, Document, Gain
from lptool.scoring.paired import Spread, exact_mcnemar, image_error

AGAINST = {**CONTROLS, BETTER: "better control"}
FIGURES = (".pdf", ".svg", ".png")  # what the figure may be written as
# Densities of one level that are so near to one another are one point: programs round numbers of weights differently.
NEAR = 0.01
_SAME = ("pooled", "dataset", "arch", "method", "options", "against")  # of all runs in a row


def compare_document(gains: Sequence[Gain]) -> Document:
    """The `--json` document of `compare`: a row for each series and level, and one over the levels that all runs have.

    A series is what is to be repeated: data set, architecture, method, options, and what it is compared with. Fractions
    are of the test images.

    Raises:
        DocumentError: a result is there twice, two runs share a ticket, or runs were not scored on the same number of
            test images.
    """
    _check_images(gains)
    rows = []
    for series in _grouped(gains, _SAME):
        _check_shared(series)
        points = _points(series)
        for point in points:
            _check_twice(point)
        runs = {gain.run for gain in series}
        rows += [_row(series[0], [[gain] for gain in point], level=point[0].level) for point in points]
        whole = [point for point in points if {gain.run for gain in point} == runs]
        if len(whole) > 1:  # the mean of one level is that level again
            rows.append(_row(series[0], _run_by_run(whole), level=None))
    return {"rows": _named(rows), "command": command_line()}


def _grouped(gains: Sequence[Gain], keys: Sequence[str]) -> list[list[Gain]]:
    """By the values of some fields, in the order in which those come first."""
    found: dict[tuple[Any, ...], list[Gain]] = {}
    for gain in gains:
        found.setdefault(tuple(getattr(gain, key) for key in keys), []).append(gain)
    return list(found.values())


def _points(series: Sequence[Gain]) -> list[list[Gain]]:
    """The gains of one series by level, densest first; those of one level apart where their densities are."""
    points: list[list[Gain]] = []
    for gain in sorted(series, key=lambda gain: (gain.level is None, gain.level or 0, -gain.density)):
        last = points[-1][-1] if points else None
        if last and last.level == gain.level and gain.density >= last.density * (1 - NEAR):
            points[-1].append(gain)
        else:
            points.append([gain])
    return sorted(points, key=lambda point: -point[0].density)


def _run_by_run(points: Sequence[Sequence[Gain]]) -> list[list[Gain]]:
    """The gains of each run at these levels: levels of one run are no independent samples, so they are averaged."""
    return _grouped([gain for point in points for gain in point], ["run"])


def _row(like: Gain, runs: Sequence[Sequence[Gain]], level: int | None) -> Document:
    spread = Spread.of([fmean(gain.points for gain in run) for run in runs])
    single = all(len(run) == 1 for run in runs)
    return {
        "kind": "pool" if like.pooled else "evaluate",
        "dataset": like.dataset,
        "arch": like.arch,
        "method": like.method,
        "options": json.loads(like.options),
        "against": like.against,
        "level": level,
        "levels": sorted({gain.level for run in runs for gain in run if gain.level is not None}),
        "over": "one" if single else "levels",
        "density": fmean(gain.density for run in runs for gain in run) if single else None,
        "n": len(runs),
        "accuracy": _accuracy([fmean(gain.accuracy for gain in run) for run in runs]),
        "base": _accuracy([fmean(gain.base for gain in run) for run in runs]),
        "gain": spread.mean,
        "error": spread.error,
        "p": spread.p,
        "runs": [_run(run) for run in runs],
    }


def _accuracy(values: Sequence[float]) -> Document:
    """Mean and standard error of one accuracy for each run."""
    spread = Spread.of(values)
    return {"mean": spread.mean, "error": spread.error}


def _run(gains: Sequence[Gain]) -> Document:
    """One run of a row: at one level with the test on its images, over several without."""
    first, pair = gains[0], gains[0].pair if len(gains) == 1 else None
    return {
        "file": first.file,
        "gain": fmean(gain.points for gain in gains),
        "control": first.control if len(gains) == 1 else None,
        "a_only": pair and pair.a_only,
        "b_only": pair and pair.b_only,
        "p": pair and exact_mcnemar(pair.a_only, pair.b_only),
        "error": pair and image_error(pair.a_only, pair.b_only, pair.n),
        "n": first.n,
    }


def _named(rows: list[Document]) -> list[Document]:
    """Each row with the `name` of its method: with the options in which rows of that method differ."""
    options: dict[str, list[Document]] = {}
    for row in rows:
        options.setdefault(row["method"], []).append(row["options"])
    return [{"name": row["method"] + _differing(row["options"], options[row["method"]])} | row for row in rows]


def _differing(mine: Document, all_of_them: Sequence[Document]) -> str:
    """The options that not all documents say alike, of those that say them."""
    said: dict[str, list[Any]] = {}
    for options in all_of_them:
        for key, value in options.items():
            said.setdefault(key, []).append(value)
    odd = [key for key in mine if any(value != mine[key] for value in said[key])]
    words = [f"{key.replace('_', '-')} {_word(mine[key])}" for key in odd]
    if OLDER in mine and len(said[OLDER]) < len(all_of_them):
        words.append("older document")
    return f" ({', '.join(words)})" if words else ""


def _word(value: Any) -> str:
    return "–" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _check_images(gains: Sequence[Gain]) -> None:
    """Raises DocumentError."""
    for same in _grouped(gains, ["dataset"]):
        for gain in same:
            if gain.n != same[0].n:
                raise DocumentError(
                    f"{gain.file}: scored on {gain.n:,} test images of {gain.dataset or 'a data set'}, expected "
                    f"{same[0].n:,} as in {same[0].file}; compare runs on the same test images"
                )


def _check_twice(point: Sequence[Gain]) -> None:
    """Raises DocumentError where a point has one run twice: repetitions are runs of other tickets."""
    for key in ("run", "model"):
        for same in _grouped(point, [key]):
            if len(same) > 1:
                one, other = same[0], same[1]
                where = f"{other.file}: " if one.file == other.file else f"{one.file} and {other.file}: "
                level = "" if one.level is None else f" at level {one.level}"
                raise DocumentError(
                    f"{where}the same result twice ({one.method}{level}, of the same tickets); name each document "
                    "once: repetitions are runs of other tickets"
                )


def _check_shared(series: Sequence[Gain]) -> None:
    """Raises DocumentError where two runs share a ticket: pools of the same tickets are no independent repetitions."""
    first: dict[str, Gain] = {}
    for gain in series:
        others = [first.setdefault(ticket, gain) for ticket in sorted(gain.tickets)]
        shared = [other for other in others if other.run != gain.run]
        if shared:
            raise DocumentError(
                f"{shared[0].file} and {gain.file}: two pools that share {len(shared)} "
                f"ticket{'s' * (len(shared) > 1)} ({gain.method}); leave one out: repetitions are runs of other tickets"
            )
