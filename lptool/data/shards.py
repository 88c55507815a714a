"""WebDataset shards that lie on this machine, as a data set that can be read in any order."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from lptool.data.images import Array
from lptool.errors import DataError, first_line

PICTURES = ("jpg", "jpeg", "png", "webp")
_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # a sample's key, and which of its files this is


def shard_files(root: Path) -> dict[str, list[Path]]:
    """The shards of `train`, `val` and `test`, those that there are, each in order.

    Which shard is of which part stands in `_info.json`, as timm writes it, or else in the names of the files, such as
    `imagenet-train-0000.tar`.

    Raises:
        DataError: no shard of train, or none beside it.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    info = root / "_info.json"
    if info.exists():
        for name, files in _named_in(info).items():
            found[_PARTS.get(name, "")] += [root / file for file in files]
    else:
        for file in sorted(root.rglob("*.tar")):
            words = re.findall("[a-z]+", str(file.relative_to(root)).lower())
            found[next((_PARTS[word] for word in words if word in _PARTS), "")].append(file)
    parts = {part: found[part] for part in ("train", "val", "test") if found.get(part)}
    if "train" not in parts or len(parts) < 2:
        raise DataError(
            f"{root}: expected tar files of train and of val or test, told apart by _info.json or by their names, as "
            f"x-train-0000.tar; found {', '.join(parts) or 'none'}"
        )
    return parts


def _named_in(info: Path) -> dict[str, list[str]]:
    try:
        splits = json.loads(info.read_text())["splits"]
        return {name: [str(file) for file in split["filenames"]] for name, split in splits.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{info}: expected splits with filenames, as timm writes them ({first_line(error)})") from error


class Shards(Dataset[tuple[Image.Image, int]]):
    """The pictures of tar files and their classes, in the order of the files and of what lies in them.

    Files with one name and different endings are one sample, as WebDataset has it; of each, the picture and the class
    number in `.cls` are looked at. The headers of all files are read once, here (two minutes for ImageNet); a picture
    is then one seek away. So order, split and resuming are as exact as for a folder of images.

    Raises:
        DataError: a tar file is missing, damaged or compressed, or a sample has no class.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        rows = [(shard, *place) for shard, file in enumerate(files) for place in _places(file)]
        self.index = np.array(rows, np.int64).reshape(-1, 4)  # [N, 4]: number of the file, offset, length, class

    def __len__(self) -> int:
        return len(self.index)

    @property
    def classes(self) -> Array:
        """The class of every picture, int64 [N]."""
        return self.index[:, 3]

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """RGB, whatever the file holds, as timm and image folders give it."""
        shard, offset, length, label = self.index[index].tolist()
        with open(self.files[shard], "rb") as stream:
            stream.seek(offset)
            return Image.open(io.BytesIO(stream.read(length))).convert("RGB"), label


def _places(file: Path) -> Iterator[tuple[int, int, int]]:
    """Offset and length in bytes, and class, of every picture in a tar file."""
    try:
        with open(file, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            named = ((match, member) for member in tar if member.isreg() and (match := _NAME.fullmatch(member.name)))
            for key, sample in groupby(named, key=lambda one: one[0][1]):
                parts = {match[2].lower(): member for match, member in sample}
                picture = next((parts[kind] for kind in PICTURES if kind in parts), None)
                if picture is not None:
                    yield picture.offset_data, picture.size, _class(tar, parts.get("cls"), f"{file}: {key}")
            stream.seek(tar.offset)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # what ends a tar file, and tarfile forgives
                raise tarfile.ReadError("it is cut off")
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{file}: not a whole, uncompressed tar file ({first_line(error)})") from error


def _class(tar: tarfile.TarFile, member: tarfile.TarInfo | None, sample: str) -> int:
    stream = None if member is None else tar.extractfile(member)
    text = "no such file" if stream is None else stream.read().decode(errors="replace").strip()
    if not text.isdecimal():
        raise DataError(f"{sample}.cls: expected the class as a number from 0, found {text[:40]!r}")
    return int(text)
