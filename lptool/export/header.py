"""What the header of a ticket says, read with care: it may come from another program, and hold anything anywhere.

Names come without the folders of the machine they were written on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

_LARGEST = 1e15  # of a number that means something here; JSON knows integers of any length


def score_in(scores: Mapping[str, Any], part: str, row: str) -> dict[str, Any] | None:
    """A score of the header: `accuracy` in [0, 1], `n` images and perhaps `nll`; None where it is no such thing.

    Args:
        part: `val` or `test`.
        row: `ticket`, `ticket_bn` or `pooled`.
    """
    found = scores.get(part)
    score = found.get(row) if isinstance(found, dict) else None
    if not isinstance(score, dict):
        return None
    accuracy, n = score.get("accuracy"), score.get("n")
    sound = is_number(accuracy) and 0 <= accuracy <= 1 and isinstance(n, int) and is_number(n) and n > 0
    return score if sound else None


def arch_name(arch: str | None) -> str:
    """An architecture without the folders of its file."""
    source, colon, name = one_line(arch or "").rpartition(":")
    return f"{base_name(source)}{colon}{base_name(name)}"


def data_name(dataset: Mapping[str, Any]) -> str:
    """The data set without the folders it lies in: `folder:photos` of `folder:/home/me/photos`."""
    name = dataset.get("name")
    if not isinstance(name, str):
        return ""
    name = one_line(name)
    if name.partition("/")[0] in ("torch", "hfds", "hfids", "tfds"):
        return name
    kind = next((kind for kind in ("folder:", "npz:", "wds/") if name.startswith(kind)), "")
    return kind + base_name(name.removeprefix(kind))


def base_name(path: str) -> str:
    """The last part of a path of any system."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def utf8(text: str) -> str:
    """Without what a file name may hold and UTF-8 or YAML cannot: half characters, and control characters."""
    whole = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in whole)


def one_line(text: str) -> str:
    """Every run of white space as one space."""
    return utf8(" ".join(text.split()))


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def are_numbers(values: Any) -> TypeGuard[Sequence[float]]:
    """Whether it is a list of numbers, one at least."""
    return isinstance(values, list | tuple) and bool(values) and all(map(is_number, values))


def dicts_in(values: Any) -> list[dict[str, Any]]:
    """The objects of a list; none where it is no list."""
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
