"""The figure: what is in it, and fonts that a venue takes."""

import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from lptool.errors import DocumentError
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


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    empty = compare_document(gains_in(written(tmp_path, [target(0, 2, (900, 910, 930), sparsity=1)])))
    with pytest.raises(DocumentError, match="nothing to draw"):
        figure_of(empty, ".svg")
