"""Reading checkpoints from disk. Nothing is ever unpickled beyond tensors and plain containers."""

from __future__ import annotations

import glob
import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lptool.errors import CheckpointError, first_ten
from lptool.masks import State, mask_from_zeros
from lptool.tickets import Metadata, Pool, Summary, Ticket, summarise

# Where training scripts put the state dict of a `.pt` file, beside optimizers and results.
_NESTED_UNDER = ("state_dict", "model", "model_state_dict")


def load_ticket(path: str | Path) -> Ticket:
    """Read one checkpoint: `.safetensors`, or a PyTorch file that holds a state dict.

    The mask covers the tensors that the header calls prunable. Where the file does not say, those are the tensors of
    two or more dimensions with exact zeros.

    Raises:
        CheckpointError: the file is missing, damaged, would have to execute code, or holds no state dict.
    """
    return _read(Path(path))[0]


def summarise_file(path: str | Path) -> Summary:
    """Read one checkpoint and keep only its summary."""
    ticket, format, mask_source = _read(Path(path))
    return summarise(ticket, format=format, mask_source=mask_source, sha256=file_sha256(path))


def load_pool(paths: Sequence[str | Path]) -> Pool:
    """The pool of the checkpoints at `paths`, ordered by level and aligned; weights are loaded when asked for.

    Raises:
        CheckpointError: a file cannot be read.
        PoolError: the tickets do not fit together; lists every mismatch.
    """
    return Pool([summarise_file(path) for path in paths], lambda summary: load_ticket(summary.file))


def file_sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> tuple[Ticket, str, str]:
    """The ticket, the name of the file's format, and where the mask came from."""
    state, metadata, format = _read_file(path)
    names, mask_source = metadata.prunable, "metadata"
    if not names:
        names = tuple(n for n, t in state.items() if t.dim() >= 2 and t.is_floating_point() and bool((t == 0).any()))
        mask_source = "zeros" if names else "none"
    absent = [name for name in names if name not in state]
    if absent:
        raise CheckpointError(f"{path}: the header calls {first_ten(absent, ', ')} prunable, but the file lacks it")
    return Ticket(state, mask_from_zeros(state, names), metadata, str(path)), format, mask_source


def _read_file(path: Path) -> tuple[State, Metadata, str]:
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check the name") from error
    # safetensors first: its first byte, a length, may be the \x80 that pickles begin with
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return *_read_safetensors(path), "safetensors"
    if zipfile.is_zipfile(path) or start[:1] == b"\x80":  # torch's zip, or its format before 1.6
        return _read_torch(path), Metadata(), "torch"
    raise CheckpointError(f"{path}: not a checkpoint; expected a safetensors file or a PyTorch state dict")


def read_header(path: str | Path) -> dict[str, str]:
    """The metadata strings of a safetensors file; reads no tensor. Raises CheckpointError."""
    with _opened(Path(path)) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); copy or export it again") from error


def _read_safetensors(path: Path) -> tuple[State, Metadata]:
    with _opened(path) as file:
        header = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    if not state:
        raise CheckpointError(f"{path}: holds no tensor; expected the weights of a network")
    return state, Metadata.from_json(header["lptool"], str(path)) if "lptool" in header else Metadata()


def _read_torch(path: Path) -> State:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol, which is the writer's business
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: needs more than tensors and plain containers to load, which could execute code; "
            "save its state dict alone with torch.save(model.state_dict(), …)"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a whole PyTorch checkpoint ({reason}); copy it again") from error
    return _state_dict_in(content, path)


def _state_dict_in(content: Any, path: Path) -> State:
    candidates = [content] + [content[key] for key in _NESTED_UNDER if isinstance(content, dict) and key in content]
    for candidate in candidates:
        if isinstance(candidate, dict) and candidate and all(isinstance(t, Tensor) for t in candidate.values()):
            return {str(name): tensor.detach() for name, tensor in candidate.items()}
    found = sorted(map(str, content)) if isinstance(content, dict) else [type(content).__name__]
    raise CheckpointError(
        f"{path}: no state dict in it; expected tensors by name, bare or under {', '.join(_NESTED_UNDER)}; "
        f"found {first_ten(found, ', ')}"
    )


def find_checkpoints(paths: Sequence[str | Path]) -> list[Path]:
    """Expand folders to the checkpoints in them (natural order), and globs that the shell left alone.

    Raises:
        CheckpointError: a path does not exist, or a folder or glob holds no checkpoint.
    """
    return [found for path in paths for found in _expanded(Path(path))]


_SUFFIXES = {".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar"}


def _expanded(path: Path) -> list[Path]:
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix in _SUFFIXES and not p.name.startswith(".")]
    elif path.exists():
        return [path]
    elif glob.has_magic(str(path)):
        found = [Path(p) for p in glob.glob(str(path))]
    else:
        raise CheckpointError(f"{path}: cannot be read (No such file or directory); check the name")
    if not found:
        raise CheckpointError(f"{path}: no checkpoint in it; expected files such as level_00.safetensors")
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[int | str]:
    """So that level_10 comes after level_9. Text and numbers alternate, so like is compared with like."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
