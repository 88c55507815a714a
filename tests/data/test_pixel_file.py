"""The layout of the file of decoded pictures, read by numpy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lptool.data.pixel_file import BLOCK, PixelFile


def pictures(count: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(1000, (count,), generator=generator)


def write(path: Path, content: PixelFile, pixels: Tensor, labels: Tensor) -> None:
    with open(path, "w+b") as file:
        for block, places in reversed(list(enumerate(content.blocks))):
            content.write(file, block, pixels[places], labels[places])


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
@pytest.mark.parametrize("shape", [(1, 3, 5), (3, 4, 4)])
def test_labels_come_first_and_pixels_last(count: int, shape: tuple[int, int, int], tmp_path: Path) -> None:
    content, (pixels, labels) = PixelFile("key", count, shape), pictures(count, shape)
    write(tmp_path / "a", content, pixels, labels)
    whole = np.fromfile(tmp_path / "a", np.uint8)
    assert len(whole) == content.size
    assert np.array_equal(whole[: 8 * count].view("<i8"), labels)
    assert np.array_equal(whole[-pixels.numel() :].reshape(pixels.shape), pixels)
    assert len(whole) - 8 * count - pixels.numel() == 32 * -(-count // BLOCK)
    with open(tmp_path / "a", "rb") as file:
        content.check(file, range(len(content.blocks)))
        found = content.mapped(file)
    assert np.array_equal(found.pixels, pixels)
    assert torch.equal(found.labels, labels)


def test_each_block_is_checked_by_itself(tmp_path: Path) -> None:
    content, (pixels, labels) = PixelFile("key", 3 * BLOCK, (1, 2, 2)), pictures(3 * BLOCK, (1, 2, 2))
    write(tmp_path / "a", content, pixels, labels)
    with open(tmp_path / "a", "r+b") as file:
        file.seek(-1, 2)
        file.write(bytes([255 - int(pixels[-1, -1, -1, -1])]))
        file.flush()
        content.check(file, [0, 1])
        with pytest.raises(OSError, match="its checksums do not fit"):
            content.check(file, [2])


@pytest.mark.parametrize("other", [("another", 8, (1, 2, 2)), ("key", 8, (2, 1, 2)), ("key", 8, (1, 1, 4))])
def test_what_was_written_for_other_pictures_does_not_fit(
    other: tuple[str, int, tuple[int, int, int]], tmp_path: Path
) -> None:
    """Though it is as long."""
    content, wrong = PixelFile("key", 8, (1, 2, 2)), PixelFile(*other)
    write(tmp_path / "a", wrong, *pictures(8, wrong.shape))
    assert (content.size, content.name == wrong.name) == (wrong.size, False)
    with open(tmp_path / "a", "rb") as file, pytest.raises(OSError, match="its checksums do not fit"):
        content.check(file, [0])
