"""Labelled images, in memory or on disk."""

from __future__ import annotations

import hashlib
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lptool.checkpoints.summary import digest_of_tensor
from lptool.device import local_ranks, usable_cores
from lptool.errors import DataError, first_line

Array = np.ndarray[Any, Any]
DECODED_BYTES = 2 << 30  # of images that a search goes over again and again
MOST_WORKERS = 16  # each holds two batches ready, in shared memory
STATISTICS_IMAGES = 2048  # how many images of a streaming data set the normalisation is measured on


class Images(Protocol):
    """Labelled images, in memory or on disk."""

    def __len__(self) -> int: ...

    def subset(self, indices: Tensor) -> Images: ...

    def to(self, device: torch.device) -> Images: ...

    def raw(self, order: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """For each index tensor of `order`: uint8 images [B, C, H, W] and int64 labels [B], on `device`."""

    def resized_crops(self, seed: int) -> Images | None:
        """The same images in the same order, each a random resized crop of the whole picture that it was made from.

        A crop depends on `seed` and the image alone, not on the batch, the subset or the process that asks for it.
        None where there are no pictures, but only pixels in memory.
        """


@dataclass(frozen=True)
class InMemory:
    """Images as one uint8 tensor [N, C, H, W] and labels int64 [N], on any device.

    `source` is what they were decoded from, image by image.
    """

    images: Tensor
    labels: Tensor
    source: Images | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> InMemory:
        source = None if self.source is None else self.source.subset(indices)
        return InMemory(self.images[indices], self.labels[indices], source)

    def to(self, device: torch.device) -> InMemory:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def raw(self, order: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        if not order:
            return
        moved = torch.cat(list(order)).to(self.images.device)  # one copy to the device, not one for every batch
        for here in moved.split([len(indices) for indices in order]):
            yield self.images[here].to(device), self.labels[here].to(device)

    def resized_crops(self, seed: int) -> Images | None:
        return None if self.source is None else self.source.resized_crops(seed)


def in_memory(images: Array, labels: Array) -> InMemory:
    """From uint8 [N, H, W] or [N, H, W, C] and integer labels [N]."""
    channels_last = images[..., None] if images.ndim == 3 else images
    pixels = torch.from_numpy(np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2)))
    return InMemory(pixels, torch.from_numpy(labels.astype(np.int64)))


@dataclass(frozen=True)
class Streamed:
    """Images that are decoded as they are needed, by worker processes.

    `source[i]` gives a uint8 image [C, H, W] and an int label; `indices` selects from it. `crops(seed)` is the same
    source with random resized crops; None where there is no such thing.
    """

    source: Dataset[tuple[Tensor, int]]
    indices: Tensor
    crops: Callable[[int], Dataset[tuple[Tensor, int]]] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, indices: Tensor) -> Streamed:
        return replace(self, indices=self.indices[indices.to(self.indices.device)])

    def to(self, device: torch.device) -> Streamed:
        return self

    def raw(self, order: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        batches = [self.indices[indices].tolist() for indices in order]
        workers = _workers(batches)
        loader = DataLoader(
            self.source,
            batch_sampler=batches,
            num_workers=workers,
            # Python 3.14's default begins each worker with an import of torch: seconds, for every pass over the images.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # it draws a seed for its workers; the caller's random state is not its own
        )
        try:
            for images, labels in _started(loader):
                yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        except (DataError, OSError, SyntaxError) as error:
            # A traceback would keep the workers, and those that are started next would inherit them and complain.
            raise DataError(f"an image cannot be decoded: {_reason(error)}") from error.with_traceback(None)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise DataError(
                f"a process that decodes images was killed ({first_line(error)}); it may have wanted memory, or more "
                "shared memory than /dev/shm has: give the container more (docker run --shm-size), or lower the batch "
                "size"
            ) from error.with_traceback(None)

    def resized_crops(self, seed: int) -> Streamed | None:
        return None if self.crops is None else replace(self, source=self.crops(seed))


@dataclass(frozen=True)
class Mapped:
    """Images of which some or all were decoded before, into a file mapped into memory: those are read from there.

    Attributes:
        source: the same images in the same order, as they are decoded.
        rows: int64 [N], the row of each in the file; −1 where it has none.
        pixels: uint8 [M, C, H, W], not to be written. labels: int64 [M].
        check: called before and after pixels are read; raises DataError where the file was changed.
        crops: seed → random resized crops of the same images.
    """

    source: Images
    rows: Tensor
    pixels: Array
    labels: Tensor
    check: Callable[[], None] = lambda: None
    crops: Mapping[int, Images] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def whole(self) -> bool:
        """Whether all were decoded."""
        return bool((self.rows >= 0).all())

    def subset(self, indices: Tensor) -> Mapped:
        crops = {seed: images.subset(indices) for seed, images in self.crops.items()}
        return replace(self, source=self.source.subset(indices), rows=self.rows[indices], crops=crops)

    def to(self, device: torch.device) -> Mapped:
        return self

    def raw(self, order: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        absent = [self.rows[indices] < 0 for indices in order]
        lacking = [indices[gaps] for indices, gaps in zip(order, absent, strict=True) if gaps.any()]
        rest = self.source.raw(lacking, device) if lacking else iter(())
        for indices, gaps in zip(order, absent, strict=True):
            found = self._read(self.rows[indices[~gaps]], device)
            yield _merged(found, next(rest), gaps.to(device)) if gaps.any() else found

    def _read(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        pinned = device.type == "cuda"  # so that the device computes while a batch is on its way
        pixels = torch.empty(len(rows), *self.pixels.shape[1:], dtype=torch.uint8, pin_memory=pinned)
        self.check()
        np.take(self.pixels, rows.numpy(), axis=0, out=pixels.numpy(), mode="clip")  # "raise" would copy once more
        self.check()
        return pixels.to(device, non_blocking=True), self.labels[rows].to(device)

    def resized_crops(self, seed: int) -> Images | None:
        return self.crops[seed] if seed in self.crops else self.source.resized_crops(seed)


def _merged(known: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], gaps: Tensor) -> tuple[Tensor, Tensor]:
    """One batch of two: `others` where `gaps`, bool [B], is True."""
    if not len(known[0]):
        return others
    pixels, labels = (part.new_empty(len(gaps), *part.shape[1:]) for part in others)
    for whole, *parts in zip((pixels, labels), known, others, strict=True):
        whole[~gaps], whole[gaps] = parts
    return pixels, labels


def _workers(batches: Sequence[Sequence[int]]) -> int:
    """How many processes shall decode: a core each, shared with the other ranks of this machine."""
    if sum(map(len, batches)) < 512:  # starting workers costs more than decoding a few images
        return 0
    return min(most_workers(), len(batches))


def most_workers() -> int:
    """How many processes decode at most for this one."""
    return max(1, min(usable_cores() // local_ranks(), MOST_WORKERS))


def _started(loader: DataLoader[Any]) -> Iterator[list[Tensor]]:
    """Iterate over `loader` with workers that never see Ctrl-C: each would print a traceback of its own.

    A Ctrl-C meanwhile reaches this process when all have started; in the middle of it, it could hang.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # workers inherit it
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reason(error: BaseException) -> str:
    """The last line of an error: one that a worker passes on begins with that worker's traceback."""
    return str(error).strip().splitlines()[-1].removeprefix(f"{DataError.__module__}.{DataError.__name__}: ")[:400]


def decoded(images: Images, device: torch.device, limit: int = DECODED_BYTES) -> Images:
    """The same images decoded once and kept on `device`, where they take at most `limit` bytes; else as they are."""
    mapped = isinstance(images, Mapped) and images.whole and device.type == "cpu"  # as good as in memory
    if isinstance(images, InMemory) or mapped or len(images) * math.prod(image_shape(images)) > limit:
        return images
    batches = list(images.raw(torch.arange(len(images)).split(512), device))
    pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return InMemory(pixels, labels, source=images)


def digest_of_images(images: Images) -> str | None:
    """Hex sha256 of images and labels; None where they are not in memory."""
    if not isinstance(images, InMemory):
        return None
    digests = (digest_of_tensor(images.images), digest_of_tensor(images.labels))
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def sample(images: Images, size: int, seed: int) -> Images:
    """A seeded random subset of `size` images, all of them where there are no more."""
    return images.subset(places_of_sample(len(images), size, seed))


def places_of_sample(count: int, size: int, seed: int) -> Tensor:
    """Which of `count` images such a sample takes, in order; a smaller one of the same seed is a part of it."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:size].sort().values


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
    # Rounding may take the difference below 0.
    std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=1e-3)  # a constant channel stays finite
    return tuple(mean.tolist()), tuple(std.tolist())


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Images uint8 [N, C, H, W] scaled as a whole to another height and width."""
    if tuple(pixels.shape[2:]) == size:
        return pixels
    scaled = F.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).byte()


def image_shape(images: Images) -> tuple[int, int, int]:
    first, _ = next(images.raw([torch.tensor([0])], torch.device("cpu")))
    _, channels, height, width = first.shape
    return channels, height, width
