"""The figure of `compare`: gain against density, a panel for each data set, a line for each method."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lptool.errors import DocumentError, one_line
from lptool.report.compare import AGAINST
from lptool.report.runs import BETTER, Document

_PANEL = (3.3, 2.5)  # width and height in inches: a column of most papers
# Colours that people with any colour vision tell apart: Okabe & Ito 2008; the markers say the same.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "oDs^vPX"
_BREAKS = (44, 24)  # letters of a line in the legend, where a whole name is too long; of 24 any fit in one panel
_STYLE: Any = {
    "pdf.fonttype": 42,  # TrueType: venues refuse Type 3, which is matplotlib's own choice
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lptool",  # equal rows, equal bytes
    "text.parse_math": False,  # a name may hold two dollars
    "axes.unicode_minus": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "font.size": 8,
    "axes.titlesize": 8,
    "savefig.dpi": 200,
}


def figure_of(document: Document, suffix: str) -> bytes:
    """The figure as a file of one of the suffixes in `FIGURES`; the same bytes for the same rows.

    Gains of pooled models are over the better control; of `evaluate`, of each two files. Bars are the standard error
    over the runs, and of a single run that which its test images leave.

    Raises:
        DocumentError: there is no row to draw.
    """
    rows = [row for row in document["rows"] if row["over"] == "one" and row["density"] > 0]  # the axis is logarithmic
    rows = [row for row in rows if row["kind"] == "evaluate" or row["against"] == BETTER]
    if not rows:
        raise DocumentError("nothing to draw: no gain is at a density above 0")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not what this machine's settings say
        matplotlib.rcParams.update(_STYLE)
        figure = _drawn(rows)
        stream = io.BytesIO()
        dates = {".pdf": ("CreationDate", "Creator", "Producer"), ".svg": ("Date", "Creator"), ".png": ("Software",)}
        figure.savefig(stream, format=suffix.removeprefix("."), metadata=dict.fromkeys(dates[suffix]))
    return stream.getvalue()


def _drawn(rows: Sequence[Document]) -> Figure:
    panels = list(dict.fromkeys(map(_panel_of, rows)))
    names = list(dict.fromkeys(map(_line_of, rows)))
    columns = min(len(panels), 3)
    down = math.ceil(len(panels) / columns)
    width, height = _PANEL
    figure = Figure(figsize=(width * columns, height * down), layout="constrained")
    axes = figure.subplots(down, columns, squeeze=False).flatten()
    looks = {name: (_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(names)}
    handles: dict[str, Any] = {}
    for panel, there in zip(panels, axes, strict=False):
        mine = [row for row in rows if _panel_of(row) == panel]
        handles |= _paint(there, panel, mine, looks)
    for empty in axes[len(panels) :]:
        empty.remove()
    for first in axes[: len(panels) : columns]:
        first.set_ylabel(_measured(rows))
    legend = _legend(figure, handles, names, most=min(len(names), 2 * columns))
    figure.set_size_inches(width * columns, height * down + legend)
    return figure


def _legend(figure: Figure, handles: dict[str, Any], names: Sequence[str], most: int) -> float:
    """A legend below the panels in as many columns as fit, `most` at most; its height in inches.

    Names that are too long for a column of their own are broken into lines.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    room = 0.97 * figure.bbox.width  # other formats space letters a little differently
    for longest in (max(map(len, names)), *_BREAKS):
        labels = [textwrap.fill(name, max(longest, 1)) for name in names]
        for across in range(most, 0, -1):
            legend = figure.legend([handles[name] for name in names], labels, loc="outside lower center", ncols=across)
            box = legend.get_window_extent(renderer)
            if box.width <= room or (longest, across) == (_BREAKS[-1], 1):
                return float(box.height / figure.dpi)
            legend.remove()
    raise AssertionError("the last of all is taken")


def _paint(axes: Axes, title: str, rows: Sequence[Document], looks: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """The lines of one panel, by name."""
    handles: dict[str, Any] = {}
    axes.axhline(0, color="#555555", linewidth=0.8)
    names = list(dict.fromkeys(map(_line_of, rows)))
    for place, name in enumerate(names):
        mine = sorted((row for row in rows if _line_of(row) == name), key=lambda row: -row["density"])
        aside = 1.015 ** (place - (len(names) - 1) / 2)  # a little apart, so that bars can be told
        colour, marker = looks[name]
        handles[name] = axes.errorbar(
            [100 * row["density"] * aside for row in mine],
            [100 * row["gain"] for row in mine],
            yerr=[100 * (_error(row) or 0) for row in mine],
            label=name,
            color=colour,
            marker=marker,
            markersize=3.5,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=1.5,
        )
    axes.set(xscale="log", title=title, xlabel="density, % of the prunable weights")
    axes.invert_xaxis()  # towards the sparsest
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return handles


def _error(row: Document) -> float | None:
    found: float | None = row["error"] if row["n"] > 1 else row["runs"][0]["error"]
    return found


def _panel_of(row: Document) -> str:
    return one_line(", ".join(filter(None, [row["dataset"], row["arch"]])))


def _line_of(row: Document) -> str:
    name = row["name"] if row["kind"] == "pool" else f"{row['name']} over {row['against']}"
    return one_line(name).lstrip("_")  # a legend leaves out what begins so


def _measured(rows: Sequence[Document]) -> str:
    over = f" over the {AGAINST[BETTER]}" if all(row["kind"] == "pool" for row in rows) else ""
    bars = "± standard error" if any(row["n"] > 1 for row in rows) else "± standard error of the images"
    return f"gain{over}, points\n{bars}"
