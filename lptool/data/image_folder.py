"""Pictures in a folder for each class, in the order of torchvision's ImageFolder."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from lptool.checkpoints.regular import Stamp
from lptool.data.colours import opened_picture
from lptool.data.files import PARTS, check_unchanged, entries_of, files_below, is_folder, opened
from lptool.errors import DataError, first_ten

# By preference, where shards have several of one sample.
PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm", "tif", "tiff")
LARGEST = 1 << 30  # bytes of a picture's file


def part_folders(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folders of train, val and test, those that there are; and a line on folders that are none of these.

    Raises:
        DataError: there is no train, or none beside it, or a part has two folders.
    """
    folders = [entry.name for entry in entries_of(root) if is_folder(entry)]
    found = dict[str, Path]()
    for name in folders:
        part = PARTS.get(name.lower())
        if part in found:
            raise DataError(f"folder:{root}: {found[part].name} and {name} both are {part}; keep one of them there")
        if part is not None:
            found[part] = root / name
    if "train" not in found or len(found) < 2:
        raise DataError(
            f"folder:{root}: expected {root}/train/CLASS/* and {root}/val or {root}/test likewise; not found"
        )
    others = [name for name in folders if name.lower() not in PARTS]
    note = f"folder:{root}: not used, as no part of train, val or test: {first_ten(others, ', ')}"
    return {part: found[part] for part in ("train", "val", "test") if part in found}, [note] * bool(others)


def class_names(root: Path) -> list[str]:
    """The names of the folders in one, sorted."""
    return [entry.name for entry in entries_of(root) if is_folder(entry)]


class ImageFolder(Dataset[tuple[Image.Image, int]]):
    """The pictures of one part, in the order of their folders and names.

    Attributes:
        classes: names of the folders in it, sorted.
        samples: file and class of each picture.
        left_out: endings of the files that are no pictures, each with its count.

    Raises:
        DataError: a folder cannot be read, a class has no picture, or a picture is no regular file.
    """

    def __init__(self, root: Path, order: Sequence[str] | None = None) -> None:
        """`order` names the classes in the order of their numbers; by default it is that of their names."""
        self.root, self.since = root, time.time_ns()
        self.classes = class_names(root)
        self.left_out = Counter(ending_of(e.name) for e in entries_of(root) if not is_folder(e))
        pictures = {name: self._pictures(os.path.join(root, name)) for name in self.classes}
        self._check(pictures)
        numbers = {name: number for number, name in enumerate(order or self.classes)}
        self.samples = [(file, numbers.get(name, -1)) for name, files in pictures.items() for file in files]

    def _pictures(self, folder: str) -> list[str]:
        found = []
        for entry in files_below(folder):
            if ending_of(entry.name) in PICTURES:
                found.append(entry)
            else:
                self.left_out[ending_of(entry.name)] += 1
        odd = next((entry.path for entry in found if not entry.is_file()), None)
        if odd is not None:
            raise DataError(f"{odd}: is no file (a link that leads nowhere, a pipe or a device); remove it")
        return sorted((entry.path for entry in found), key=os.path.split)

    def _check(self, pictures: dict[str, list[str]]) -> None:
        empty = [name for name, files in pictures.items() if not files]
        if empty or not pictures:
            of = f" for the classes {first_ten(empty, ', ')}" if empty else ""
            where, kinds = f"folder:{self.root.parent}: {self.root.name}", ", ".join(PICTURES)
            raise DataError(f"{where}: Found no valid file{of}; expected CLASS/* with endings of {kinds}")
        odd = next((name for name in self.classes if name.encode(errors="replace") != os.fsencode(name)), None)
        if odd is not None:
            raise DataError(f"{self.root}: the name of the class {odd!r} is no UTF-8; rename the folder")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        return picture_in(path, self.since), label


def picture_in(path: str, since: int) -> Image.Image:
    """The picture in a file, of which only the head is decoded yet.

    Args:
        since: a time, as of `time.time_ns`, after which the file must not have been written.

    Raises:
        DataError: it is no regular file, is too large, or was changed. Exception: whatever Pillow raises.
    """
    with opened(path) as file:
        if (size := Stamp.of(file).size) > LARGEST:
            raise DataError(f"{path}: {size:,} bytes are too many for a picture")
        content = file.read()  # and not mapped: a file that is cut off meanwhile would end the process
        check_unchanged(file, path, since)
    return opened_picture(content)


def left_out_note(where: str, parts: Sequence[ImageFolder]) -> list[str]:
    """A line on files that are no pictures, where there are any."""
    counts = sum((part.left_out for part in parts), Counter[str]())
    return [f"{where}: files that are no pictures of a class are left out: {counted(counts)}"] * bool(counts)


def counted(endings: Counter[str]) -> str:
    """How many files there are, and how many of each ending."""
    kinds = [f"{count:,} .{ending}" if ending else f"{count:,} without" for ending, count in endings.most_common()]
    return f"{endings.total():,} ({first_ten(kinds, ', ')})"


def ending_of(name: str) -> str:
    """What a name ends in, in small letters and without the dot."""
    return name.rpartition(".")[2].lower() if "." in name else ""
