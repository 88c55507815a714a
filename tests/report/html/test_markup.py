"""Markup that escapes, tables that scroll, pages that appear whole or not at all."""

from pathlib import Path

import pytest

from lptool.errors import OutputError
from lptool.report.html.markup import Html, details, join, page, pairs, run_section, section, table, tag, write_page
from tests.helpers.reading import check_page


def test_strings_are_escaped_and_markup_is_not() -> None:
    assert tag("p", "<b>", Html("<i>x</i>"), class_='a"b') == '<p class="a&quot;b">&lt;b&gt;<i>x</i></p>'
    assert join(["a", "&"], "<") == "a&amp;&lt;"
    assert tag("div", aria_label="x") == '<div aria-label="x"></div>'


def test_a_table_names_its_rows_and_columns() -> None:
    html = table("<caption>", ["", "a"], [["row", "1"]], words=("a",))
    assert '<th scope="row">row</th><td class="words">1</td>' in html
    assert '<th scope="col" class="words">a</th>' in html
    assert 'class="scroll" tabindex="0" role="region" aria-label="&lt;caption&gt;"' in html


def test_a_table_whose_rows_do_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        table("", ["", "a"], [["row", "1", "2"]])


def test_an_empty_section_is_nothing() -> None:
    assert section("A title", "", []) == ""
    assert section("A title", "x") == "<section><h2>A title</h2>x</section>"


def test_a_page_is_whole_and_has_its_style_inside() -> None:
    html = page("<title>", details("more", "x"), pairs("c", [("a", "<b>")]), run_section("a 'b'", {"x": "1"}, None))
    found = check_page(html)
    assert {"style", "title", "details", "pre"} <= set(found.tags)
    assert ("name", "viewport") in found.attributes
    for promise in ("prefers-color-scheme: dark", "@media print", "break-inside: avoid", "overflow-x: auto"):
        assert promise in html


def test_a_page_is_written_whole_and_replaces(tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "a.html", "<p>ü</p>")
    write_page(tmp_path / "new" / "a.html", "<p>彩</p>")
    assert (tmp_path / "new" / "a.html").read_bytes() == "<p>彩</p>".encode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.html"]


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_page(tmp_path / "file" / "a.html", "x")
    assert "\n" not in str(caught.value)
