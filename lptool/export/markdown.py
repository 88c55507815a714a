"""Names, numbers, tables and code as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lptool.export.header import one_line


def code(text: str) -> str:
    """As code, in which no character means anything to Markdown."""
    text = one_line(text)
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}" if text else "–"


def block(code: str, language: str) -> str:
    """Lines of code behind a fence that they do not hold."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{fence}{language}\n{code}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, first column to the left, numbers to the right."""
    ruler = [":--", *["--:"] * (len(head) - 1)]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in (head, *rows))
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([lines[0], "|" + "|".join(ruler) + "|", *lines[1:]])


def percent(fraction: float) -> str:
    """A fraction as a person reads it."""
    return f"{100 * fraction:.2f} %"
