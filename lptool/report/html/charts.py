"""Figures with axes: points, lines and bars. Each is a function from plain values to an SVG string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from lptool.report.html.drawing import (
    INK,
    MUTED,
    PAPER,
    RULE,
    STAND_INS,
    Label,
    Look,
    draw,
    legend,
    legend_height,
    name_for_legend,
    plot,
    short,
)
from lptool.tables import points

_NAME = 24  # characters that a row's name has room for


class Series(NamedTuple):
    """Points (x, y) of one name, fractions in [0, 1]; `intervals` are the low and high ends of each y, where known."""

    name: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float]] = ()


class Bar(NamedTuple):
    """A row of a bar chart; `marks` are faint points on its row, `kind` is what the legend says of its colour."""

    name: str
    value: float
    look: Look
    marks: Sequence[float] = ()
    kind: str = ""


def curve(label: Label, series: Sequence[Series], looks: Mapping[str, Look], lines: Mapping[str, float]) -> str:
    """Accuracy against density (densest left, as in the paper's figure 1), and horizontal reference lines."""

    def paint(figure: Figure) -> None:
        axes = plot(figure)
        for one in series:
            _points(axes, one, looks[one.name], linestyle="-")
        for (name, value), style in zip(lines.items(), ["--", ":"] * len(lines), strict=False):
            axes.axhline(100 * value, color=INK, linewidth=1.1, linestyle=style, label=name_for_legend(name))
        axes.set_xscale("log")
        axes.set_xlabel("density, % (logarithmic)")
        _plain_ticks(axes, [x for one in series for x, _ in one.points])
        axes.invert_xaxis()
        _percent_axis(axes, "accuracy on test, %")
        legend(figure, axes)

    return draw(label, 235 + legend_height(len(series) + len(lines)), paint)


def val_test(label: Label, series: Sequence[Series], looks: Mapping[str, Look]) -> str:
    """Accuracy on val (x) against test (y): a point's distance below the diagonal is its val–test gap."""
    flat = [value for one in series for point in one.points for value in point]
    low, high = _room(flat)

    def paint(figure: Figure) -> None:
        axes = plot(figure)
        axes.plot((low, high), (low, high), color=MUTED, linewidth=0.9, zorder=1)
        for one in series:
            for x, y in one.points:  # the gap itself, from the diagonal to the point
                axes.plot((100 * x, 100 * x), (100 * x, 100 * y), color=looks[one.name].colour, linewidth=0.9, zorder=1)
            _points(axes, one, looks[one.name], linestyle="", shown=f"{one.name} ({_gap(one)})")
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="accuracy on val, %")
        axes.grid(True, axis="both")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        _percent_axis(axes, "accuracy on test, %")
        legend(figure, axes)

    return draw(label, 235 + legend_height(len(series)), paint)


def before_after(label: Label, rows: Sequence[tuple[str, float, float]], axis: str) -> str:
    """A share of each row before (hollow) and after (filled), in percent; logarithmic, unless one of them is 0."""
    step = row_height(len(rows))
    flat = [value for _, before, after in rows for value in (before, after)]

    def paint(figure: Figure) -> None:
        axes = plot(figure)
        before = [(100 * start, float(place)) for place, (_, start, _) in enumerate(rows)]
        after = [(100 * end, float(place)) for place, (_, _, end) in enumerate(rows)]
        for (x, y), (end, _) in zip(before, after, strict=True):
            axes.plot((x, end), (y, y), color=MUTED, linewidth=1.2, zorder=1)
        size = min(6.0, 0.55 * step)
        _scatter(axes, before, Look(INK, "o", filled=False), "before", "mark-before", size)
        _scatter(axes, after, Look(STAND_INS["series-0"], "o"), "after", "mark-after", size)
        _row_names(axes, [name.removesuffix(".weight") for name, _, _ in rows], step)
        axes.set_xlabel(axis)
        if min(flat, default=0) > 0:
            axes.set_xscale("log")
            _plain_ticks(axes, flat)
        legend(figure, axes)

    return draw(label, 62 + legend_height(2) + step * max(1, len(rows)), paint)


def bars(label: Label, rows: Sequence[Bar], axis: str) -> str:
    """One bar for each row, in percent, with its value beside it."""
    step, kinds = row_height(len(rows)), [bar.kind for bar in rows]
    entries = len({*kinds} - {""})

    def paint(figure: Figure) -> None:
        axes = plot(figure)
        for place, bar in enumerate(rows):
            _bar(axes, place, bar, 0.62, bar.kind if bar.kind not in kinds[:place] else "")
            at = axes.get_yaxis_transform()  # values in a column of their own, where no mark can cover them
            axes.text(1.01, place, f"{100 * bar.value:.2f}", transform=at, va="center_baseline", fontsize=9)
        _row_names(axes, [bar.name for bar in rows], step)
        axes.set_xlabel(axis)
        axes.set_xlim(left=0)
        if entries:
            legend(figure, axes, columns=3)

    return draw(label, 62 + legend_height(entries, 3) + step * max(1, len(rows)), paint)


def grouped_bars(label: Label, groups: Sequence[str], rows: Mapping[str, Sequence[Bar]], axis: str) -> str:
    """For each group one bar of each name; the faint marks are what the bar is the mean of."""
    step = 7.0 * len(rows) + 8

    def paint(figure: Figure) -> None:
        axes = plot(figure)
        thick = 0.8 / max(1, len(rows))
        for rank, (name, found) in enumerate(rows.items()):
            offset = (rank - (len(rows) - 1) / 2) * thick
            for place, bar in enumerate(found):
                _bar(axes, place + offset, bar, 0.86 * thick, name if place == 0 else "")  # in the legend once
        _row_names(axes, groups, step)
        axes.set_xlabel(axis)
        axes.set_xlim(0, 100)
        legend(figure, axes, columns=1)

    return draw(label, 62 + legend_height(len(rows), 1) + step * max(1, len(groups)), paint)


def row_height(rows: int) -> float:
    """Room for each row's name, but no figure longer than a few screens."""
    return max(5.0, min(17.0, 900 / max(1, rows)))


def _points(axes: Axes, one: Series, look: Look, linestyle: str, shown: str | None = None) -> None:
    points = sorted((100 * x, 100 * y) for x, y in one.points)
    _scatter(axes, points, look, shown or one.name, "mark-point", 6.0, linestyle)
    for (x, _), (low, high) in zip(one.points, one.intervals, strict=bool(one.intervals)):
        axes.plot((100 * x, 100 * x), (100 * low, 100 * high), color=look.colour, linewidth=1, gid="mark-interval")


def _scatter(
    axes: Axes, points: Sequence[tuple[float, float]], look: Look, name: str, gid: str, size: float, linestyle: str = ""
) -> None:
    xs, ys = zip(*points, strict=True) if points else ((), ())
    axes.plot(
        xs,
        ys,
        color=look.colour,
        linestyle=linestyle,
        linewidth=1.5,
        marker=look.marker,
        markersize=size,
        markerfacecolor=look.colour if look.filled else PAPER,
        markeredgecolor=look.colour,
        label=name_for_legend(name),
        gid=gid,
    )


def _bar(axes: Axes, y: float, bar: Bar, thick: float, name: str = "") -> None:
    drawn = axes.barh(y, 100 * bar.value, thick, color=bar.look.colour, label=name_for_legend(name) or None)
    for patch in drawn.patches:
        patch.set_gid("mark-bar")
    if bar.marks:
        xs = [100 * mark for mark in bar.marks]
        axes.plot(xs, [y] * len(xs), "o", color=INK, alpha=0.6, markersize=3, markeredgewidth=0, gid="mark-faint")


def _row_names(axes: Axes, names: Sequence[str], step: float) -> None:
    every = max(1, round(11 / step))  # where rows are lower than text, not each has room for its name
    places = range(0, len(names), every)
    axes.set_yticks(places, [short(names[i], _NAME) for i in places], fontsize=min(10.0, 0.8 * step * every))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _plain_ticks(axes: Axes, fractions: Sequence[float]) -> None:
    """Round percentages on a logarithmic axis that has some room on both sides."""
    positive = [100 * value for value in fractions if value > 0] or [100.0]
    margin = 1.3 if min(positive) < max(positive) else 2.5
    low, high = min(positive) / margin, max(positive) * margin
    ticks = log_ticks(low, high if max(positive) > 100 else min(high, 100.0))
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from `low` to `high`, both positive, for a logarithmic axis.

    >>> log_ticks(6.6, 100), log_ticks(25, 100), log_ticks(0.05, 100)
    ([7.0, 10.0, 20.0, 30.0, 50.0, 70.0, 100.0], [30.0, 50.0, 70.0, 100.0], [0.1, 1.0, 10.0, 100.0])
    """
    for leading in (range(1, 10), (1, 2, 3, 5, 7), (1, 2, 5), (1,)):
        ticks = [float(f"{digit}e{power}") for power in range(-6, 7) for digit in leading]
        inside = [tick for tick in ticks if low <= tick <= high]
        if 3 <= len(inside) <= 7:
            return inside
    return [float(tick) for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]


def _percent_axis(axes: Axes, name: str) -> None:
    axes.set_ylabel(name)
    axes.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=2))
    axes.grid(True, color=RULE)


def _room(fractions: Sequence[float]) -> tuple[float, float]:
    """Both ends of an axis in percent with a margin, also around a single point."""
    low, high = min(fractions, default=0.0), max(fractions, default=1.0)
    margin = max(0.08 * (high - low), 0.002)
    return 100 * (low - margin), 100 * (high + margin)


def _gap(one: Series) -> str:
    """How much more val says than test, in points, on average."""
    gaps = [test - val for val, test in one.points]
    return points(fmean(gaps)) if gaps else "–"
