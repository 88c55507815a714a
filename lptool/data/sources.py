"""Where images come from: each data set by name, one small reader each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from lptool.checkpoints.header import DataSet
from lptool.data.arrays import read_idx_pair, read_npz
from lptool.data.cache import default_cache
from lptool.data.classes import count_of_labels, named_in_order
from lptool.data.colours import opened_picture
from lptool.data.files import opened
from lptool.data.image_folder import PICTURES, ImageFolder, class_names, left_out_note, part_folders
from lptool.data.images import Images, InMemory, image_shape, in_memory, resized
from lptool.data.pictures import decoded_pictures
from lptool.data.shards import Shards, shard_files
from lptool.device import free_memory, import_timm
from lptool.errors import DataError, first_line, near_miss

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
LARGEST_SIDE = 8192  # pixels of an image
DIGITS_TEST_FRACTION, DIGITS_TEST_SEED = 0.2, 0  # scikit-learn's digits come without a test split


@dataclass(frozen=True)
class Parts:
    """A data set as its source gives it: `val` is None where there is only test, `class_names` empty where unknown.

    `notes` are what a person should know.
    """

    train: Images
    test: Images
    num_classes: int
    val: Images | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What is asked of a source.

    Attributes:
        root: where its files lie, or shall be downloaded to. image_size: side in pixels; None takes its own.
        like: what a file says of the data its network was trained on: classes and channels are to be the same.
        download: whether files that are missing may be downloaded.
    """

    root: Path | None = None
    image_size: int | None = None
    like: DataSet | None = None
    download: bool = True

    @property
    def num_classes(self) -> int | None:
        """How many classes the network tells apart, where that is known."""
        return self.like.num_classes if self.like and (self.like.num_classes or 0) > 0 else None

    @property
    def grey(self) -> bool | None:
        """Whether the network takes grey pictures, where that is known."""
        shape = self.like.image_shape if self.like else ()
        return {1: True, 3: False}.get(shape[0]) if shape else None


def load_parts(
    name: str,
    data_dir: str | Path | None,
    image_size: int | None,
    like: DataSet | None = None,
    *,
    download: bool = True,
) -> Parts:
    """See `load_data`. Raises DataError."""
    if image_size is not None and not 1 <= image_size <= LARGEST_SIDE:
        raise DataError(f"expected 1 to {LARGEST_SIDE} pixels, found {image_size}", "image_size")
    asked = Asked(Path(data_dir) if data_dir is not None else None, image_size, like, download)
    kind, _, place = name.partition(":")
    if name in NAMED:
        read = NAMED[name] if download or name not in DOWNLOADED else partial(NAMED[name], download=False)
        parts = read(asked.root)
        parts = _counted(name, parts, asked.num_classes or parts.num_classes)
    elif kind == "npz" and place:
        parts = _npz(place, asked.num_classes)
    elif kind == "folder" and place:
        return _folder(Path(place), asked)
    elif name.startswith("wds/"):
        return _wds(asked.root or Path(name.removeprefix("wds/")), asked)
    elif name.partition("/")[0] in ("torch", "hfds", "hfids", "tfds"):
        return _timm(name, asked)
    else:
        raise DataError(
            f"unknown data set {name!r}: expected {', '.join(NAMED)}, npz:FILE, folder:DIR, wds/DIR, or a timm name "
            f"such as torch/mnist or hfds/NAME.{near_miss(name, NAMED)}"
        )
    return _resized(parts, image_size)  # the others, of pictures, come in this size as they are decoded


def _counted(where: str, parts: Parts, known: int | None) -> Parts:
    """The parts with the number of their classes, every label that is known checked."""
    found = {"train_labels": parts.train, "val_labels": parts.val, "test_labels": parts.test}
    labels = {part: images.labels.numpy() for part, images in found.items() if isinstance(images, InMemory)}
    return replace(parts, num_classes=count_of_labels(where, labels, known)) if labels else parts


def _resized(parts: Parts, side: int | None) -> Parts:
    if side is None or image_shape(parts.train)[1:] == (side, side):
        return parts
    counts = (len(images) for images in (parts.train, parts.test, parts.val) if images is not None)
    needed, free = sum(counts) * image_shape(parts.train)[0] * side**2, free_memory()
    if needed > free > 0:
        raise DataError(f"images of {side} pixels take {needed:,} bytes of memory, and {free:,} are free", "image_size")

    def resize(images: Images) -> InMemory:
        assert isinstance(images, InMemory)
        chunks = images.images.split(512)
        return InMemory(torch.cat([resized(chunk, (side, side)) for chunk in chunks]), images.labels)

    return replace(parts, train=resize(parts.train), test=resize(parts.test), val=parts.val and resize(parts.val))


def _digits(root: Path | None) -> Parts:
    from sklearn.datasets import load_digits

    content = load_digits()
    pixels = np.round(content.images * (255 / 16)).astype(np.uint8)  # 0 … 16 in the source
    images = in_memory(pixels, content.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(DIGITS_TEST_SEED))
    test, train = order.tensor_split([round(len(images) * DIGITS_TEST_FRACTION)])
    return Parts(images.subset(train), images.subset(test), num_classes=10)


def _fashion_mnist(root: Path | None, download: bool = True) -> Parts:
    for place in (*([root, root / "FashionMNIST" / "raw"] if root else []), DEBIAN_FASHION_MNIST):
        kinds = ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
        files = [[place / f"{part}-{kind}" for kind in kinds] for part in ("train", "t10k")]
        if all(file.is_file() for pair in files for file in pair):
            train, test = (read_idx_pair(*pair) for pair in files)
            return Parts(train, test, num_classes=10)
    return _torchvision("fashion-mnist", root, download)


def _torchvision(name: str, root: Path | None, download: bool = True) -> Parts:
    import_timm()  # the check that torchvision can be imported
    from torchvision import datasets

    make = {"fashion-mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    place = root or default_cache()
    try:
        parts = [_present_or_downloaded(make, place, train, download) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        package = ", or install Debian's package dataset-fashion-mnist" if name == "fashion-mnist" else ""
        looked = f"data set {name} not found: looked in {place} for torchvision's files"
        if not download:
            raise DataError(
                f"{looked}; name their folder with --data-dir, or have them downloaded with --dataset {name}"
            ) from error
        raise DataError(
            f"{looked}, and the download failed ({first_line(error)}); put them there or name their folder with "
            f"--data-dir{package}"
        ) from error
    train, test = (in_memory(np.asarray(p.data), np.asarray(p.targets)) for p in parts)
    return Parts(train, test, num_classes=len(parts[0].classes))


def _present_or_downloaded(make: Callable[..., Any], place: Path, train: bool, download: bool) -> Any:
    try:
        return make(place, train=train, download=False)
    except RuntimeError:
        if not download:
            raise
        return make(place, train=train, download=True)


def _npz(place: str, known: int | None) -> Parts:
    parts, notes = read_npz(Path(place))
    found = Parts(parts["train"], parts["test"], 0, parts.get("val"), notes=tuple(notes))
    return _counted(place, found, known)


def _folder(root: Path, asked: Asked) -> Parts:
    where = f"folder:{root}"
    folders, notes = part_folders(root)
    classes = class_names(folders["train"])
    names, matched = named_in_order(where, classes, asked.like)
    found = {part: ImageFolder(folder, names) for part, folder in folders.items()}
    for part, images in found.items():
        if images.classes != classes:
            raise DataError(f"{where}: {part} has the classes {images.classes}, expected {classes} as in train")
    notes = [*notes, *matched, *left_out_note(where, list(found.values()))]
    parts = _parts(decoded_pictures(found, asked.image_size, grey=asked.grey), len(names))
    return replace(parts, class_names=names, notes=tuple(notes))


def _wds(root: Path, asked: Asked) -> Parts:
    found = {part: Shards(files) for part, files in shard_files(root).items()}
    empty = [part for part, shards in found.items() if not len(shards)]
    if empty:
        raise DataError(f"{root}: the shards of {' and '.join(empty)} hold no picture ({', '.join(PICTURES)})")
    classes = count_of_labels(str(root), {part: shards.classes for part, shards in found.items()}, asked.num_classes)
    lacking = sum(shards.without_picture for shards in found.values())
    note = f"{root}: left out {lacking:,} samples with a class and no picture ({', '.join(PICTURES)})"
    parts = _parts(decoded_pictures(found, asked.image_size, grey=asked.grey), classes)
    return replace(parts, notes=(note,) * bool(lacking))


def _parts(images: dict[str, Images], num_classes: int) -> Parts:
    """From train and val or test or both: where there is only one, it is kept for the end."""
    held_out = [images[part] for part in ("val", "test") if part in images]
    return Parts(images["train"], held_out[-1], num_classes, val=held_out[0] if len(held_out) == 2 else None)


def _timm(name: str, asked: Asked) -> Parts:
    root = asked.root
    if root is None and name.startswith("torch/"):
        root = default_cache()  # torchvision has none of its own
    # Pictures as they are, where timm's reader gives them so: `decoded_pictures` knows how they become 8 bits.
    as_they_are = {"input_img_mode": None} if name.startswith("hfds/") else {}
    make = partial(
        import_timm().data.create_dataset, name, root=str(root) if root else None, download=True, **as_they_are
    )
    try:
        train = make(split="train")
        test = _labelled(make, ["validation"] if name.startswith("torch/") else ["test", "validation"])
    except Exception as error:  # each of timm's readers has errors of its own
        raise DataError(
            f"data set {name} cannot be loaded by timm from {root or 'its default place'}: {first_line(error)}"
        ) from error
    for part in (train, test):
        if hasattr(part, "loader"):  # of torchvision's folders, whose own makes pictures of 16 bits white
            part.loader = _picture_in
    classes = getattr(train, "classes", None) or getattr(getattr(train, "reader", None), "class_to_idx", None)
    known = asked.num_classes or (len(classes) if classes else None)
    images = decoded_pictures({"train": train, "test": test}, asked.image_size, grey=asked.grey, classes=known)
    seen = images["train"]
    if known is None and not isinstance(seen, InMemory):
        raise DataError(f"data set {name} streams and does not say how many classes it has; use folder:DIR")
    return _counted(name, Parts(seen, images["test"], known or 0), known)


def _picture_in(path: str) -> Any:
    with opened(path) as file:
        return opened_picture(file.read())


def _labelled(make: Callable[..., Any], splits: Sequence[str]) -> Any:
    """The first of these splits that exists and has labels: ImageNet's test set on the Hub has −1 for each of them."""
    for split in splits[:-1]:
        try:
            found = make(split=split)
        except Exception:  # whatever timm's readers raise; the user is shown the reason of the last split
            continue
        if isinstance(found, IterableDataset) or next(iter(found), (None, 0))[1] >= 0:
            return found
    return make(split=splits[-1])


# The data sets that have a name of their own, and what reads each from `data_dir`.
NAMED: dict[str, Callable[..., Parts]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": partial(_torchvision, "cifar10"),
    "cifar100": partial(_torchvision, "cifar100"),
}
DOWNLOADED = ("fashion-mnist", "cifar10", "cifar100")  # those of them of which missing files are
