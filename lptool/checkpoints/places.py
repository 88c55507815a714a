"""Where a result is put: checked before any work, and there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        temporary = Path(name)
        found = write(temporary)
        temporary.chmod(0o666 & ~umask())  # mkstemp's are private; a result is an ordinary file
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        return found
    except LptoolError:
        raise
    except Exception as error:  # safetensors has an error type of its own for a full disk
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{path}: cannot be written ({reason}); choose another place or free some space") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def umask() -> int:
    """Permissions that this process takes from what it makes."""
    current = os.umask(0)
    os.umask(current)
    return current


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
        nearest = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir():
            raise IsADirectoryError
        tempfile.TemporaryFile(dir=nearest).close()  # asking is surer than reading permission bits
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
        within = [
            given for given in dict.fromkeys(map(str, inputs)) if Path(os.path.realpath(given)).is_relative_to(place)
        ]
        if within:
            raise OutputError(f"{path}: is or holds an input ({first_ten(within, ', ')}); choose another folder")
        _check_replaceable(path, place, overwrite=overwrite)
        nearest = next(parent for parent in place.parents if parent.exists())
        tempfile.TemporaryFile(dir=nearest).close()  # asking is surer than reading permission bits
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({_reason(error)}); choose a place that you may write to"
        ) from error


def _check_replaceable(path: str | Path, place: Path, *, overwrite: bool) -> None:
    """Refuse to put a folder at `place`, which a person calls `path`. Raises OutputError, or OSError."""
    if Path.cwd().is_relative_to(place):
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
    place = Path(os.path.realpath(path))
    temporary: Path | None = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = _hidden_beside(place)
        temporary.chmod(0o777 & ~umask())  # mkdtemp's are private; a result is an ordinary folder
        yield temporary
        _flush(temporary)
        _check_replaceable(path, place, overwrite=overwrite)  # again: hours may have passed since the first check
        _put(temporary, place)
    except OutputError as error:
        raise OutputError(str(error).replace(str(temporary), str(path))) from error  # the place that a person knows
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({_reason(error)}); choose another place or free some space"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _hidden_beside(place: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))


def _flush(folder: Path) -> None:
    for file in folder.iterdir():
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())


def _put(folder: Path, place: Path) -> None:
    """Rename a folder to `place`; what is there moves aside first, and back where that fails."""
    if not place.exists():
        folder.rename(place)
        return
    aside = _hidden_beside(place)
    old = aside / "old"
    try:
        place.rename(old)
        try:
            folder.rename(place)
        except BaseException:
            old.rename(place)
            raise
    finally:
        # A folder that could not move back is not deleted: it is the only one left.
        if place.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
