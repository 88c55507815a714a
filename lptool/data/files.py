"""Files of data sets as people keep them: only regular ones are opened, and folders are walked without circles."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lptool.checkpoints.regular import CHANGED, Stamp, open_regular
from lptool.errors import DataError

# The words by which a folder or the name of a shard says which part of a data set it is.
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_OF_SYSTEMS = ("__MACOSX", "Thumbs.db", "desktop.ini")  # what other systems put beside pictures


def opened(path: str | Path) -> BinaryIO:
    """A regular file, to be read. Raises DataError where it is none, or cannot be read."""
    try:
        return io.BufferedReader(open_regular(path))
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def check_state(file: BinaryIO | int, path: str | Path, before: Stamp) -> None:
    """Refuse a file in another state than before. Raises DataError."""
    if Stamp.of(file) != before:
        raise DataError(f"{path}: {CHANGED}")


def check_unchanged(file: BinaryIO, path: str | Path, since: int) -> None:
    """Refuse a file that was written after a time, in nanoseconds as of `time.time_ns`. Raises DataError.

    A time in the future is of a wrong clock, not of a change.
    """
    if since < Stamp.of(file).written <= time.time_ns():
        raise DataError(f"{path}: {CHANGED}")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none that a person put there: `.ipynb_checkpoints`, `._1.jpg`, `__MACOSX`."""
    return name.startswith(".") or name in _OF_SYSTEMS


def entries_of(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name, without what is hidden. Raises DataError."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one. Raises DataError."""
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself
        raise DataError(f"{entry.path}: cannot be read ({error.strerror})") from error


def files_below(root: str | Path) -> Iterator[os.DirEntry[str]]:
    """Whatever is no folder in a folder and in those in it, links followed; unsorted, without what is hidden.

    Raises:
        DataError: a folder cannot be read, or a link leads back to a folder that it lies in.
    """
    waiting = [(os.fspath(root), frozenset[tuple[int, int]]())]
    while waiting:
        folder, above = waiting.pop()
        entries = entries_of(folder)
        found = os.stat(folder)
        here = (found.st_dev, found.st_ino)
        if here in above:
            raise DataError(f"{folder}: is a link back to a folder that it lies in; remove it")
        for entry in entries:
            if is_folder(entry):
                waiting.append((entry.path, above | {here}))
            else:
                yield entry
