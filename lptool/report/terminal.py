"""How a terminal shows a table: whole where it is wide enough, else without what a reader misses least.

Folders are left out first, as far as the names of files still differ (`…/level_05.safetensors`), then the columns that
the table can spare, then the ending that all names share, then the beginnings of names. What is too wide even so goes
on in the next line: no number is ever cut off. What goes into a pipe or a file is as wide as it needs to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from lptool.errors import in_encoding, printable
from lptool.report.tables import shortest_ends
from lptool.tables import Table

Side = Literal["left", "right"]

_SHORTEST = 8  # characters that are left of a name at least
_FRAME = 3  # columns of the terminal around each cell: a blank on both sides and a line


def on_terminal(table: Table, *, numbers: Side = "right") -> RenderableType:
    """The table as rich draws it, at the width that the terminal has then."""
    return _OnTerminal(table, numbers)


def whole_line(text: str) -> Text:
    """A line that is to be copied: the terminal may break it, but there is no newline in what is copied."""
    return Text(text, no_wrap=True, overflow="ignore")


@dataclass(frozen=True)
class _OnTerminal:
    table: Table
    numbers: Side

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        shown = partial(in_encoding, encoding=console.encoding)
        # Here too, so that columns are as wide as what is shown.
        table = _of_cells(self.table, lambda cell: shown(printable(cell)))
        fitting = fitted(table, options.max_width, shown("…"))
        if table.caption:
            yield Text(printable(table.caption), style="table.title")
        yield _drawn(fitting, self.numbers)
        if missing := [heading for heading in table.headings if heading not in fitting.headings]:
            yield Text(f"not shown, for want of width: {', '.join(missing)}", style="table.caption")


def _drawn(table: Table, numbers: Side) -> RichTable:
    shown = RichTable()
    for column, heading in enumerate(table.headings):
        shown.add_column(Text(heading), justify="left" if table.is_text(column) else numbers, overflow="fold")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def fitted(table: Table, width: int, more: str = "…") -> Table:
    """The table, or what can be shown of it in so many columns of a terminal; `more` stands for what is left out.

    >>> table = Table("", ["file", "level"], [["runs/a/level_00.pt", "0"], ["runs/a/level_01.pt", "1"]])
    >>> fitted(table, 29).rows[1]
    ['…/level_01.pt', '1']
    """
    narrower: list[Callable[[Table], Table]] = [
        partial(_without_folders, more=more),
        *(partial(Table.without, heading=heading) for heading in table.spare),
        _without_ending,
        partial(_without_beginnings, width=width, more=more),
    ]
    for step in narrower:
        if _width(table) <= width:
            break
        table = step(table)
    return table


def _width(table: Table) -> int:
    """Columns of the terminal that the table takes where nothing is broken."""
    columns = zip(table.headings, *table.rows, strict=True)
    return sum(max(map(cell_len, column)) + _FRAME for column in columns) + 1


def _without_folders(table: Table, more: str) -> Table:
    """Paths without the folders that tell no two of them apart."""
    parts = {name: PurePath(name).parts for name in _names(table)}
    ends = {
        name: "/".join((more, *end))
        for name, end in shortest_ends({name: own for name, own in parts.items() if len(own) > 1}).items()
        if len(end) < len(parts[name])
    }
    return _renamed(table, ends)


def _without_ending(table: Table) -> Table:
    """Names without the one suffix that there is, such as `.safetensors`; decimals of a number are none."""
    suffixes = {name: suffix for name in _names(table) if (suffix := PurePath(name).suffix)}
    if len({*suffixes.values()}) > 1 or any(suffix[1].isdigit() for suffix in suffixes.values()):
        return table
    return _if_different(table, {name: name.removesuffix(suffix) for name, suffix in suffixes.items()})


def _without_beginnings(table: Table, width: int, more: str) -> Table:
    """Names that are cut from the left, all at one length, if that makes the table fit and they still differ."""
    names = _names(table)
    for length in range(max(map(cell_len, names), default=0) - 1, _SHORTEST - 1, -1):
        cut = {name: _end(name, length, more) for name in names if cell_len(name) > length}
        shorter = _if_different(table, cut)
        if _width(shorter) <= width:
            return shorter
    return table


def _end(text: str, length: int, more: str) -> str:
    while cell_len(more + text) > length:
        text = text[1:]
    return more + text


def _names(table: Table) -> dict[str, None]:
    """Every text that names something: those in columns that stand left."""
    columns = [column for column in range(len(table.headings)) if table.is_text(column)]
    return dict.fromkeys(row[column] for column in columns for row in table.rows if row[column])


def _renamed(table: Table, names: Mapping[str, str]) -> Table:
    rows = [
        [names.get(cell, cell) if table.is_text(column) else cell for column, cell in enumerate(row)]
        for row in table.rows
    ]
    return replace(table, rows=rows)


def _if_different(table: Table, names: Mapping[str, str]) -> Table:
    """With new names, but where two would be the same."""
    renamed = _renamed(table, names)
    return renamed if len(_names(renamed)) == len(_names(table)) else table


def _of_cells(table: Table, change: Callable[[str], str]) -> Table:
    headings, *rows = [list(map(change, row)) for row in (table.headings, *table.rows)]
    words, spare = (list(map(change, some)) for some in (table.words, table.spare))
    return replace(table, headings=headings, rows=rows, words=words, spare=spare)
