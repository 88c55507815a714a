"""What a person or a script meets of a command: progress, warnings and results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lptool.cli.ending import on_stdout, stop_if_interrupted
from lptool.errors import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    from lptool.ranks import Ranks

Document = dict[str, Any]


def warn(warnings: Iterable[str]) -> None:
    """One line each, on stderr."""
    for warning in warnings:
        click.echo(f"Warning: {printable(warning)}", err=True)


@contextmanager
def progress_bar(title: str, *, shown: bool = True) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr; gives the function that moves it to (done, total, text)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(title, total=None)

        def advance(done: int, total: int, text: str) -> None:
            stop_if_interrupted()
            progress.update(task, completed=done, total=total, description=printable(text))

        yield advance


def say(text: str) -> None:
    """A line, on stdout, without control characters. Raises OutputError."""
    with on_stdout():
        click.echo(printable(text))


def show(view: RenderableType) -> None:
    """A table or text, on stdout; what files say in it reaches no terminal as commands. Raises OutputError."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)  # a file name may have brackets and colons
    if not sys.stdout.isatty():  # not as rich asks, which is told by FORCE_COLOR to colour a file
        console.width = _ENDLESS
    with on_stdout():
        with console.capture() as text:  # rich alone would end the program where stdout is closed, without a word
            console.print(_Printable(view), crop=False)
        click.echo(text.get(), nl=False)


_ENDLESS = 1_000_000  # columns of a pipe or a file


class _Printable:
    """A view without control characters but those with which rich colours it."""

    def __init__(self, view: RenderableType) -> None:
        self._view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        for segment in console.render(self._view, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def print_document(document: Document, ranks: Ranks) -> None:
    """A document on stdout, by the first process."""
    if ranks.rank == 0:
        print_result(document, (), as_json=True)


def print_result(document: Document, views: Iterable[RenderableType], *, as_json: bool) -> None:
    """A result on stdout: its document for a program, or the same as views for a person."""
    from lptool.report.tables import to_json

    if as_json:
        say(to_json(document))
        return
    for view in views:
        show(view)


def print_and_report(
    document: Document,
    views: Iterable[RenderableType],
    draw: Callable[[Document], str],
    *,
    page: Path | None,
    as_json: bool,
    replace: bool,
) -> None:
    """A result on stdout, and where a page is asked for as HTML too; `replace` one that is there."""
    if page is not None:
        from lptool.report.html.page import write_page

        write_page(page, draw(document), replace=replace)
    print_result(document, views, as_json=as_json)
    if page is not None and not as_json:
        say(f"report: {page}")


def check_page(page: Path | None, others: Sequence[str | Path], *, overwrite: bool) -> None:
    """Refuse, before anything is computed, to write a report where it must not be."""
    from lptool.checkpoints.places import check_output

    if page is not None:
        check_output(page, others, overwrite=overwrite, suffix=".html")


def is_own_page(page: Path | None) -> bool:
    """Whether this very command made the page that is there, so that it may make it again where it goes on."""
    from lptool.provenance import command_line
    from lptool.report.html.page import is_page_of

    return page is not None and page.is_file() and is_page_of(page, command_line())
