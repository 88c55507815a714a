"""Pictures of many sizes as images of one: squares for scoring, random resized crops for training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from lptool.data import images as images_module
from lptool.data import pictures
from lptool.data.dataset import load_data
from lptool.data.images import Images, InMemory, Streamed
from lptool.data.pictures import Pictures, decoded_pictures
from lptool.data.sources import load_parts
from lptool.errors import DataError

CPU = torch.device("cpu")
SIDE = 32


def pixels_and_labels(images: Images, batch: int = 512) -> tuple[Tensor, list[int]]:
    batches = list(images.raw(torch.arange(len(images)).split(batch), CPU))
    return torch.cat([pixels for pixels, _ in batches]), torch.cat([labels for _, labels in batches]).tolist()


def crops(images: Images, seed: int, batch: int = 512) -> Tensor:
    found = images.resized_crops(seed)
    assert found is not None
    return pixels_and_labels(found, batch)[0]


def train_part(image_folder: Path) -> Images:
    return load_parts(f"folder:{image_folder}", None, SIDE).train


def test_real_files_of_every_kind_become_squares_of_one_size(image_folder: Path) -> None:
    parts = load_parts(f"folder:{image_folder}", None, SIDE)
    assert parts.val is not None
    for images in (parts.train, parts.val, parts.test):
        pixels, labels = pixels_and_labels(images)
        assert (pixels.dtype, list(pixels.shape)) == (torch.uint8, [24, 3, SIDE, SIDE])
        assert labels == [0] * 8 + [1] * 8 + [2] * 8
        grey = pixels[[0, 8, 16]]
        assert torch.equal(grey[:, 0], grey[:, 2])


# Random resized crops


def test_a_crop_is_the_one_that_timm_draws_with_the_seed_of_the_image(image_folder: Path) -> None:
    from timm.data.transforms import RandomResizedCropAndInterpolation as Crop

    folder = ImageFolder(str(image_folder / "train"))
    got = crops(train_part(image_folder), seed=7)
    for index, (picture, _) in enumerate(folder):
        random.seed(int(np.random.SeedSequence([7, index]).generate_state(1)[0]))
        top, left, tall, wide = Crop.get_params(picture, (0.08, 1), (3 / 4, 4 / 3))
        box = picture.crop((left, top, left + wide, top + tall))
        expected = np.asarray(box.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        assert np.array_equal(got[index].permute(1, 2, 0), expected)


class Wide(Dataset[tuple[Image.Image, int]]):
    """One picture, three times as wide as high, that is brighter the farther to the right."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.broadcast_to(np.arange(180, dtype=np.uint8), (60, 180)).copy()), 5


def test_crops_are_of_the_whole_picture_and_grey_pictures_stay_grey() -> None:
    """The centre square that is scored begins at column 60 and ends at 120."""
    images = decoded_pictures({"train": Wide()}, 20)["train"]
    squared, labels = pixels_and_labels(images)
    assert (squared.min() >= 60, squared.max() <= 120, labels) == (True, True, [5])
    seen = torch.cat([crops(images, seed) for seed in range(40)])
    assert list(seen.shape) == [40, 1, 20, 20]
    assert seen.min() < 15
    assert seen.max() > 165


def test_another_seed_crops_every_picture_anew(image_folder: Path) -> None:
    images = train_part(image_folder)
    one, again, other = crops(images, 1), crops(images, 1), crops(images, 2)
    assert torch.equal(one, again)
    assert not (one == other).flatten(1).all(1).any()


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python ≥ 3.12 under pytest's own threads
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of fewer cores
def test_a_crop_does_not_depend_on_workers_batches_or_the_part_that_asks(
    workers: int, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = train_part(image_folder)
    whole = crops(images, 3)
    monkeypatch.setattr(images_module, "_workers", lambda batches: workers)
    assert torch.equal(crops(images, 3, batch=5), whole)
    few = torch.tensor([20, 3, 11])
    assert torch.equal(crops(images.subset(few), 3, batch=2), whole[few])
    assert torch.equal(crops(images.to(CPU).subset(few).subset(torch.tensor([2])), 3), whole[[11]])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_callers_random_numbers_go_on_as_if_nothing_had_been_cropped(
    workers: int, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "_workers", lambda batches: workers)
    images = train_part(image_folder)

    def drawn() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = drawn()
    seed()
    crops(images, 0)
    assert drawn() == expected


def test_pictures_that_stream_and_pictures_in_memory_give_the_same_crops(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = load_data(f"folder:{image_folder}", image_size=SIDE)
    monkeypatch.setattr(pictures, "IN_MEMORY_BYTES", 1)
    stream = load_data(f"folder:{image_folder}", image_size=SIDE)
    assert (type(memory.train), type(stream.train)) == (InMemory, Streamed)
    assert torch.equal(crops(memory.train, 4), crops(stream.train, 4))


def test_crops_keep_to_the_training_images_where_val_was_split_off(image_folder: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).symlink_to(image_folder / part)
    data = load_data(f"folder:{tmp_path}", image_size=SIDE, val_fraction=0.25)
    whole, labels = pixels_and_labels(load_parts(f"folder:{tmp_path}", None, SIDE).train)
    train, train_labels = pixels_and_labels(data.train)
    at = [int((whole == one).flatten(1).all(1).nonzero()[0]) for one in train]
    cropped = data.train.resized_crops(0)
    assert cropped is not None
    assert len(cropped) == len(data.train) == 18
    every = crops(train_part(image_folder), 0)
    got, got_labels = pixels_and_labels(cropped)
    assert torch.equal(got, every[at])
    assert got_labels == train_labels == [labels[index] for index in at]


def test_pixels_without_pictures_cannot_be_cropped_so() -> None:
    assert load_parts("digits", None, None).train.resized_crops(0) is None


# What goes wrong


class Damaged(Wide):
    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        raise OSError("broken data stream")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_damaged_file_is_named_whoever_decodes_it(
    workers: int, image_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(images_module, "_workers", lambda batches: workers)
    file = tmp_path / "a" / "x.jpg"
    file.parent.mkdir()
    file.write_bytes((image_folder / "train" / "sky" / "7.jpg").read_bytes()[:200])
    sources: list[tuple[Any, str]] = [(ImageFolder(str(tmp_path)), rf"{file}: .*"), (Damaged(), "image 0: broken")]
    for source, message in sources:
        with pytest.raises(DataError, match=f"an image cannot be decoded: .*{message}") as caught:
            pixels_and_labels(Streamed(Pictures(source, 8, grey=False), torch.arange(1)))
        assert "\n" not in str(caught.value)
