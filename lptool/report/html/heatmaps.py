"""Figures made of cells: the search as a path, and learned coefficients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lptool.report.html.drawing import (
    HEATS,
    INK,
    MUTED,
    PAPER,
    RULE,
    STAND_INS,
    WIDTH,
    Label,
    draw,
    sheet,
    short,
    visible,
)

_RIGHT, _TOP, _TAIL = 44.0, 38.0, 84.0  # room for the incumbent's values, the start, and the legend
_SCALE = 30.0  # of the legend, what the scale takes
_WIDEST = 48.0  # of the cells, where there are few
_GAP = 18.0  # before a further pass


class Try(NamedTuple):
    """One attempt; `value` is None where it was cut short or was not finite, so that it has no place on the scale."""

    alpha: float
    value: float | None


class Row(NamedTuple):
    """One candidate in one pass, its attempts, and the alpha accepted."""

    lap: int
    name: str
    tries: Sequence[Try]
    accepted: float | None
    incumbent: float | None  # after it, where it was accepted


class Scale(NamedTuple):
    """The sequential scale from `low` to `high`; the darker (in the dark: the lighter), the nearer to `high`."""

    low: float
    high: float

    def heat(self, value: float) -> str:
        """The colour of a value; beyond the ends, of the end."""
        span = self.high - self.low
        place = (value - self.low) / span if span else 0.5
        return STAND_INS[f"heat-{min(HEATS - 1, max(0, int(place * HEATS)))}"]


def scale_of(values: Sequence[float], *, lower_is_better: bool = False) -> Scale:
    """A scale for the attempts; a few hopeless ones do not take all of its steps."""
    if not values:
        return Scale(0.0, 0.0)
    worst, best = (max(values), min(values)) if lower_is_better else (min(values), max(values))
    reach = median(values) + 3 * (median(values) - best)
    near = (min if lower_is_better else max)(worst, reach)
    return Scale(near if near != best else worst, best)


def search_map(
    label: Label,
    rows: Sequence[Row],
    alphas: Sequence[float],
    start: float,
    show: Callable[[float], str],
    *,
    lower_is_better: bool = False,
) -> str:
    """Candidate × alpha: colour is the score on val, rings joined by a line are the accepted steps, in order."""
    step = max(11.0, min(20.0, 640 / max(1, len(rows))))
    tops = _tops(rows, step)
    values = [found.value for row in rows for found in row.tries if found.value is not None]
    tail = _TAIL if values else _TAIL - _SCALE
    height = (tops[-1] if tops else _TOP) + tail
    scale = scale_of(values, lower_is_better=lower_is_better)
    left = _left([row.name for row in rows])
    wide = min(_WIDEST, (WIDTH - _RIGHT - left) / max(1, len(alphas)))

    def at(alpha: float, top: float) -> tuple[float, float]:
        return left + (alphas.index(alpha) + 0.5) * wide, top + step / 2

    def paint(figure: Figure) -> None:
        axes = sheet(figure, height)
        _text(axes, left - 6, _TOP - 14, "start", ha="right", color=MUTED)
        _text(axes, WIDTH - 2, _TOP - 14, show(start), ha="right", color=MUTED)
        _text(axes, WIDTH - 2, _TOP - 28, "val", ha="right", color=MUTED)
        for row, top in zip(rows, tops, strict=False):
            _text(axes, left - 6, top + step / 2, short(row.name, 14), ha="right", size=min(10.0, 0.72 * step))
            if row.incumbent is not None:
                _text(axes, WIDTH - 2, top + step / 2, show(row.incumbent), ha="right", size=min(10.0, 0.72 * step))
            for found in row.tries:
                x, y = at(found.alpha, top)
                _cell(axes, x - wide / 2, y - step / 2, wide, step, scale, found.value)
        for row, top in _first_of_laps(rows, tops):
            _text(axes, left, top - 7, f"pass {row.lap}", color=MUTED, size=9)
        taken = [
            (row, *at(row.accepted, top)) for row, top in zip(rows, tops, strict=False) if row.accepted is not None
        ]
        _path(axes, [(x, y) for _, x, y in taken])
        for row, x, y in taken:
            _ring(axes, x, y, 0.62 * min(wide, step), PAPER if row.incumbent is None else scale.heat(row.incumbent))
        foot = height - tail
        _column_names(axes, [f"{alpha:g}" for alpha in alphas], left, wide, foot)
        _text(axes, left, foot + 25, "alpha: weight of the current model")
        _scale_legend(axes, scale, left, foot + 38, show, bool(values))
        _marks_legend(axes, left, height - 14, cut=any(t.value is None for row in rows for t in row.tries))

    return draw(label, height, paint)


def coefficient_map(
    label: Label, groups: Sequence[str], members: Sequence[str], values: Sequence[Sequence[float]]
) -> str:
    """Group × member: how much of each member went into each group of weights."""
    step = max(6.0, min(20.0, 700 / max(1, len(groups))))
    height = 14 + step * len(groups) + _TAIL - 14
    flat = [value for row in values for value in row if math.isfinite(value)]
    scale = Scale(min(flat, default=0.0), max(flat, default=0.0))
    left = _left(groups, 24)
    wide = min(_WIDEST, (WIDTH - left - 4) / max(1, len(members)))

    def paint(figure: Figure) -> None:
        axes = sheet(figure, height)
        every = max(1, round(11 / step))
        for i, (group, row) in enumerate(zip(groups, values, strict=True)):
            top = 10 + i * step
            if i % every == 0:
                _text(axes, left - 6, top + step / 2, short(group, 24), ha="right", size=min(9.5, 0.72 * step * every))
            for j, value in enumerate(row):
                _cell(axes, left + j * wide, top, wide, step, scale, value if math.isfinite(value) else None)
        foot = 10 + step * len(groups)
        _column_names(axes, members, left, wide, foot)
        _text(axes, left, foot + 25, "level of the member")
        _scale_legend(axes, scale, left, foot + 38, lambda value: f"{value:.3g}", bool(flat))

    return draw(label, height, paint)


def _tops(rows: Sequence[Row], step: float) -> list[float]:
    """Where each row begins, and where the last one ends; a gap before each further pass."""
    tops = [_TOP + (_GAP if rows and rows[-1].lap != rows[0].lap else 0.0)] if rows else []
    for i, row in enumerate(rows):
        following = rows[i + 1].lap if i + 1 < len(rows) else row.lap
        tops.append(tops[-1] + step + (_GAP if following != row.lap else 0.0))
    return tops


def _first_of_laps(rows: Sequence[Row], tops: Sequence[float]) -> list[tuple[Row, float]]:
    """The first row of each pass, where there are several."""
    firsts = [
        (row, top) for i, (row, top) in enumerate(zip(rows, tops, strict=False)) if not i or row.lap != rows[i - 1].lap
    ]
    return firsts if len(firsts) > 1 else []


def _left(names: Sequence[str], most: int = 14) -> float:
    return 14 + 6.0 * max([5, *(min(most, len(name)) for name in names)])


def _cell(axes: Axes, x: float, y: float, wide: float, high: float, scale: Scale, value: float | None) -> None:
    """A coloured cell; one that has no value is empty and struck through, and no colour of the scale."""
    if value is not None:
        _box(axes, x + 0.5, y + 0.5, wide - 1, high - 1, scale.heat(value), "mark-cell")
        return
    _box(axes, x + 0.5, y + 0.5, wide - 1, high - 1, "none", "mark-cut")
    axes.plot((x + 2, x + wide - 2), (y + high - 2, y + 2), color=MUTED, linewidth=0.7, alpha=0.7)


def _box(axes: Axes, x: float, y: float, wide: float, high: float, colour: str, gid: str | None = None) -> None:
    axes.add_patch(Rectangle((x, y), wide, high, facecolor=colour, edgecolor=RULE, linewidth=0.6, gid=gid))


def _path(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """The way from one accepted step to the next, with a halo that keeps it apart from cells of every colour."""
    xs, ys = zip(*points, strict=True) if points else ((), ())
    for colour, thick in ((PAPER, 3.5), (INK, 1.3)):
        axes.plot(xs, ys, color=colour, linewidth=thick, solid_capstyle="round")


def _ring(axes: Axes, x: float, y: float, size: float, inside: str) -> None:
    """An accepted step, with the colour of its cell inside."""
    for colour, thick, gid in ((PAPER, 3.8, None), (INK, 1.7, "mark-accepted")):
        axes.plot([x], [y], "o", markersize=size, mfc=inside, mec=colour, markeredgewidth=thick, gid=gid)


def _column_names(axes: Axes, names: Sequence[str], left: float, wide: float, y: float) -> None:
    widest = 5.6 * max((len(name) for name in names), default=1) + 3
    every = max(1, math.ceil(widest / wide))
    for i in range(0, len(names), every):
        _text(axes, left + (i + 0.5) * wide, y + 9, names[i], ha="center", size=9)


def _scale_legend(axes: Axes, scale: Scale, left: float, y: float, show: Callable[[float], str], known: bool) -> None:
    if not known:
        return
    wide = (WIDTH - _RIGHT - left) / HEATS
    for i in range(HEATS):
        colour = STAND_INS[f"heat-{i}"]
        _box(axes, left + i * wide, y, wide, 8, colour)
    _text(axes, left, y + 16, show(scale.low), size=9)
    _text(axes, left + HEATS * wide, y + 16, show(scale.high), ha="right", size=9)


def _marks_legend(axes: Axes, left: float, y: float, *, cut: bool) -> None:
    axes.plot([left + 6], [y], "o", markersize=8, mfc="none", mec=INK, markeredgewidth=1.7)
    _text(axes, left + 16, y, "accepted")
    if cut:
        x = left + 96
        _box(axes, x, y - 6, 14, 12, "none")
        axes.plot((x + 2, x + 12), (y + 4, y - 4), color=MUTED, linewidth=0.8)
        _text(axes, x + 20, y, "cut short")


def _text(
    axes: Axes, x: float, y: float, words: str, *, ha: str = "left", color: str = INK, size: float = 10.0
) -> None:
    axes.text(x, y, visible(words), ha=ha, va="center_baseline", color=color, fontsize=size)
