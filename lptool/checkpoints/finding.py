"""Which files of folders and globs are tickets."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from lptool.checkpoints.drafts import tidy
from lptool.checkpoints.pool import natural
from lptool.errors import CheckpointError

MASK_FILE = "mask.pth"  # OpenLTH, beside the weights


def checkpoint_file(path: str | Path) -> Path:
    """The file itself, or the checkpoint of a folder that holds one. Raises CheckpointError where it holds others."""
    if not Path(path).is_dir():
        return Path(path)
    found = find_checkpoints([path])
    if len(found) > 1:
        raise CheckpointError(f"{path}: holds {len(found)} checkpoints, expected one; name the file")
    return found[0]


# Which files of a folder are its tickets, for programs that put others beside them; the first that matches counts.
_TICKETS_OF = (
    re.compile(r"model\.safetensors(\.index\.json)?"),  # Hugging Face layout: one checkpoint, perhaps in shards
    re.compile(r"\d+model_SA_best\.pth\.tar"),  # the published code, beside its checkpoint.pth.tar and rewind weights
    re.compile(r"model_level_\d+\.pt"),  # TurboPrune, beside init, rewind and optimizer
    re.compile(r"model_ep\d+_it\d+\.pth"),  # OpenLTH, beside mask.pth; the last one is the trained ticket
)


# `.bin` is Hugging Face's before safetensors, `.ckpt` Lightning's, `.tar` the end of `.pth.tar`.
_SUFFIXES = {".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar"}


def find_checkpoints(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Expand folders to the tickets in them, at any depth, in natural order, and globs that the shell left alone.

    Args:
        paths: files, folders and globs, or one of them.

    Raises:
        CheckpointError: a path does not exist, or a folder or glob holds no checkpoint.

    >>> import lptool
    >>> Path("run").mkdir()
    >>> for level in (10, 9):
    ...     Path(f"run/level_{level}.pt").touch()
    >>> [path.name for path in lptool.find_checkpoints("run")]
    ['level_9.pt', 'level_10.pt']
    """
    given = [paths] if isinstance(paths, str | Path) else paths  # a string is a sequence of letters, too
    return [found for path in given for found in _expanded(Path(path))]


def _expanded(path: Path) -> list[Path]:
    if not path.exists():
        tidy(path)  # a folder that a killed command had moved aside
    if path.is_dir():
        try:
            found = _tickets_in(path)
        except OSError as error:  # it, or a folder in it, may not be looked into
            raise CheckpointError(f"{error.filename or path}: cannot be read ({error.strerror})") from error
    elif path.exists():
        return [path]
    elif glob.has_magic(str(path)):
        found = [Path(p) for p in glob.glob(str(path))]
    else:
        raise CheckpointError(f"{path}: cannot be read (No such file or directory); check the name")
    if not found:
        raise CheckpointError(f"{path}: no checkpoint in it; expected files such as level_00.safetensors")
    return sorted(found, key=lambda p: natural(str(p)))


def _tickets_in(folder: Path) -> list[Path]:
    """The tickets of a folder; where it has none, those of its subfolders. Hidden files are not looked at."""
    inside = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: natural(p.name))
    files = [p for p in inside if p.is_file() and (p.suffix in _SUFFIXES or p.name.endswith(".safetensors.index.json"))]
    for pattern in _TICKETS_OF:
        known = [p for p in files if pattern.fullmatch(p.name)]
        if known:
            # Of Hugging Face the index where there are shards, of OpenLTH the last epoch: one ticket for each folder.
            return known[-1:] if pattern in (_TICKETS_OF[0], _TICKETS_OF[-1]) else known
    files = [p for p in files if p.name != MASK_FILE]
    return files or [ticket for p in inside if p.is_dir() for ticket in _tickets_in(p)]
