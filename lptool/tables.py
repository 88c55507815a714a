"""Tables, made once and shown in four skins: on a terminal, on a page, in Markdown, in LaTeX. Numbers look alike.

A result makes a `Table` of ready cells; `report.terminal` shows it by rich, `report.html` as HTML, the others are here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Table:
    """Ready cells under headings. The first column names the row and stands left; numbers stand right.

    Attributes:
        caption: what the table shows; may be empty where a heading above says it.
        headings: one per column. rows: of as many cells each, as a person reads them.
        words: headings of further columns that hold text, which stands left too.
        looks: (row, column) → how a page colours that cell, in class names of its style sheet.
        spare: headings of columns that a narrow terminal does without, the first to go first.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[str] = ()
    looks: Mapping[tuple[int, int], str] = field(default_factory=dict)
    spare: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raises ValueError where a row does not fit: a cell under a wrong heading would be a wrong number."""
        if any(len(row) != len(self.headings) for row in self.rows):
            raise ValueError(f"{self.caption!r}: a row has not {len(self.headings)} cells, one for each heading")

    def is_text(self, column: int) -> bool:
        """Whether a column stands left."""
        return column == 0 or self.headings[column] in self.words

    def plus(self, heading: str, cells: Sequence[str], *, words: bool = False) -> Table:
        """The same with one more column."""
        rows = [[*row, cell] for row, cell in zip(self.rows, cells, strict=True)]
        named = (*self.words, heading) if words else self.words
        return replace(self, headings=(*self.headings, heading), rows=rows, words=named)

    def without(self, heading: str) -> Table:
        """The same with one column less; `looks`, which count columns, are left out."""
        kept = [column for column, each in enumerate(self.headings) if each != heading]
        headings, *rows = [[row[column] for column in kept] for row in (self.headings, *self.rows)]
        return replace(self, headings=headings, rows=rows, looks={})


def markdown(table: Table) -> str:
    """The table as Markdown; who makes its cells has escaped what Markdown would read in them, but for `|`."""
    ruler = [":--" if table.is_text(column) else "--:" for column in range(len(table.headings))]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in (table.headings, *table.rows))
    head, *rows = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([head, "|" + "|".join(ruler) + "|", *rows])


def latex(table: Table) -> str:
    """The table as LaTeX's `tabular`, with the rules of the package booktabs; rows of one first cell stand together.

    >>> print(latex(Table("", ["method", "gain"], [["a_b", "-0.41 ± 0.20"]])))
    \\begin{tabular}{lr}
    \\toprule
    method & gain \\\\
    \\midrule
    a\\_b & $-0.41 \\pm 0.20$ \\\\
    \\bottomrule
    \\end{tabular}
    """
    columns = "".join("l" if table.is_text(column) else "r" for column in range(len(table.headings)))
    head, *lines = [" & ".join(map(_in_latex, row)) + r" \\" for row in (table.headings, *table.rows)]
    for place in reversed(range(1, len(lines))):
        if table.rows[place][0] != table.rows[place - 1][0]:
            lines.insert(place, r"\addlinespace")
    rows = [r"\toprule", head, r"\midrule", *lines, r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *rows, r"\end{tabular}"])


_NUMBER = re.compile(r"[+-]?\d[\d.]*(e[+-]?\d+)?( ± [\d.]+)?")
_SPECIAL = {
    **{c: rf"\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
}


def _in_latex(cell: str) -> str:
    if _NUMBER.fullmatch(cell):  # else a minus would be a hyphen
        exponent = re.sub(r"e([+-])0*(\d+)", r" \\cdot 10^{\1\2}", cell)
        return f"${exponent.replace('±', chr(92) + 'pm')}$"
    return "".join(_SPECIAL.get(letter, letter) for letter in cell)


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction as a person reads it.

    >>> percent(0.9184), percent(0.9184, 0)
    ('91.84 %', '92 %')
    """
    return f"{100 * fraction:.{digits}f} %"


def points(gain: float) -> str:
    """A difference of two fractions in percentage points, with its sign.

    >>> points(0.0114), points(-0.0114), points(-0.00001)
    ('+1.14', '−1.14', '0.00')
    """
    shown = f"{100 * gain:+.2f}"
    return "0.00" if float(shown) == 0 else shown.replace("-", "−")
