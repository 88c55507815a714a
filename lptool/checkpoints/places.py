"""Where a result is put: checked before any work, and there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lptool.checkpoints.drafts import draft_of, put_file, put_folder, tidy
from lptool.errors import LptoolError, OutputError, first_ten

_Found = TypeVar("_Found")


def write_atomically(path: str | Path, write: Callable[[Path], _Found], *, replace: bool = True) -> _Found:
    """Let `write` fill a draft beside `path`, flush it to disk, and rename it.

    Args:
        replace: what is at `path` by then; a link there is replaced itself.

    Returns:
        What `write` does.

    Raises:
        OutputError: the file cannot be written, or something is there that is not to be replaced.
        LptoolError: that `write` raises, as it is; then nothing appears.
    """
    path = Path(path)
    try:
        with draft_of(path) as draft:
            draft.touch()
            mode = draft.stat().st_mode  # of any new file here; safetensors makes its own for the owner alone
            found = write(draft)
            draft.chmod(mode)
            # Else a crash of the machine could leave the name, and behind it an empty file.
            with open(draft, "rb") as file:
                os.fsync(file.fileno())
            put_file(draft, path, replace=replace)
            return found
    except (LptoolError, MemoryError):
        raise
    except Exception as error:  # safetensors has an error type of its own for a full disk
        raise OutputError(
            f"{path}: cannot be written ({_reason(error)}); choose another place or free some space"
        ) from error


def try_writing(folders: Iterable[Path]) -> Path:
    """The first of these folders that is there, tried; asking is surer than reading permission bits. Raises OSError."""
    nearest = next(folder for folder in folders if os.path.lexists(folder))  # a link to nowhere is no place either
    tempfile.TemporaryFile(dir=nearest).close()
    return nearest


def check_output(
    path: str | Path, inputs: Iterable[str | Path], *, overwrite: bool, suffix: str = ".safetensors"
) -> None:
    """Refuse, before any work, an output that is an input, exists, or cannot be written. Raises OutputError."""
    path = Path(path)
    if path.suffix != suffix:
        raise OutputError(f"{path}: expected a name that ends in {suffix}, which is what is written")
    tidy(path)
    try:
        if any(_is_same(path, given) for given in inputs):
            raise OutputError(f"{path}: is also an input; choose another output")
        if os.path.lexists(path) and not overwrite:
            raise OutputError(f"{path}: exists; choose another output or add --overwrite")
        if path.is_dir() and not path.is_symlink():
            raise OutputError(f"{path}: is a folder, expected a file; choose another name")
        try_writing(path.absolute().parents)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written; choose a file in a folder that you may write to") from error


def _is_same(path: str | Path, other: str | Path) -> bool:
    """Whether two paths lead to one file or folder, by whatever spelling or link."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # nothing there, or links in a circle
        return os.path.realpath(path) == os.path.realpath(other)


def is_folder(output: str | Path) -> bool:
    """Whether an output is to be a folder: it is one, or its name has no suffix, or is a text that ends in a slash."""
    name = os.fspath(output)
    return name.endswith(("/", os.sep)) or not Path(name).suffix or os.path.isdir(name)


def check_place(output: Path, inputs: Sequence[str | Path], *, folder: bool, overwrite: bool) -> None:
    """Refuse, before any work, to put a pooled model where it must not be. Raises OutputError."""
    if not folder and output.suffix != ".safetensors":
        raise OutputError(
            f"{output}: expected FILE.safetensors or a folder, whose name has no suffix or ends in /; `lptool convert` "
            "makes other files of these"
        )
    (check_folder if folder else check_output)(output, inputs, overwrite=overwrite)


WEIGHTS = "model.safetensors"
FILES = (WEIGHTS, "config.json", "README.md", "report.html", "trace.json")  # all that is ever in one


def strangers(folder: Path) -> list[str]:
    """Names of what lies in a folder and is none of ours, sorted."""
    return sorted(p.name for p in folder.iterdir() if p.name not in FILES or not p.is_file())


def check_folder(path: str | Path, inputs: Iterable[str | Path], *, overwrite: bool) -> None:
    """Refuse, before any work, a folder that holds an input or other files, exists, or cannot be written.

    Args:
        path: of the folder to be.
        inputs: files that must not be touched.
        overwrite: whether one that this tool wrote may be replaced.

    Raises:
        OutputError: says which.
    """
    place = Path(os.path.realpath(path))
    tidy(place)
    try:
        if os.path.islink(Path(path)):
            raise OutputError(f"{path}: is a link, which is not replaced; name the folder itself")
        given = dict.fromkeys(map(str, inputs))
        within = [name for name in given if _is_within(Path(os.path.realpath(name)), place)]
        if within:
            raise OutputError(f"{path}: is or holds an input ({first_ten(within, ', ')}); choose another folder")
        _check_replaceable(path, place, overwrite=overwrite)
        try_writing(place.parents)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({_reason(error)}); choose a place that you may write to"
        ) from error


def _is_within(path: Path, folder: Path) -> bool:
    return any(_is_same(parent, folder) for parent in (path, *path.parents))


def _check_replaceable(path: str | Path, place: Path, *, overwrite: bool) -> None:
    """Refuse to put a folder at `place`, which a person calls `path`. Raises OutputError, or OSError."""
    if Path.cwd().is_relative_to(place):  # it would be moved away from under the shell
        raise OutputError(f"{path}: is or holds the folder you are in; choose another folder")
    if not place.exists():
        return
    if not place.is_dir():
        raise OutputError(f"{path}: is a file, expected a folder; choose another name")
    others = strangers(place)
    if others and overwrite:
        raise OutputError(
            f"{path}: not replaced, because that would delete {first_ten(others, ', ')}; choose another folder"
        )
    if any(place.iterdir()) and not overwrite:
        raise OutputError(f"{path}: exists and is not empty; choose another folder or add --overwrite")


@contextmanager
def new_folder(path: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """Gives an empty folder to fill; once that is done its files are flushed to disk and it becomes `path`.

    Where anything fails it is gone, and what was at `path` is as it was.

    Args:
        path: of the folder to be.
        overwrite: whether one that this tool wrote may be replaced.

    Raises:
        OutputError: the folder cannot be written, or `path` holds what must not be replaced.
    """
    place, draft = Path(os.path.realpath(path)), None
    try:
        with draft_of(place) as draft:
            draft.mkdir()
            yield draft
            for file in draft.iterdir():
                with open(file, "rb") as stream:
                    os.fsync(stream.fileno())
            _check_replaceable(path, place, overwrite=overwrite)  # again: hours may have passed since the first check
            put_folder(draft, place, replace=overwrite)
    except OutputError as error:
        raise OutputError(str(error).replace(str(draft), str(path))) from error  # the place that a person knows
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({_reason(error)}); choose another place or free some space"
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
