"""The file of decoded pictures: what lies where, written and checked block by block.

For N pictures [C, H, W], one after the other:

    labels   int64 [N], little-endian
    digests  a SHA-256 of each block of 64 pictures: of their labels and pixels, and of what the file is of
    pixels   uint8 [N, C, H, W]
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lptool.checkpoints.regular import Stamp
from lptool.data.files import check_state
from lptool.data.images import Array

BLOCK = 64  # pictures: each worker keeps two such batches in shared memory, of 10 MB each at 224 pixels
_FORMAT, _DIGEST = "lptool pixels 1", 32  # bytes


class Decoded(NamedTuple):
    """Pixels uint8 [N, C, H, W], mapped and not to be written, and labels int64 [N].

    `check` is to be called before and after pixels are read: it raises DataError where the file was changed.
    """

    pixels: Array
    labels: Tensor
    check: Callable[[], None] = lambda: None


class Unchanged:
    """Refuses a file that stays for others when it was changed: one that is cut off would end this process."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.descriptor, self.path, self.state = os.dup(file.fileno()), path, Stamp.of(file)

    def __call__(self) -> None:
        check_state(self.descriptor, self.path, self.state)

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True)
class PixelFile:
    """The layout of one file; `key` says which pictures these are."""

    key: str
    count: int
    shape: tuple[int, int, int]

    @property
    def name(self) -> str:
        """Another one for other pictures."""
        return f"{hashlib.sha256(f'{_FORMAT} {self}'.encode()).hexdigest()[:32]}.lptool-pixels"

    @property
    def blocks(self) -> Sequence[Tensor]:
        """The numbers of the pictures of each block."""
        return torch.arange(self.count).tensor_split(list(range(BLOCK, self.count, BLOCK)))

    @property
    def picture(self) -> int:
        """Bytes of one."""
        return math.prod(self.shape)

    @property
    def before(self) -> int:
        """Bytes before the pixels."""
        return 8 * self.count + _DIGEST * len(self.blocks)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.before + self.count * self.picture

    def write(self, file: BinaryIO, block: int, pixels: Tensor, labels: Tensor) -> None:
        """Put a block where it belongs. Raises OSError."""
        contents = labels.numpy().astype("<i8").tobytes(), pixels.numpy().tobytes()
        parts = contents[0], self._digest(block, contents), contents[1]
        for (offset, length), content in zip(self._places(block), parts, strict=True):
            assert len(content) == length
            _write_at(file, content, offset)

    def check(self, file: BinaryIO, blocks: Iterable[int]) -> None:
        """Raises OSError where the file is not as it was written."""
        if (size := os.fstat(file.fileno()).st_size) != self.size:
            raise OSError(f"is {size:,} bytes, expected {self.size:,}")
        for block in blocks:
            # Read and not mapped: a file that is cut off meanwhile would end the process.
            labels, digest, pixels = (os.pread(file.fileno(), length, place) for place, length in self._places(block))
            if self._digest(block, (labels, pixels)) != digest:
                raise OSError("its checksums do not fit, so it was changed or damaged")

    def mapped(self, file: BinaryIO, check: Callable[[], None] = lambda: None) -> Decoded:
        """What a whole file holds; `check` as in `Decoded`."""
        labels = np.frombuffer(os.pread(file.fileno(), 8 * self.count, 0), "<i8").astype(np.int64)
        pixels = np.memmap(file, np.uint8, "r", self.before, (self.count, *self.shape))
        return Decoded(np.asarray(pixels), torch.from_numpy(labels), check)

    def _places(self, block: int) -> list[tuple[int, int]]:
        """Offset and length of a block's labels, digest and pixels."""
        start, count = block * BLOCK, min(BLOCK, self.count - block * BLOCK)
        digest = 8 * self.count + _DIGEST * block, _DIGEST
        return [(8 * start, 8 * count), digest, (self.before + start * self.picture, count * self.picture)]

    def _digest(self, block: int, contents: tuple[bytes, bytes]) -> bytes:
        return hashlib.sha256(b"".join((f"{_FORMAT} {self} {block} ".encode(), *contents))).digest()


def _write_at(file: BinaryIO, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:  # a disk that is almost full takes a part
        written = os.pwrite(file.fileno(), view, offset)
        view, offset = view[written:], offset + written
