"""What a person or a script meets of a command: progress, warnings, results, and errors as one line."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lptool.errors import LptoolError, PeerError, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    from lptool.ranks import Ranks

Command = TypeVar("Command", bound=Callable[..., Any])
Document = dict[str, Any]


def clear_errors(command: Command) -> Command:
    """Map our errors to `Error: …` with exit 1, and Ctrl-C to one line with exit 130."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except PeerError:
            time.sleep(1)  # torchrun ends all ranks with the first: let the one that failed say why
            raise SystemExit(1) from None
        except LptoolError as error:
            raise click.ClickException(printable(error.naming(_as_typed))) from error
        except (KeyboardInterrupt, click.Abort) as stop:  # the latter at a question
            if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun passes Ctrl-C on, which cuts the tidying at exit short
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            if os.environ.get("LOCAL_RANK", "0") == "0":  # one line, however many ranks
                text = printable(str(stop)) or "Interrupted; nothing half-written. The same command starts again."
                click.echo(text, err=True)
            raise SystemExit(130) from None

    return wrapped  # type: ignore[return-value]


def _as_typed(field: str) -> str:
    """An option of the library as this command spells it; as it is where the command has none."""
    parameters = click.get_current_context().command.params
    return next((p.opts[-1] for p in parameters if p.name == field and isinstance(p, click.Option)), field)


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
        yield lambda done, total, text: progress.update(task, completed=done, total=total, description=printable(text))


def show(view: RenderableType) -> None:
    """A table or text, on stdout; what files say in it reaches no terminal as commands."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)  # a file name may have brackets
    if not console.is_terminal:  # in a pipe or a file nothing is cut off at 80
        console.width = 100
    console.print(_Printable(view))


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
    from lptool.report.inspect import to_json

    if as_json:
        click.echo(to_json(document))
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
) -> None:
    """A result on stdout, and where a page is asked for as HTML too."""
    if page is not None:
        from lptool.report.html.page import write_page

        write_page(page, draw(document))
    print_result(document, views, as_json=as_json)
    if page is not None and not as_json:
        click.echo(printable(f"report: {page}"))


def check_page(page: Path | None, others: Sequence[str | Path], *, overwrite: bool) -> None:
    """Refuse, before anything is computed, to write a report where it must not be."""
    from lptool.checkpoints.places import check_output

    if page is not None:
        check_output(page, others, overwrite=overwrite, suffix=".html")
