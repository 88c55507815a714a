"""Regular files: only these are opened, without waiting, and one state of a file is told from another."""

from __future__ import annotations

import errno
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

CHANGED = (
    "was changed while it was in use: another file or other bytes lie there now; run this again when nothing writes "
    "to it"
)
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


@dataclass(frozen=True)
class Stamp:
    """What tells one state of a file from another: where it lies, its bytes, and when it was last written, in ns."""

    device: int
    inode: int
    size: int
    written: int

    @classmethod
    def of(cls, file: BinaryIO | int) -> Stamp:
        """Of an open file, or of a descriptor."""
        found = os.fstat(file if isinstance(file, int) else file.fileno())
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def open_regular(path: str | Path) -> io.FileIO:
    """A regular file, to be read.

    Raises:
        OSError: it is no such file, which might wait or go on for ever and is not opened; or it cannot be read.
        ValueError: a name that no file can have.

    >>> open_regular("/dev/null")
    Traceback (most recent call last):
    OSError: [Errno 22] is a device, expected a file: '/dev/null'
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"is {_KINDS.get(kind, 'a device')}, expected a file", str(path))
    return io.FileIO(path, opener=_without_waiting)


def _without_waiting(path: str, flags: int) -> int:
    """Should it have become a pipe just now."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
