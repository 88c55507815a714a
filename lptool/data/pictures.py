"""Data sets of pictures, each of a size of its own, as images of one size: decoded once, or as they are needed."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from lptool.data.augment import CROP_RATIO, CROP_SCALE
from lptool.data.classes import MOST_CLASSES
from lptool.data.colours import is_grey, plain, reason_of
from lptool.data.images import Images, InMemory, Streamed, decoded
from lptool.data.shards import Shards
from lptool.device import import_timm
from lptool.errors import DataError

IN_MEMORY_BYTES = 4 << 30  # a data set larger than this, decoded, streams from disk
LOOKED_AT = 64  # training pictures, to see whether all are grey
MOST_PIXELS = 178_956_970  # of a picture: what Pillow takes to be a bomb
_DECODER = 2  # another one for each change of what pixels a picture becomes


def decoded_pictures(
    sources: Mapping[str, Any], image_size: int | None, *, grey: bool | None = None, classes: int | None = None
) -> dict[str, Images]:
    """Every part in one number of channels and one size.

    Args:
        sources: `train` and other parts: data sets of PIL images and labels, map-style, or iterable where they fit
            in memory. A map-style one that takes more than IN_MEMORY_BYTES decoded is decoded as it is needed.
        image_size: side of the images; None takes the first training image's: its shorter side, 224 at most.
        grey: whether all become grey, else RGB; None makes them grey where all training images that are looked at are.
        classes: labels are below this, where it is known.

    Raises:
        DataError: an image cannot be decoded, or a part has no image.
    """
    first = next(_some(sources["train"]), None)
    if first is None:
        raise DataError("this data set has no training image")
    grey = all(map(is_grey, _some(sources["train"]))) if grey is None else grey
    side = image_size or max(1, min(*first.size, 224))
    return {part: _images(Pictures(source, side, grey, classes=classes)) for part, source in sources.items()}


def _some(source: Any) -> Iterator[Image.Image]:
    """Pictures from all over a source; the first of one that can only be read in order. Raises DataError."""
    in_order = isinstance(source, IterableDataset)
    places = [0] if in_order else range(0, len(source), max(1, len(source) // LOOKED_AT))
    for place in places:
        with _naming(source, place, "an image cannot be decoded: "):
            item = next(iter(source), None) if in_order else source[place]
            if item is not None:
                yield item[0]


@contextmanager
def _naming(source: Any, index: int, prefix: str = "") -> Iterator[None]:
    """Turn whatever Pillow and a source raise on a damaged file into a DataError that names it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{prefix}{error.text}") from error
    except Exception as error:
        raise DataError(f"{prefix}{_name(source, index)}: {reason_of(error)}") from error


def _name(source: Any, index: int) -> str:
    """The picture's file, where the source says it."""
    if isinstance(source, Shards):
        return source.name(index)
    files = getattr(source, "samples", None)  # of folders, ours and torchvision's
    return str(files[index][0]) if files else f"image {index}"


class Pictures(Dataset[tuple[Tensor, int]]):
    """A source of PIL images as uint8 tensors [C, side, side].

    Without `seed`, the shorter side is scaled to `side` and the centre cut out. With one, timm's training transform
    takes a random resized crop of the whole picture, the same for the same `seed` and index whatever else is done.
    Neither flips: that is the augmentation's part.
    """

    def __init__(
        self, source: Any, side: int, grey: bool, seed: int | None = None, *, classes: int | None = None
    ) -> None:
        from torchvision.transforms import v2

        self.source, self.side, self.grey, self.seed, self.classes = source, side, grey, seed, classes
        self.squared = (
            v2.Compose([v2.Resize(side, antialias=True), v2.CenterCrop(side), v2.PILToTensor()])
            if seed is None
            else _random_resized_crop(side)
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with nullcontext() if self.seed is None else _seeded(self.seed, index), _naming(self.source, index):
            return self.decode(self.source[index])

    def decode(self, item: tuple[Any, int]) -> tuple[Tensor, int]:
        """One image and its label, as the source gives them. Raises Exception."""
        picture, label = item
        label = operator.index(label)
        if label < 0 or (self.classes is not None and label >= self.classes):
            raise ValueError(f"has the class {label}, expected 0 to {(self.classes or MOST_CLASSES) - 1}")
        found = plain(picture, self.grey)
        if self.side**2 * max(found.size) > MOST_PIXELS * min(found.size):  # scaled as a whole, before it is cut
            raise ValueError(f"{found.size[0]} × {found.size[1]} pixels are too long a strip")
        return self.squared(found), label

    def crops(self, seed: int) -> Pictures:
        """The same pictures with random resized crops."""
        return Pictures(self.source, self.side, self.grey, seed, classes=self.classes)

    def identity(self, indices: Sequence[int]) -> str | None:
        """Hex digest of the files of these pictures (place, size, time of change) and of how they are decoded.

        None where the source does not say which files it reads.
        """
        import PIL
        import torchvision

        files = _files_of(self.source, indices)
        if files is None:
            return None
        versions = [module.__version__ for module in (torch, torchvision, import_timm(), PIL)]
        how = [_DECODER, self.side, self.grey, self.seed, *versions]
        return hashlib.sha256(json.dumps([how, files]).encode()).hexdigest()


def _files_of(source: Any, indices: Sequence[int]) -> list[Any] | None:
    """What tells these pictures from others without reading them: of a folder of images, or of shards."""
    if isinstance(source, Shards):
        return [[_state_of(file, file.parent) for file in source.files], source.index[indices].tolist()]
    samples, root = getattr(source, "samples", None), getattr(source, "root", None)  # of folders
    if not samples or root is None:
        return None
    return [(*_state_of(samples[index][0], root), samples[index][1]) for index in indices]


def _state_of(file: str | Path, root: str | Path) -> tuple[str, int, int]:
    """Where a file lies in a folder, its size, and when it was changed. Raises DataError."""
    try:
        found = os.stat(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    return os.path.relpath(file, root), found.st_size, found.st_mtime_ns


def _random_resized_crop(side: int) -> Any:
    create_transform = import_timm().data.create_transform
    return create_transform(
        side,
        is_training=True,
        scale=CROP_SCALE,
        ratio=CROP_RATIO,
        hflip=0.0,
        color_jitter=None,
        interpolation="bilinear",
        normalize=False,
    )


@contextmanager
def _seeded(seed: int, index: int) -> Iterator[None]:
    """Seed what transforms may draw from, Python's, NumPy's and torch's own random numbers, and put all back after."""
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    own = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])  # neighbours get unrelated seeds
    random.seed(own)
    np.random.seed(own)
    torch.default_generator.manual_seed(own)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.random.set_rng_state(before[2])


def _images(pictures: Pictures) -> Images:
    """Decode everything where it fits in memory, else on the way."""
    if isinstance(pictures.source, IterableDataset):
        return _stacked(pictures)
    if not len(pictures):
        raise DataError("a part of this data set has no image")
    streamed = Streamed(pictures, torch.arange(len(pictures)), pictures.crops)
    if len(pictures) * (1 if pictures.grey else 3) * pictures.side**2 > IN_MEMORY_BYTES:
        return streamed  # and no picture of it is decoded to see how large it is
    return decoded(streamed, torch.device("cpu"), IN_MEMORY_BYTES)


def _stacked(pictures: Pictures) -> InMemory:
    """All images of a source that can only be read in order; it has to fit in memory."""
    found, items = list[tuple[Tensor, int]](), iter(pictures.source)
    while True:
        with _naming(pictures.source, len(found), "an image cannot be decoded: "):
            if (item := next(items, None)) is None:
                break
            found.append(pictures.decode(item))
        if len(found) * found[0][0].numel() > IN_MEMORY_BYTES:
            raise DataError(
                f"this data set can only be read in order and is larger than {IN_MEMORY_BYTES >> 30} GiB decoded; "
                "export it to image folders and use folder:DIR"
            )
    if not found:
        raise DataError("a part of this data set has no image")
    images, labels = zip(*found, strict=True)
    return InMemory(torch.stack(images), torch.tensor(labels))
