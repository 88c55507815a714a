"""The sheet that figures are drawn on: colours of the page, ids of their own, text as text."""

import re

import matplotlib
import pytest
from matplotlib.figure import Figure

from lptool.report.html.drawing import CONTROLS, HUES, INK, Label, draw, looks, plot, short, visible
from tests.helpers.reading import figure, words

LABEL = Label("one", "A title", "What is to be seen: a < b & c")


def line(drawn: Figure) -> None:
    plot(drawn).plot([1, 2], [3, 4], "o-", color=INK, gid="mark-point")


def test_colours_are_the_pages_and_ids_the_figures_own() -> None:
    svg = draw(LABEL, 200, line)
    figure(svg)
    assert "var(--ink)" in svg
    ids = re.findall(r'id="([^"]+)"', svg)
    assert ids
    assert all(name.startswith("one-") for name in ids)
    assert set(re.findall(r'href="#([^"]+)"|url\(#', svg)) - {""} <= set(ids)
    other = draw(Label("two", "", ""), 200, line)
    assert not set(ids) & set(re.findall(r'id="([^"]+)"', other))


def test_equal_figures_are_equal_bytes_whatever_this_machine_is_set_to() -> None:
    first = draw(LABEL, 200, line)
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "lines.linewidth": 9}):
        assert draw(LABEL, 200, line) == first
        assert matplotlib.rcParams["font.size"] == 30, "settings are put back"


def test_a_figure_says_what_it_shows() -> None:
    root = figure(draw(LABEL, 200, line))
    assert root.get("aria-label") == "A title. What is to be seen: a < b & c"


@pytest.mark.parametrize("text", ["$x$ and $y$", "<b>&\"'", "彩票 é", "a_b"])
def test_text_is_text(text: str) -> None:
    root = figure(draw(LABEL, 50, lambda drawn: drawn.text(0.1, 0.5, text) and None))
    assert words(root) == [text]


def test_many_names_have_looks_that_differ() -> None:
    names = [f"method {i}" for i in range(4 * HUES)]
    found = looks([*names, "ticket", "ticket + BN"])
    assert len({found[name] for name in names}) == len(names)
    assert {found[name] for name in CONTROLS} == set(CONTROLS.values())
    assert not {found[name] for name in names} & set(CONTROLS.values())
    first = [found[name] for name in names[:HUES]]
    assert len({look.marker for look in first}) == len({look.colour for look in first}) == HUES


def test_text_that_no_page_can_hold_is_replaced() -> None:
    assert visible("a\x00\udc80\nü\u00a0%") == "a\ufffd\ufffd\ufffdü\u00a0%"
    assert visible("a\nb", keep="\n") == "a\nb"


def test_short_names_keep_their_end() -> None:
    assert short("layer3.downsample", 6) == "…ample"
    assert short("conv1", 5) == "conv1"
