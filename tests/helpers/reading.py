"""Reads tables as a wide terminal shows them, and pages and figures as a strict browser would, for the tests."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from rich.console import Console, RenderableType

VOID = {"meta", "!doctype"}
SVG = "{http://www.w3.org/2000/svg}"


def text(view: RenderableType) -> str:
    """What a terminal of 200 columns shows of it."""
    console = Console(width=200, file=io.StringIO())
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined]


def said(text: str) -> str:
    """Text of a page as it was before its lines were kept from breaking between a number and its sign."""
    return text.replace("\u00a0", " ")


class Page(HTMLParser):
    """The tags, ids, attributes and table cells of a page; fails where a tag is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag in ("td", "th", "caption"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if set(self.open) & {"td", "th", "caption"}:
            self.cells[-1] += data


def check_page(html: str) -> Page:
    """What every page has to keep to: whole, ids its own, nothing loaded, nothing run, storable as UTF-8."""
    html.encode()
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    targets = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)
    assert {a or b for a, b in targets} <= set(page.ids)
    assert not set(page.tags) & {"script", "link", "img", "iframe", "object", "base", "b", "g>"}
    assert not [
        value for name, value in page.attributes if name != "xmlns" and re.search(r"https?://|javascript:", value)
    ]
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    assert not re.search(r"@import|url\((?!#)", html)
    ElementTree.fromstring(_as_xml(html))
    return page


def _as_xml(html: str) -> str:
    return re.sub(r"(<meta [^>]*)>", r"\1/>", html.removeprefix("<!DOCTYPE html>\n"))


def figure(svg: str) -> ElementTree.Element:
    """A figure, if it keeps to the rules of XML, speaks for itself, and leaves all colours to the page."""
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert root.find(f"{SVG}title") is not None
    assert not re.search(r"#[0-9a-fA-F]{6}\b", svg), "a colour of its own"
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    return root


def marks(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """What is drawn under a class: a use of a marker for each point, a path for each bar or cell."""
    groups = [group for group in root.iter(f"{SVG}g") if group.get("class") == name]
    found: list[ElementTree.Element] = []
    for group in groups:
        uses = list(group.iter(f"{SVG}use"))
        defined = {id(path) for defs in group.iter(f"{SVG}defs") for path in defs.iter(f"{SVG}path")}
        found += uses or [path for path in group.iter(f"{SVG}path") if id(path) not in defined]
    return found


def words(root: ElementTree.Element) -> list[str]:
    """All text that is drawn."""
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
