"""Documents read back: fit to be printed whatever they hold, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from lptool.errors import DocumentError
from lptool.report.documents import Part, read_document


def read(folder: Path, text: str) -> Any:
    (folder / "a.json").write_text(text, encoding="utf-8")
    return read_document(folder / "a.json")


def test_a_sound_document_is_read_as_it_is(tmp_path: Path) -> None:
    document = {"a": [1, 0.25, None, True, "naïve → 彩"], "b": {"c": {}, "d": "x y"}}
    assert read(tmp_path, json.dumps(document)) == document


def test_every_text_is_a_line_that_utf8_can_write(tmp_path: Path) -> None:
    odd = "two\nlines \x1b[31m \ud800 \x00 \u2028end"
    found = read(tmp_path, json.dumps({odd: odd, "inner": [{odd: [odd]}]}))
    line = "two lines ?[31m ? ? end"
    assert found == {line: line, "inner": [{line: [line]}]}
    assert line.encode().decode().isprintable()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
def test_a_number_that_no_json_has_is_refused_wherever_it_stands(tmp_path: Path, number: str) -> None:
    with pytest.raises(DocumentError, match=r"a\.json: not a whole JSON document \(") as error:
        read(tmp_path, f'{{"a": [{{"b": {number}}}]}}')
    assert len(str(error.value)) < 500 + len(str(tmp_path))


def test_what_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    for depth in (60, 900, 100_000):
        with pytest.raises(DocumentError, match="not a whole JSON document"):
            read(tmp_path, "[" * depth + "]" * depth)


def test_a_value_of_another_kind_is_named_with_its_place() -> None:
    part = Part({"a": {"b": "x"}}, "d.json")
    assert part.within("a").text("b") == "x"
    with pytest.raises(DocumentError, match=r"d.json: 'a.b' is \"x\", expected a whole number from 1 up"):
        part.within("a").count("b", 1)
    with pytest.raises(DocumentError, match=r"d.json: has no 'a.c'"):
        part.within("a").fraction("c")
    assert part.optional("c", bool, "anything") is None
