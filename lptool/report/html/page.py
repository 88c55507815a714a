"""What all pages share: figures, the templates that they are filled into, and writing a page whole.

Templates escape every text, and no control character of a file's name or header reaches a page.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lptool.checkpoints.places import write_atomically
from lptool.report.html.drawing import Label, visible
from lptool.report.tables import Document, name_of
from lptool.tables import Table, percent


class Figure(NamedTuple):
    """A drawing or a coloured table, its title above, and below what to look for."""

    title: str
    caption: str
    drawing: Markup | Table


class Tables(NamedTuple):
    """Tables that stand together; under a summary they are shown on demand, and always in print."""

    tables: list[Table]
    summary: str = ""


def drawn(label: Label, svg: str, caption: str | None = None) -> Figure:
    """A figure of the SVG that was drawn under a label; its caption may say less than its words for the blind."""
    return Figure(label.title, label.finding if caption is None else caption, Markup(svg))


def made_by(document: Document) -> dict[str, object]:
    """How to do it again: the exact command, and what it ran on."""
    device = {"device": document["device"]} if document.get("device") else {}
    rows = [(name, str(value)) for name, value in (device | (document.get("versions") or {})).items()]
    return {"command": document.get("command"), "versions": Table("versions", ("", ""), rows, words=("",))}


def render(template: str, **content: object) -> str:
    """The whole file: its style is inside, and it loads nothing."""
    return templates().get_template(template).render(content)


@cache
def templates() -> Environment:
    """Where a variable is escaped by itself, and an unknown one is an error."""
    found = Environment(
        loader=PackageLoader("lptool.report.html", "."),
        autoescape=True,
        # Escaping leaves control characters alone, which HTML cannot hold.
        finalize=lambda value: value if isinstance(value, Markup) else visible(str(value), keep="\n"),
        keep_trailing_newline=True,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    found.filters |= {"unbroken": unbroken, "percent": lambda share: unbroken(percent(share)), "name_of": name_of}
    return found


def unbroken(text: str) -> str:
    """A sentence or number in which no line is broken between a number and its percent sign."""
    return re.sub(r"(?<=\d) %", "\u00a0%", text)


def is_page_of(path: Path, command: str) -> bool:
    """Whether this very command made the page at `path`."""
    try:
        html = "" if path.is_symlink() else path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return templates().from_string("<pre>{{ command }}</pre>").render(command=command) in html


def write_page(path: str | Path, html: str, *, replace: bool = True) -> None:
    """Write a page whole or not at all; `replace` one that is there. Raises OutputError."""
    write_atomically(path, lambda temporary: temporary.write_text(html, encoding="utf-8"), replace=replace)
