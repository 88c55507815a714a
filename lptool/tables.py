"""Tables, made once and shown in three skins: on a terminal, on a page, in a model card. Numbers look alike in all.

A result makes a `Table` of ready cells; `report.tables` shows it by rich, `report.html` as HTML, and `markdown` here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Ready cells under headings. The first column names the row and stands left; numbers stand right.

    Attributes:
        caption: what the table shows; may be empty where a heading above says it.
        headings: one per column. rows: of as many cells each, as a person reads them.
        words: headings of further columns that hold text, which stands left too.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[str] = ()

    def is_text(self, column: int) -> bool:
        """Whether a column stands left."""
        return column == 0 or self.headings[column] in self.words


def markdown(table: Table) -> str:
    """The table as Markdown; who makes its cells has escaped what Markdown would read in them, but for `|`."""
    ruler = [":--" if table.is_text(column) else "--:" for column in range(len(table.headings))]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in (table.headings, *table.rows))
    head, *rows = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([head, "|" + "|".join(ruler) + "|", *rows])


def percent(fraction: float) -> str:
    """A fraction as a person reads it.

    >>> percent(0.9184)
    '91.84 %'
    """
    return f"{100 * fraction:.2f} %"
