"""Locks on files, which end with the process that holds them, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_held = set[int]()  # descriptors
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # neither through a link, nor waiting at a pipe


@contextmanager
def locked(path: Path, flags: int) -> Iterator[bool | None]:
    """Open a file and try to lock it; both end with the context.

    Args:
        flags: of `os.open`.

    Returns:
        Whether this process holds it now; False where another one does, None where the system or the file system has no
        locks.

    Raises:
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, flags | _SAFE, 0o666)
    _held.add(descriptor)
    try:
        yield _lock(descriptor)
    finally:
        _held.discard(descriptor)
        with suppress(OSError):
            os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    try:
        import fcntl  # there is none on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _let_go() -> None:
    """In a process that was forked off: else a worker that outlives its parent by seconds would hold the lock on."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
