"""Labelled images, in memory or on disk."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lptool.device import usable_cores
from lptool.errors import DataError, first_line
from lptool.tickets import digest_of_tensor

DECODED_BYTES = 2 << 30  # of images that a search goes over again and again
STATISTICS_IMAGES = 2048  # how many images of a streaming data set the normalisation is measured on


class Images(Protocol):
    """Labelled images, in memory or on disk."""

    def __len__(self) -> int: ...

    def subset(self, indices: Tensor) -> Images: ...

    def to(self, device: torch.device) -> Images: ...

    def raw(self, order: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """For each index tensor of `order`: uint8 images [B, C, H, W] and int64 labels [B], on `device`."""


@dataclass(frozen=True)
class InMemory:
    """Images as one uint8 tensor [N, C, H, W] and labels int64 [N], on any device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> InMemory:
        return InMemory(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> InMemory:
        return InMemory(self.images.to(device), self.labels.to(device))

    def raw(self, order: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in order:
            here = indices.to(self.images.device)
            yield self.images[here].to(device), self.labels[here].to(device)


@dataclass(frozen=True)
class Streamed:
    """Images that are decoded as they are needed, by worker processes.

    `source[i]` gives a uint8 image [C, H, W] and an int label; `indices` selects from it.
    """

    source: Dataset[tuple[Tensor, int]]
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, indices: Tensor) -> Streamed:
        return Streamed(self.source, self.indices[indices])

    def to(self, device: torch.device) -> Streamed:
        return self

    def raw(self, order: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        batches = [self.indices[indices].tolist() for indices in order]
        # Starting workers costs more than decoding a few images.
        workers = min(usable_cores(), 8) if sum(map(len, batches)) >= 512 else 0
        loader = DataLoader(self.source, batch_sampler=batches, num_workers=workers, pin_memory=device.type == "cuda")
        try:
            for images, labels in loader:
                yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        except (OSError, SyntaxError) as error:  # what Pillow raises on damaged files
            raise DataError(f"an image cannot be decoded: {first_line(error)}") from error


def decoded(images: Images, device: torch.device, limit: int = DECODED_BYTES) -> Images:
    """The same images decoded once and kept on `device`, where they take at most `limit` bytes; else as they are."""
    if isinstance(images, InMemory) or len(images) * math.prod(image_shape(images)) > limit:
        return images
    batches = list(images.raw(torch.arange(len(images)).split(512), device))
    return InMemory(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def digest_of_images(images: Images) -> str | None:
    """Hex sha256 of images and labels; None where they are not in memory."""
    if not isinstance(images, InMemory):
        return None
    digests = (digest_of_tensor(images.images), digest_of_tensor(images.labels))
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def sample(images: Images, size: int, seed: int) -> Images:
    """A seeded random subset of `size` images, all of them where there are no more."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.subset(order[:size].sort().values)


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of images scaled to [0, 1]; of a sample where they stream."""
    if not isinstance(images, InMemory):
        images = sample(images, STATISTICS_IMAGES, seed=0)
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for raw, _ in images.raw(torch.arange(len(images)).split(512), torch.device("cpu")):
        pixels = raw.double().transpose(0, 1).flatten(1) / 255
        count += pixels.shape[1]
        total, squares = total + pixels.sum(1), squares + pixels.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=1e-3)  # a constant channel stays finite
    return tuple(mean.tolist()), tuple(std.tolist())


def image_shape(images: Images) -> tuple[int, int, int]:
    first, _ = next(images.raw([torch.tensor([0])], torch.device("cpu")))
    _, channels, height, width = first.shape
    return channels, height, width
