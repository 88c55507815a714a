"""Data sets by name, each read from files that the test lays out itself."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from torchvision import datasets

from lptool.data import pictures, sources
from lptool.data.images import Images, InMemory, Streamed
from lptool.data.sources import load_parts
from lptool.errors import DataError

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def only_what_the_test_lays_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data set installed on this machine, and no network, may be found."""
    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", tmp_path / "no-such-package")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def random_pixels(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels_of(images: Images) -> Array:
    """As the files hold them: [N, H, W, C]."""
    content, _ = next(images.raw([torch.arange(len(images))], torch.device("cpu")))
    return content.permute(0, 2, 3, 1).numpy()


def labels_of(images: Images) -> list[int]:
    _, labels = next(images.raw([torch.arange(len(images))], torch.device("cpu")))
    return labels.tolist()


def test_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(DataError, match=r"unknown data set 'cifra10'.*npz:FILE, folder:DIR.*Did you mean 'cifar10'\?"):
        load_parts("cifra10", None, None)


@pytest.mark.parametrize("name", ["npz:", "folder:", "", "digits:x"])
def test_half_a_name_is_unknown(name: str) -> None:
    with pytest.raises(DataError, match="unknown data set"):
        load_parts(name, None, None)


# digits


def test_digits_are_those_of_scikit_learn_parted_into_train_and_test() -> None:
    from sklearn.datasets import load_digits

    def rows(pixels: Array, labels: Array) -> Array:
        """One row per image and its label, sorted."""
        return np.array(sorted(np.column_stack([pixels.reshape(len(pixels), 64), labels]).astype(int).tolist()))

    parts, real = load_parts("digits", None, None), load_digits()
    pixels = np.concatenate([pixels_of(parts.train), pixels_of(parts.test)])
    labels = np.array(labels_of(parts.train) + labels_of(parts.test))
    assert np.array_equal(rows(pixels, labels), rows(np.rint(real.images * 255 / 16), real.target))
    assert len(parts.test) == round(1797 * 0.2)
    assert parts.num_classes == 10
    assert parts.val is None


# Fashion-MNIST: the four gzipped IDX files, laid out by hand


def idx(content: Array) -> bytes:
    lengths = b"".join(struct.pack(">I", length) for length in content.shape)
    return b"\x00\x00\x08" + bytes([content.ndim]) + lengths + content.tobytes()


def lay_out_fashion_mnist(folder: Path, *, zipped: bool = True) -> dict[str, tuple[Array, Array]]:
    folder.mkdir(parents=True)
    written = {}
    for part, stem, count in (("train", "train", 12), ("test", "t10k", 5)):
        images, labels = random_pixels(count, 28, 28, seed=count), random_pixels(count, seed=count) % 10
        for name, content in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(content)))
            else:
                (folder / name).write_bytes(idx(content))
        written[part] = images, labels
    return written


@pytest.mark.parametrize("where", ["debian", ".", "FashionMNIST/raw"])
def test_fashion_mnist_is_read_from_the_debian_package_or_the_data_dir(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "data" / where
    written = lay_out_fashion_mnist(place)
    if where == "debian":
        monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", place)
    parts = load_parts("fashion-mnist", None if where == "debian" else tmp_path / "data", None)
    for images, (pixels, labels) in ((parts.train, written["train"]), (parts.test, written["test"])):
        assert np.array_equal(pixels_of(images), pixels[..., None])
        assert labels_of(images) == labels.tolist()
    assert parts.num_classes == 10


def test_fashion_mnist_is_read_from_what_torchvision_unpacked(tmp_path: Path) -> None:
    written = lay_out_fashion_mnist(tmp_path / "FashionMNIST" / "raw", zipped=False)
    parts = load_parts("fashion-mnist", tmp_path, None)
    assert np.array_equal(pixels_of(parts.train), written["train"][0][..., None])
    assert labels_of(parts.test) == written["test"][1].tolist()


DAMAGE = {
    "zip cut off": lambda zipped: zipped[:-20],
    "not zipped": gzip.decompress,
    "empty": lambda zipped: b"",
    "data cut off": lambda zipped: gzip.compress(gzip.decompress(zipped)[:-1]),
    "header cut off": lambda zipped: gzip.compress(gzip.decompress(zipped)[:6]),
    "nothing zipped": lambda zipped: gzip.compress(b""),
    "bits flipped": lambda zipped: zipped[:40] + bytes(255 - b for b in zipped[40:60]) + zipped[60:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_idx_file_is_named(damage: str, tmp_path: Path) -> None:
    lay_out_fashion_mnist(tmp_path / "data")
    file = tmp_path / "data" / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(DataError, match=rf"{file}: not a whole gzipped IDX file \(.*install or download it again$"):
        load_parts("fashion-mnist", tmp_path / "data", None)


def test_idx_file_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    lay_out_fashion_mnist(tmp_path / "data")
    (tmp_path / "data" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(random_pixels(12))))
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        load_parts("fashion-mnist", tmp_path / "data", None)


def test_idx_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    lay_out_fashion_mnist(tmp_path / "data")
    (tmp_path / "data" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(random_pixels(5) % 10)))
    with pytest.raises(DataError, match="train-labels-idx1-ubyte"):
        load_parts("fashion-mnist", tmp_path / "data", None)


# torchvision


class Offline:
    """A torchvision data set on a machine that has neither the files nor a network."""

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        if download:
            raise URLError(OSError(-2, "Name or service not known"))
        raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")


@pytest.mark.parametrize(
    ("name", "attribute"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100"), ("fashion-mnist", "FashionMNIST")]
)
@pytest.mark.parametrize("given", [True, False])
def test_missing_data_says_in_one_line_what_where_and_how(
    name: str, attribute: str, given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, attribute, Offline)
    with pytest.raises(DataError) as caught:
        load_parts(name, tmp_path / "mine" if given else None, None)
    message = str(caught.value)
    assert f"data set {name} not found" in message
    assert str(tmp_path / "mine" if given else tmp_path / "cache" / "lptool") in message
    assert "Name or service not known" in message
    assert "--data-dir" in message
    assert ("dataset-fashion-mnist" in message) == (name == "fashion-mnist")
    assert "\n" not in message


def test_download_that_fails_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(root: Path, train: bool, download: bool) -> None:
        raise TimeoutError if download else RuntimeError

    monkeypatch.setattr(datasets, "CIFAR10", silent)
    with pytest.raises(DataError, match="--data-dir"):
        load_parts("cifar10", tmp_path, None)


def test_download_happens_only_where_the_files_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    present: dict[bool, bool] = {True: True, False: False}
    calls = []

    class Cifar10:
        classes = tuple("abc")

        def __init__(self, root: Path, train: bool, download: bool) -> None:
            calls.append((train, download))
            if not present[train] and not download:
                raise RuntimeError("Dataset not found")
            self.data, self.targets = random_pixels(4, 2, 2, 3), [2, 0, 1, 1]

    monkeypatch.setattr(datasets, "CIFAR10", Cifar10)
    parts = load_parts("cifar10", tmp_path, None)
    assert calls == [(True, False), (False, False), (False, True)]
    assert parts.num_classes == 3


def test_cifar10_batches_are_read_the_right_way_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The python batches hold red, green and blue planes in rows; torchvision checks their md5 sums."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    planes = {part: random_pixels(6, 3, 32, 32, seed=seed) for seed, part in enumerate(("train", "test"))}

    def write(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for part, pixels in planes.items():
        digest = write(part, {"data": pixels.reshape(6, -1), "labels": [0, 1, 2, 3, 4, 5]})
        monkeypatch.setattr(datasets.CIFAR10, f"{part}_list", [[part, digest]])
    digest = write("meta", {"label_names": list("abcdefghij")})
    meta = {"filename": "meta", "key": "label_names", "md5": digest}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)

    parts = load_parts("cifar10", tmp_path, None)
    assert isinstance(parts.train, InMemory)
    assert isinstance(parts.test, InMemory)
    assert np.array_equal(parts.train.images.numpy(), planes["train"])
    assert np.array_equal(parts.test.images.numpy(), planes["test"])
    assert labels_of(parts.train) == [0, 1, 2, 3, 4, 5]
    assert parts.num_classes == 10


# npz


def arrays(**changed: Any) -> dict[str, Any]:
    """Sound content of an .npz file, but for what is changed; None leaves an array out."""
    sound = {
        "train_images": random_pixels(6, 5, 4, 3),
        "train_labels": np.array([0, 1, 2, 3, 0, 1], np.uint8),
        "test_images": random_pixels(3, 5, 4, 3, seed=1),
        "test_labels": np.array([3, 2, 1]),
    }
    return {name: array for name, array in {**sound, **changed}.items() if array is not None}


def write_npz(path: Path, **changed: Any) -> dict[str, Any]:
    content = arrays(**changed)
    np.savez(path, **content)
    return content


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 1), (6, 5, 4, 3)])
def test_npz_is_read_as_written(shape: tuple[int, ...], tmp_path: Path) -> None:
    images = random_pixels(*shape)
    content = write_npz(tmp_path / "a.npz", train_images=images, test_images=images[:3])
    parts = load_parts(f"npz:{tmp_path}/a.npz", None, None)
    assert np.array_equal(pixels_of(parts.train), images.reshape(6, 5, 4, -1))
    assert labels_of(parts.train) == content["train_labels"].tolist()
    assert labels_of(parts.test) == content["test_labels"].tolist()
    assert parts.num_classes == 4
    assert parts.val is None


def test_npz_may_hold_its_own_val(tmp_path: Path) -> None:
    images = random_pixels(2, 5, 4, 3, seed=9)
    write_npz(tmp_path / "a.npz", val_images=images, val_labels=np.array([1, 0]))
    val = load_parts(f"npz:{tmp_path}/a.npz", None, None).val
    assert val is not None
    assert np.array_equal(pixels_of(val), images)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test_labels": None}, "expected the arrays test_images and test_labels, found"),
        (
            {"train_images": None},
            r"expected the arrays train_images and train_labels, found .*; .* images uint8 \[N, H, W\]",
        ),
        ({"val_images": random_pixels(1, 5, 4, 3)}, "expected the arrays val_images and val_labels, found"),
        ({"train_images": np.full((6, 5, 4, 3), 2, np.float32)}, "expected train_images uint8 .* found float32"),
        ({"train_labels": np.zeros(6)}, ".*train_labels integers .* found .* float64"),
        ({"train_labels": np.zeros(5, int)}, r".*found uint8 \[6, 5, 4, 3\] and int64 \[5\]"),
        ({"train_images": random_pixels(6, 5)}, r".*found uint8 \[6, 5\]"),
        ({"train_images": random_pixels(0, 5, 4), "train_labels": np.zeros(0, int)}, r".*found uint8 \[0, 5, 4\]"),
    ],
)
def test_npz_with_wrong_arrays_says_what_was_expected_and_found(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_npz(tmp_path / "a.npz", **changed)
    with pytest.raises(DataError, match=rf"a\.npz: {message}"):
        load_parts(f"npz:{tmp_path}/a.npz", None, None)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_npz_with_pickled_objects_is_refused_without_unpickling(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    write_npz(tmp_path / "a.npz", train_labels=np.array([Trap(sprung)] * 6, dtype=object))
    with pytest.raises(DataError, match=r"a\.npz: not a readable \.npz file"):
        load_parts(f"npz:{tmp_path}/a.npz", None, None)
    assert not sprung.exists()


def npz_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays())
    return buffer.getvalue()


def npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, random_pixels(3))
    return buffer.getvalue()


def zip_of_text() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in arrays():
            file.writestr(name, b"no array")
    return buffer.getvalue()


def flip_bits(content: bytes) -> bytes:
    return content[:250] + bytes(255 - b for b in content[250:260]) + content[260:]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a zip file at all", id="not a zip"),
        pytest.param(npz_bytes()[: len(npz_bytes()) // 2], id="cut off"),
        pytest.param(flip_bits(npz_bytes()), id="bits flipped"),
        pytest.param(npy_bytes(), id="one array, not a zip"),
        pytest.param(zip_of_text(), id="zip of other things"),
    ],
)
def test_damaged_npz_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: "):
        load_parts(f"npz:{tmp_path}/a.npz", None, None)


def test_missing_npz_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.npz.*No such file"):
        load_parts(f"npz:{tmp_path}/absent.npz", None, None)


@pytest.mark.parametrize("labels", [[-1, 0, 1], [0, 1, 4]])
def test_npz_label_outside_the_classes_is_refused(labels: list[int], tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", test_labels=np.array(labels))
    with pytest.raises(DataError, match="test_labels"):
        load_parts(f"npz:{tmp_path}/a.npz", None, None)


def test_npz_with_two_image_sizes_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", test_images=random_pixels(3, 7, 4, 3))
    with pytest.raises(DataError, match="test_images"):
        load_parts(f"npz:{tmp_path}/a.npz", None, None)


# image_size


def test_image_size_scales_every_part_and_keeps_flat_images_flat(tmp_path: Path) -> None:
    flat = np.broadcast_to(np.array([0, 7, 128, 200, 254, 255], np.uint8)[:, None, None, None], (6, 8, 8, 3))
    write_npz(tmp_path / "a.npz", train_images=flat, test_images=flat[:3])
    parts = load_parts(f"npz:{tmp_path}/a.npz", None, 5)
    assert np.array_equal(pixels_of(parts.train), flat[:, :5, :5])
    assert pixels_of(parts.test).shape == (3, 5, 5, 3)


def test_own_image_size_leaves_images_untouched(tmp_path: Path) -> None:
    images = random_pixels(6, 5, 5, 3)
    write_npz(tmp_path / "a.npz", train_images=images, test_images=images[:3])
    assert np.array_equal(pixels_of(load_parts(f"npz:{tmp_path}/a.npz", None, 5).train), images)


@pytest.mark.parametrize("side", [0, -1, 8193, 10**14])
def test_a_side_that_no_image_has_is_refused_before_anything_is_read(side: int) -> None:
    with pytest.raises(DataError, match=f"image_size: expected 1 to 8192 pixels, found {side}"):
        load_parts("npz:gone.npz", None, side)


def test_images_that_would_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "free_memory", lambda: 10**9)
    with pytest.raises(DataError, match="image_size: images of 1000 pixels take 1,797,000,000 bytes of memory"):
        load_parts("digits", None, 1000)


# folders of images


def lay_out_folder(root: Path, parts: tuple[str, ...] = ("train", "val"), classes: str = "ab", side: int = 6) -> Path:
    """Three PNGs per class and part; no two images are the same."""
    for p, part in enumerate(parts):
        for c, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(3):
                pixels = random_pixels(side, side, 3, seed=100 * p + 10 * c + i)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def pngs(folder: Path) -> Array:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*/*.png"))])


@pytest.mark.parametrize(
    ("parts", "test", "val"),
    [(("train", "val"), "val", None), (("train", "test"), "test", None), (("train", "val", "test"), "test", "val")],
)
def test_folder_gives_every_png_bit_for_bit(parts: tuple[str, ...], test: str, val: str | None, tmp_path: Path) -> None:
    root = lay_out_folder(tmp_path, parts)
    loaded = load_parts(f"folder:{root}", None, None)
    assert np.array_equal(pixels_of(loaded.train), pngs(root / "train"))
    assert np.array_equal(pixels_of(loaded.test), pngs(root / test))
    assert labels_of(loaded.train) == [0, 0, 0, 1, 1, 1]
    assert loaded.num_classes == 2
    if val is None:
        assert loaded.val is None
    else:
        assert loaded.val is not None
        assert np.array_equal(pixels_of(loaded.val), pngs(root / val))


def test_folder_images_of_many_sizes_become_squares_of_one(tmp_path: Path) -> None:
    root = lay_out_folder(tmp_path)
    Image.new("RGB", (20, 9), (10, 20, 30)).save(root / "train" / "a" / "wide.png")
    Image.new("L", (4, 30), 90).save(root / "train" / "b" / "grey.png")
    pixels = pixels_of(load_parts(f"folder:{root}", None, 8).train)
    assert pixels.shape == (8, 8, 8, 3)
    assert (pixels[3] == (10, 20, 30)).all()
    assert (pixels[7] == 90).all()


def test_folder_larger_than_memory_streams_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay_out_folder(tmp_path)
    monkeypatch.setattr(pictures, "IN_MEMORY_BYTES", 6 * 3 * 6 * 6)
    assert isinstance(load_parts(f"folder:{root}", None, None).train, InMemory)
    monkeypatch.setattr(pictures, "IN_MEMORY_BYTES", 6 * 3 * 6 * 6 - 1)
    loaded = load_parts(f"folder:{root}", None, None)
    assert isinstance(loaded.train, Streamed)
    assert np.array_equal(pixels_of(loaded.train), pngs(root / "train"))
    assert labels_of(loaded.test) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("parts", [(), ("train",), ("val", "test")])
def test_folder_without_train_or_held_out_part_says_the_layout(parts: tuple[str, ...], tmp_path: Path) -> None:
    lay_out_folder(tmp_path, parts)
    with pytest.raises(DataError, match=rf"expected {tmp_path}/train/CLASS/\* and {tmp_path}/val or {tmp_path}/test"):
        load_parts(f"folder:{tmp_path}", None, None)


def test_folder_whose_parts_have_other_classes_is_refused(tmp_path: Path) -> None:
    lay_out_folder(tmp_path, ("train",), "ab")
    lay_out_folder(tmp_path, ("val",), "ac")
    with pytest.raises(DataError, match=r"val has the classes \['a', 'c'\], expected \['a', 'b'\] as in train"):
        load_parts(f"folder:{tmp_path}", None, None)


def test_folder_with_an_empty_class_names_it(tmp_path: Path) -> None:
    lay_out_folder(tmp_path)
    (tmp_path / "train" / "c").mkdir()
    with pytest.raises(DataError, match="for the classes c"):
        load_parts(f"folder:{tmp_path}", None, None)


@pytest.mark.parametrize(
    "damaged",
    [
        "train/b/1.png",
        "val/b/2.png",
        "train/a/0.png",
        "val/a/0.png",
    ],
)
@pytest.mark.parametrize("damage", [lambda png: png[:60], lambda png: b"no image"], ids=["cut off", "no image"])
def test_damaged_image_is_refused(damaged: str, damage: Any, tmp_path: Path) -> None:
    file = lay_out_folder(tmp_path) / damaged
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match="cannot be decoded"):
        load_parts(f"folder:{tmp_path}", None, None)


def test_damaged_image_in_a_stream_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = lay_out_folder(tmp_path) / "train" / "b" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    monkeypatch.setattr(pictures, "IN_MEMORY_BYTES", 1)
    with pytest.raises(DataError, match="cannot be decoded"):
        pixels_of(load_parts(f"folder:{tmp_path}", None, None).train)


# what timm's create_dataset gives


class MapStyle(Dataset[tuple[Image.Image, int]]):
    def __init__(self, pixels: Array, labels: list[int]) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index >= len(self):
            raise IndexError
        return Image.fromarray(self.pixels[index]), self.labels[index]


class InOrder(IterableDataset[tuple[Image.Image, int]]):
    """A data set that can only be read from start to end."""

    def __init__(self, pixels: Array, labels: list[int]) -> None:
        self.items = MapStyle(pixels, labels)

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        return iter([self.items[i] for i in range(len(self.items))])


def timm_gives(monkeypatch: pytest.MonkeyPatch, **splits: Any) -> list[tuple[str, str | None]]:
    """Let timm's create_dataset give these; returns where the names and roots it is asked for will be noted."""
    asked = []

    def create_dataset(name: str, *, root: str | None, split: str, download: bool, **_: Any) -> Any:
        asked.append((name, root))
        return splits[split]

    monkeypatch.setattr("timm.data.create_dataset", create_dataset)
    return asked


@pytest.mark.parametrize("kind", [MapStyle, InOrder])
@pytest.mark.parametrize("shape", [pytest.param((5, 8, 8), id="grey"), pytest.param((5, 8, 8, 3), id="colour")])
@pytest.mark.parametrize(("name", "held_out"), [("torch/mnist", "validation"), ("hfds/mnist", "test")])
def test_timm_data_sets_give_their_own_images(
    kind: Any, shape: tuple[int, ...], name: str, held_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = random_pixels(*shape)
    train, test = kind(pixels, [3, 0, 1, 2, 3]), kind(pixels[:2], [1, 2])
    asked = timm_gives(monkeypatch, **{"train": train, held_out: test})
    parts = load_parts(name, tmp_path, None)
    assert np.array_equal(pixels_of(parts.train), pixels.reshape(5, 8, 8, -1))
    assert np.array_equal(pixels_of(parts.test), pixels[:2].reshape(2, 8, 8, -1))
    assert labels_of(parts.train) == [3, 0, 1, 2, 3]
    assert parts.num_classes == 4
    assert asked == [(name, str(tmp_path))] * 2


def test_timm_data_set_larger_than_memory_streams_or_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pictures, "IN_MEMORY_BYTES", 100)
    small = MapStyle(random_pixels(2, 4, 4, 3), [0, 1])

    large = MapStyle(random_pixels(3, 4, 4, 3), [0, 1, 5])
    timm_gives(monkeypatch, train=large, test=small)
    with pytest.raises(DataError, match="streams and does not say how many classes"):
        load_parts("hfds/x", tmp_path, None)

    large.classes = list("abcdef")
    parts = load_parts("hfds/x", tmp_path, None)
    assert (type(parts.train), type(parts.test), parts.num_classes) == (Streamed, InMemory, 6)

    large.classes, large.reader = None, SimpleNamespace(class_to_idx={"a": 0, "b": 1, "c": 5})  # as timm's ImageDataset
    assert load_parts("hfds/x", tmp_path, None).num_classes == 3

    timm_gives(monkeypatch, train=InOrder(large.pixels, large.labels), test=small)
    with pytest.raises(DataError, match=r"can only be read in order .* use folder:DIR"):
        load_parts("hfids/x", tmp_path, None)


@pytest.mark.parametrize("splits", [{"test": [-1, -1], "validation": [2, 1]}, {"validation": [2, 1]}])
def test_val_is_test_where_test_is_missing_or_has_no_labels(
    splits: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As of ImageNet on the Hugging Face hub."""
    given = {split: MapStyle(random_pixels(2, 4, 4), labels) for split, labels in splits.items()}
    timm_gives(monkeypatch, train=MapStyle(random_pixels(3, 4, 4), [0, 1, 2]), **given)
    parts = load_parts("hfds/x", tmp_path, None)
    assert (labels_of(parts.test), parts.val, parts.num_classes) == ([2, 1], None, 3)


def test_timm_data_set_without_an_image_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = InOrder(random_pixels(0, 4, 4), [])
    timm_gives(monkeypatch, train=empty, test=empty)
    with pytest.raises(DataError):
        load_parts("hfids/x", tmp_path, None)


@pytest.mark.parametrize("kind", [MapStyle, InOrder])
def test_timm_data_set_without_a_test_image_is_refused(
    kind: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timm_gives(monkeypatch, train=kind(random_pixels(2, 4, 4), [0, 1]), test=kind(random_pixels(0, 4, 4), []))
    with pytest.raises(DataError, match="a part of this data set has no image"):
        load_parts("hfds/x", tmp_path, None)


def test_torchvisions_folders_are_decoded_as_ours_are(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            ramp = np.arange(0, 65_536, 1028, dtype=np.uint16).reshape(8, 8)
            Image.fromarray(ramp).save(tmp_path / part / name / "0.png", exif=exif)
    parts = load_parts("torch/image_folder", tmp_path, None)
    assert np.array_equal(pixels_of(parts.train)[0, :, :, 0], np.arange(0, 256, 4)[::-1].reshape(8, 8))
    assert np.array_equal(pixels_of(parts.test), pixels_of(load_parts(f"folder:{tmp_path}", None, None).test))


@pytest.mark.parametrize("label", [-1, -100, 4])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_label_of_timms_that_is_no_class_is_refused(
    label: int, part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {name: MapStyle(random_pixels(2, 4, 4), [0, 1]) for name in ("train", "test", "validation")}
    given["train"].classes = list("abcd")
    given[part].labels[1] = label
    if part == "test":
        given["validation"].labels[1] = label
    timm_gives(monkeypatch, **given)
    with pytest.raises(DataError, match=f"image 1: has the class {label}, expected 0 to 3"):
        load_parts("hfds/x", tmp_path, None)


@pytest.mark.parametrize("error", [RuntimeError("no server"), AssertionError("no server"), ImportError("no server")])
def test_whatever_timm_raises_becomes_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def create_dataset(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("timm.data.create_dataset", create_dataset)
    with pytest.raises(DataError, match=f"data set tfds/x cannot be loaded by timm from {tmp_path}: no server"):
        load_parts("tfds/x", tmp_path, None)


def test_long_error_of_timm_becomes_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def create_dataset(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error downloading x.gz:\nTried a, got:\nno network")

    monkeypatch.setattr("timm.data.create_dataset", create_dataset)
    with pytest.raises(DataError) as caught:
        load_parts("torch/mnist", tmp_path, None)
    assert "\n" not in str(caught.value)


def test_torch_data_sets_have_a_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    both = MapStyle(random_pixels(2, 4, 4), [0, 1])
    asked = timm_gives(monkeypatch, train=both, validation=both)
    load_parts("torch/mnist", None, None)
    assert all(root is not None for _, root in asked)
