"""Where the kept weights of a tensor lie, as bytes: one bit for each weight, or one byte for each gap between them.

`docs/format.md` specifies both; a packed file takes the shorter.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_ESCAPE = 255  # a byte of gaps that stands for so many pruned weights, with no kept one after them

Positions = npt.NDArray[np.int64]  # of the kept weights in a flattened tensor, rising


def encode_bitmask(kept: Tensor) -> Tensor:
    """One bit per weight of a bool mask, flattened, the lowest bit of a byte first: uint8 [ceil(numel / 8)]."""
    return torch.from_numpy(np.packbits(kept.flatten().numpy(), bitorder="little"))


def decode_bitmask(bitmask: Tensor, size: int) -> Positions:
    """The kept ones of `size` weights. Raises ValueError where the bytes do not fit that size."""
    expected = (size + 7) // 8
    if len(bitmask) != expected:
        raise ValueError(f"a bitmask of {len(bitmask)} bytes, expected {expected} for {size} weights")
    bits = np.unpackbits(bitmask.numpy(), bitorder="little")
    if bits[size:].any():
        raise ValueError("a bitmask with bits set after its last weight")
    positions: Positions = np.flatnonzero(bits.view(np.bool_))  # numpy has a fast path for bools, not for bytes
    return positions


def encode_gaps(kept: Tensor) -> Tensor:
    """How many pruned weights lie before each kept one, a byte each.

    A byte of 255 stands for 255 pruned weights with no kept one after them. After the last kept weight only such bytes
    are written; the size of the tensor says how many pruned weights follow them.
    """
    positions = kept.flatten().nonzero().flatten().numpy()
    gaps = np.diff(positions, prepend=-1, append=kept.numel()) - 1
    escapes = gaps // _ESCAPE
    # Each gap becomes its escapes and one byte for the rest. The last gap, after which nothing is kept, has no rest.
    ends = np.cumsum(escapes[:-1] + 1) - 1
    encoded = np.full(int(escapes.sum()) + len(positions), _ESCAPE, np.uint8)
    encoded[ends] = gaps[:-1] % _ESCAPE
    return torch.from_numpy(encoded)


def decode_gaps(gaps: Tensor, size: int) -> Positions:
    """The kept ones of `size` weights. Raises ValueError where the bytes do not fit that size."""
    steps = gaps.numpy()
    counts = steps != _ESCAPE
    after = np.cumsum(steps + counts, dtype=np.int64)  # no uint8 overflows: only steps below 255 have 1 added
    left = size - (int(after[-1]) if len(after) else 0)
    if not 0 <= left < _ESCAPE:
        raise ValueError(f"gaps that lead over {size - left} weights, expected {size}")
    positions: Positions = after[counts] - 1
    return positions
