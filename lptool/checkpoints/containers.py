"""Files that hold tensors: safetensors, whole or sharded, and PyTorch's. Nothing is unpickled that could run code."""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lptool.checkpoints.nested import HELP, USUAL, Keys, at, masks_in
from lptool.checkpoints.packed import LAYOUT_KEY, LazyTensors, PackedTensors
from lptool.errors import CheckpointError, first_line, first_ten

# Where training programs put the state dict, beside optimizers and results; the first that is there counts.
_NESTED_UNDER = ("state_dict", "model_state_dict", "model", "net", "network", "state_dict_ema")

PACKED = "safetensors, packed"  # a format
_ZIP = b"PK\x03\x04"  # how a zip file begins


@dataclass(frozen=True)
class Contents:
    """The tensors of one checkpoint under the names of the file, and what stands beside them.

    Attributes:
        tensors: read when asked for where the format allows it.
        format: `safetensors`, `safetensors, sharded`, `safetensors, packed` or `torch`.
        header: metadata strings of a safetensors file.
        config: timm's `config.json` beside the file, else empty.
        notes: what a person should know, such as which of several state dicts was taken.
        files: those that lie beside the named one and hold part of its tensors.
        masks: what a PyTorch file keeps apart from its weights, and where; see `masks_in`.
    """

    tensors: Mapping[str, Tensor]
    format: str
    header: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    masks: tuple[str, Any] | None = None


def open_file(path: Path, keys: Keys = USUAL) -> Contents:
    """Open a checkpoint, whatever its name; its content says what it is. Raises CheckpointError."""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check the name") from error
    if path.name.endswith(".safetensors.index.json"):
        return _sharded(path)
    # safetensors first: its first byte, a length, may be the \x80 that pickles begin with
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        tensors = SafetensorsFile(path)
        config = _config_beside(path)
        if LAYOUT_KEY in tensors.header:
            unpacked = PackedTensors.of(tensors, tensors.header[LAYOUT_KEY], str(path))
            return Contents(unpacked, PACKED, tensors.header, config)
        return Contents(tensors, "safetensors", tensors.header, config)
    if start.startswith((_ZIP, b"\x80")):  # torch's zip, or its format before 1.6
        content = read_torch(path)
        state, notes = _state_dict_in(at(content, keys.state, "--state-key", str(path)), path)
        return Contents(state, "torch", notes=notes, masks=masks_in(content, keys, str(path)))
    raise CheckpointError(f"{path}: not a checkpoint; expected a safetensors file or a PyTorch state dict")


class SafetensorsFile(LazyTensors):
    """The tensors of one safetensors file, each read from disk when asked for."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises CheckpointError where it does not fit the file, before anything is allocated."""
        self._path = path
        try:
            self._file: Any = safe_open(path, framework="pt")
            self.names = dict.fromkeys(self._file.keys())
            self.header: dict[str, str] = dict(self._file.metadata() or {})
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise self._damaged(error) from error
        if not self.names:
            raise CheckpointError(f"{path}: holds no tensor; expected the weights of a network")

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError) as error:
            raise self._damaged(error) from error
        return tensor

    def _damaged(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"{self._path}: not a whole safetensors file ({error}); copy or export it again")


@dataclass(frozen=True)
class _Shards(LazyTensors):
    """Tensors spread over several files: name → the file that has it."""

    names: dict[str, SafetensorsFile]

    def __getitem__(self, name: str) -> Tensor:
        return self.names[name][name]


def _sharded(index: Path) -> Contents:
    document = _read_json(index)
    places = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index}: expected a `weight_map` from tensor names to files; found none")
    opened: dict[str, SafetensorsFile] = {}
    for name in dict.fromkeys(places.values()):
        if Path(name).name != name or name in ("", ".", ".."):
            raise CheckpointError(f"{index}: {name!r} points outside its folder; a shard has to lie beside its index")
        opened[name] = SafetensorsFile(index.parent / name)
        if LAYOUT_KEY in opened[name].header:
            raise CheckpointError(f"{index}: its shard {name} is packed, which only whole checkpoints can be")
    absent = [tensor for tensor, name in places.items() if tensor not in opened[name]]
    if absent:
        raise CheckpointError(f"{index}: names {first_ten(absent, ', ')}, which its shard lacks; copy the shards again")
    tensors = _Shards({tensor: opened[name] for tensor, name in places.items()})
    shards = tuple(index.parent / name for name in opened)
    return Contents(tensors, "safetensors, sharded", config=_config_beside(index), files=shards)


def _config_beside(path: Path) -> dict[str, Any]:
    """Timm's `config.json`, where the file is named as in the Hugging Face layout."""
    beside = path.with_name("config.json")
    if not path.name.startswith("model.safetensors") or not beside.is_file():
        return {}
    document = _read_json(beside)
    return document if isinstance(document, dict) else {}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); copy or export it again") from error


def _harmless() -> list[Any]:
    """What real checkpoints hold beside tensors and cannot run code: numpy scalars and arrays, Namespace, and the like.

    numpy 1 and 2 name the same functions differently; a file may come from either.
    """
    from numpy._core import multiarray

    functions = [multiarray.scalar, multiarray._reconstruct]
    named = [(f, f"{core}.multiarray.{f.__name__}") for f in functions for core in ("numpy.core", "numpy._core")]
    dtypes = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    containers = [collections.OrderedDict, collections.defaultdict, dict, argparse.Namespace, set]
    return [*containers, np.dtype, np.ndarray, *dtypes, *named]


def read_torch(path: Path) -> Any:
    """Unpickle tensors and plain containers, and nothing else. Raises CheckpointError."""
    _check_zip(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")  # about the pickle protocol, which is the writer's business
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, str(error))) from error
    except Exception as error:  # a damaged pickle can raise almost anything
        raise CheckpointError(f"{path}: not a whole PyTorch checkpoint ({first_line(error)}); copy it again") from error


def _refusal(path: Path, error: str) -> str:
    name = re.search(r"(?:GLOBAL|global|class) `?([\w.]+\.[\w.]+)", error)
    if name is None:
        return f"{path}: not a whole PyTorch checkpoint, or one that holds more than tensors; copy or export it again"
    return (
        f"{path}: needs {name[1]} to load, which could execute code; in the program that wrote it, load it and save "
        "the weights alone: torch.save(model.state_dict(), 'weights.pth')"
    )


def _check_zip(path: Path) -> None:
    """Torch stores its records uncompressed: one that claims to be larger than the file would be a trap."""
    try:
        with open(path, "rb") as file:
            if file.read(len(_ZIP)) != _ZIP:
                return
            records = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path}: a damaged zip file ({error}); copy it again") from error
    if not any(Path(record.filename).name == "data.pkl" for record in records):
        raise CheckpointError(f"{path}: a zip file that torch.save did not write; expected a PyTorch checkpoint")
    if sum(record.file_size for record in records) > path.stat().st_size:
        raise CheckpointError(f"{path}: its records claim more bytes than the file has; copy it again")


def _state_dict_in(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict in a checkpoint, bare or under a usual name, and notes on what was passed over."""
    if isinstance(content, dict):
        found = [key for key in _NESTED_UNDER if _is_state_dict(content.get(key))]
        if found:
            others = f"; {', '.join(found[1:])} left aside" if found[1:] else ""
            notes = (f"weights taken from `{found[0]}`{others}",) if others else ()
            return _tensors_of(content[found[0]]), notes
        for key in _NESTED_UNDER:
            if isinstance(content.get(key), dict):  # one in another, as {"model": {"state_dict": …}}
                return _state_dict_in(content[key], path)
        if _is_state_dict(content):
            return _tensors_of(content), ()
    found = sorted(map(str, content)) if isinstance(content, dict) else [type(content).__name__]
    raise CheckpointError(
        f"{path}: no state dict in it; expected tensors by name, bare or under {', '.join(_NESTED_UNDER)}; "
        f"found {first_ten(found, ', ') or 'nothing'}; say where with --state-key (masks: --mask-key), {HELP}"
    )


def _is_state_dict(content: Any) -> bool:
    """A dict of names in which most are tensors; a counter or a module's extra state may stand among them."""
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        return False
    return 2 * len(_tensors_of(content)) > len(content)  # an optimizer's state has tensors too, but deeper down


def _tensors_of(content: dict[str, Any]) -> dict[str, Tensor]:
    return {name: t.detach() for name, t in content.items() if isinstance(t, Tensor) and t.layout == torch.strided}
