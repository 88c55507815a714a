"""Gains of several runs brought together: the document of `compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from lptool.errors import DocumentError
from lptool.provenance import command_line
from lptool.report.runs import BETTER, CONTROLS, OLDER, Document, Gain
from lptool.report.settings import Setting
from lptool.scoring.paired import Spread, exact_mcnemar, image_error

AGAINST = {**CONTROLS, BETTER: "better control"}
FIGURES = (".pdf", ".svg", ".png")  # what the figure may be written as
# Densities of one level that are so near to one another are one point: programs round numbers of weights differently.
NEAR = 0.01
_SAME = ("pooled", "dataset", "arch", "method", "options", "against")  # of all runs in a row


def compare_document(gains: Sequence[Gain]) -> Document:
    """The `--json` document of `compare`: a row for each series and level, and one over the levels that all runs have.

    A series is what is to be repeated: data set, architecture with its arguments, normalisation, method, options, and
    what it is compared with. Fractions are of the test images.

    Raises:
        DocumentError: a result is there twice, two runs share a ticket or a file, runs were not scored on the same
            number of test images, or an older document does not say which of two networks it is of.
    """
    _check_images(gains)
    rows = []
    for series in (part for same in _grouped(gains, _SAME) for part in _apart(same)):
        if series[0].pooled:
            _check_shared(series)
        else:
            series = _joined(series)
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


def _apart(same: Sequence[Gain]) -> list[list[Gain]]:
    """The gains of each setting; those of documents that do not say it go with the only one there is.

    Raises:
        DocumentError: there are several.
    """
    parts: list[tuple[Setting, list[Gain]]] = []
    for gain in same:
        if gain.setting:
            mine = next((found for setting, found in parts if setting.alike(gain.setting)), None)
            if mine is None:
                parts.append((gain.setting, mine := []))
            mine.append(gain)
    lacking = next((gain for gain in same if not gain.setting), None)
    if len(parts) < 2:
        return [list(same)]
    if lacking:
        (one, (first, *_)), (other, (second, *_)), *_ = parts
        odd = ", ".join(_differences(one.words(), [one.words(), other.words()], whole=True))
        raise DocumentError(
            f"{lacking.file}: does not say what its network was built with, in which {first.file} and {second.file} "
            f"differ ({odd}); make it again with this lptool, or leave it out"
        )
    return [found for _, found in parts]


def _joined(series: Sequence[Gain]) -> list[Gain]:
    """Files that `evaluate` compared: what shares a document, a file or a ticket is one run.

    A document says levels of one run, but may say one level of it alone, or another model of the same tickets.
    """
    runs: list[set[str]] = []
    for gain in series:
        mine = {gain.run, *gain.tickets}
        linked = [run for run in runs if run & mine]
        runs = [run for run in runs if not run & mine] + [mine.union(*linked)]
    return [replace(gain, run=next(min(run) for run in runs if gain.run in run)) for gain in series]


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
        "setting": next((gain.setting.words() for run in runs for gain in run if gain.setting), None),
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
    """Each row with the `name` of its method: with the options and the setting in which rows of that method differ.

    A setting is told from others of the same network and data alone: of other data the number of classes differs too.
    """
    options: dict[str, list[Document]] = {}
    settings: dict[tuple[Any, ...], list[Document]] = {}
    for row in rows:
        options.setdefault(row["method"], []).append(row["options"])
        settings.setdefault(_place(row), []).append(row["setting"] or {})
    named = []
    for row in rows:
        words = _differences(row["options"], options[row["method"]])
        words += _differences(row["setting"] or {}, settings[_place(row)], whole=True)
        named.append({"name": row["method"] + (f" ({', '.join(words)})" if words else "")} | row)
    return named


def _place(row: Document) -> tuple[Any, ...]:
    """Of rows whose settings are told apart; the controls of a pooled model are of its own setting."""
    against = row["against"] if row["kind"] == "evaluate" else None
    return row["kind"], row["dataset"], row["arch"], row["method"], against


def _differences(mine: Document, all_of_them: Sequence[Document], *, whole: bool = False) -> list[str]:
    """The options that not all documents say alike, of those that say them.

    Args:
        whole: whether what is not said has a meaning too, as of arguments; but for documents that say nothing.
    """
    if whole and mine:
        keys = {key: None for options in all_of_them for key in options}
        mine, all_of_them = keys | mine, [keys | options for options in all_of_them if options]
    said: dict[str, list[Any]] = {key: [] for key in mine}
    for options in all_of_them:
        for key, value in options.items():
            said.setdefault(key, []).append(value)
    odd = [key for key in mine if any(value != mine[key] for value in said[key])]
    words = [f"{key.replace('_', '-')} {_word(mine[key])}" for key in odd]
    if OLDER in mine and len(said[OLDER]) < len(all_of_them):
        words.append("older document")
    return words


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
    for key in ("model", "run"):
        for same in _grouped(point, [key]):
            if len(same) > 1:
                one, other = same[0], same[1]
                where = f"{other.file}: " if one.file == other.file else f"{one.file} and {other.file}: "
                level = "" if one.level is None else f" at level {one.level}"
                if key == "model" or one.pooled:
                    found = f"the same result twice ({one.method}{level}, of the same tickets); name each document once"
                else:
                    found = f"two results ({one.method}{level}) that share files or tickets; leave one out"
                raise DocumentError(f"{where}{found}: repetitions are runs of other tickets")


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
