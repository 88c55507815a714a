"""Where images come from: each data set by name, one small reader each."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from lptool.data.cache import default_cache
from lptool.data.images import Array, Images, InMemory, image_shape, in_memory
from lptool.data.pictures import decoded_pictures
from lptool.data.shards import PICTURES, Shards, shard_files
from lptool.device import import_timm
from lptool.errors import DataError, first_line, near_miss

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
DIGITS_TEST_FRACTION, DIGITS_TEST_SEED = 0.2, 0  # scikit-learn's digits come without a test split


@dataclass(frozen=True)
class Parts:
    """A data set as its source gives it: `val` is None where there is only test, `class_names` empty where unknown."""

    train: Images
    test: Images
    num_classes: int
    val: Images | None = None
    class_names: tuple[str, ...] = ()


def load_parts(name: str, data_dir: str | Path | None, image_size: int | None) -> Parts:
    root = Path(data_dir) if data_dir is not None else None
    kind, _, place = name.partition(":")
    if name in NAMED:
        parts = NAMED[name](root)
    elif kind == "npz" and place:
        parts = _npz(Path(place))
    elif kind == "folder" and place:
        return _folder(Path(place), image_size)
    elif name.startswith("wds/"):
        return _wds(root or Path(name.removeprefix("wds/")), image_size)
    elif name.partition("/")[0] in ("torch", "hfds", "hfids", "tfds"):
        return _timm(name, root, image_size)
    else:
        raise DataError(
            f"unknown data set {name!r}: expected {', '.join(NAMED)}, npz:FILE, folder:DIR, wds/DIR, or a timm name "
            f"such as torch/mnist or hfds/NAME.{near_miss(name, NAMED)}"
        )
    return _resized(parts, image_size)  # the others, of pictures, come in this size as they are decoded


def _resized(parts: Parts, side: int | None) -> Parts:
    if side is None or image_shape(parts.train)[1:] == (side, side):
        return parts

    def resize(images: Images) -> InMemory:
        assert isinstance(images, InMemory)
        chunks = images.images.split(512)
        floats = (F.interpolate(c.float(), (side, side), mode="bilinear", antialias=True) for c in chunks)
        return InMemory(torch.cat([f.round().clamp(0, 255).byte() for f in floats]), images.labels)

    return replace(parts, train=resize(parts.train), test=resize(parts.test), val=parts.val and resize(parts.val))


def _digits(root: Path | None) -> Parts:
    from sklearn.datasets import load_digits

    content = load_digits()
    pixels = np.round(content.images * (255 / 16)).astype(np.uint8)  # 0 … 16 in the source
    images = in_memory(pixels, content.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(DIGITS_TEST_SEED))
    test, train = order.tensor_split([round(len(images) * DIGITS_TEST_FRACTION)])
    return Parts(images.subset(train), images.subset(test), num_classes=10)


def _fashion_mnist(root: Path | None) -> Parts:
    for place in (*([root, root / "FashionMNIST" / "raw"] if root else []), DEBIAN_FASHION_MNIST):
        kinds = ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
        files = [[place / f"{part}-{kind}" for kind in kinds] for part in ("train", "t10k")]
        if all(file.is_file() for pair in files for file in pair):
            train, test = (_idx_part(*pair) for pair in files)
            return Parts(train, test, num_classes=10)
    return _torchvision("fashion-mnist", root)


def _idx_part(images_file: Path, labels_file: Path) -> InMemory:
    images, labels = _read_idx(images_file), _read_idx(labels_file)
    if images.ndim != 3:
        raise DataError(f"{images_file}: expected images [N, H, W], found {list(images.shape)}")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{labels_file}: expected {len(images)} labels, found {list(labels.shape)}")
    return in_memory(images, labels)


def _read_idx(path: Path) -> Array:
    """A gzipped IDX file of uint8: two zero bytes, type 8, number of dimensions, big-endian lengths, the data."""
    try:
        content = gzip.decompress(path.read_bytes())
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", dimensions, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise DataError(f"{path}: not a whole gzipped IDX file ({error}); install or download it again") from error


def _torchvision(name: str, root: Path | None) -> Parts:
    import_timm()  # the check that torchvision can be imported
    from torchvision import datasets

    make = {"fashion-mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    place = root or default_cache()
    try:
        parts = [_present_or_downloaded(make, place, train) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        package = ", or install Debian's package dataset-fashion-mnist" if name == "fashion-mnist" else ""
        raise DataError(
            f"data set {name} not found: looked in {place} for torchvision's files, and the download failed "
            f"({first_line(error)}); put them there or name their folder with --data-dir{package}"
        ) from error
    train, test = (in_memory(np.asarray(p.data), np.asarray(p.targets)) for p in parts)
    return Parts(train, test, num_classes=len(parts[0].classes))


def _present_or_downloaded(make: Callable[..., Any], place: Path, train: bool) -> Any:
    try:
        return make(place, train=train, download=False)
    except RuntimeError:
        return make(place, train=train, download=True)


def _npz(path: Path) -> Parts:
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: np.asarray(file[key]) for key in file.files}
    except Exception as error:  # numpy raises what zip, zlib, pickle and its own header parser raise
        raise DataError(f"{path}: not a readable .npz file ({first_line(error)}); expected numpy.savez's") from error
    train, test = (_npz_part(path, arrays, part) for part in ("train", "test"))
    val = _npz_part(path, arrays, "val") if "val_images" in arrays else None
    classes = int(train.labels.max()) + 1
    for part, images in (("test", test), ("val", val)):
        if images is not None:
            _check_like(path, part, images, train, classes)
    return Parts(train, test, classes, val)


def _check_like(path: Path, part: str, images: InMemory, train: InMemory, classes: int) -> None:
    if images.images.shape[1:] != train.images.shape[1:]:
        found, expected = list(images.images.shape[1:]), list(train.images.shape[1:])
        raise DataError(f"{path}: {part}_images are {found} (channels, height, width), expected {expected} as train")
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"{path}: {part}_labels go from {low} to {high}, expected 0 to {classes - 1} as in train")


def _npz_part(path: Path, arrays: dict[str, Array], part: str) -> InMemory:
    names = (f"{part}_images", f"{part}_labels")
    absent = [name for name in names if name not in arrays]
    if absent:
        raise DataError(
            f"{path}: expected the arrays {' and '.join(names)}, found {', '.join(arrays) or 'none'}; train and test, "
            "with or without val, have images uint8 [N, H, W] or [N, H, W, C] and labels integers [N]"
        )
    images, labels = (arrays[name] for name in names)
    sound = images.dtype == np.uint8 and images.ndim in (3, 4) and labels.shape == images.shape[:1] and labels.size
    if not sound or labels.dtype.kind not in "ui":
        no_image = "" if labels.size else ", which is no image"
        raise DataError(
            f"{path}: expected {names[0]} uint8 [N, H, W] or [N, H, W, C] and {names[1]} integers [N], "
            f"found {images.dtype} {list(images.shape)} and {labels.dtype} {list(labels.shape)}{no_image}"
        )
    return in_memory(images, labels)


def _folder(root: Path, image_size: int | None) -> Parts:
    held_out = [part for part in ("val", "test") if (root / part).is_dir()]
    if not (root / "train").is_dir() or not held_out:
        raise DataError(
            f"folder:{root}: expected {root}/train/CLASS/* and {root}/val or {root}/test likewise; not found"
        )
    found = {part: _image_folder(root, part) for part in ("train", *held_out)}
    classes = found["train"].classes
    for part in held_out:
        if found[part].classes != classes:
            raise DataError(
                f"folder:{root}: {part} has the classes {found[part].classes}, expected {classes} as in train"
            )
    return replace(_parts(decoded_pictures(found, image_size), len(classes)), class_names=tuple(classes))


def _image_folder(root: Path, part: str) -> Any:
    import_timm()
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(str(root / part))
    except (OSError, ValueError) as error:  # a class without images among them
        raise DataError(f"folder:{root}: {part}: {error}") from error


def _wds(root: Path, image_size: int | None) -> Parts:
    found = {part: Shards(files) for part, files in shard_files(root).items()}
    empty = [part for part, shards in found.items() if not len(shards)]
    if empty:
        raise DataError(f"{root}: the shards of {' and '.join(empty)} hold no picture ({', '.join(PICTURES)})")
    classes = 1 + int(found["train"].classes.max())
    for part, shards in found.items():
        if shards.classes.max() >= classes:
            highest = int(shards.classes.max())
            raise DataError(f"{root}: {part} has the class {highest}, expected 0 to {classes - 1} as in train")
    return _parts(decoded_pictures(found, image_size), classes)


def _parts(images: dict[str, Images], num_classes: int) -> Parts:
    """From train and val or test or both: where there is only one, it is kept for the end."""
    held_out = [images[part] for part in ("val", "test") if part in images]
    return Parts(images["train"], held_out[-1], num_classes, val=held_out[0] if len(held_out) == 2 else None)


def _timm(name: str, root: Path | None, image_size: int | None) -> Parts:
    timm_data = import_timm().data
    if root is None and name.startswith("torch/"):
        root = default_cache()  # torchvision has none of its own
    make = partial(timm_data.create_dataset, name, root=str(root) if root else None, download=True)
    try:
        train = make(split="train")
        test = _labelled(make, ["validation"] if name.startswith("torch/") else ["test", "validation"])
    except Exception as error:  # each of timm's readers has errors of its own
        raise DataError(
            f"data set {name} cannot be loaded by timm from {root or 'its default place'}: {first_line(error)}"
        ) from error
    images = decoded_pictures({"train": train, "test": test}, image_size)
    seen = images["train"]
    classes = getattr(train, "classes", None) or getattr(getattr(train, "reader", None), "class_to_idx", None)
    if classes:
        return Parts(seen, images["test"], len(classes))
    if not isinstance(seen, InMemory):
        raise DataError(f"data set {name} streams and does not say how many classes it has; use folder:DIR")
    return Parts(seen, images["test"], int(seen.labels.max()) + 1)


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
NAMED: dict[str, Callable[[Path | None], Parts]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": partial(_torchvision, "cifar10"),
    "cifar100": partial(_torchvision, "cifar100"),
}
