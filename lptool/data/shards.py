"""WebDataset shards that lie on this machine, as a data set that can be read in any order."""

from __future__ import annotations

import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from lptool.checkpoints.regular import Stamp
from lptool.data.colours import opened_picture
from lptool.data.files import PARTS, check_state, files_below, opened
from lptool.data.image_folder import LARGEST, PICTURES
from lptool.data.images import Array
from lptool.errors import DataError, first_line

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)  # a sample's key, and which of its files this is

Sample = dict[str, tarfile.TarInfo]  # by what follows the key: `jpg`, `cls`, `seg.png`


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
            found[PARTS.get(name, "")] += [root / file for file in files]
    else:
        for file in sorted(Path(entry.path) for entry in files_below(root) if entry.name.endswith(".tar")):
            words = re.findall("[a-z]+", str(file.relative_to(root)).lower())
            found[next((PARTS[word] for word in words if word in PARTS), "")].append(file)
    parts = {part: found[part] for part in ("train", "val", "test") if found.get(part)}
    if "train" not in parts or len(parts) < 2:
        raise DataError(
            f"{root}: expected tar files of train and of val or test, told apart by _info.json or by their names, as "
            f"x-train-0000.tar; found {', '.join(parts) or 'none'}"
        )
    return parts


def _named_in(info: Path) -> dict[str, list[str]]:
    try:
        with opened(info) as stream:
            splits = json.load(stream)["splits"]
        named = {name: [str(file) for file in split["filenames"]] for name, split in splits.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{info}: expected splits with filenames, as timm writes them ({first_line(error)})") from error
    for file in (file for files in named.values() for file in files):
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise DataError(f"{info}: names {file!r}, expected files beside it")
    return named


class Shards(Dataset[tuple[Image.Image, int]]):
    """The pictures of tar files and their classes, in the order of the files and of what lies in them.

    Files with one name and different endings are one sample, as WebDataset has it; of each, the picture and the class
    number in `.cls` are looked at. The headers of all files are read once, here (two minutes for ImageNet); a picture
    is then one seek away. So order, split and resuming are as exact as for a folder of images.

    Raises:
        DataError: a tar file is missing, damaged or compressed, or a sample has no class.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files, self.states, self.without_picture = files, list[Stamp](), 0
        rows = [(shard, *place) for shard, file in enumerate(files) for place in self._places(file)]
        self.index = np.array(rows, np.int64).reshape(-1, 4)  # [N, 4]: number of the file, offset, length, class

    def __len__(self) -> int:
        return len(self.index)

    @property
    def classes(self) -> Array:
        """The class of every picture, int64 [N]."""
        return self.index[:, 3]

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        shard, offset, length, label = self.index[index].tolist()
        with opened(self.files[shard]) as stream:
            check_state(stream, self.files[shard], self.states[shard])
            stream.seek(offset)
            return opened_picture(stream.read(length)), label

    def name(self, index: int) -> str:
        """Where a picture lies."""
        return f"{self.files[self.index[index, 0]]}: the picture at byte {self.index[index, 1]:,}"

    def _places(self, file: Path) -> list[tuple[int, int, int]]:
        """Offset and length in bytes, and class, of every picture in a tar file."""
        with opened(file) as stream:
            self.states.append(Stamp.of(stream))
            try:
                with tarfile.open(fileobj=stream, mode="r:") as tar:
                    samples = _samples(tar, stream)
                    self.without_picture += sum(not _pictures(sample) and "cls" in sample for _, sample in samples)
                    return [place for key, sample in samples for place in _labelled(tar, sample, key)]
            except DataError as error:
                raise DataError(f"{file}: {error.text}") from error
            except Exception as error:  # tarfile raises what struct, int and its own parsers of headers raise
                raise DataError(f"{file}: not a whole, uncompressed tar file ({first_line(error)})") from error


def _samples(tar: tarfile.TarFile, stream: BinaryIO) -> list[tuple[str, Sample]]:
    """Key and files of each sample, in order. The files need not lie together; a second one of a name begins anew."""
    found, latest = list[tuple[str, Sample]](), dict[str, Sample]()
    for match, member in _members(tar, stream):
        key, kind = match[1], match[2].lower()
        if key not in latest or kind in latest[key]:
            latest[key] = {}
            found.append((key, latest[key]))
        latest[key][kind] = member
    return found


def _members(tar: tarfile.TarFile, stream: BinaryIO) -> Iterator[tuple[re.Match[str], tarfile.TarInfo]]:
    """The pictures and classes in a tar file."""
    size, last = Stamp.of(stream).size, -1
    for member in tar:
        match = _NAME.fullmatch(member.name)
        wanted = match is not None and match[2].lower().rpartition(".")[2] in (*PICTURES, "cls")
        if wanted and (member.issparse() or not member.isreg()):
            raise DataError(f"{member.name}: has holes or is a link; write it with its content (tar --dereference)")
        # A size below 0 would lead back to where this was.
        if not last < member.offset_data <= member.offset_data + member.size <= size and not member.issparse():
            raise tarfile.ReadError(f"{member.name[:100]} does not lie in it")
        last = member.offset_data
        if match is not None and wanted:
            yield match, member
    stream.seek(tar.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # what ends a tar file, and tarfile forgives
        raise tarfile.ReadError("it is cut off")


def _pictures(sample: Sample) -> dict[str, tarfile.TarInfo]:
    """The pictures of a sample, by what lies between key and ending: "" of `key.jpg`, `v2.` of `key.v2.jpg`."""
    kinds = [kind for ending in reversed(PICTURES) for kind in sample if kind.rpartition(".")[2] == ending]
    return {kind.removesuffix(kind.rpartition(".")[2]): sample[kind] for kind in kinds}


def _labelled(tar: tarfile.TarFile, sample: Sample, key: str) -> Iterator[tuple[int, int, int]]:
    """Each picture with a class of its own, else the one that bears the name of the sample, else the only one."""
    pictures = _pictures(sample)
    own = [between for between in pictures if f"{between}cls" in sample]
    chosen = own or [between for between in pictures if not between] or list(pictures)
    if len(chosen) > 1 and not own:
        found = ", ".join(picture.name for picture in pictures.values())
        raise DataError(f"{key}: expected one picture, or a class (.cls) for each, found {found}")
    for between in chosen:
        picture, label = pictures[between], sample.get(f"{between}cls") or sample.get("cls")
        if picture.size > LARGEST:
            raise DataError(f"{picture.name}: {picture.size:,} bytes are too many for a picture")
        yield picture.offset_data, picture.size, _class(tar, label, key)


def _class(tar: tarfile.TarFile, member: tarfile.TarInfo | None, key: str) -> int:
    stream = None if member is None else tar.extractfile(member)
    text = "no such file" if stream is None else stream.read(100).decode(errors="replace").strip()
    if not text.isdecimal() or len(text) > 9:
        raise DataError(f"{key}.cls: expected the class as a number from 0, found {text[:40]!r}")
    return int(text)
