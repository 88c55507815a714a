"""How a command ends: done, with one line of error, or interrupted; and never for the sake of what cannot be shown.

Whatever goes wrong comes by here. LPTOOL_TRACEBACK=1 shows where in the code it was.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, TextIO, TypeVar

import click

from lptool.errors import (
    LOOKALIKES,
    LeftBehind,
    LptoolError,
    OutputError,
    PeerError,
    first_line,
    one_line,
    printable,
)

Command = TypeVar("Command", bound=Callable[..., Any])
TRACEBACK = "LPTOOL_TRACEBACK"
_INTERRUPTED = "Interrupted; nothing half-written. The same command starts again."
# Whether Ctrl-C was pressed: libraries swallow the exception, or raise another one in its place.
_pressed = threading.Event()


@contextmanager
def program() -> Iterator[None]:
    """Around a whole command, from its arguments on: Ctrl-C is noticed, and stdout and stderr are there."""
    before = sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT)
    noticing = before[2] is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    _pressed.clear()
    _open_streams()
    try:
        if noticing:  # else who began this process had its reasons
            signal.signal(signal.SIGINT, _notice)
        yield
    finally:
        sys.stdout, sys.stderr = before[:2]
        if noticing:
            signal.signal(signal.SIGINT, before[2])


def _notice(number: int, frame: FrameType | None) -> NoReturn:
    _pressed.set()
    raise KeyboardInterrupt


def stop_if_interrupted() -> None:
    """To be called now and then in long work. Raises KeyboardInterrupt where Ctrl-C was pressed and swallowed."""
    if _pressed.is_set():
        raise KeyboardInterrupt


@contextmanager
def ending() -> Iterator[None]:
    """Map whatever is raised to one line on stderr: `Error: …` with exit 1, or of an interrupt with exit 130."""
    try:
        with _warnings_as_lines():
            yield
    except (click.exceptions.Exit, SystemExit):
        raise
    except BaseException as error:
        if os.environ.get(TRACEBACK, "0") not in ("", "0") and not isinstance(error, click.ClickException):
            traceback.print_exception(error, file=sys.stderr)
        if _pressed.is_set() or isinstance(error, (KeyboardInterrupt, click.Abort)):  # the latter at a question
            _end_interrupted(error)
        if isinstance(error, PeerError):
            time.sleep(1)  # torchrun ends all ranks with the first: let the one that failed say why
            raise SystemExit(1) from None
        if isinstance(error, click.ClickException):
            raise
        raise click.ClickException(_readable(line_of(error))) from error


def clear_errors(command: Command) -> Command:
    """A command that ends as `ending` says."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with ending():
            return command(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def _end_interrupted(error: BaseException) -> NoReturn:
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun passes Ctrl-C on, which cuts the tidying at exit short
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one line, however many ranks
        click.echo(printable((isinstance(error, KeyboardInterrupt) and str(error)) or _INTERRUPTED), err=True)
    raise SystemExit(130) from None


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Those of ours; of others as Python shows them."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, LeftBehind):
                click.echo(printable(f"Warning: {message}"), err=True)
            else:
                show(message, category, *where, **more)

        warnings.showwarning = shown
        yield


def line_of(error: BaseException) -> str:
    """What a person reads of an error, whatever raised it."""
    if isinstance(error, LptoolError):
        return error.naming(_as_typed)
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
        return f"not enough memory ({one_line(first_line(error))}); take a smaller --batch-size or a larger machine"
    if isinstance(error, RecursionError):
        return f"something in a file or network is nested too deeply; {_SEE}"
    if isinstance(error, OSError):
        where = f"{one_line(os.fsdecode(error.filename))}: " if isinstance(error.filename, str | bytes) else ""
        return f"{where}{error.strerror or one_line(first_line(error))}; {_ADVICE.get(error.errno or 0, _SEE)}"
    return f"unexpected {type(error).__name__}: {one_line(first_line(error))}; please report it. {_SEE}"


def _readable(text: str) -> str:
    """Without control characters, and without the middle of lines that a name of endless length is in."""
    lines = printable(text).split("\n")
    return "\n".join(line if len(line) <= _LONGEST else f"{line[:600]} … {line[-300:]}" for line in lines)


_LONGEST = 1_200  # characters of a line of error
_SEE = f"{TRACEBACK}=1 shows where it came from"
_ADVICE = {
    errno.EMFILE: "raise the limit (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "check who may read and write there",
    errno.EPERM: "check who may read and write there",
    errno.EROFS: "choose a place that may be written to",
    errno.EIO: "check the disk",
}


def _as_typed(field: str) -> str:
    """An option of the library as this command spells it; as it is where the command has none."""
    parameters = click.get_current_context().command.params
    return next((p.opts[-1] for p in parameters if p.name == field and isinstance(p, click.Option)), field)


@contextmanager
def on_stdout() -> Iterator[None]:
    """Turn what is raised where stdout is full or closed into one clear error. Raises OutputError."""
    try:
        yield
    except OSError as error:
        with suppress(OSError, ValueError):  # else Python would try again at its end what is left in the buffer
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"stdout: cannot be written ({error.strerror}); files that were written are whole") from error


def _open_streams() -> None:
    """Open standard streams that are closed: else a file could get their numbers, and a result vanish untold."""
    for descriptor, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)  # which cannot be written to
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with suppress(OSError):
                stream.reconfigure(errors=LOOKALIKES)
    sys.stdout, sys.stderr = _InItsEncoding(sys.stdout), _Unfailing(sys.stderr)


class _InItsEncoding:
    """A stream without a buffer: where its encoding is ASCII, click would write UTF-8 to the buffer in its place."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str | bytes) -> int:
        """As of any stream. Click writes bytes where the shell completes a line, and none to ask if it may at all."""
        return self._stream.write(text.decode() if text and isinstance(text, bytes) else text)  # type: ignore[arg-type]


class _Unfailing(_InItsEncoding):
    """Stderr: where it is full or closed nothing is shown, and the work goes on."""

    def write(self, text: str | bytes) -> int:
        """As of any stream, but a failure is as good as success."""
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        """Likewise."""
        with suppress(OSError):
            self._stream.flush()
