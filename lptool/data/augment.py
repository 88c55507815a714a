"""The random changes to training images, drawn for a whole epoch at once and applied to a batch on its device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lptool.data.images import Images

# Of a random resized crop: its share of the image's area, and its width over its height (Szegedy et al. 2015).
CROP_SCALE = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10  # as in torchvision and timm
_DIGITS = ("digits", "mnist", "qmnist", "svhn")  # a mirrored digit is no digit


@dataclass(frozen=True)
class Augmentation:
    """The random numbers of one epoch: row k is for the image at place k of the epoch's order.

    They are drawn for all images at once, so that a batch costs no random number on the host and no copy to the
    device, and so that ranks that each take a part of every batch get the images that one process gets.

    Attributes:
        padding: pixels of black on every side before `offsets` cuts out the old size again.
        offsets: int64 [N, 2], from 0 to 2·padding, from the top and from the left; None leaves out the crop.
        boxes: int64 [N, 4], top, left, height and width of what is scaled up to the whole; None leaves it out.
        flips: bool [N], True where left and right change places; None flips no image.
    """

    padding: int = 0
    offsets: Tensor | None = None
    boxes: Tensor | None = None
    flips: Tensor | None = None

    def to(self, device: torch.device) -> Augmentation:
        """The same numbers on `device`."""
        parts = (self.offsets, self.boxes, self.flips)
        return Augmentation(self.padding, *(part if part is None else part.to(device) for part in parts))

    def subset(self, places: Tensor) -> Augmentation:
        """The numbers of some places, in the order named."""
        parts = (self.offsets, self.boxes, self.flips)
        return Augmentation(self.padding, *(part if part is None else part[places.to(part.device)] for part in parts))

    def apply(self, images: Tensor, places: Tensor) -> Tensor:
        """Crop, scale and flip a batch.

        Args:
            images: uint8 [B, C, H, W], on the device that these numbers are on.
            places: int64 [B], of each image in the epoch's order, on the same device.

        Returns:
            uint8 [B, C, H, W]; `images` is left as it is.
        """
        if self.offsets is not None:
            images = _crop(images, self.padding, self.offsets[places])
        if self.boxes is not None:
            images = _scale_up(images, self.boxes[places])
        if self.flips is not None:
            images = _flip(images, self.flips[places])
        return images


@dataclass(frozen=True)
class Augmented:
    """Images that were augmented once and for all: row k of the augmentation is for image k, whatever the batch."""

    images: Images
    augmentation: Augmentation

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Tensor) -> Augmented:
        return Augmented(self.images.subset(indices), self.augmentation.subset(indices))

    def to(self, device: torch.device) -> Augmented:
        return Augmented(self.images.to(device), self.augmentation.to(device))

    def raw(self, order: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        augmentation = self.augmentation.to(device)
        for indices, (pixels, labels) in zip(order, self.images.raw(order, device), strict=True):
            yield augmentation.apply(pixels, indices.to(device)), labels

    def resized_crops(self, seed: int) -> Images | None:
        return None


@dataclass(frozen=True)
class Recipe:
    """How training augments the images of one data set: see `draw` for each of these."""

    crop_padding: int
    flip: bool | Literal["alternate"]
    resized_crop: bool

    @property
    def changes(self) -> bool:
        """Whether it changes an image at all."""
        return bool(self.crop_padding or self.flip or self.resized_crop)

    def drawn(
        self,
        images: Images,
        shape: tuple[int, int, int],
        order: Tensor,
        generator: torch.Generator,
        *,
        epoch: int = 0,
        flip_seed: int = 0,
    ) -> tuple[Images, Augmentation]:
        """The images to begin with, and what is done to them in this order.

        From files, a crop of random size is taken of the whole picture, as it is decoded; from pixels as they are.
        """
        pictures = images.resized_crops(generator.initial_seed()) if self.resized_crop else None
        return pictures or images, draw(
            order,
            shape,
            crop_padding=self.crop_padding,
            flip=self.flip,
            resized_crop=self.resized_crop and pictures is None,
            generator=generator,
            epoch=epoch,
            flip_seed=flip_seed,
        )

    def augmented(self, images: Images, shape: tuple[int, int, int], seed: int) -> Images:
        """Each image as training might have seen it: one draw, the same for the same seed."""
        order, generator = torch.arange(len(images)), torch.Generator().manual_seed(seed)
        return Augmented(*self.drawn(images, shape, order, generator, flip_seed=seed))


def recipe_of(
    augment: str, crop_padding: int | None, flip: str, *, dataset: str, shape: tuple[int, int, int]
) -> Recipe:
    """What the options of a training, of these names, come to for a data set and its images [C, H, W]."""
    resized_crop = augment == "resized-crop"
    return Recipe(0 if resized_crop else padding_of(crop_padding, shape[1]), flip_of(flip, dataset), resized_crop)


def flip_of(asked: str, dataset: str) -> bool | Literal["alternate"]:
    """How images of a data set are flipped where `yes`, `no`, `alternate` or `auto` is asked for."""
    if asked == "auto":
        return dataset.rpartition("/")[2] not in _DIGITS
    return "alternate" if asked == "alternate" else asked == "yes"


def padding_of(asked: int | None, side: int) -> int:
    """Pixels of a crop's padding; an eighth of the image where none are asked for."""
    return side // 8 if asked is None else asked


def draw(
    order: Tensor,
    shape: tuple[int, int, int],
    *,
    crop_padding: int = 0,
    flip: bool | Literal["alternate"] = False,
    resized_crop: bool = False,
    generator: torch.Generator,
    epoch: int = 0,
    flip_seed: int = 0,
) -> Augmentation:
    """Draw the random numbers of one epoch.

    Args:
        order: int64 [N], the images of the epoch in order: a permutation of 0 … N − 1.
        shape: channels, height and width of an image.
        crop_padding: pixels of a random crop after padding with black; 0 leaves it out.
        flip: True flips each image with probability one half. `alternate` flips a random half of them in epoch 0 and
            each image in every other epoch from there on, so that two epochs in a row show each image both ways
            ("alternating flip": Jordan 2024, arXiv 2404.00498, section 3.6).
        resized_crop: cut out a random box of 8 to 100 % of the area, sides 3:4 to 4:3, and scale it to the whole.
        generator: on the CPU, so that the same seed gives the same images on every device.
        epoch: counted from 0; only `alternate` looks at it.
        flip_seed: of the half that `alternate` flips in epoch 0; to stay the same for the whole run.
    """
    count, (_, height, width) = len(order), shape
    offsets = torch.randint(2 * crop_padding + 1, (count, 2), generator=generator) if crop_padding else None
    boxes = random_boxes(count, height, width, generator) if resized_crop else None
    flips = None
    if flip == "alternate":
        half = torch.rand(count, generator=torch.Generator().manual_seed(flip_seed)) < 0.5
        flips = (half ^ (epoch % 2 == 1))[order.cpu()]
    elif flip:
        flips = torch.rand(count, generator=generator) < 0.5
    return Augmentation(crop_padding, offsets, boxes, flips)


def random_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Random boxes inside an image, int64 [count, 4]: top, left, height, width in pixels.

    As torchvision and timm draw them one by one: the share of the area is uniform, the ratio of the sides
    log-uniform, a box that does not fit is drawn again, and after ten tries the largest central box of a fitting
    ratio is taken.
    """

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64) * (high - low) + low

    # All tries of all images at once; the first one that fits counts, so the others are drawn in vain and do no harm.
    area = uniform(*CROP_SCALE, CROP_TRIES, count) * height * width
    ratio = uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1]), CROP_TRIES, count).exp()
    tall, wide = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    first = fits.int().argmax(0, keepdim=True)  # the first that fits, or 0 where none does
    none = ~fits.any(0)
    tall = tall.gather(0, first)[0].masked_fill(none, min(height, round(width / CROP_RATIO[0])))
    wide = wide.gather(0, first)[0].masked_fill(none, min(width, round(height * CROP_RATIO[1])))
    room = torch.stack([height - tall, width - wide])
    # The share of the room is below 1, so a place of `room` + 1 pixels is as likely as each other, the last one too.
    top, left = torch.where(none, room // 2, (uniform(0, 1, 2, count) * (room + 1)).long())
    return torch.stack([top, left, tall, wide], dim=1)


def _crop(images: Tensor, padding: int, offsets: Tensor) -> Tensor:
    """Pad [B, C, H, W] with black on every side and cut [H, W] out again, `offsets` [B, 2] from the top and left."""
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    tall, wide = padded.shape[2:]
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * (tall * wide)
    rows = (offsets[:, :1] + torch.arange(height, device=images.device)) * wide + offsets[:, 1:]
    # A row of the result is `width` neighbours in memory. To copy whole rows is 3 to 15 times faster on a CPU than
    # to index pixels, or to loop over the offsets.
    neighbours = padded.reshape(-1).unfold(0, width, 1)
    return neighbours.index_select(0, (planes + rows[:, None]).flatten()).view(images.shape)


def _scale_up(images: Tensor, boxes: Tensor) -> Tensor:
    """Scale the box of each image (`boxes` [B, 4]: top, left, height, width) up to the whole, bilinearly.

    A box is never larger than the image, so there is nothing to antialias.
    """
    height, width = images.shape[2:]
    top, left, tall, wide = boxes.unbind(1)
    y, x = _positions(top, tall, height), _positions(left, wide, width)
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    scaled = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return scaled.round().to(torch.uint8)


def _positions(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where to read the `size` pixels of a side from, [B, size] in [−1, 1] as grid_sample counts from edge to edge."""
    steps = torch.arange(size, device=start.device) + 0.5
    inside = steps * (length / size)[:, None] - 0.5
    inside = inside.clamp(min=0).minimum(length[:, None] - 1)  # what lies beyond the box must not shine in
    return (2 * (inside + start[:, None]) + 1) / size - 1


def _flip(images: Tensor, flips: Tensor) -> Tensor:
    """[B, C, H, W] with left and right changed over where `flips` [B] is True."""
    both = torch.cat([images, images.flip(3)])  # choosing whole images costs a fifth of choosing pixels by torch.where
    return both.index_select(0, torch.arange(len(images), device=images.device) + len(images) * flips)
