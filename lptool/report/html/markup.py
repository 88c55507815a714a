"""HTML that escapes what it is given, and the frame of a page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from lptool.checkpoints.places import write_atomically
from lptool.report.html.drawing import visible


class Html(str):
    """Text that is markup already; every other string is escaped when it comes into a page."""

    __slots__ = ()


def tag(name: str, *children: str | Iterable[str], **attributes: str) -> Html:
    """`<name …>children</name>`; `class_` gives the attribute `class`, `aria_label` gives `aria-label`."""
    shown = "".join(f' {key.rstrip("_").replace("_", "-")}="{_safe(str(v))}"' for key, v in attributes.items())
    return Html(f"<{name}{shown}>{join(*children)}</{name}>")


def join(*children: str | Iterable[str]) -> Html:
    """One piece of markup from several."""
    flat = (part for child in children for part in ([child] if isinstance(child, str) else child))
    return Html("".join(part if isinstance(part, Html) else _safe(part) for part in flat))


def _safe(text: str) -> str:
    return escape(visible(text, keep="\n"))


def figure(svg: str, title: str, caption: str) -> Html:
    """A figure with its title above and what to look for below."""
    return tag("figure", tag("h3", title), Html(svg), tag("figcaption", caption))


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[str] = ()) -> Html:
    """A table that scrolls in a container of its own; the first column names the row, `words` are columns of text."""
    sides = [{"class_": "words"} if heading in words else {} for heading in headings]
    top = [tag("th", heading, scope="col", **side) for heading, side in zip(headings, sides, strict=True)]
    lines = (
        tag("tr", tag("th", row[0], scope="row"), (_cell(*pair) for pair in zip(row[1:], sides[1:], strict=True)))
        for row in rows
    )
    inner = tag("table", tag("caption", tag("span", caption)), tag("thead", tag("tr", top)), tag("tbody", lines))
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def pairs(caption: str, rows: Iterable[tuple[str, str]]) -> Html:
    """A table of names and what they stand for."""
    inside = (tag("tr", tag("th", name, scope="row"), tag("td", value, class_="words")) for name, value in rows)
    inner = tag("table", tag("caption", tag("span", caption)), tag("tbody", inside))
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(text: str, side: Mapping[str, str]) -> Html:
    return tag("td", text, **side)


def details(summary: str, *children: str | Iterable[str]) -> Html:
    """What is shown on demand, and always in print."""
    return tag("details", tag("summary", summary), *children)


def section(title: str, *children: str | Iterable[str]) -> Html:
    """A part of the page under a heading; nothing where there is nothing in it."""
    inside = join(*children)
    return tag("section", tag("h2", title), inside) if inside else inside


def run_section(command: str | None, versions: Mapping[str, str] | None, device: str | None) -> Html:
    """How to do it again: the exact command, and what it ran on."""
    rows = [*([("device", device)] if device else []), *(versions or {}).items()]
    shown = pairs("Versions", [(name, str(value)) for name, value in rows]) if rows else ""
    return section("This run", tag("pre", command) if command else "", shown)


def page(title: str, *body: str | Iterable[str]) -> str:
    """The whole file: its style is inside, and it loads nothing."""
    style = Html(files("lptool.report.html").joinpath("page.css").read_text(encoding="utf-8"))
    head = join(
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        tag("title", title),
        tag("style", style),
    )
    inside = join(tag("head", head), tag("body", tag("main", *body)))
    return f'<!DOCTYPE html>\n<html lang="en">{inside}</html>\n'


def write_page(path: str | Path, html: str) -> None:
    """Write a page whole or not at all; an existing one is replaced. Raises OutputError."""
    write_atomically(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))
