"""Templates that escape, tables that scroll, pages that appear whole or not at all."""

from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from lptool.errors import OutputError
from lptool.report.html.page import Figure, Tables, made_by, render, templates, unbroken, write_page
from lptool.tables import Table
from tests.helpers.documents import HOSTILE, evaluate_document
from tests.helpers.reading import Page, check_page

MACROS: Any = templates().get_template("macros.html.j2").module


def test_strings_are_escaped_and_markup_is_not() -> None:
    figures = [Figure("<b>", "a & b\x07", Markup("<svg></svg>"))]
    html = MACROS.figures(figures)
    assert "<figure><h3>&lt;b&gt;</h3><svg></svg><figcaption>a &amp; b\ufffd</figcaption></figure>" in html
    assert "<b>" not in MACROS.tables([Tables([Table("<b>", ("<b>", '"<b>'), [("<b>", "<b>")])], "<b>")])


def test_a_table_names_its_rows_and_columns() -> None:
    html = MACROS.table(Table("<caption>", ["", "a"], [["row", "1"]], words=("a",)))
    assert '<th scope="row">row</th><td class="words">1</td>' in html
    assert '<th scope="col" class="words">a</th>' in html
    assert 'class="scroll" tabindex="0" role="region" aria-label="&lt;caption&gt;"' in html


def test_cells_look_as_the_table_says() -> None:
    looks = {(0, 1): "heat-3", (1, 2): "cut"}
    table = Table("", ["", "a", "b"], [["x", "1", "2"], ["y", "3", "4"]], looks=looks)
    html = MACROS.figures([Figure("A map", "", table)])
    assert '<td class="heat-3">1</td><td>2</td>' in html
    assert '<td>3</td><td class="cut">4</td>' in html
    assert 'aria-label="A map"' in html, "its title, where it has no caption"
    assert "<caption>" not in html


def test_every_row_of_a_table_and_every_table_is_there() -> None:
    tables = [Table(f"t{i}", ("", "a"), [(f"r{i}{j}", f"c{i}{j}") for j in range(i)]) for i in range(4)]
    found = Page(MACROS.tables([Tables(tables[:2]), Tables(tables[2:], "more")]))
    assert found.cells == [
        cell for i in range(4) for cell in (f"t{i}", "", "a", *(f"{k}{i}{j}" for j in range(i) for k in "rc"))
    ]
    assert found.tags.count("details") == 1


def test_numbers_stay_beside_their_percent_sign_and_names_as_they_are() -> None:
    assert unbroken("from 5 % to 91.84 %, the % of a\u00a0%") == "from 5\u00a0% to 91.84\u00a0%, the % of a\u00a0%"
    html = MACROS.table(Table("", ["", "a", "b"], [["5 %", "5 %", "5 %"]], words=("b",)))
    assert '<th scope="row">5 %</th><td>5\u00a0%</td><td class="words">5 %</td>' in html


def test_a_page_is_whole_and_has_its_style_inside() -> None:
    html = render("evaluate.html.j2", **_content({"command": "a 'b'", "versions": {"x": "1"}}))
    found = check_page(html)
    assert {"style", "title", "pre"} <= set(found.tags)
    assert ("name", "viewport") in found.attributes
    for promise in ("prefers-color-scheme: dark", "@media print", "break-inside: avoid", "overflow-x: auto"):
        assert promise in html
    assert "a 'b'" in found.text
    assert found.cells == ["versions", "x", "1"]


def test_what_a_run_does_not_say_is_no_section() -> None:
    assert "This run" not in render("evaluate.html.j2", **_content({}))
    assert "This run" in render("evaluate.html.j2", **_content({"device": "cpu"}))


def _content(run: dict[str, Any]) -> dict[str, object]:
    empty: dict[str, object] = {"overview": [], "corruptions": [], "more_corruptions": [], "groups": []}
    return {"title": HOSTILE, "document": evaluate_document(1), **empty, **made_by(run)}


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
