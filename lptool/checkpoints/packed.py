"""The packed layout: of a pruned tensor only the kept values, and where they lie; `docs/format.md` specifies it.

A safetensors file in this layout holds for a packed tensor `X` the kept weights in order as `X.values`, and their
positions as `X.bitmask` or `X.gaps`, whichever is smaller. All other tensors are there as they are. Where kept weights
are int8, `X.scales` has what a step of them is worth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lptool.checkpoints.files import LazyTensors, check_memory, is_shape
from lptool.checkpoints.positions import Positions, decode_bitmask, decode_gaps, encode_bitmask, encode_gaps
from lptool.checkpoints.quantised import channel_at, channels_of, dequantise, quantise
from lptool.errors import CheckpointError, OutputError, first_line, first_ten

LAYOUT_KEY = "lptool_packed"  # of the safetensors metadata
LAYOUT_VERSION = 1
SCALED_VERSION = 2  # of a file with int8 weights, which a reader of version 1 would take for the weights themselves
_SCALED = "I8"  # in the entry of such a tensor
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes of a weight → what numpy, which lacks bfloat16, copies


class PackError(OutputError):
    """Weights that cannot be packed; the message lacks the file, which who writes it knows."""


_DECODERS = {"bitmask": decode_bitmask, "gaps": decode_gaps}


def pack(
    tensors: Mapping[str, Tensor], mask: Mapping[str, Tensor], values: torch.dtype | None = None
) -> tuple[dict[str, Tensor], str]:
    """The tensors of a packed file, and its layout for the header.

    A tensor is packed where that saves bytes, or where a kept weight is 0, which a dense tensor cannot tell from a
    pruned one.

    Args:
        tensors: name → tensor on the CPU; pruned weights are 0.
        mask: name → bool tensor, True = kept; only the prunable tensors.
        values: the type to keep packed weights in, where that takes fewer bytes than their own; None keeps their own.
            int8 has a scale for each output channel beside it: see `quantise`.

    Raises:
        PackError: a weight does not fit that type, or a tensor has the name of a part of another.
    """
    packed: dict[str, Tensor] = {}
    layout: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name not in mask:
            packed[name] = tensor
            continue
        parts, layout[name] = _pack_one(name, tensor, mask[name], values)
        packed |= parts
    # A reader knows parts and masks by their names alone, so no tensor may have one of these.
    made = [part for name, entry in layout.items() for part in (*_parts(name, entry), f"{name}.mask") if part != name]
    taken = [part for part in made if part in tensors]
    if taken:
        raise PackError(f"cannot be packed: {first_ten(taken, ', ')} is the name of a tensor and of a packed part")
    version = SCALED_VERSION if any("values" in entry for entry in layout.values()) else LAYOUT_VERSION
    return packed, json.dumps({"version": version, "tensors": layout}, separators=(",", ":"))


def _pack_one(
    name: str, tensor: Tensor, kept: Tensor, values: torch.dtype | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    stored = _stored(name, tensor, kept, values)
    positions, encoded = _smallest(kept)
    saves = sum(part.nbytes for part in stored.values()) + encoded.nbytes < tensor.nbytes
    if not saves and bool((tensor[kept] != 0).all()):
        return {name: tensor}, {"positions": "zeros"}
    entry = {"shape": list(tensor.shape), "dtype": _NAMES[tensor.dtype], "positions": positions}
    scaled = {"values": _SCALED} if "scales" in stored else {}
    return {f"{name}.{part}": t for part, t in {**stored, positions: encoded}.items()}, entry | scaled


def _stored(name: str, tensor: Tensor, kept: Tensor, values: torch.dtype | None) -> dict[str, Tensor]:
    """Kept weights as the file keeps them: `values`, and of int8 `scales`. Raises PackError where one does not fit."""
    weights = tensor[kept]
    if values == torch.int8:
        return _scaled(name, tensor, kept)
    if values is None or values.itemsize >= weights.element_size():
        return {"values": weights}
    stored = weights.to(values)
    if not bool(stored.isfinite().all()):
        raise PackError(f"{name}: {weights.abs().max().item():g} is too large for {_NAMES[values]}; keep its own type")
    return {"values": stored}


def _scaled(name: str, tensor: Tensor, kept: Tensor) -> dict[str, Tensor]:
    """Kept weights in int8 with their scales, or as they are where that takes no more bytes. Raises PackError."""
    weights, channels = tensor[kept], channels_of(tensor.shape)
    if len(weights) + channels * torch.float32.itemsize >= weights.nbytes:
        return {"values": weights}
    channel = channel_at(kept.flatten().nonzero().flatten().numpy(), tensor.shape)
    try:
        steps, scales = quantise(weights, channel, channels)
    except ValueError as error:
        raise PackError(f"{name}: {error}; keep its own type") from error
    return {"values": steps, "scales": scales}


def _smallest(kept: Tensor) -> tuple[str, Tensor]:
    """The shorter encoding of where the kept weights lie: its kind, and its bytes."""
    bitmask = encode_bitmask(kept)
    if int(kept.count_nonzero()) >= len(bitmask):  # gaps take at least a byte for each kept weight
        return "bitmask", bitmask
    gaps = encode_gaps(kept)
    return ("gaps", gaps) if len(gaps) < len(bitmask) else ("bitmask", bitmask)


def _parts(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The tensors of the file that hold a tensor of the layout."""
    kind = entry["positions"]
    scales = (f"{name}.scales",) if "values" in entry else ()
    return (name,) if kind == "zeros" else (f"{name}.values", f"{name}.{kind}", *scales)


@dataclass(frozen=True)
class PackedTensors(LazyTensors):
    """The tensors of a packed file as they were, each unpacked when asked for, and the mask of `X` as `X.mask`.

    Attributes:
        stored: the tensors of the file.
        layout: name → shape, type and kind of positions, checked.
        file: for messages.
        names: of the tensors as they were and of the masks, in order.
    """

    stored: Mapping[str, Tensor]
    layout: Mapping[str, Mapping[str, Any]]
    file: str
    names: Collection[str]

    @classmethod
    def of(cls, stored: Mapping[str, Tensor], layout: str, file: str) -> PackedTensors:
        """Check a layout against the names in the file. Raises CheckpointError."""
        try:
            document = json.loads(layout)
            version = document["version"]
            if version not in (LAYOUT_VERSION, SCALED_VERSION):
                raise CheckpointError(
                    f"{file}: packed in layout version {version!r}, expected {LAYOUT_VERSION} or {SCALED_VERSION}; "
                    "upgrade lptool"
                )
            entries = {name: _checked(name, entry) for name, entry in document["tensors"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{file}: the `{LAYOUT_KEY}` layout in its header is damaged ({type(error).__name__}: "
                f"{first_line(error)}); export it again"
            ) from error
        parts = [part for name, entry in entries.items() for part in _parts(name, entry)]
        absent = [part for part in parts if part not in stored]
        if absent:
            raise CheckpointError(f"{file}: its layout names {first_ten(absent, ', ')}, which it lacks; copy it again")
        masks = {f"{name}.mask" for name in entries}
        # Sorted as in a dense file: ties between weights are broken by this order, and packing must not change it.
        return cls(stored, entries, file, dict.fromkeys(sorted({*stored, *masks} - {*parts} | entries.keys())))

    def __getitem__(self, name: str) -> Tensor:
        owner = name.removesuffix(".mask")
        if owner != name and owner in self.layout:
            return self._mask(owner)
        if name in self.layout and self.layout[name]["positions"] != "zeros":
            return self._unpacked(name)
        if name not in self.names:
            raise KeyError(name)
        return self.stored[name]

    def _mask(self, name: str) -> Tensor:
        entry = self.layout[name]
        if entry["positions"] == "zeros":  # its own zeros are its mask
            weights = self.stored[name]
            if not weights.is_floating_point():
                raise self._damaged(name, f"it is {_described(weights)}, expected floats")
            return weights != 0
        positions, _ = self._parts_of(name)
        kept = torch.zeros(math.prod(entry["shape"]), dtype=torch.bool)
        kept.numpy()[positions] = True
        return kept.view(entry["shape"])

    def _unpacked(self, name: str) -> Tensor:
        entry, (positions, values) = self.layout[name], self._parts_of(name)
        if "values" in entry:
            scales, channel = self._scales_of(name), channel_at(positions, entry["shape"])
            values = dequantise(values, channel, scales, _DTYPES[entry["dtype"]])
        dense = torch.zeros(math.prod(entry["shape"]), dtype=_DTYPES[entry["dtype"]])
        bits = _BITS[dense.element_size()]
        dense.view(bits).numpy()[positions] = values.to(dense.dtype).view(bits).numpy()
        return dense.view(entry["shape"])

    def _parts_of(self, name: str) -> tuple[Positions, Tensor]:
        """Where its kept weights lie, and their values. Raises CheckpointError where these do not fit its shape."""
        shape, dtype, kind = (self.layout[name][key] for key in ("shape", "dtype", "positions"))
        encoded, values = self.stored[f"{name}.{kind}"], self.stored[f"{name}.values"]
        if encoded.dtype != torch.uint8 or encoded.dim() != 1:
            raise self._damaged(name, f"its {kind} are {_described(encoded)}, expected a row of bytes")
        own, scaled = _DTYPES[dtype], "values" in self.layout[name]
        smaller = values.dtype in _NAMES and values.dtype.itemsize < own.itemsize
        fits = values.dtype == torch.int8 if scaled else values.dtype == own or smaller
        if not fits or values.dim() != 1:
            expected = "int8" if scaled else f"{dtype} or smaller floats"
            raise self._damaged(name, f"its values are {_described(values)}, expected a row of {expected}")
        try:
            positions: Positions = _DECODERS[kind](encoded, math.prod(shape))
        except ValueError as error:
            raise self._damaged(name, f"shape {shape}, but {error}") from error
        if len(positions) != len(values):
            raise self._damaged(name, f"{kind} of {len(positions)} kept weights, but {len(values)} values")
        check_memory(math.prod(shape) * own.itemsize, f"{self.file}: {name}, unpacked,")
        return positions, values

    def _scales_of(self, name: str) -> Tensor:
        """What a step is worth in each channel. Raises CheckpointError where that does not fit its shape."""
        scales, channels = self.stored[f"{name}.scales"], channels_of(self.layout[name]["shape"])
        if scales.dtype != torch.float32 or tuple(scales.shape) != (channels,):
            raise self._damaged(name, f"its scales are {_described(scales)}, expected float32 [{channels}]")
        if not bool((scales.isfinite() & (scales >= 0)).all()):
            raise self._damaged(name, "a scale of it is negative or not finite")
        return scales

    def _damaged(self, name: str, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {name} cannot be unpacked: {reason}; copy or export the file again")


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _checked(name: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """An entry of a layout. Raises ValueError, or TypeError where it is no entry at all."""
    kind = entry["positions"]
    if kind == "zeros":
        return entry
    if kind not in _DECODERS:
        raise ValueError(f"{name} has positions {kind!r}, expected {', '.join(_DECODERS)} or zeros")
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{name} has dtype {entry['dtype']!r}, expected {', '.join(_DTYPES)}")
    if entry.get("values", _SCALED) != _SCALED:
        raise ValueError(f"{name} has values {entry['values']!r}, expected {_SCALED}")
    if not is_shape(entry["shape"]):
        raise ValueError(f"{name} has shape {entry['shape']!r}, expected sides from 0 up")
    return entry
