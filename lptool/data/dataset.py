"""Data sets ready for use: one seeded split into train and val, one normalisation, batches on the device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lptool.checkpoints.header import DataSet
from lptool.data.images import Images, InMemory, channel_statistics, image_shape
from lptool.data.sources import Parts, load_parts
from lptool.errors import DataError


@dataclass(frozen=True)
class Data:
    """A data set, split and ready.

    Attributes:
        train: what tickets are trained on. val: held out from it, to choose on. test: reported once.
        mean, std: per channel, of images scaled to [0, 1]; measured on train, or what the tickets were trained with.
        split: how train and val were parted: `fraction`, `seed`, the `hash` of val's indices, and a digest of the
            `labels` of the images they were chosen from.
        class_names: in the order of the labels; empty where the source does not say.
        notes: what a person should know of how it was read.
    """

    name: str
    train: Images
    val: Images
    test: Images
    num_classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split: dict[str, Any]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """What a ticket's metadata says of its data."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "image_shape": list(self.shape),
            "mean": list(self.mean),
            "std": list(self.std),
            "split": self.split,
            **({"class_names": list(self.class_names)} if self.class_names else {}),
        }

    def to(self, device: torch.device) -> Data:
        """The same data with all that is in memory on `device`."""
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))

    def batches(
        self,
        images: Images,
        batch_size: int,
        device: torch.device,
        *,
        order: Tensor | None = None,
        even: bool = True,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised float images [B, C, H, W] (channels last) and int64 labels [B], on `device`.

        Args:
            images: one of this data set's parts, or a subset of one.
            batch_size: at most this many in a batch.
            order: indices into `images`; all in order by default.
            even: batches of equal size to within one image, because BatchNorm statistics weigh batches equally, and
                a batch of one image has no variance; else all but the last are of `batch_size`.
            part: `(k, n)` gives of these batches the k-th, and every n-th after it.
        """
        order = torch.arange(len(images)) if order is None else order
        if len(order) == 0:
            return iter(())
        places = torch.arange(len(order))
        chunks = places.tensor_split(math.ceil(len(order) / batch_size)) if even else places.split(batch_size)
        first, step = part
        return self.placed_batches(images, order, chunks[first::step], device)

    def placed_batches(
        self,
        images: Images,
        order: Tensor,
        chunks: Sequence[Tensor],
        device: torch.device,
        *,
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Like `batches`, where the caller says which images make up each batch.

        Args:
            order: int64 [N], indices into `images`.
            chunks: one int64 tensor per batch: places in `order`.
            augment: applied to the uint8 batch and the places [B] of its images in `order`, int64 on `device`.
        """
        # Pixels are from 0 to 255, mean and std are of a scale to 1.
        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1) * 255
        scale = 1 / (torch.tensor(self.std, device=device).view(1, -1, 1, 1) * 255)
        if not chunks:
            return
        found = images.raw([order[places] for places in chunks], device)
        there = torch.cat(list(chunks)).to(device).split([len(places) for places in chunks])  # in one copy
        for places, (raw, labels) in zip(there, found, strict=True):
            pixels = raw if augment is None else augment(raw, places)
            yield ((pixels.float() - mean) * scale).contiguous(memory_format=torch.channels_last), labels


def load_data(
    name: str,
    data_dir: str | Path | None = None,
    *,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    image_size: int | None = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    like: DataSet | None = None,
    download: bool = True,
) -> Data:
    """A data set by name, split into train, val and test.

    Args:
        name: `digits`, `fashion-mnist`, `cifar10`, `cifar100`, `npz:FILE`, `folder:DIR`, `wds/DIR` (WebDataset
            shards; with `data_dir`, that is where they lie), or a name that timm's `create_dataset` takes, such as
            `torch/mnist` or `hfds/…`.
        data_dir: where the files lie or shall be downloaded to.
        val_fraction: share of the training set held out, in (0, 1); not used where the data set has a val part of
            its own beside test.
        split_seed: of the choice of val.
        image_size: side in pixels; None takes the data set's own (for folders, the first image's, 224 at most).
        normalisation: mean and std per channel on the scale [0, 1]; None measures them on train.
        like: what a file says of the data that its network was trained on: the classes, matched by name, and the
            channels are to be the same.
        download: whether missing files of a data set that has a name of its own may be downloaded.

    Raises:
        DataError: the data set is unknown, missing or damaged, or has other classes.
    """
    parts = load_parts(name, data_dir, image_size, like, download=download)
    train, val, split = _split(parts, val_fraction, split_seed)
    shape = image_shape(parts.train)
    mean, std = normalisation or channel_statistics(train)
    names, notes = parts.class_names, parts.notes
    return Data(name, train, val, parts.test, parts.num_classes, shape, tuple(mean), tuple(std), split, names, notes)


def _split(parts: Parts, fraction: float, seed: int) -> tuple[Images, Images, dict[str, Any]]:
    """Train, val, and what to remember of the split: its hash differs wherever val does, whatever chose val."""
    if parts.val is not None:
        split: dict[str, Any] = {"fraction": None, "seed": None, "hash": "given"}
        return parts.train, parts.val, split | {"labels": _digest_of_labels(parts.val)}
    total = len(parts.train)
    held_out = round(total * fraction)
    if not 0 < held_out < total:
        raise DataError(f"cannot hold out {fraction:g} of {total} training images for val; choose another fraction")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))  # on the CPU: the same everywhere
    val, train = order[:held_out].sort().values, order[held_out:].sort().values
    digest = hashlib.sha256(f"{total}:".encode() + val.numpy().astype("<i8").tobytes()).hexdigest()
    split = {"fraction": fraction, "seed": seed, "hash": digest, "labels": _digest_of_labels(parts.train)}
    return parts.train.subset(train), parts.train.subset(val), split


def _digest_of_labels(images: Images) -> str | None:
    """Differs between data sets of the same size; None where labels would have to be decoded with the images."""
    if not isinstance(images, InMemory):
        return None
    return hashlib.sha256(images.labels.cpu().numpy().astype("<i8").tobytes()).hexdigest()  # alike on any machine
