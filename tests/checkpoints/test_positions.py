"""Positions as bits and as gaps: those of a plain loop, both ways."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lptool.checkpoints.positions import decode_bitmask, decode_gaps, encode_bitmask, encode_gaps

DENSITIES = [0.0, 0.003, 0.1, 0.5, 0.97, 1.0]


def random_mask(shape: tuple[int, ...], density: float, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def gaps_by_hand(kept: list[bool]) -> list[int]:
    """One weight after the other, as `docs/format.md` tells it."""
    found, skipped = [], 0
    for keeps in kept:
        if skipped == 255:
            found.append(255)
            skipped = 0
        if keeps:
            found.append(skipped)
        skipped = 0 if keeps else skipped + 1
    return [*found, 255] if skipped == 255 else found


def bitmask_by_hand(kept: list[bool]) -> list[int]:
    found = [0] * ((len(kept) + 7) // 8)
    for i, keeps in enumerate(kept):
        found[i // 8] |= keeps << i % 8
    return found


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("size", [0, 1, 8, 9, 254, 255, 256, 511, 3_000])
def test_encodings_are_those_of_a_plain_loop(density: float, size: int) -> None:
    kept = random_mask((size,), density, seed=size)
    flags, positions = kept.tolist(), kept.nonzero().flatten().tolist()
    assert encode_bitmask(kept).tolist() == bitmask_by_hand(flags)
    assert encode_gaps(kept).tolist() == gaps_by_hand(flags)
    assert decode_bitmask(encode_bitmask(kept), size).tolist() == positions
    assert decode_gaps(encode_gaps(kept), size).tolist() == positions


@pytest.mark.parametrize("before", [0, 254, 255, 256, 509, 510, 511])
@pytest.mark.parametrize("after", [0, 254, 255, 510])
def test_gaps_about_the_escape(before: int, after: int) -> None:
    flags = [False] * before + [True] + [False] * after
    encoded = encode_gaps(torch.tensor(flags))
    assert encoded.tolist() == [255] * (before // 255) + [before % 255] + [255] * (after // 255)
    assert decode_gaps(encoded, len(flags)).tolist() == [before]


def test_encodings_by_hand() -> None:
    kept = torch.zeros(600, dtype=torch.bool)
    kept[[2, 3, 259]] = True  # 2 pruned ones, none, 255, and 340 at the end
    assert encode_gaps(kept).tolist() == [2, 0, 255, 0, 255]
    assert encode_bitmask(kept)[:2].tolist() == [0b1100, 0]


def test_masks_with_strides_are_read_in_order() -> None:
    kept = random_mask((5, 7), 0.4).t()
    assert encode_bitmask(kept).tolist() == bitmask_by_hand(kept.flatten().tolist())
    assert encode_gaps(kept).tolist() == gaps_by_hand(kept.flatten().tolist())


def test_bits_after_the_last_weight_are_refused() -> None:
    with pytest.raises(ValueError, match="bits set after its last weight"):
        decode_bitmask(torch.tensor([0b1000_0001], dtype=torch.uint8), 7)


@pytest.mark.parametrize("size", [3, 4 + 255, 10**12])
def test_gaps_cover_all_but_a_remainder(size: int) -> None:
    gaps = torch.tensor([1, 1], dtype=torch.uint8)  # 4 weights
    assert decode_gaps(gaps, 4 + 254).tolist() == [1, 3]
    with pytest.raises(ValueError, match=f"gaps that lead over 4 weights, expected {size}"):
        decode_gaps(gaps, size)
