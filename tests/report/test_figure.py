"""The figure: what is in it, and fonts that a venue takes."""

import re
import string
import zlib
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lptool.errors import DocumentError
from lptool.report import figure as drawing
from lptool.report.compare import compare_document
from lptool.report.figure import figure_of
from lptool.report.runs import gains_in
from tests.helpers.runs import evaluated, target, written


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    runs = [
        {"targets": [target(seed, level, (900, 910, 930 + seed + level), **more) for level in (1, 2)]}
        for seed in range(2)
        for more in ({}, {"method": "$a$ _b", "dataset": "digits"})
    ]
    return compare_document(gains_in(written(tmp_path_factory.mktemp("runs"), runs)))


def test_the_pdf_embeds_truetype_and_no_type_3(document: dict[str, Any]) -> None:
    pdf = figure_of(document, ".pdf")
    assert pdf.startswith(b"%PDF")
    inflated = pdf + b"".join(_inflated(part) for part in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL))
    kinds = set(re.findall(rb"/Subtype\s*/(Type\d\w*|TrueType|CIDFontType\d)", inflated))
    assert kinds == {b"Type0", b"CIDFontType2"}  # a composite font over TrueType outlines, PDF 32000-1 section 9.7.4
    assert b"/FontFile2" in inflated  # the TrueType program itself, section 9.9


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:  # not compressed
        return b""


def test_the_svg_names_panels_lines_and_axes(document: dict[str, Any]) -> None:
    svg = figure_of(document, ".svg").decode()
    words = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"npz:d.npz, net.py:Net", "digits, net.py:Net", "greedy", "$a$ _b", "100"} <= {*words} | {"100"}
    assert words.count("density, % of the prunable weights") == 2
    assert "gain over the better control, points" in words
    assert "± standard error" in words


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png"])
def test_equal_rows_give_equal_bytes(document: dict[str, Any], suffix: str) -> None:
    assert figure_of(document, suffix) == figure_of(document, suffix)


def test_pairs_of_evaluate_are_drawn_with_the_error_of_the_images(tmp_path: Path) -> None:
    found = compare_document(gains_in(written(tmp_path, [evaluated(0, (930, 900), 40)])))
    svg = figure_of(found, ".svg").decode()
    assert "greedy over ticket" in svg
    assert "± standard error of the images" in svg


LONG = {
    "one": ["auto"],
    "four": [f"auto (bn-images {images}, select nll)" for images in ("plain", "augmented", "none", "auto")],
    "sentences": [f"{word} (augment resized-crop, bn-images augmented, select nll, passes 2)" for word in ("a", "b")],
    "no spaces": [letter * 200 for letter in "WMi"],
    "many": [f"{letter} a name of some length" for letter in string.ascii_lowercase],
}


@pytest.mark.parametrize("names", LONG.values(), ids=LONG)
@pytest.mark.parametrize(("panels", "dpi"), [(1, 200), (2, 100), (3, 72)])  # .png, measuring, .pdf
def test_the_legend_is_inside_the_figure_and_below_the_panels(
    tmp_path: Path, names: list[str], panels: int, dpi: int
) -> None:
    runs = [
        target(seed, 1, (900, 910, 930), method=name, dataset=f"data{panel}")
        for seed, name in enumerate(names)
        for panel in range(panels)
    ]
    with matplotlib.rc_context(drawing._STYLE):
        figure = drawing._drawn(compare_document(gains_in(written(tmp_path, runs)))["rows"])
        figure.set_dpi(dpi)
        figure.draw_without_rendering()
        renderer = FigureCanvasAgg(figure).get_renderer()
        (legend,) = figure.legends
        parts = [legend.get_window_extent(renderer), *(t.get_window_extent(renderer) for t in legend.get_texts())]
        for box in parts:
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.width
            assert box.y0 >= 0
        assert all(axes.get_tightbbox(renderer).y0 >= parts[0].y1 for axes in figure.axes)
        shown = {"".join(text.get_text().split()) for text in legend.get_texts()}
        assert shown == {name.replace(" ", "") for name in names}


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    empty = compare_document(gains_in(written(tmp_path, [target(0, 2, (900, 910, 930), sparsity=1)])))
    with pytest.raises(DocumentError, match="nothing to draw"):
        figure_of(empty, ".svg")
