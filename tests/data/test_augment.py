"""Random crops, resized crops and flips: their laws, and loops over single images as oracles."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

from lptool.data.augment import CROP_RATIO, CROP_SCALE, Augmentation, Augmented, Recipe, draw, random_boxes, recipe_of
from lptool.data.images import InMemory, decoded

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(count: int, channels: int = 3, height: int = 6, width: int = 5) -> Tensor:
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator(9))


def crop_pixel_by_pixel(images: Tensor, padding: int, offsets: Tensor) -> Tensor:
    batch, _, height, width = images.shape
    out = torch.zeros_like(images)
    for b, y, x in np.ndindex(batch, height, width):
        from_y, from_x = y + int(offsets[b, 0]) - padding, x + int(offsets[b, 1]) - padding
        if 0 <= from_y < height and 0 <= from_x < width:
            out[b, :, y, x] = images[b, :, from_y, from_x]
    return out


# Each step against a loop


@pytest.mark.parametrize("padding", [1, 4, 7])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_crop_equals_a_loop_over_pixels(padding: int, channels: int, memory: torch.memory_format) -> None:
    images = some_images(20, channels).contiguous(memory_format=memory)
    before = images.clone()
    drawn = draw(torch.arange(20), (channels, 6, 5), crop_padding=padding, generator=generator())
    assert drawn.offsets is not None
    got = drawn.apply(images, torch.arange(20))
    assert torch.equal(got, crop_pixel_by_pixel(images, padding, drawn.offsets))
    assert got.dtype == torch.uint8
    assert torch.equal(images, before)


def test_a_flip_changes_left_and_right_of_the_images_told() -> None:
    images = some_images(4)
    got = Augmentation(flips=torch.tensor([True, False, True, False])).apply(images, torch.arange(4))
    assert np.array_equal(got[[0, 2]], images[[0, 2]].numpy()[..., ::-1])
    assert torch.equal(got[[1, 3]], images[[1, 3]])


@pytest.mark.parametrize(("height", "width"), [(6, 5), (28, 28), (31, 40)])
def test_a_resized_crop_equals_torchvision_to_within_one_of_255(height: int, width: int) -> None:
    """Torchvision rounds its uint8 weights; in floats the two agree to a hundredth of a level."""
    images, boxes = some_images(64, 3, height, width), random_boxes(64, height, width, generator())
    got = Augmentation(boxes=boxes).apply(images, torch.arange(64))
    assert got.dtype == torch.uint8
    for one, box, image in zip(got, boxes.tolist(), images, strict=True):
        expected = V.resized_crop(image, *box, [height, width], InterpolationMode.BILINEAR, antialias=False)
        assert (one.int() - expected.int()).abs().max() <= 1
        exact = V.resized_crop(image.double(), *box, [height, width], InterpolationMode.BILINEAR, antialias=False)
        assert (one - exact).abs().max() <= 0.51


def test_the_box_of_the_whole_image_changes_nothing() -> None:
    images = some_images(3, 1, 28, 28)
    whole = torch.tensor([[0, 0, 28, 28]]).expand(3, 4)
    assert torch.equal(Augmentation(boxes=whole).apply(images, torch.arange(3)), images)


def test_nothing_asked_for_changes_nothing() -> None:
    images = some_images(9)
    drawn = draw(torch.arange(9), (3, 6, 5), generator=generator())
    assert drawn == Augmentation()
    assert drawn.apply(images, torch.arange(9)) is images


# What an epoch draws


def test_each_image_gets_its_own_place_and_side() -> None:
    """One image 1,000 times: all 9 places × 2 sides come up, each about equally often."""
    same = some_images(1).expand(1000, -1, -1, -1)
    drawn = draw(torch.arange(1000), (3, 6, 5), crop_padding=1, flip=True, generator=generator())
    got = drawn.apply(same, torch.arange(1000))
    counts = got.flatten(1).unique(dim=0, return_counts=True)[1]
    assert len(counts) == 18
    assert counts.min() > 1000 / 18 - 30  # 4 standard deviations
    assert counts.max() < 1000 / 18 + 30


def test_the_images_do_not_depend_on_how_the_epoch_is_cut_into_batches_and_ranks() -> None:
    images = some_images(20, 3, 8, 8)
    options = {"crop_padding": 1, "flip": True, "resized_crop": True}
    drawn = draw(torch.arange(20), (3, 8, 8), **options, generator=generator()).to(CPU)
    whole = drawn.apply(images, torch.arange(20))
    for places in (torch.tensor([3]), torch.tensor([19, 0, 7]), torch.arange(1, 20, 2)):
        assert torch.equal(drawn.apply(images[places], places), whole[places])


def test_the_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    def drawn(seed: int) -> list[Tensor]:
        options = {"crop_padding": 2, "flip": True, "resized_crop": True}
        found = draw(torch.arange(50), (1, 8, 8), **options, generator=generator(seed))
        return [part for part in dataclasses.astuple(found) if isinstance(part, Tensor)]

    assert len(drawn(1)) == 3
    assert all(torch.equal(a, b) for a, b in zip(drawn(1), drawn(1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn(1), drawn(2), strict=True))


def test_alternating_flips_show_an_image_both_ways_in_any_two_epochs_in_a_row() -> None:
    """By the image's index, in whatever order an epoch goes over the images."""
    flipped = []
    for epoch in range(4):
        order = torch.randperm(1000, generator=generator(epoch))
        drawn = draw(order, (1, 2, 2), flip="alternate", generator=generator(epoch), epoch=epoch, flip_seed=5)
        assert drawn.flips is not None
        by_index = torch.empty(1000, dtype=torch.bool)
        by_index[order] = drawn.flips
        flipped.append(by_index)
    for one, two in pairwise(flipped):
        assert torch.equal(one, ~two)
    assert 400 < int(flipped[0].sum()) < 600
    again = draw(torch.arange(1000), (1, 2, 2), flip="alternate", generator=generator(), flip_seed=6).flips
    assert again is not None
    assert not torch.equal(again, flipped[0])


# The boxes of resized crops


@pytest.mark.parametrize(("height", "width"), [(32, 32), (224, 224), (100, 60)])
def test_boxes_lie_inside_with_area_and_ratio_in_range(height: int, width: int) -> None:
    boxes = random_boxes(5000, height, width, generator())
    top, left, tall, wide = boxes.double().unbind(1)
    assert boxes.dtype == torch.int64
    assert min(top.min(), left.min()) >= 0
    assert min(tall.min(), wide.min()) >= 1
    assert (top + tall).max() <= height
    assert (left + wide).max() <= width
    # sides are rounded to whole pixels, by half a pixel at most
    assert ((tall + 0.5) * (wide + 0.5)).min() >= CROP_SCALE[0] * height * width
    assert ((wide + 0.5) / (tall - 0.5)).min() >= CROP_RATIO[0]
    assert ((wide - 0.5) / (tall + 0.5)).max() <= CROP_RATIO[1]


def test_areas_and_places_spread_over_their_whole_range() -> None:
    top, left, tall, wide = random_boxes(5000, 200, 200, generator()).double().unbind(1)
    area = tall * wide / 200**2
    assert area.min() < 0.09
    assert area.max() > 0.97
    # as torchvision's own draws: the mean area of 100,000 of them is 0.479, large boxes being drawn again more often
    assert float(area.mean()) == pytest.approx(0.479, abs=0.015)
    free = 200 - tall > 50
    for start, side in ((top, tall), (left, wide)):
        assert float((start / (200 - side))[free].mean()) == pytest.approx(0.5, abs=0.03)


def spread(values: Tensor, low: float, high: float, bins: int) -> None:
    """Assert that the values are uniform, to within five standard deviations of the count in each bin."""
    counts = torch.histc(values, bins, low, high)
    expected = len(values) / bins
    assert int(counts.sum()) == len(values)
    assert float((counts - expected).abs().max()) < 5 * math.sqrt(expected)


def test_sides_are_drawn_evenly_by_the_logarithm_of_their_ratio() -> None:
    """Twice as wide is as likely as twice as high. Boxes of less than half the area fit whatever their ratio."""
    _, _, tall, wide = random_boxes(40_000, 2000, 2000, generator()).double().unbind(1)
    ratio = (wide / tall).log()[tall * wide < 2000**2 / 2]
    spread(ratio.clamp(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])), *map(math.log, CROP_RATIO), 10)


def test_a_box_may_lie_at_every_place_with_the_same_probability() -> None:
    """At the first and the last, too."""
    top, left, tall, wide = random_boxes(20_000, 5, 5, generator()).unbind(1)
    for start, side in ((top, tall), (left, wide)):
        for length in (2, 3, 4):
            places = start[side == length].double()
            spread(places, -0.5, 5 - length + 0.5, 5 - length + 1)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(8, 400, [0, 194, 8, 11]), (400, 8, [194, 0, 11, 8])],
)
def test_where_no_box_fits_the_largest_central_one_of_a_fitting_ratio_is_taken(
    height: int, width: int, box: list[int]
) -> None:
    """An image so narrow that not even 8 % of its area can have sides of 3:4 to 4:3."""
    boxes = random_boxes(20, height, width, generator()).tolist()
    assert boxes == [box] * 20


def test_an_image_of_one_pixel_is_its_own_box() -> None:
    assert random_boxes(50, 1, 1, generator()).unique(dim=0).tolist() == [[0, 0, 1, 1]]


# Images that were augmented once


@pytest.mark.parametrize("recipe", [Recipe(2, True, False), Recipe(0, "alternate", True)], ids=str)
def test_an_image_that_was_augmented_is_the_same_in_any_batch_and_subset(recipe: Recipe) -> None:
    images = InMemory(some_images(20), torch.arange(20))
    whole = recipe.augmented(images, (3, 6, 5), seed=3)
    ((pixels, labels),) = whole.raw([torch.arange(20)], CPU)
    assert torch.equal(labels, torch.arange(20))
    assert not torch.equal(pixels, images.images)
    chosen = torch.tensor([7, 3, 11, 4])
    places = torch.tensor([2, 0])
    for some in (whole.subset(chosen), whole.subset(chosen).to(CPU), decoded(whole.subset(chosen), CPU)):
        assert len(some) == 4
        (one, _), (other, _) = some.raw([places, torch.tensor([3])], CPU)
        assert torch.equal(torch.cat([one, other]), pixels[[11, 7, 4]])
    assert isinstance(whole, Augmented)
    assert whole.resized_crops(0) is None
    again, another = (recipe.augmented(images, (3, 6, 5), seed=seed) for seed in (3, 4))
    assert torch.equal(next(again.raw([torch.arange(20)], CPU))[0], pixels)
    assert not torch.equal(next(another.raw([torch.arange(20)], CPU))[0], pixels)


@pytest.mark.parametrize(
    ("asked", "dataset", "expected"),
    [
        (("crop", None, "auto"), "cifar10", Recipe(4, True, False)),
        (("crop", None, "auto"), "torch/mnist", Recipe(4, False, False)),
        (("crop", 0, "no"), "cifar10", Recipe(0, False, False)),
        (("crop", 3, "alternate"), "cifar10", Recipe(3, "alternate", False)),
        (("resized-crop", None, "yes"), "cifar10", Recipe(0, True, True)),
        (("resized-crop", 3, "no"), "cifar10", Recipe(0, False, True)),
    ],
    ids=str,
)
def test_what_options_come_to(asked: tuple[str, int | None, str], dataset: str, expected: Recipe) -> None:
    found = recipe_of(*asked, dataset=dataset, shape=(3, 32, 32))
    assert found == expected
    assert found.changes == (found != Recipe(0, False, False))
