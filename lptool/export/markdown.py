"""Names and code as Markdown."""

from __future__ import annotations

import re

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
