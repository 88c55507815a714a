"""Tables on terminals: narrower by what is missed least, and never without a number or what tells names apart."""

import io
import re
from collections.abc import Sequence
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, Group

from lptool.errors import LOOKALIKES
from lptool.report.terminal import fitted, on_terminal, whole_line
from lptool.tables import Table
from tests.helpers.reading import text

FILES = [f"runs/digits/level_0{level}.safetensors" for level in range(3)]
TABLE = Table(
    "tickets",
    ["file", "level", "sparsity", "why", "seconds"],
    [[file, str(level), f"{20 * level}.00 %", "metadata", "1,234"] for level, file in enumerate(FILES)],
    words=("why",),
    spare=("seconds", "level"),
)


def wide(table: Table) -> int:
    """The longest line of a terminal that has room for all."""
    return max(map(cell_len, text(on_terminal(table)).splitlines()[1:]))


def at(width: int, table: Table, encoding: str = "utf-8") -> list[str]:
    """The lines of a terminal."""
    file = io.TextIOWrapper(io.BytesIO(), encoding, LOOKALIKES)
    Console(width=width, file=file).print(on_terminal(table), crop=False)
    file.seek(0)
    return file.read().splitlines()


@pytest.mark.parametrize("numbers", ["left", "right"])
def test_every_character_of_a_name_that_is_too_long_is_shown(numbers: Any) -> None:
    shown = text(on_terminal(Table("a title", ["file", "n"], [["n" * 500, "7"]]), numbers=numbers))
    name = "".join(line.split("│")[1].strip() for line in shown.splitlines() if "│" in line)
    assert re.fullmatch("n{500}|…n+", name)
    assert "a title" in shown


def test_numbers_stand_right_and_words_left() -> None:
    table = Table("", ["file", "number", "words"], [["a", "7", "b"]], words=("words",))
    right, left = (text(on_terminal(table, numbers=numbers)) for numbers in ("right", "left"))
    assert "│ a    │      7 │ b     │" in right
    assert "│ a    │ 7      │ b     │" in left


def test_folders_go_first_then_spare_columns_then_endings_then_beginnings() -> None:
    """Each only where what went before was not enough."""
    seen: list[tuple[Sequence[str], str]] = []
    for width in range(wide(TABLE), 30, -1):
        table = fitted(TABLE, width)
        state = (tuple(table.headings), re.sub(r"…(?!/).*", "…", table.rows[1][0]))
        if state not in seen:
            seen.append(state)
    everything = ("file", "level", "sparsity", "why", "seconds")
    assert seen[:5] == [
        (everything, "runs/digits/level_01.safetensors"),
        (everything, "…/level_01.safetensors"),
        (everything[:-1], "…/level_01.safetensors"),
        (("file", "sparsity", "why"), "…/level_01.safetensors"),
        (("file", "sparsity", "why"), "…/level_01"),
    ]
    assert seen[5][1] == "…"


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_name_is_broken_and_no_number_lost_where_there_is_any_room(width: int) -> None:
    lines = at(width, TABLE)
    assert max(map(cell_len, lines)) <= width
    rows = [line for line in lines if "│" in line]
    assert len(rows) == len(FILES)
    assert all(f"{20 * level}.00 %" in row for level, row in enumerate(rows))
    assert all(f"level_0{level}" in row for level, row in enumerate(rows))


def test_what_is_not_shown_is_said() -> None:
    assert at(55, TABLE)[-1] == "not shown, for want of width: level, seconds"
    assert "not shown" not in "".join(at(200, TABLE))


@pytest.mark.parametrize(
    "names",
    [
        ["a/level_00.pt", "b/level_00.pt", "b/level_01.pt"],
        ["level_00.pt", "a/b/level_00.pt", "c/b/level_00.pt"],
        ["first-of-a-very-long-name-that-ends-alike.pt", "other-of-a-very-long-name-that-ends-alike.pt"],
        ["x.pt", "x.safetensors"],
        ["1.25", "2.25"],
        ["名前" * 20 + "a", "名前" * 20 + "b"],
    ],
)
def test_names_stay_different_and_numbers_whole(names: list[str]) -> None:
    table = Table("", ["file", "n"], [[name, "12,345"] for name in names])
    for width in range(wide(table), 5, -1):
        shown = fitted(table, width)
        assert len({row[0] for row in shown.rows}) == len(names)
        assert {row[1] for row in shown.rows} == {"12,345"}
        ends = zip(names, shown.rows, strict=True)
        assert all(row[0].removeprefix("…").removeprefix("/") in name for name, row in ends)


def test_the_same_name_is_the_same_in_every_column() -> None:
    rows = [["runs/a/x.pt", "runs/b/x.pt", "1"], ["runs/b/x.pt", "runs/a/y.pt", "2"]]
    shown = fitted(Table("", ["a", "b", "n"], rows, words=("b",)), 30)
    assert shown.rows == [["…/a/x.pt", "…/b/x.pt", "1"], ["…/b/x.pt", "…/y.pt", "2"]]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("width", [40, 120])
def test_lines_are_straight_in_every_encoding(width: int, encoding: str) -> None:
    """Signs that an encoding lacks are longer there."""
    table = Table("a → b", ["file", "cost →"], [[f"runs/x/{i}/ö.pt", "2 → 1 …"] for i in range(3)])
    lines = at(width, table, encoding)
    assert lines[0] in ("a -> b", "a → b")
    frame = [line for line in lines[1:] if line[0] in "|+"]
    assert len(frame) == 3 + 4
    assert len({*map(len, frame)}) == 1
    assert sum("2 -> 1" in line for line in frame) == 3


def test_a_line_to_copy_has_no_newline_in_it() -> None:
    file = io.StringIO()
    Console(width=20, file=file).print(Group(whole_line("load it: " + "import lptool; " * 9)), crop=False)
    assert file.getvalue().count("\n") == 1
