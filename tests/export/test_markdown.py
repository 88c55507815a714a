"""Markdown: what goes in is shown as it is, whatever characters it has."""

import re

import pytest

from lptool.export.markdown import block, code
from lptool.tables import Table, markdown

NAMES = ["plain", "a`b", "``", "`x", "*a*_b_<c>[d](e)", "a|b", "\\"]


@pytest.mark.parametrize("name", NAMES)
def test_code_shows_its_text(name: str) -> None:
    """As CommonMark reads a span: as many ticks at its end as at its beginning, and none such inside."""
    shown = code(name)
    ticks = re.match("`+", shown)
    assert ticks is not None
    assert shown.endswith(ticks[0])
    inside = shown[len(ticks[0]) : -len(ticks[0])]
    assert ticks[0] not in re.findall("`+", inside)
    assert inside.strip() == name


def test_code_is_one_line() -> None:
    assert code("a\nb") == "`a b`"
    assert code("") == "–"


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_keeps_its_place(name: str) -> None:
    lines = markdown(Table("", ("a", "b"), [[code(name), "1"]])).splitlines()
    assert len(lines) == 3
    assert [len(re.split(r"(?<!\\)\|", line)) for line in lines] == [4, 4, 4]


def test_a_block_ends_where_it_ends() -> None:
    lines = block("echo '```'\n", "bash").splitlines()
    assert lines[0] == "````bash"
    assert lines[-1] == "````"
