"""Drafts: hidden folders beside an output in which it is made, and what becomes of those of commands that were killed.

.NAME.3f9a01bc/     beside an output NAME
    lock            held as long as the process lives that made the draft
    new             a file or folder in the making, renamed to NAME once it is whole
    old             the folder that it replaces, where the file system cannot swap two names
    …               what libraries need on the way
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lptool.checkpoints.locks import locked
from lptool.errors import LeftBehind, OutputError

_LOCK, _NEW, _OLD = "lock", "new", "old"


@contextmanager
def draft_of(place: Path) -> Iterator[Path]:
    """Gives the path at which to make what shall become `place` by `put_file` or `put_folder`; nothing is there yet.

    In the end the draft is gone. Where that fails it is a warning, as what was made may be in its place by then.

    Raises:
        OSError: the draft cannot be made.
    """
    tidy(place)
    with ExitStack() as held:
        folder = _begin(place, held)
        try:
            yield folder / _NEW
        finally:
            _clear(folder)


def _begin(place: Path, held: ExitStack) -> Path:
    """A new draft; its lock is held by `held`."""
    place.parent.mkdir(parents=True, exist_ok=True)
    while True:  # another command's `tidy` may take a draft without a lock for one that was left
        folder = place.parent / f".{place.name}.{secrets.token_hex(4)}"
        try:
            folder.mkdir()
            with suppress(FileNotFoundError):
                mine = held.enter_context(locked(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL))
                if mine is not False and (folder / _LOCK).exists():
                    return folder
        except BaseException:
            with suppress(OSError):
                _remove(folder)
            raise


def _clear(folder: Path) -> None:
    """Remove a draft; where that is interrupted or fails, at the second try."""
    try:
        _remove(folder)
    except BaseException as error:
        try:
            _remove(folder)
        except OSError as again:
            warnings.warn(f"{folder}: cannot be removed ({again.strerror}); delete it", LeftBehind, stacklevel=2)
        if not isinstance(error, OSError):
            raise


def _remove(folder: Path) -> None:
    """The lock last: what is left half-removed is known for a draft by it."""
    others = (entry for entry in folder.glob("*") if entry.name != _LOCK)  # such as temporary files of libraries
    for entry in (folder / _NEW, folder / _OLD, *others):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    (folder / _LOCK).unlink(missing_ok=True)
    with suppress(FileNotFoundError):  # at the second try
        folder.rmdir()


def tidy(place: Path) -> None:
    """Put a folder back that a killed command had moved away from `place`, and remove what else such commands left."""
    pattern = re.compile(re.escape(f".{place.name}.") + "[0-9a-f]{8}")
    with suppress(OSError), os.scandir(place.parent) as entries:
        for entry in [e for e in entries if pattern.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]:
            with suppress(OSError):
                _tidy(Path(entry.path), place)


def _tidy(folder: Path, place: Path) -> None:
    try:
        with locked(folder / _LOCK, os.O_RDWR) as mine:
            if mine:  # so whoever made it lives no more
                if (folder / _OLD).is_dir() and not os.path.lexists(place):
                    (folder / _OLD).rename(place)
                _remove(folder)
    except FileNotFoundError:
        folder.rmdir()  # that was all of it, or there is something else in it, which stays


def put_file(new: Path, place: Path, *, replace: bool) -> None:
    """Rename a file to its place; a link that is there is replaced itself. Raises OSError.

    Raises:
        OutputError: something is there, and is not to be replaced.
    """
    try:
        if replace:
            new.replace(place)
        elif not _renamed(new, place, _ONLY_IF_FREE):
            if os.path.lexists(place):
                raise FileExistsError
            new.rename(place)
    except FileExistsError as error:
        raise OutputError(
            f"{place}: came to be while this command ran, and is not replaced; move it away and run the command again"
        ) from error


def put_folder(new: Path, place: Path, *, replace: bool) -> None:
    """Rename a folder to its place, where an empty one may be, or with `replace` another one. Raises OSError."""
    old = new.with_name(_OLD)
    if replace and place.exists():
        if _renamed(new, place, _SWAP):
            return
        place.rename(old)  # a kill before the next line: `tidy` puts it back
    try:
        new.rename(place)
    except BaseException:
        if old.exists():
            old.rename(place)
        raise


# How to rename in one step what plain `rename` cannot: the flags of Linux's renameat2 and of macOS's renamex_np.
_ONLY_IF_FREE, _SWAP = (4, 2) if sys.platform == "darwin" else (1, 2)
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)
_HERE = -100  # AT_FDCWD: relative paths count from the folder we are in


def _renamed(source: Path, target: Path, flag: int) -> bool:
    """Rename as a flag says; False where the system or the file system cannot. Raises OSError."""
    paths = os.fsencode(source), os.fsencode(target)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = libc.renamex_np(*paths, ctypes.c_uint(flag))
        else:
            failed = libc.renameat2(_HERE, paths[0], _HERE, paths[1], ctypes.c_uint(flag))
    except (AttributeError, TypeError, OSError):  # no such function, or no such library
        return False
    if failed and (code := ctypes.get_errno()) not in _CANNOT:
        raise OSError(code, os.strerror(code), str(source), None, str(target))
    return not failed
