"""The split into train and val, normalisation, and batches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lptool.data.dataset import Data, load_data
from lptool.data.images import Images, InMemory, Streamed
from lptool.errors import DataError

CPU = torch.device("cpu")
TOTAL = 40


@pytest.fixture
def npz(tmp_path: Path) -> str:
    """40 training images of 5×4 pixels; image i has the label i, so that it can be found again."""
    return write_npz(tmp_path / "a.npz")


def write_npz(path: Path, **more: Any) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (TOTAL, 5, 4, 3), dtype=np.uint8)
    arrays = {"train_images": pixels, "train_labels": np.arange(TOTAL)}
    np.savez(path, **arrays, test_images=pixels[:3], test_labels=np.arange(3), **more)
    return f"npz:{path}"


def identities(images: Images) -> list[int]:
    assert isinstance(images, InMemory)
    return images.labels.tolist()


# The split


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.97])
def test_split_parts_every_image_once(npz: str, fraction: float) -> None:
    data = load_data(npz, val_fraction=fraction)
    assert sorted(identities(data.train) + identities(data.val)) == list(range(TOTAL))
    assert len(data.val) == round(TOTAL * fraction)
    assert identities(data.test) == [0, 1, 2]


def test_split_is_seeded_and_its_hash_tells_seeds_fractions_and_sizes_apart(npz: str, tmp_path: Path) -> None:
    first, again = load_data(npz), load_data(npz)
    assert identities(first.val) == identities(again.val)
    assert first.split == again.split
    longer = np.zeros((1, 5, 4, 3), np.uint8)
    others = [
        load_data(npz, split_seed=1),
        load_data(npz, val_fraction=0.2),
        load_data(write_npz(tmp_path / "b.npz", val_images=longer, val_labels=np.zeros(1, int))),
    ]
    assert identities(others[0].val) != identities(first.val)
    assert len({data.split["hash"] for data in (first, *others)}) == 4
    assert (others[0].split["seed"], others[1].split["fraction"]) == (1, 0.2)


def test_the_same_indices_of_another_training_set_have_another_hash(npz: str, tmp_path: Path) -> None:
    """Val's indices alone would not do: one image held out of 1 + 40 may be the one held out of 40."""
    pixels = np.zeros((TOTAL + 1, 5, 4, 3), np.uint8)
    labels = np.arange(TOTAL + 1)
    np.savez(tmp_path / "b", train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels)

    def held_out(name: str, seed: int) -> tuple[tuple[int, ...], str]:
        data = load_data(name, val_fraction=1 / TOTAL, split_seed=seed)
        return tuple(identities(data.val)), data.split["hash"]

    ours = dict(held_out(npz, seed) for seed in range(60))
    theirs = dict(held_out(f"npz:{tmp_path}/b.npz", seed) for seed in range(60))
    shared = ours.keys() & theirs.keys()
    assert shared
    assert all(ours[indices] != theirs[indices] for indices in shared)


def test_a_val_part_of_its_own_is_taken_and_nothing_is_held_out(tmp_path: Path) -> None:
    name = write_npz(tmp_path / "a.npz", val_images=np.zeros((2, 5, 4, 3), np.uint8), val_labels=np.array([7, 8]))
    data = load_data(name, val_fraction=0.5)
    assert (identities(data.train), identities(data.val)) == (list(range(TOTAL)), [7, 8])
    assert data.split["hash"] == "given"


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.999, 1.0, 1.5, -0.1])
def test_a_split_that_leaves_a_part_empty_is_refused(npz: str, fraction: float) -> None:
    with pytest.raises(DataError, match=f"cannot hold out {fraction:g} of 40 training images"):
        load_data(npz, val_fraction=fraction)


# Normalisation


def test_normalisation_is_measured_on_train_alone(npz: str) -> None:
    data = load_data(npz, val_fraction=0.5)
    assert isinstance(data.train, InMemory)
    scaled = data.train.images.numpy() / 255
    np.testing.assert_allclose(data.mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, scaled.std(axis=(0, 2, 3)), rtol=1e-9)


def test_normalisation_given_is_taken(npz: str) -> None:
    data = load_data(npz, normalisation=([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]))
    assert (data.mean, data.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_description_survives_json_and_is_enough_to_load_the_same_data(npz: str) -> None:
    data = load_data(npz, val_fraction=0.2, split_seed=5)
    told = json.loads(json.dumps(data.describe()))
    again = load_data(
        told["name"],
        val_fraction=told["split"]["fraction"],
        split_seed=told["split"]["seed"],
        normalisation=(told["mean"], told["std"]),
    )
    assert again.describe() == data.describe()
    assert identities(again.val) == identities(data.val)
    assert told["image_shape"] == [3, 5, 4]


def test_image_size_is_passed_on(npz: str) -> None:
    assert load_data(npz, image_size=6).shape == (3, 6, 6)


# Batches


def some_data(count: int) -> Data:
    pixels = torch.randint(256, (count, 2, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = InMemory(pixels, torch.arange(count))
    return Data("some", images, images, images, count, (2, 3, 3), (0.4, 0.6), (0.2, 0.3), {})


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 9), (10, 5), (10, 4), (11, 4), (129, 128), (7, 100)])
def test_batches_are_equal_to_within_one_image_and_never_too_large(count: int, size: int) -> None:
    data = some_data(count)
    lengths = [len(labels) for _, labels in data.batches(data.train, size, CPU)]
    assert sum(lengths) == count
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(lengths) == -(-count // size)


def test_batches_that_need_not_be_even_are_full_but_for_the_last(npz: str) -> None:
    data = load_data(npz)
    sizes = [len(labels) for _, labels in data.batches(data.train, 7, CPU, even=False)]
    assert sum(sizes) == len(data.train)
    assert set(sizes[:-1]) == {7}


def test_no_image_gives_no_batch() -> None:
    data = some_data(4)
    assert list(data.batches(data.train.subset(torch.tensor([], dtype=torch.long)), 2, CPU)) == []


def test_batches_are_normalised_and_channels_last() -> None:
    data = some_data(10)
    assert isinstance(data.train, InMemory)
    batches = list(data.batches(data.train, 4, CPU))
    mean, std = np.reshape([0.4, 0.6], (1, 2, 1, 1)), np.reshape([0.2, 0.3], (1, 2, 1, 1))
    expected = (data.train.images.numpy() / 255 - mean) / std
    np.testing.assert_allclose(torch.cat([images for images, _ in batches]), expected, atol=1e-5)
    for images, labels in batches:
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_batches_follow_the_order_given_and_augment_raw_pixels() -> None:
    data = some_data(10)
    order = torch.tensor([7, 3, 9, 1, 1])
    seen: list[Tensor] = []
    at: list[Tensor] = []

    def black(raw: Tensor, places: Tensor) -> Tensor:
        seen.append(raw)
        at.append(places)
        return torch.zeros_like(raw)

    chunks = torch.arange(5).split(2)
    batches = list(data.placed_batches(data.train, order, chunks, CPU, augment=black))
    assert torch.cat([labels for _, labels in batches]).tolist() == order.tolist()
    assert isinstance(data.train, InMemory)
    assert torch.equal(torch.cat(seen), data.train.images[order])
    assert torch.cat(at).tolist() == [0, 1, 2, 3, 4]
    for images, _ in batches:
        torch.testing.assert_close(images[:, 0], torch.full_like(images[:, 0], -0.4 / 0.2))


def test_streamed_data_gives_the_same_batches() -> None:
    data = some_data(10)
    assert isinstance(data.train, InMemory)
    pairs = [(data.train.images[i], i) for i in range(10)]
    streams = replace(data, train=Streamed(pairs, torch.arange(10))).to(CPU)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    ours = data.batches(data.train, 3, CPU, order=order)
    theirs = streams.batches(streams.train, 3, CPU, order=order)
    for (a, a_labels), (b, b_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a_labels, b_labels)


def test_a_folder_says_the_names_of_its_classes(image_folder: Path) -> None:
    assert load_data(f"folder:{image_folder}", image_size=8).describe()["class_names"] == ["flower", "sky", "temple"]


def test_a_data_set_without_names_says_none() -> None:
    assert "class_names" not in load_data("digits").describe()
