"""Files that hold tensors: safetensors, whole or sharded, and PyTorch's. Nothing is unpickled that could run code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lptool.checkpoints.files import LazyTensors, OpenedFile
from lptool.checkpoints.metadata import check_depth
from lptool.checkpoints.nested import HELP, USUAL, Keys, at, masks_in
from lptool.checkpoints.packed import LAYOUT_KEY, PackedTensors
from lptool.checkpoints.pickles import Inert
from lptool.checkpoints.regular import Stamp
from lptool.checkpoints.safetensors_file import SafetensorsFile
from lptool.checkpoints.stored import StoredTensor
from lptool.checkpoints.torch_file import ZIP, header_in, read_torch, tensors_of
from lptool.errors import CheckpointError, first_ten, one_line

# Where training programs put the state dict, beside optimizers and results; the first that is there counts.
_NESTED_UNDER = ("state_dict", "model_state_dict", "model", "net", "network", "state_dict_ema")

PACKED = "safetensors, packed"  # a format


@dataclass(frozen=True)
class Contents:
    """The tensors of one checkpoint under the names of the file, and what stands beside them.

    Attributes:
        tensors: read when asked for.
        format: `safetensors`, `safetensors, sharded`, `safetensors, packed` or `torch`.
        header: metadata strings of a safetensors file; of PyTorch's the `lptool` document, where lptool wrote it.
        config: timm's `config.json` beside the file, or the `arch` that a PyTorch file names; else empty.
        notes: what a person should know, such as which of several state dicts was taken.
        files: the named one, then those that lie beside it and hold part of its tensors.
        masks: what a PyTorch file keeps apart from its weights, and where; see `masks_in`.
    """

    tensors: LazyTensors
    format: str
    files: tuple[OpenedFile, ...]
    header: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    masks: tuple[str, Any] | None = None

    @property
    def stamps(self) -> tuple[Stamp, ...]:
        """What tells whether the files are still those that were opened."""
        return tuple(file.stamp for file in self.files)


def open_file(path: Path, keys: Keys = USUAL) -> Contents:
    """Open a checkpoint, whatever its name; its content says what it is. Raises CheckpointError."""
    opened = OpenedFile(path)
    start = opened.content(0, min(16, opened.stamp.size))
    if path.name.endswith(".safetensors.index.json"):
        return _sharded(path)
    # safetensors first: its first byte, a length, may be the \x80 that pickles begin with
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        tensors = SafetensorsFile(path)
        config, files = _config_beside(path), (tensors.file,)
        if LAYOUT_KEY in tensors.header:
            unpacked = PackedTensors.of(tensors, tensors.header[LAYOUT_KEY], str(path))
            return Contents(unpacked, PACKED, files, tensors.header, config)
        return Contents(tensors, "safetensors", files, tensors.header, config)
    if start.startswith((ZIP, b"\x80")):  # torch's zip, or its format before 1.6
        content, file = read_torch(path)
        state, notes = _state_dict_in(at(content, keys.state, "--state-key", str(path)), path)
        said = {"arch": content["arch"]} if isinstance(content, dict) and "arch" in content else {}
        masks = masks_in(content, keys, str(path))
        return Contents(tensors_of(state, file), "torch", (file,), header_in(file), said, notes, masks)
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path}: ONNX, which `lptool evaluate` and `predict` read; expected a checkpoint here")
    raise CheckpointError(f"{path}: not a checkpoint; expected a safetensors file or a PyTorch state dict")


@dataclass(frozen=True)
class Joined(LazyTensors):
    """Tensors spread over several files: name → those of the file that has it."""

    names: Mapping[str, LazyTensors]

    def dtype_of(self, name: str) -> torch.dtype:
        """As its file has it."""
        return self.names[name].dtype_of(name)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Likewise."""
        return self.names[name].shape_of(name)

    def __getitem__(self, name: str) -> Tensor:
        return self.names[name][name]


def _sharded(index: Path) -> Contents:
    file, document = _read_json(index)
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
    tensors = Joined({tensor: opened[name] for tensor, name in places.items()})
    files = (file, *(shard.file for shard in opened.values()))
    return Contents(tensors, "safetensors, sharded", files, config=_config_beside(index))


def _config_beside(path: Path) -> dict[str, Any]:
    """Timm's `config.json`, where the file is named as in the Hugging Face layout."""
    beside = path.with_name("config.json")
    if not path.name.startswith("model.safetensors") or not beside.is_file():
        return {}
    _, document = _read_json(beside)
    return document if isinstance(document, dict) else {}


def _read_json(path: Path) -> tuple[OpenedFile, Any]:
    file = OpenedFile(path)
    try:
        document = json.loads(file.content(0, file.stamp.size))
        check_depth(document)
        return file, document
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); copy or export it again") from error


def _state_dict_in(content: Any, path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The state dict in a checkpoint, bare or under a usual name, and notes on what was passed over."""
    inner, seen = content, set[int]()
    while isinstance(inner, dict) and id(inner) not in seen:  # a dict may hold itself
        found = [key for key in _NESTED_UNDER if _is_state_dict(inner.get(key))]
        if found:
            others = f"; {', '.join(found[1:])} left aside" if found[1:] else ""
            return inner[found[0]], (f"weights taken from `{found[0]}`{others}",) if others else ()
        nested = (inner[key] for key in _NESTED_UNDER if isinstance(inner.get(key), dict))
        if (further := next(nested, None)) is None and _is_state_dict(inner):
            return inner, ()
        seen.add(id(inner))
        inner = further  # one in another, as {"model": {"state_dict": …}}
    raise _no_state_dict(content, path)


def _no_state_dict(content: Any, path: Path) -> CheckpointError:
    """What is there in place of a state dict; where that is a class's object, how to get the weights out of it."""
    among = [content.get(key) for key in _NESTED_UNDER] if isinstance(content, dict) else [content]
    for found in among:
        if isinstance(found, Inert):
            return CheckpointError(
                f"{path}: needs {found} to load, which could execute code; in the program that wrote it, and only if "
                f"you trust who made the file, save the weights alone: model = torch.load({path.name!r}, "
                "weights_only=False); torch.save(model.state_dict(), 'weights.pth')"
            )
    alone = "a tensor without a name" if isinstance(content, StoredTensor) else type(content).__name__
    names = sorted(map(str, content)) if isinstance(content, dict) else [alone]
    return CheckpointError(
        f"{path}: no state dict in it; expected tensors by name, bare or under {', '.join(_NESTED_UNDER)}; "
        f"found {one_line(first_ten(names, ', ')) or 'nothing'}; say where with --state-key (masks: --mask-key), {HELP}"
    )


def _is_state_dict(content: Any) -> bool:
    """A dict of names in which most are tensors; a counter or a module's extra state may stand among them."""
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        return False
    tensors = sum(isinstance(value, StoredTensor) for value in content.values())
    return 2 * tensors > len(content)  # an optimizer's state has tensors too, but deeper down
