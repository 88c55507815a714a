"""A ticket as a folder that timm loads and the Hub takes: there whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lptool.card import model_card
from lptool.checkpoints import load_ticket
from lptool.errors import OutputError, first_ten
from lptool.export import Sizes, save_ticket, sizes_of, umask
from lptool.packed import PackError
from lptool.tickets import Ticket
from lptool.timm_config import as_timm_config, for_timm

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
        _check_replaceable(path, place, overwrite=overwrite)  # it may have come to be meanwhile
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


def write_folder(ticket: Ticket, into: Path, *, command: str | None, documents: Mapping[str, str]) -> None:
    """Fill an empty folder: with the weights as `for_timm` has them, and with what `describe_weights` says of them.

    Raises:
        ArchError: the ticket does not say its architecture, or does not fit it.
        OutputError, OSError: a file cannot be written.
    """
    save_ticket(for_timm(ticket), into / WEIGHTS)
    describe_weights(into, command=command, documents=documents)


def describe_weights(into: Path, *, command: str | None, documents: Mapping[str, str]) -> None:
    """Write beside the weights of a folder timm's `config.json`, the card, and what else there is to say.

    Args:
        into: the folder, with a `model.safetensors` as `for_timm` has it.
        command: what made the weights, for the card.
        documents: file name → text, such as `trace.json`.

    Raises:
        ArchError: the weights do not say their architecture.
        OSError: a file cannot be written.
    """
    ticket = load_ticket(into / WEIGHTS)
    texts = {"config.json": json.dumps(as_timm_config(ticket), indent=2) + "\n", **documents}
    files = {WEIGHTS, "README.md", *texts}
    texts["README.md"] = model_card(ticket, command=command, sizes=_sizes(ticket), files=files)
    for name, text in texts.items():
        (into / name).write_text(text, encoding="utf-8", newline="\n")


def _sizes(ticket: Ticket) -> Sizes | None:
    """What the files weigh; None for the rare ticket that cannot be packed."""
    try:
        return sizes_of(ticket)
    except PackError:
        return None
