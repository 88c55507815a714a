"""What a search goes over again and again, decoded once before it begins, by all ranks together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from lptool.data.cache import decode_once
from lptool.data.images import Images, InMemory, Mapped, Streamed, places_of_sample
from lptool.data.pixel_file import Decoded
from lptool.pooling.catalogue import needs
from lptool.pooling.setup import Bench
from lptool.ranks import ALONE, Ranks


def decoded_once(bench: Bench, ranks: Ranks = ALONE, folder: Path | None = None) -> tuple[Bench, list[str]]:
    """The same bench whose val, test and samples of train are decoded; and what a person should know.

    Nothing that is computed changes. What is in memory already, or has no room, stays as it is. All ranks have to call
    this together.

    Args:
        folder: where decoded pictures stay for the next job; None leaves none behind.

    Raises:
        LptoolError: a picture cannot be decoded, or another rank ended.
    """
    decoder, data = _Decoder(bench.data.shape, bench.options.seed, ranks, folder), bench.data
    data = replace(data, val=decoder.whole("val", data.val), test=decoder.whole("test", data.test))
    plain, cropped = sizes_sampled(bench)
    train = decoder.with_crops(data.train, cropped, bench.calibration.seed)
    data = replace(data, train=decoder.with_sample(train, plain))
    return replace(bench, data=data), decoder.notes


def sizes_sampled(bench: Bench) -> tuple[int, int]:
    """How many training images a search takes at most: as they are, and as random crops of the whole pictures."""
    calibration, sizes = bench.calibration, {False: 0, True: 0}
    uses = [
        (size, calibration.mode == "augmented")
        for size in (bench.options.calibration_size, bench.options.final_calibration_size or 0)
        if calibration.used != "none"
    ]
    uses += [(bench.options.fit_images, calibration.known)] * needs(bench.options.method, "rebuilder")
    for size, augmented in uses:
        cropped = augmented and calibration.recipe.resized_crop
        sizes[cropped] = max(sizes[cropped], size)
    return sizes[False], sizes[True]


@dataclass(frozen=True)
class _Decoder:
    """Decodes parts of one data set; what went wrong is in `notes`."""

    shape: tuple[int, int, int]
    seed: int
    ranks: Ranks
    folder: Path | None
    notes: list[str] = field(default_factory=list)

    def whole(self, part: str, images: Images) -> Images:
        """All of a part, which may be in memory already."""
        found = self._decode(part, images, torch.arange(len(images)))
        return images if found is None else Mapped(images, torch.arange(len(images)), *found)

    def with_sample(self, train: Images, size: int) -> Images:
        """Training images of which a sample, and with it every smaller one, is decoded."""
        places = places_of_sample(len(train), size, self.seed)
        origin = train.source if isinstance(train, Mapped) else train
        found = self._decode("training images of the search", origin, places)
        if found is None:
            return train
        rows = torch.full([len(train)], -1)
        rows[places] = torch.arange(len(places))
        return Mapped(origin, rows, *found, crops=train.crops if isinstance(train, Mapped) else {})

    def with_crops(self, train: Images, size: int, seed: int) -> Images:
        """Training images of whose random crops a sample is decoded; also of pictures whose squares are in memory."""
        crops = train.resized_crops(seed) if size else None
        if crops is None:
            return train
        known = {seed: self.with_sample(crops, size)}
        if isinstance(train, InMemory) and train.source is not None:
            return replace(train, source=_undecoded(train.source, known))
        return _undecoded(train, known)

    def _decode(self, part: str, images: Images, places: Tensor) -> Decoded | None:
        if not isinstance(images, Streamed) or not len(places):
            return None
        found, notes = decode_once(images.subset(places), self.shape, self.ranks, self.folder)
        self.notes.extend(f"{part}: {note}" for note in notes)
        return found


def _undecoded(images: Images, crops: dict[int, Images]) -> Mapped:
    """Images of which none is decoded, but crops of them are."""
    pixels, labels = torch.empty(0, 0, dtype=torch.uint8).numpy(), torch.empty(0, dtype=torch.int64)
    return Mapped(images, torch.full([len(images)], -1), pixels, labels, crops=crops)
