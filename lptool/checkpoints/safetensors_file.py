"""Safetensors files: a header of JSON that says where each tensor lies, then their bytes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lptool.checkpoints.files import LazyTensors, OpenedFile, is_shape, reading
from lptool.errors import CheckpointError, one_line

_LONGEST_HEADER = 100_000_000  # bytes: the limit of the safetensors library
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
# The types that torch computes with; float8 and unsigned integers of more than 8 bits it only keeps.
COMPUTED = frozenset(_DTYPES.values())
EXPECTED = "expected floats of 16 to 64 bits or signed integers: convert it and save the file again"


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies: bytes from `start` to `end`, counted from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class SafetensorsFile(LazyTensors):
    """The tensors of one safetensors file, in order of their names, each read from disk when asked for."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises CheckpointError where it does not fit the file, before anything is allocated."""
        self.file = OpenedFile(path)
        with reading(path, "safetensors file"):
            self._begin, document = _header_of(self.file)
            self.header = _metadata(document.pop("__metadata__", None))
            self.names = self._places = {name: _place(name, document[name], path) for name in sorted(document)}
            "".join([*self.names, *self.header, *self.header.values()]).encode()  # no half characters
            _check_places(list(self._places.values()), self.file.stamp.size - self._begin)
        if not self.names:
            raise CheckpointError(f"{path}: holds no tensor; expected the weights of a network")

    def dtype_of(self, name: str) -> torch.dtype:
        """As the header has it."""
        return self._places[name].dtype

    def __getitem__(self, name: str) -> Tensor:
        place = self._places[name]
        with reading(self.file.path, "safetensors file"):
            content = self.file.tensor(self._begin + place.start, place.end - place.start)
            return content.view(place.dtype).view(place.shape)


def _header_of(file: OpenedFile) -> tuple[int, dict[str, Any]]:
    """Where the header ends, and the object in it."""
    if file.stamp.size < 8:
        raise ValueError("it ends before its header")
    length = int.from_bytes(file.content(0, 8), "little")
    if length > min(_LONGEST_HEADER, file.stamp.size - 8):
        raise ValueError(f"a header of {length} bytes in a file of {file.stamp.size}")
    document = json.loads(file.content(8, length).decode(), object_pairs_hook=_without_twins)
    if not isinstance(document, dict):
        raise TypeError("a header that is no JSON object")
    return 8 + length, document


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a header that names something twice")
    return found


def _metadata(found: Any) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise TypeError("metadata that are no texts by name")
    return found


def _place(name: str, entry: Any, path: Path) -> _Place:
    """A tensor's entry in the header. Raises ValueError or TypeError, and CheckpointError for a type we cannot use."""
    dtype, shape, offsets = (entry[key] for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CheckpointError(
            f"{path}: {one_line(name)} is {one_line(str(dtype))[:40]}, which cannot be computed with; {EXPECTED}"
        )
    if not is_shape(shape) or not is_shape(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} has a shape or a place that no tensor has")
    if math.prod(shape) * _DTYPES[dtype].itemsize != offsets[1] - offsets[0]:
        raise ValueError(f"{name} is {dtype} {shape}, but has {offsets[1] - offsets[0]} bytes")
    return _Place(_DTYPES[dtype], tuple(shape), *offsets)


def _check_places(places: list[_Place], size: int) -> None:
    """Raises ValueError unless the tensors fill the file, one after the other."""
    end = 0
    for place in sorted(places, key=lambda place: (place.start, place.end)):
        if place.start != end:
            raise ValueError(f"a tensor begins at byte {place.start} after the header, expected {end}")
        end = place.end
    if end != size:
        raise ValueError(f"its tensors take {end} bytes, found {size}")
