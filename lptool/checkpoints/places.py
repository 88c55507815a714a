"""Where a result is put: checked before any work, and there whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from lptool.errors import LptoolError, OutputError, first_ten

_Found = TypeVar("_Found")


def write_atomically(path: str | Path, write: Callable[[Path], _Found]) -> _Found:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it.

    Returns:
        What `write` does.

    Raises:
        OutputError: the file cannot be written.
        LptoolError: that `write` raises, as it is; then nothing appears.
    """
    path = Path(path)
    temporary = _hidden_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # of any new file here; safetensors makes its own for the owner alone
        found = write(temporary)
        temporary.chmod(mode)
        # Else a crash of the machine could leave the name, and behind it an empty file.
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        return found
    except LptoolError:
        raise
    except Exception as error:  # safetensors has an error type of its own for a full disk
        raise OutputError(
            f"{path}: cannot be written ({_reason(error)}); choose another place or free some space"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _hidden_beside(path: Path) -> Path:
    """A new name in the same folder, from where a rename is one step; tempfile would make it for the owner alone."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}"


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
    try:
        if any(path.resolve() == Path(given).resolve() for given in inputs):
            raise OutputError(f"{path}: is also an input; choose another output")
        if os.path.lexists(path) and not overwrite:
            raise OutputError(f"{path}: exists; choose another output or add --overwrite")
        if path.is_dir():
            raise IsADirectoryError
        try_writing(path.absolute().parents)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written; choose a file in a folder that you may write to") from error


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
    try:
        given = dict.fromkeys(map(str, inputs))
        within = [name for name in given if Path(os.path.realpath(name)).is_relative_to(place)]
        if within:
            raise OutputError(f"{path}: is or holds an input ({first_ten(within, ', ')}); choose another folder")
        _check_replaceable(path, place, overwrite=overwrite)
        try_writing(place.parents)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({_reason(error)}); choose a place that you may write to"
        ) from error


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
    place = Path(os.path.realpath(path))  # a link stays, and what it points to is replaced
    temporary = _hidden_beside(place)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
        _check_replaceable(path, place, overwrite=overwrite)  # again: hours may have passed since the first check
        _put(temporary, place)
    except OutputError as error:
        raise OutputError(str(error).replace(str(temporary), str(path))) from error  # the place that a person knows
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({_reason(error)}); choose another place or free some space"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(folder: Path, place: Path) -> None:
    """Rename a folder to `place`; what is there moves aside first, and back where that fails."""
    old = _hidden_beside(place)
    if place.exists():
        place.rename(old)
    try:
        folder.rename(place)
    except BaseException:
        if old.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
