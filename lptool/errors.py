"""Errors that a user can act on. The command line prints them as one `Error: …` and exits 1."""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager


class LptoolError(Exception):
    """Base of all errors raised on purpose: says which file or tensor, what was expected and found, what to do.

    Args:
        text: what is wrong.
        options: the fields, such as `rewind_epoch`, whose values it is about; they go before the text.

    >>> str(LptoolError("expected 1 or more, found 0", "passes"))
    'passes: expected 1 or more, found 0'
    """

    def __init__(self, text: str, *options: str) -> None:
        super().__init__(text, *options)
        self.text, self.options = text, options

    def __str__(self) -> str:
        return self.naming(str)

    def naming(self, shown: Callable[[str], str]) -> str:
        """The message, with each option as `shown` spells it."""
        return f"{' and '.join(map(shown, self.options))}: {self.text}" if self.options else self.text


class CheckpointError(LptoolError):
    """A file is missing, damaged, unsafe, or not a checkpoint."""


class PoolError(LptoolError):
    """Tickets that cannot be pooled together, or a target that is not among them."""


class ArchError(LptoolError):
    """An architecture that cannot be built, or that does not fit the weights."""


class DataError(LptoolError):
    """A data set that is missing, unknown, or must not be used to choose."""


class DocumentError(LptoolError):
    """A JSON document that is damaged, not of a command that scores, or does not go with the others."""


class OutputError(LptoolError):
    """An output that exists, is also an input, or cannot be written."""


class HubError(LptoolError):
    """A folder that is not to be uploaded, or a Hub that does not take it."""


class TrainError(LptoolError):
    """Training options that contradict each other or the folder, or a run that diverged."""


class SetupError(LptoolError):
    """This installation or this machine lacks what was asked for."""


class RankError(LptoolError):
    """Another process of a torchrun run ended."""


class PeerError(RankError):
    """Another rank failed and says why; this one has nothing to add."""


class LeftBehind(UserWarning):
    """Something of ours that could not be removed, though all that was asked for is done."""


@contextmanager
def said_by(file: str | None) -> Iterator[None]:
    """Put the file whose header is to blame before an error that does not name it; None leaves errors as they are."""
    try:
        yield
    except LptoolError as error:
        if file is None or file in error.text:
            raise
        # Of the same kind, for those who catch that kind alone.
        raise type(error)(f"{file}: {error.text}", *error.options) from error


def listed(words: tuple[str, ...]) -> str:
    """`a, b or c`."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


def first_ten(items: Sequence[str], separator: str = "\n  ") -> str:
    """Join up to ten items; a count stands for the rest."""
    rest = [f"… and {len(items) - 10} more"] if len(items) > 10 else []
    return separator.join([*items[:10], *rest])


def first_and_count(lines: Iterable[str]) -> list[str]:
    """One line for several of one kind: the first, with a count of the others.

    >>> first_and_count(["a: odd", "b: odd", "c: odd"])
    ['a: odd (and 2 more of this kind)']
    """
    first, *others = [*lines] or [""]
    return [first + f" (and {len(others)} more of this kind)" * bool(others)] if first else []


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line that is not too long."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def printable(text: str) -> str:
    """Without what a file may hold and UTF-8, YAML or a terminal does not take: half characters, control characters."""
    whole = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in whole)


def in_encoding(text: str, encoding: str) -> str:
    """As it reads in an encoding, so that what is shown there can be measured: see `LOOKALIKES`.

    >>> in_encoding("5 × naïve → …", "ascii")
    '5 x na\\\\xefve -> ...'
    """
    return text.encode(encoding, LOOKALIKES).decode(encoding)


# The error handler of streams whose encoding lacks what is written: likenesses in ASCII of the signs that are used
# here, and of any other character its code, by which names still differ.
LOOKALIKES = "lptool.lookalikes"
_ASCII = dict(zip("–—−×·‘’“”\u00a0─━│┃", "---x*''\"\" --||", strict=True))
_ASCII |= {"→": "->", "…": "...", "±": "+-", "≤": "<=", "≥": ">=", "θ": "theta"}


def _like(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end


codecs.register_error(LOOKALIKES, _like)


def one_line(text: str) -> str:
    """The same with every run of white space as one space.

    >>> one_line(" two\\nlines\\x1b[0m ")
    'two lines?[0m'
    """
    return printable(" ".join(text.split()))


def near_miss(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
