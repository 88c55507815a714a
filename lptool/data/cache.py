"""Pictures decoded once: by all processes of a machine together, into one file that all of them map into memory.

The file lies in the folder that was asked for, and stays there under a name that says what it is of. Else it lies in
memory, in the user's cache or among temporary files, and loses its name before it is filled: so nothing is left behind,
whatever ends the job.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from lptool.data.images import Streamed
from lptool.data.pixel_file import Decoded, PixelFile, Unchanged
from lptool.device import free_memory, is_memory, local_rank, local_ranks
from lptool.errors import first_line
from lptool.ranks import ALONE, Ranks

MEMORY = Path("/dev/shm")  # a folder whose files are memory, on Linux
SHARE_OF_MEMORY, SHARE_OF_DISK = 1 / 4, 9 / 10  # of what is free, at most: others want some too
_DRAFT = ".lptool-pixels-"  # and a random number


def default_cache() -> Path:
    """Where lptool keeps files of which nobody said where."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lptool"


def decode_once(
    images: Streamed, shape: tuple[int, int, int], ranks: Ranks = ALONE, folder: Path | None = None
) -> tuple[Decoded | None, list[str]]:
    """All of these images, each decoded by one process of this machine. All ranks have to call this together.

    Args:
        shape: of an image, [C, H, W].
        folder: where the file shall stay for the next job; what is there already is checked and used.

    Returns:
        None where there is no room; and what a person should know, on the first rank of each machine.

    Raises:
        LptoolError: a picture cannot be decoded, or another rank ended. Then nothing is left behind.
    """
    if not hasattr(os, "pread"):  # Windows
        return None, []
    team = _Team(ranks, Ranks(local_rank(), local_ranks()) if ranks.count > 1 else ALONE)
    identity = team.first(lambda: None if folder is None else _identity(images))
    content = PixelFile(identity or secrets.token_hex(16), len(images), shape)
    kept = None if folder is None or identity is None else folder / content.name
    found, notes = _found(content, kept, team)
    if folder is not None and kept is None:
        notes = [f"--cache-dir {folder}: this data set does not say which files it reads, so nothing is kept"]
    tried = list[str]()
    for place in (*([] if folder is None else [folder]), MEMORY, default_cache(), Path(tempfile.gettempdir())):
        if all(ranks.gather(found is not None)):  # machines that have theirs take the steps of the others with them
            break
        needed = found is None
        made, problem = _Draft(content, place, kept if place == folder else None, team).make(images, needed=needed)
        found = found or made
        if needed and problem:
            tried.append(f"{place}: {problem}")
            notes += [f"--cache-dir {place}: {problem}; going on without it"] * (place == folder)
    if found is None:
        notes = [
            f"{len(images):,} decoded pictures, {_in_words(content.size)}, have no room ({'; '.join(tried)}); they are "
            "decoded anew for each scoring; name a folder with more room with --cache-dir"
        ]
    return found, notes * (team.local.rank == 0)


def _identity(images: Streamed) -> str | None:
    identity = getattr(images.source, "identity", None)
    found: str | None = None if identity is None else identity(images.indices.tolist())
    return found


@dataclass(frozen=True)
class _Team:
    """All ranks, and those of this machine among them, which share its files."""

    ranks: Ranks
    local: Ranks

    def gather(self, value: object) -> list[object]:
        """What each rank of this machine has."""
        first = self.ranks.rank - self.local.rank
        return self.ranks.gather(value)[first : first + self.local.count]

    def first(self, task: Callable[[], str | None]) -> str | None:
        """What the first rank of this machine finds. Raises LptoolError."""
        found = self.gather(self.ranks.agree(lambda: task() if self.local.rank == 0 else None))[0]
        return None if found is None else str(found)

    def agree(self, step: Callable[[], None], *, wanted: bool = True) -> str | None:
        """Let all ranks take a step; the problem of the first rank of this machine for which it raises OSError."""

        def problem() -> str | None:
            try:
                if wanted:
                    step()
            except OSError as error:
                return error.strerror or first_line(error)
            return None

        return next((str(each) for each in self.gather(self.ranks.agree(problem)) if each), None)


def _found(content: PixelFile, path: Path | None, team: _Team) -> tuple[Decoded | None, list[str]]:
    """What an earlier job left, of which each rank checks its share; and what is wrong with it."""
    there = team.first(lambda: "there" if path is not None and os.path.lexists(path) else None) is not None
    opened, watches = list[BinaryIO](), list[Unchanged]()

    def check() -> None:
        assert path is not None
        opened.append(file := _open(path, os.O_RDONLY))
        watches.append(Unchanged(file, path))  # from before the checksums are looked at
        if os.fstat(file.fileno()).st_uid != os.geteuid():
            raise OSError("is of another user")  # who may have put anything there, checksums and all
        content.check(file, range(team.local.rank, len(content.blocks), team.local.count))

    try:
        problem = team.agree(check, wanted=there)
        seen = team.gather([os.fstat(file.fileno()).st_ino for file in opened])
        if not problem and any(each != seen[0] for each in seen):
            problem = "another job put a new one there just now"
        if problem or not there:
            return None, [f"{path}: {problem}; the pictures are decoded anew"] * there
        return content.mapped(opened[0], watches[0]), []
    finally:
        for file in opened:
            file.close()


class _Draft:
    """A file in the making, by steps that all ranks take together and that raise OSError.

    Until it is whole its name is hidden and asked for by nobody; one that is not to be `kept` loses even that.
    """

    def __init__(self, content: PixelFile, folder: Path, kept: Path | None, team: _Team) -> None:
        self.content, self.folder, self.kept, self.local, self.team = content, folder, kept, team.local, team
        self.path = folder / f"{_DRAFT}{team.first(lambda: secrets.token_hex(8))}"
        self.file: BinaryIO | None = None

    def make(self, images: Streamed, *, needed: bool) -> tuple[Decoded | None, str | None]:
        """The pictures, where all steps succeed; and what went wrong, if only that the file could not be kept."""
        problem: str | None = None
        try:
            for step in (self._create, self._join, self._take_room, lambda: self._fill(images), self._flush):
                problem = self.team.agree(step, wanted=needed and problem is None) or problem
            whole = needed and problem is None
            unkept = self.team.agree(self._keep, wanted=whole)
            if not whole or self.file is None:
                return None, problem
            check = () if self.kept is None or unkept else (Unchanged(self.file, self.kept),)
            return self.content.mapped(self.file, *check), unkept
        finally:
            if self.file is not None:
                self.file.close()
                with suppress(OSError):
                    self.path.unlink()

    def _create(self) -> None:
        if self.local.rank == 0:
            if self.folder != MEMORY:
                _make_folder(self.folder)
            _sweep(self.folder)
            if (room := _room(self.folder)) < self.content.size:
                raise OSError(f"has room for {_in_words(room)}, wanted are {_in_words(self.content.size)}")
            self.file = _open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            with suppress(OSError):  # of a file system without locks
                _lock(self.file)

    def _join(self) -> None:
        self.file = self.file or _open(self.path, os.O_RDWR)

    def _take_room(self) -> None:
        assert self.file is not None
        if self.local.rank == 0:
            if self.kept is None:  # all have it open
                self.path.unlink()
            _reserve(self.file, self.content.size)

    def _fill(self, images: Streamed) -> None:
        assert self.file is not None
        mine = list(enumerate(self.content.blocks))[self.local.rank :: self.local.count]
        decoded = images.raw([places for _, places in mine], torch.device("cpu"))
        for (block, _), (pixels, labels) in zip(mine, decoded, strict=True):
            self.content.write(self.file, block, pixels, labels)

    def _flush(self) -> None:
        assert self.file is not None
        if self.local.rank == 0:
            os.fsync(self.file.fileno())  # a file system may find out only now that it has no room

    def _keep(self) -> None:
        if self.local.rank == 0 and self.kept is not None:
            self.path.replace(self.kept)


def _open(path: Path, flags: int) -> BinaryIO:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)  # a pipe would wait for ever
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("is no file")
    return open(descriptor, "rb" if flags == os.O_RDONLY else "r+b", buffering=0)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OSError("is not a folder") from None


def _room(folder: Path) -> int:
    """How many bytes a file in this folder may take."""
    free = shutil.disk_usage(folder).free
    return int(min(free, free_memory()) * SHARE_OF_MEMORY if is_memory(folder) else free * SHARE_OF_DISK)


def _reserve(file: BinaryIO, size: int) -> None:
    """Take the room now, and not picture by picture, where the system can. Raises OSError."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        file.truncate(size)


def _sweep(folder: Path) -> None:
    """Remove what jobs left that were killed: nobody holds its lock."""
    for path in folder.glob(f"{_DRAFT}*"):
        with suppress(OSError), _open(path, os.O_RDWR) as file:
            _lock(file)
            path.unlink()


def _lock(file: BinaryIO) -> None:
    """Hold a file until it is closed, if only by the end of this process. Raises OSError."""
    import fcntl  # there is none on Windows

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _in_words(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
