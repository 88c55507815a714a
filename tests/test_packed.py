"""The packed layout: bit-exact both ways, small, and refused where its parts do not agree."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from lptool.packed import decode_bitmask, decode_gaps, encode_bitmask, encode_gaps, pack


@pytest.mark.parametrize("density", [0.0, 0.002, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("size", [0, 1, 8, 9, 255, 256, 3_000])
def test_positions_come_back(density: float, size: int) -> None:
    kept = torch.rand(size, generator=torch.Generator().manual_seed(size)) < density
    expected = kept.nonzero().flatten().tolist()
    assert decode_bitmask(encode_bitmask(kept), size).tolist() == expected
    assert decode_gaps(encode_gaps(kept), size).tolist() == expected


def test_encodings_by_hand() -> None:
    kept = torch.zeros(600, dtype=torch.bool)
    kept[[2, 3, 259]] = True  # 2 pruned ones, none, 255, and 340 at the end
    assert encode_gaps(kept).tolist() == [2, 0, 255, 0, 255]
    assert encode_bitmask(kept)[:2].tolist() == [0b1100, 0]


def sparse(
    density: float, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (30, 20)
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(shape, generator=generator) < density
    return torch.where(kept, torch.randn(shape, generator=generator), 0.0).to(dtype), kept


def test_a_tensor_is_packed_only_where_that_saves_bytes() -> None:
    tensors, kept = zip(*(sparse(density) for density in (0.05, 0.5, 0.99)), strict=True)
    names = ("few", "half", "most")
    packed, layout = pack(dict(zip(names, tensors, strict=True)), dict(zip(names, kept, strict=True)))
    assert set(packed) == {"few.values", "few.gaps", "half.values", "half.bitmask", "most"}
    assert {n: e["positions"] for n, e in json.loads(layout)["tensors"].items()} == {
        "few": "gaps",
        "half": "bitmask",
        "most": "zeros",
    }
