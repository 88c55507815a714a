"""The paper that figures are drawn on: SVG whose colours are the page's, so that it reads in light, dark and print."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 380.0  # of every figure, in its own units: about a phone's, where text of 11 units is still read with ease
HUES = 6

# matplotlib knows no CSS variables: it draws with colours that stand for them.
STAND_INS = {
    name: f"#01fe{number:02x}"
    for number, name in enumerate(["ink", "muted", "rule", "paper", *(f"series-{i}" for i in range(HUES))])
}
INK, MUTED, RULE, PAPER = (STAND_INS[name] for name in ("ink", "muted", "rule", "paper"))

_THEME: Any = {
    "axes.edgecolor": RULE,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10.5,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and shown in the reader's font
    "svg.hashsalt": "lptool",  # equal figures, equal bytes
    "text.color": INK,
    "text.parse_math": False,  # a file name may hold two dollars
    "xtick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.color": RULE,
    "ytick.labelcolor": INK,
}


class Label(NamedTuple):
    """What a figure is called: an id that is its own in the page, a title, and what is to be seen, in words."""

    name: str
    title: str
    finding: str


class Look(NamedTuple):
    """How the marks of one series look; the marker says the same as the colour, for those who see no colour."""

    colour: str
    marker: str
    filled: bool = True


CONTROLS = {"ticket": Look(MUTED, "o"), "ticket + BN": Look(INK, "s", filled=False)}
_MARKERS = "D^vPXh>"


def looks(names: list[str]) -> dict[str, Look]:
    """A look for each name: the controls have their own, the others one after the other."""
    others = [name for name in dict.fromkeys(names) if name not in CONTROLS]
    found = {name: Look(STAND_INS[f"series-{i % HUES}"], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(others)}
    return CONTROLS | found


def draw(label: Label, height: float, paint: Callable[[Figure], None]) -> str:
    """The SVG of what `paint` puts on a figure, the same bytes for the same marks."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts draw the text, not matplotlib's
        matplotlib.rcdefaults()  # not what this machine's settings say
        matplotlib.rcParams.update(_THEME)
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        paint(figure)
        stream = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # they change from day to day
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    return _for_a_page(stream.getvalue(), label, height)


def plot(figure: Figure) -> Axes:
    """Axes that leave room for their own labels, and for a legend outside."""
    figure.set_layout_engine("constrained")
    return figure.add_subplot()


def legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """All series below the plot, where they cover nothing."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns, handlelength=1.8, columnspacing=1.4)


def legend_height(entries: int, columns: int = 2) -> float:
    """What a legend takes of a figure."""
    return 12 + 16 * -(-entries // columns)


def short(text: str, length: int) -> str:
    """At most `length` characters, the end kept: names of layers and files differ there."""
    text = visible(text)
    return text if len(text) <= length else "…" + text[1 - length :]


def visible(text: str, keep: str = "") -> str:
    """Text that XML can hold: what has no glyph (controls, halves of characters) becomes a replacement character."""
    return "".join(c if c.isprintable() or c in f"\u00a0{keep}" else "\ufffd" for c in text)


def name_for_legend(text: str) -> str:
    """A name as matplotlib shows it: one that begins with an underscore it would leave out."""
    return f"\u200b{visible(text)}" if text.startswith("_") else visible(text)


def _for_a_page(svg: str, label: Label, height: float) -> str:
    """Without what is for a file of its own, with ids that are the figure's own, and colours that are the page's."""
    body = svg[svg.index("</defs>") + len("</defs>") :]  # the first ones hold a style, which would be the whole page's
    body = re.sub(r'<g id="(mark[^"]*)">', r'<g class="\1">', body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = body.replace("xlink:href", "href")
    body = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{label.name}-", body)
    body = re.sub(r"font-family: [^;\"]*(; )?", "", body)
    for name, stand_in in STAND_INS.items():
        body = body.replace(stand_in, f"var(--{name})")
    about = f"<title>{escape(visible(label.title))}</title><desc>{escape(visible(label.finding))}</desc>"
    words = escape(visible(f"{label.title}. {label.finding}"))
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{words}" '
        f'viewBox="0 0 {WIDTH:g} {height:g}" style="stroke-linejoin: round">'
    )
    return opening + about + re.sub(r"\n\s*", " ", body).strip()
