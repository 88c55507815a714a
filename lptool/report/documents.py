"""JSON documents that `pool` and `evaluate` printed, read back: text that is fit to show, and values that are checked.

torch is not imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lptool.checkpoints.metadata import check_depth
from lptool.checkpoints.regular import open_regular
from lptool.errors import DocumentError, first_line, one_line

WANTED = "expected what `lptool pool --json` or `lptool evaluate --json` printed"
_LARGEST = 1 << 28  # bytes of a document; ours have some thousands for each model
_MISSING = object()


def read_document(file: Path) -> Any:
    """A JSON document whose texts, keys too, are each a line that can be printed and encoded.

    Raises:
        DocumentError: it cannot be read, is empty, is no JSON (as with NaN, which Python would take), or holds numbers
            without end or objects nested deeper than any of use.
    """
    try:
        with open_regular(file) as stream:
            content = stream.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DocumentError(f"{file}: cannot be read ({one_line(str(reason))}); check the name") from error
    if len(content) > _LARGEST:
        raise DocumentError(f"{file}: larger than any document of lptool; {WANTED}")
    if not content.strip():
        raise DocumentError(f"{file}: is empty; {WANTED}. Did that command end with an error?")
    try:
        document = json.loads(content, parse_constant=_refused, parse_float=_finite)
        check_depth(document)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{file}: not a whole JSON document ({one_line(first_line(error))}); {WANTED}") from error
    return _shown(document)


def _refused(number: str) -> NoReturn:
    raise ValueError(f"{number[:20]} is no finite number")  # and would be none in what is printed of it


def _finite(number: str) -> float:
    found = float(number)
    return found if math.isfinite(found) else _refused(number)


def _shown(part: Any) -> Any:
    """Without line ends, control characters and halves of characters: these texts go into tables, CSV and LaTeX."""
    if isinstance(part, dict):
        return {one_line(key): _shown(value) for key, value in part.items()}
    if isinstance(part, list):
        return list(map(_shown, part))
    return one_line(part) if isinstance(part, str) else part


class Part:
    """A part of a document, whose values are checked as they are taken. Its methods raise DocumentError."""

    def __init__(self, part: Any, file: str, place: str = "") -> None:
        self.part, self.file, self.place = part, file, place

    def get(self, key: str, fits: Callable[[Any], bool], what: str) -> Any:
        found = self.part.get(key, _MISSING) if isinstance(self.part, dict) else _MISSING
        where = f"{self.place}{key}"
        if found is _MISSING:
            raise DocumentError(f"{self.file}: has no {where!r}; {WANTED}")
        if not fits(found):
            raise DocumentError(f"{self.file}: {where!r} is {one_line(json.dumps(found))[:60]}, expected {what}")
        return found

    def optional(self, key: str, fits: Callable[[Any], bool], what: str) -> Any:
        """None where it is not there, or null."""
        if not isinstance(self.part, dict) or self.part.get(key) is None:
            return None
        return self.get(key, fits, what)

    def list(self, key: str) -> list[Any]:
        found: list[Any] = self.get(key, lambda found: isinstance(found, list), "a list")
        return found

    def texts(self, key: str) -> Sequence[str]:
        found = self.list(key)
        if not all(isinstance(each, str) for each in found):
            raise DocumentError(f"{self.file}: '{self.place}{key}' holds others than texts; {WANTED}")
        return found

    def within(self, key: str) -> Part:
        return Part(self.get(key, lambda f: isinstance(f, dict), "an object"), self.file, f"{self.place}{key}.")

    def has(self, key: str) -> bool:
        return isinstance(self.part, dict) and self.part.get(key) is not None

    def text(self, key: str) -> str:
        found: str = self.get(key, lambda found: isinstance(found, str), "a text")
        return found

    def name(self, key: str, shortened: Callable[[str], str] = str) -> str | None:
        found = self.optional(key, lambda found: isinstance(found, str), "a text")
        return shortened(found) or None if found else None

    def fraction(self, key: str) -> float:
        return float(self.get(key, lambda found: is_number(found) and 0 <= found <= 1, "a number from 0 to 1"))

    def count(self, key: str, least: int = 0) -> int:
        return int(self.get(key, lambda f: type(f) is int and least <= f < 1 << 53, f"a whole number from {least} up"))

    def level(self) -> int | None:
        found: int | None = self.optional("level", lambda f: type(f) is int and is_number(f), "a whole number")
        return found


def is_number(found: Any) -> bool:
    """Whether it is a number that means something; True is none."""
    return type(found) in (int, float) and abs(found) < 1e15  # JSON has integers of any length
