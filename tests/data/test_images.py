"""Streaming and statistics of images."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from lptool.data import images as images_module
from lptool.data.images import (
    Images,
    InMemory,
    Mapped,
    Streamed,
    channel_statistics,
    decoded,
    digest_of_images,
    image_shape,
    sample,
)
from lptool.errors import DataError

CPU = torch.device("cpu")


def some_images(count: int, channels: int = 3, height: int = 6, width: int = 5, seed: int = 0) -> InMemory:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    return InMemory(pixels, torch.arange(count))


def streamed(images: InMemory) -> Streamed:
    return Streamed(TensorDataset(images.images, images.labels), torch.arange(len(images)))


Make = Callable[[InMemory], Images]
BOTH_FORMS = [pytest.param(lambda images: images, id="memory"), pytest.param(streamed, id="streamed")]


@pytest.mark.parametrize("count", [7, pytest.param(600, id="600-by-workers")])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python ≥ 3.12 under pytest's own threads
def test_streamed_and_in_memory_give_the_same_batches(count: int) -> None:
    memory = some_images(count, height=3, width=3)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1)).split(max(2, count // 3))
    for (a, a_labels), (b, b_labels) in zip(memory.raw(order, CPU), streamed(memory).raw(order, CPU), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a_labels, b_labels)
        assert (b.dtype, b_labels.dtype) == (torch.uint8, torch.int64)


@pytest.mark.parametrize("make", BOTH_FORMS)
def test_subset_of_a_subset_indexes_the_subset(make: Make) -> None:
    images = make(some_images(10))
    inner = images.subset(torch.tensor([9, 4, 7, 2])).subset(torch.tensor([3, 0]))
    _, labels = next(inner.raw([torch.tensor([0, 1])], CPU))
    assert labels.tolist() == [2, 9]
    assert len(inner) == 2
    assert len(inner.to(CPU)) == 2


@pytest.mark.parametrize("make", BOTH_FORMS)
@pytest.mark.parametrize("count", [1, 5, 513])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_channel_statistics_equal_numpy(make: Make, count: int) -> None:
    """513 images are more than one batch of the running sums."""
    images = some_images(count, height=4, width=3)
    scaled = images.images.numpy() / 255.0
    mean, std = channel_statistics(make(images))
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 2, 3)), rtol=1e-9)


def test_a_constant_channel_can_be_divided_by() -> None:
    images = some_images(4)
    images.images[:, 1] = 77
    mean, std = channel_statistics(images)
    assert mean[1] == pytest.approx(77 / 255)
    assert std[1] == pytest.approx(1e-3)


def test_statistics_of_a_stream_come_from_a_seeded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "STATISTICS_IMAGES", 6)
    images = some_images(30)
    assert channel_statistics(streamed(images)) == channel_statistics(sample(images, 6, seed=0))
    assert channel_statistics(streamed(images)) != channel_statistics(images)


def test_sample_is_seeded_without_repeats_and_takes_all_where_there_are_no_more() -> None:
    images = some_images(50)

    def labels(size: int, seed: int) -> list[int]:
        chosen = sample(images, size, seed)
        assert isinstance(chosen, InMemory)
        return chosen.labels.tolist()

    assert labels(20, seed=1) == labels(20, seed=1)
    assert labels(20, seed=1) != labels(20, seed=2)
    assert len(set(labels(20, seed=1))) == 20
    assert labels(99, seed=1) == list(range(50))


@pytest.mark.parametrize("make", BOTH_FORMS)
def test_image_shape_is_channels_height_width(make: Make) -> None:
    assert image_shape(make(some_images(3, channels=2, height=4, width=7))) == (2, 4, 7)


def test_decoding_once_gives_the_same_images_where_they_fit() -> None:
    images = some_images(20)
    stream = streamed(images)
    kept = decoded(stream, CPU, limit=20 * 3 * 6 * 5)
    assert isinstance(kept, InMemory)
    assert torch.equal(kept.images, images.images)
    assert torch.equal(kept.labels, images.labels)
    assert decoded(stream, CPU, limit=20 * 3 * 6 * 5 - 1) is stream
    assert decoded(images, CPU, limit=0) is images


def test_a_stream_can_be_left_early_and_gone_over_again() -> None:
    """With workers, as a search does that stops a scoring."""
    stream = streamed(some_images(600))
    batches = torch.arange(600).split(50)
    for _ in range(2):
        _, labels = next(iter(stream.raw(batches, CPU)))
        assert labels.tolist() == list(range(50))
    assert sum(len(labels) for _, labels in stream.raw(batches, CPU)) == 600


def test_a_digest_tells_images_and_labels_apart_and_does_not_decode() -> None:
    images = some_images(5)
    other = InMemory(images.images + 1, images.labels)
    relabelled = InMemory(images.images, images.labels + 1)
    digests = [digest_of_images(each) for each in (images, some_images(5), other, relabelled)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert digest_of_images(streamed(images)) is None


# Workers


class Watching(Dataset[tuple[Tensor, int]]):
    """Gives, in place of a label, whether Ctrl-C is kept from the process that decodes."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(1, 1, 1, dtype=torch.uint8), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_ctrl_c_reaches_this_process_but_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "_workers", lambda batches: 1)
    seen = [bool(blocked) for _, blocked in Streamed(Watching(), torch.arange(1)).raw([torch.tensor([0])], CPU)]
    assert seen == [True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


class Killed(Dataset[tuple[Tensor, int]]):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_that_is_killed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel does it where memory runs out."""
    monkeypatch.setattr(images_module, "_workers", lambda batches: 1)
    with pytest.raises(DataError, match=r"a process that decodes images was killed \(.*/dev/shm") as caught:
        list(Streamed(Killed(), torch.arange(1)).raw([torch.tensor([0])], CPU))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cores", "ranks", "batches", "expected"),
    [(64, 1, 100, 16), (8, 1, 100, 8), (8, 4, 100, 2), (2, 4, 100, 1), (8, 1, 3, 3)],
)
def test_workers_share_the_cores_with_other_ranks(
    cores: int, ranks: int, batches: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "usable_cores", lambda: cores)
    monkeypatch.setattr(images_module, "local_ranks", lambda: ranks)
    assert images_module._workers([list(range(200))] * batches) == expected
    assert images_module._workers([list(range(511))]) == 0


@pytest.mark.parametrize("make", BOTH_FORMS)
def test_without_pictures_there_are_no_resized_crops(make: Make) -> None:
    assert make(some_images(3)).resized_crops(0) is None


# Images of which some are decoded


class Counting(Dataset[tuple[Tensor, int]]):
    """Notes which images are asked for."""

    def __init__(self, images: InMemory) -> None:
        self.images, self.asked = images, list[int]()

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.asked.append(index)
        return self.images.images[index], int(self.images.labels[index])


def mapped(count: int, known: list[int]) -> tuple[InMemory, Counting, Mapped]:
    """Images, of which those `known` lie in a file in this order, and what notes the others."""
    memory = some_images(count)
    source, rows = Counting(memory), torch.full([count], -1)
    rows[known] = torch.arange(len(known))
    pixels = memory.images[known].numpy()
    pixels.flags.writeable = False
    return memory, source, Mapped(Streamed(source, torch.arange(count)), rows, pixels, memory.labels[known])


@pytest.mark.parametrize("known", [[], [3], [5, 0, 9], list(range(10)), list(range(9, -1, -1))])
def test_only_what_is_not_decoded_yet_is_decoded(known: list[int]) -> None:
    memory, source, images = mapped(10, known)
    order = torch.tensor([7, 3, 0, 5, 9, 1, 2, 8, 6, 4]).split([3, 1, 4, 2])
    for (a, a_labels), (b, b_labels) in zip(memory.raw(order, CPU), images.raw(order, CPU), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a_labels, b_labels)
        assert (b.dtype, b_labels.dtype) == (torch.uint8, torch.int64)
    assert sorted(source.asked) == sorted(set(range(10)) - set(known))
    part = torch.tensor([9, 4, 3])
    [(a, a_labels)], [(b, b_labels)] = (x.subset(part).raw([torch.arange(3)], CPU) for x in (memory, images))
    assert torch.equal(a, b)
    assert torch.equal(a_labels, b_labels)
    assert images.whole == (len(known) == 10)
    assert len(images.subset(part)) == 3


def test_what_is_mapped_is_not_copied_into_memory_again_and_counts_as_streaming() -> None:
    _, source, images = mapped(4, [2, 0])
    part = images.subset(torch.tensor([0, 2]))
    assert decoded(part, CPU) is part
    assert source.asked == []
    assert isinstance(decoded(images, CPU), InMemory)
    assert digest_of_images(images) is None


def test_crops_that_are_decoded_are_those_of_one_seed() -> None:
    memory, _, images = mapped(5, [])
    crops = Mapped(images.source, torch.arange(5), memory.images.numpy(), memory.labels)
    images = replace(images, crops={3: crops})
    found = images.subset(torch.tensor([4, 1])).resized_crops(3)
    assert isinstance(found, Mapped)
    assert found.rows.tolist() == [4, 1]
    assert images.resized_crops(4) is None
