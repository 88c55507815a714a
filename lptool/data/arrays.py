"""Images in files of arrays. What a header claims is checked before it costs memory, and nothing is unpickled."""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lptool.checkpoints.regular import Stamp
from lptool.data.files import check_state, opened
from lptool.data.images import Array, InMemory, in_memory
from lptool.device import free_memory
from lptool.errors import DataError, first_line

_LAYOUT = "images uint8 [N, H, W] or [N, H, W, C] and labels integers [N]"


def read_npz(path: Path) -> tuple[dict[str, InMemory], list[str]]:
    """`train`, `test` and, where it is there, `val`; and what a person should know.

    Raises:
        DataError: it is no .npz file, lacks an array, or an array is no images or no labels.
    """
    try:
        with opened(path) as stream, zipfile.ZipFile(stream) as file:
            members = {name.removesuffix(".npy"): name for name in file.namelist()}
            parts = ["train", "test", *(["val"] if "val_images" in members else [])]
            names = [name for part in parts for name in _names(part)]
            _check_present(path, names, members)
            arrays = {name: _unzipped(file, members[name]) for name in names}
    except DataError:
        raise
    except Exception as error:  # numpy raises what zip, zlib, pickle and its own header parser raise
        raise DataError(f"{path}: not a readable .npz file ({first_line(error)}); expected numpy.savez's") from error
    notes = list[str]()
    found = {part: _part(path, part, arrays, notes) for part in parts}
    shapes = {part: list(images.images.shape[1:]) for part, images in found.items()}
    odd = next((part for part in parts if shapes[part] != shapes["train"]), None)
    if odd is not None:
        expected = f"expected {shapes['train']} as train"
        raise DataError(f"{path}: {odd}_images are {shapes[odd]} (channels, height, width), {expected}")
    return found, notes


def _names(part: str) -> tuple[str, str]:
    return f"{part}_images", f"{part}_labels"


def _check_present(path: Path, names: list[str], members: Mapping[str, str]) -> None:
    for images, labels in zip(names[::2], names[1::2], strict=True):
        if not {images, labels} <= members.keys():
            raise DataError(
                f"{path}: expected the arrays {images} and {labels}, found {', '.join(members) or 'none'}; train and "
                f"test, with or without val, have {_LAYOUT}"
            )


def _unzipped(file: zipfile.ZipFile, name: str) -> Array:
    size, free = file.getinfo(name).file_size, free_memory()
    if size > free > 0:
        raise MemoryError(f"{name} takes {size:,} bytes, and {free:,} are free")
    with file.open(name) as stream:
        head = _Head(stream)  # type: ignore[arg-type]
        if not head.dtype.hasobject and head.size != size:  # of objects numpy says itself that it does not load them
            raise ValueError(f"{name} claims {head.size:,} bytes and has {size:,}")
    with file.open(name) as stream:
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def read_idx_pair(images_file: Path, labels_file: Path) -> InMemory:
    """Images and labels of two gzipped IDX files. Raises DataError."""
    images, labels = _read_idx(images_file), _read_idx(labels_file)
    if images.ndim != 3:
        raise DataError(f"{images_file}: expected images [N, H, W], found {list(images.shape)}")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{labels_file}: expected {len(images)} labels, found {list(labels.shape)}")
    return in_memory(images, labels)


def _read_idx(path: Path) -> Array:
    """A gzipped IDX file of uint8: two zero bytes, type 8, number of dimensions, big-endian lengths, the data."""
    try:
        with opened(path) as stream, gzip.open(stream) as file:
            dimensions = file.read(4)[3]
            shape = np.frombuffer(file.read(4 * dimensions), ">u4", dimensions)
            size = math.prod(shape.tolist())
            content = file.read(min(size, free_memory() or size) + 1)  # however much more is zipped
            return np.frombuffer(content, np.uint8).reshape(shape).copy()
    except (OSError, EOFError, zlib.error, ValueError, IndexError, MemoryError) as error:
        raise DataError(f"{path}: not a whole gzipped IDX file ({error}); install or download it again") from error


class _Head:
    """What the header of a .npy file says. Raises ValueError where it is none."""

    def __init__(self, stream: BinaryIO) -> None:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"has version {version} of numpy's format, expected 1.0 or 2.0")
        self.shape, self.fortran, self.dtype = read(stream)
        self.offset = stream.tell()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def _part(path: Path, part: str, arrays: Mapping[str, Array], notes: list[str]) -> InMemory:
    names = _names(part)
    images, labels = (arrays[name] for name in names)
    are_images = (images.dtype == np.uint8 or images.dtype.kind == "f") and images.ndim in (3, 4) and images.size
    are_labels = labels.dtype.kind in "ui" and labels.shape == images.shape[:1]
    if not (are_images and are_labels):
        raise DataError(
            f"{path}: expected {names[0]} uint8 [N, H, W] or [N, H, W, C] and {names[1]} integers [N], "
            f"found {images.dtype} {list(images.shape)} and {labels.dtype} {list(labels.shape)}"
            f"{_hint(images, labels)}"
        )
    where = f"{path}: {names[0]}"
    if images.ndim == 4 and _channels_first(where, images.shape):
        notes.append(f"{where}: read as [N, C, H, W], as they are {list(images.shape)}")
        images = images.transpose(0, 2, 3, 1)
    if images.dtype.kind == "f":
        images = _from_floats(where, images)
        notes.append(f"{where}: are floats in [0, 1]; read as 8 bits, 0 to 255")
    return in_memory(images, labels)


def _hint(images: Array, labels: Array) -> str:
    if not images.size:
        return ", which is no image"
    if labels.ndim == 2 and labels.shape[0] == len(images) and labels.shape[1] > 1:
        return "; one-hot labels: save labels.argmax(1)"
    if labels.dtype.kind in "USO":
        return "; labels are numbers from 0, in the order of the logits: numpy.unique(labels, return_inverse=True)[1]"
    return "; save labels.astype(int)" if labels.dtype.kind == "f" else ""


def _channels_first(where: str, shape: tuple[int, ...]) -> bool:
    """Whether [N, a, b, c] has its channels in front: they are 1 or 3, or fewer than anything else."""
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if not first and not last:
        first, last = shape[1] < min(shape[2:]), shape[3] < min(shape[1:3])
    if first == last:
        raise DataError(f"{where}: {list(shape)} does not say which are the channels; save [N, H, W, C] with 1 or 3")
    return first


def _from_floats(where: str, images: Array) -> Array:
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # NaN is no more than 1 either
        path, _, name = where.rpartition(": ")
        raise DataError(
            f"{path}: expected {name} uint8 or floats in [0, 1], found {images.dtype} from {low:g} to {high:g}"
        )
    return np.round(images * 255).astype(np.uint8)


class Rows:
    """An array in a .npy file, read by rows and not mapped: to map a file that is cut off ends the process.

    Raises:
        DataError: it is no whole .npy file, or has another shape or type.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path = path
        with opened(path) as stream:
            self.state = Stamp.of(stream)
            try:
                self.head = _Head(stream)
                if self.head.dtype.hasobject or self.head.fortran or self.head.size > self.state.size:
                    raise ValueError("it holds objects, is in Fortran's order, or is cut off")
            except ValueError as error:
                raise DataError(f"{path}: not a whole .npy file ({first_line(error)}); download it again") from error
        kinds = ("u",) if len(shape) > 1 else ("u", "i")
        sound = self.head.dtype.kind in kinds and (len(shape) == 1 or self.head.dtype == np.uint8)
        if self.head.shape != shape or not sound:
            found = f"{self.head.dtype} {list(self.head.shape)}"
            raise DataError(
                f"{path}: expected {'uint8' if len(shape) > 1 else 'integers'} {list(shape)}, found {found}"
            )

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(self.head.shape[0])
        row = math.prod(self.head.shape[1:])
        with opened(self.path) as stream:
            stream.seek(self.head.offset + start * row * self.head.dtype.itemsize)
            found: Array = np.fromfile(stream, self.head.dtype, (stop - start) * row)
            check_state(stream, self.path, self.state)
        return found.reshape(stop - start, *self.head.shape[1:])
