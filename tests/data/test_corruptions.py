"""Corruptions made here, and those read from the standard files."""

import io
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as v2

from lptool.data.corruptions import (
    EXTRA,
    GENERATED,
    KINDS,
    SEVERITIES,
    STANDARD,
    Corrupted,
    Corruptions,
    generated,
    standard,
    standard_folder,
)
from lptool.data.dataset import Data
from lptool.data.images import InMemory
from lptool.errors import DataError

CPU = torch.device("cpu")
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 8, 16), (3, 64, 64)]


def smooth(n: int, shape: tuple[int, int, int]) -> InMemory:
    """Coloured clouds: natural images are smooth too."""
    channels, height, width = shape
    coarse = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    fine = F.interpolate(coarse, (height, width), mode="bicubic").mul(255).clamp(0, 255).byte()
    return InMemory(fine, torch.arange(n) % 10)


def data(test: InMemory, num_classes: int = 10) -> Data:
    shape = (test.images.shape[1], test.images.shape[2], test.images.shape[3])
    return Data("clouds", test, test, test, num_classes, shape, (0.5,) * shape[0], (0.5,) * shape[0], {})


def applied(kind: str, severity: int, images: InMemory, batch: int = 7) -> Tensor:
    corrupted = Corrupted(images, torch.arange(len(images)), kind, severity)
    return torch.cat([found for found, _ in corrupted.raw(torch.arange(len(images)).split(batch), CPU)])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_in_bytes_out_and_the_images_stay_as_they_are(kind: str, shape: tuple[int, int, int]) -> None:
    images = smooth(3, shape)
    before = images.images.clone()
    for severity in SEVERITIES:
        found = applied(kind, severity, images)
        assert (found.dtype, found.shape) == (torch.uint8, before.shape)
        assert torch.equal(images.images, before)


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize("kind", KINDS)
def test_each_severity_changes_images_more_than_the_one_before(kind: str, shape: tuple[int, int, int]) -> None:
    images = smooth(20, shape)
    changes = [float((applied(kind, s, images).float() - images.images.float()).abs().mean()) for s in SEVERITIES]
    assert changes[0] > 0
    assert all(before < after for before, after in pairwise(changes)), changes


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_corrupted_alike_in_any_run_batch_and_order(kind: str) -> None:
    images = smooth(10, (3, 16, 16))
    whole = applied(kind, 3, images, batch=10)
    assert torch.equal(applied(kind, 3, images, batch=3), whole)
    order = torch.tensor([7, 2, 5])
    part = Corrupted(images, torch.arange(10), kind, 3).subset(order)
    (found, labels), *_ = part.raw([torch.tensor([2, 0])], CPU)
    assert torch.equal(found, whole[[5, 7]])
    assert labels.tolist() == [5, 7]


@pytest.mark.parametrize("kind", ["gaussian_noise", "elastic"])
def test_each_image_and_each_seed_has_its_own_randomness(kind: str) -> None:
    one = smooth(1, (3, 16, 16))
    same = InMemory(one.images.expand(2, -1, -1, -1), torch.tensor([0, 0]))
    first, second = applied(kind, 5, same)
    assert not torch.equal(first, second)
    (other, _), *_ = Corrupted(same, torch.arange(2), kind, 5, seed=1).raw([torch.arange(2)], CPU)
    assert not torch.equal(other[0], first)
    assert not torch.equal(other[0], second)


def test_noise_is_as_wide_as_its_table_says() -> None:
    grey = InMemory(torch.full((20, 1, 32, 32), 128, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64))
    for severity, sigma in zip(SEVERITIES[:3], KINDS["gaussian_noise"][1], strict=False):
        noise = applied("gaussian_noise", severity, grey).float() - 128
        assert float(noise.std()) == pytest.approx(255 * sigma, rel=0.03)
        assert abs(float(noise.mean())) < 1


@pytest.mark.parametrize("value", [0, 255])
def test_noise_beyond_black_and_white_is_black_and_white(value: int) -> None:
    flat = InMemory(torch.full((20, 1, 32, 32), value, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64))
    away = (applied("gaussian_noise", 1, flat).float() - value).abs()
    assert float((away == 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(away.max()) < 6 * 255 * KINDS["gaussian_noise"][1][0]


def test_blur_turns_an_edge_into_the_normal_distribution() -> None:
    """Black to the left, white from the middle on; far from the border, which is mirrored."""
    side = 64
    edge = (torch.arange(side) >= side // 2).byte().mul(255).expand(1, 1, side, side)
    for severity, share in zip(SEVERITIES, KINDS["gaussian_blur"][1], strict=True):
        row = applied("gaussian_blur", severity, InMemory(edge, torch.tensor([0])))[0, 0, side // 2]
        for place in range(side // 4, 3 * side // 4):
            expected = 255 * NormalDist(side / 2 - 0.5, share * side).cdf(place)
            assert abs(int(row[place]) - expected) < 4, (severity, place)


def test_a_shift_is_a_share_of_the_side() -> None:
    """A ramp of one grey level per pixel: what changes, away from the border, is how far a pixel came that way."""
    for side in (32, 64):
        squares = []
        for ramp in (torch.arange(side).expand(side, side), torch.arange(side).expand(side, side).T):
            images = ramp.expand(40, 1, side, side).byte()
            found = applied("elastic", 5, InMemory(images, torch.zeros(40, dtype=torch.int64)))
            moved = (found.float() - images.float())[..., side // 4 : -side // 4, side // 4 : -side // 4]
            squares.append(float(moved.square().mean()))
        assert sum(squares) ** 0.5 == pytest.approx(0.05 * side, rel=0.15)


def test_jpeg_is_pillows() -> None:
    images = smooth(2, (3, 16, 16))
    stream = io.BytesIO()
    Image.fromarray(images.images[1].permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=10)
    assert np.array_equal(applied("jpeg", 5, images)[1].permute(1, 2, 0), np.asarray(Image.open(stream)))


@pytest.mark.parametrize(
    ("kind", "adjust"),
    [
        ("brightness", v2.adjust_brightness),
        ("contrast", v2.adjust_contrast),
        ("saturation", v2.adjust_saturation),
    ],
)
def test_the_rest_is_torchvisions(kind: str, adjust: Callable[[Tensor, float], Tensor]) -> None:
    images = smooth(2, (3, 16, 16))
    for severity in SEVERITIES:
        assert torch.equal(applied(kind, severity, images), adjust(images.images, KINDS[kind][1][severity - 1]))


def test_every_kind_at_every_severity_and_colour_only_where_there_is_some() -> None:
    for channels, kinds in ((3, list(KINDS)), (1, [kind for kind in KINDS if kind != "saturation"])):
        images = smooth(4, (channels, 16, 16))
        found = generated(data(images), CPU)
        assert found.source == GENERATED
        assert [(s.name, s.severity) for s in found.sets] == [(k, s) for k in kinds for s in SEVERITIES]
        made = found.sets[3].images()
        assert isinstance(made, InMemory)
        assert torch.equal(made.images, applied(*("gaussian_noise", 4), images))
        assert torch.equal(made.labels, images.labels)


def test_images_of_other_colours_are_refused() -> None:
    with pytest.raises(DataError, match="grey or RGB images, found 2 channels"):
        generated(data(smooth(2, (2, 8, 8))), CPU)


ROWS = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The standard files, four rows a severity; the first pixel says where an image comes from."""
    place = tmp_path / "CIFAR-10-C"
    place.mkdir()
    for number, name in enumerate((*STANDARD, EXTRA[0])):
        images = np.zeros((5 * ROWS, 32, 32, 3), np.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1], images[:, 1, 0, 2] = number, np.arange(5 * ROWS), 9
        np.save(place / f"{name}.npy", images)
    np.save(place / "labels.npy", np.arange(5 * ROWS, dtype=np.uint8) % 10)
    return place


def opened(folder: Path, num_classes: int = 10) -> Corruptions:
    return standard(folder, data(smooth(2, (3, 32, 32)), num_classes), ROWS)


def test_a_severity_is_its_rows(folder: Path) -> None:
    found = opened(folder)
    assert found.source == "CIFAR-10-C"
    assert [s.name for s in found.sets[::5]] == [*STANDARD, EXTRA[0]]
    assert [s.extra for s in found.sets[::5]] == [False] * 15 + [True]
    for place, part in enumerate(found.sets):
        images = part.images()
        rows = np.arange(part.severity * ROWS - ROWS, part.severity * ROWS)
        assert isinstance(images, InMemory)
        assert images.images.shape == (ROWS, 3, 32, 32)
        assert (images.images[:, 0, 0, 0] == place // 5).all()
        assert images.images[:, 1, 0, 0].tolist() == rows.tolist()
        assert (images.images[:, 2, 1, 0] == 9).all()
        assert images.labels.tolist() == (rows % 10).tolist()
        assert images.labels.dtype == torch.int64


def test_the_other_standard_set_has_a_hundred_classes(folder: Path) -> None:
    assert opened(folder, 100).source == "CIFAR-100-C"
    with pytest.raises(DataError, match="for the 10 or 100 classes of CIFAR, but clouds has 7"):
        opened(folder, 7)


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fewer_rows(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def floats(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float32))


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"anything": 1}))


def pickled(path: Path) -> None:
    np.save(path, np.array([{}] * 5 * ROWS, dtype=object), allow_pickle=True)


def other_classes(path: Path) -> None:
    np.save(path, np.arange(5 * ROWS))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("fog", remove, r"CIFAR-10-C: lacks fog\.npy; expected labels\.npy and the 15 standard files"),
        ("labels", remove, r"lacks labels\.npy"),
        ("fog", cut, r"fog\.npy: not a whole \.npy file"),
        ("fog", empty, r"fog\.npy: not a whole \.npy file"),
        ("fog", fewer_rows, r"fog\.npy: expected uint8 \[20, 32, 32, 3\], found uint8 \[19, 32, 32, 3\]"),
        ("fog", floats, r"fog\.npy: expected uint8 \[20, 32, 32, 3\], found float32 \[20, 32, 32, 3\]"),
        ("fog", pickled, r"fog\.npy: not a whole \.npy file"),
        ("fog", a_pickle, r"fog\.npy: not a whole \.npy file"),
        ("gaussian_blur", fewer_rows, r"gaussian_blur\.npy: expected uint8"),
        ("labels", fewer_rows, r"labels\.npy: expected integers \[20\], found uint8 \[19\]"),
        ("labels", floats, r"labels\.npy: expected integers \[20\], found float32 \[20\]"),
        ("labels", other_classes, r"labels\.npy: labels go from 0 to 19, expected 0 to 9"),
    ],
)
def test_a_damaged_folder_is_one_line(folder: Path, name: str, damage: Callable[[Path], None], message: str) -> None:
    damage(folder / f"{name}.npy")
    with pytest.raises(DataError, match=message) as error:
        opened(folder)
    assert "\n" not in str(error.value)


def test_the_real_files_have_ten_thousand_rows(folder: Path) -> None:
    with pytest.raises(DataError, match=r"expected integers \[50000\], found uint8 \[20\]"):
        standard(folder, data(smooth(2, (3, 32, 32))))


def test_the_folder_is_the_one_named_or_in_it(folder: Path, tmp_path: Path) -> None:
    assert standard_folder(folder) == folder
    assert standard_folder(folder.parent) == folder
    assert standard_folder(None) is None
    renamed = folder.rename(tmp_path / "mine")
    assert standard_folder(renamed) == renamed
    assert standard_folder(tmp_path) is None
