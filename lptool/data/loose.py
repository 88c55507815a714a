"""Pictures that belong to no data set, named one by one or in folders, as images of the size that a network takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import fspath
from os.path import split
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from lptool.data.colours import reason_of
from lptool.data.files import files_below
from lptool.data.image_folder import PICTURES, counted, ending_of, picture_in
from lptool.data.images import resized
from lptool.data.pictures import Pictures
from lptool.errors import DataError


@dataclass
class Found:
    """What lies at some paths.

    Attributes:
        files: the pictures; those of a folder in the order of their folders and names.
        unreadable: path → why there is no picture.
        left_out: endings of the files in folders that are no pictures, each with its count.
    """

    files: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def notes(self) -> list[str]:
        """What a person should know."""
        said = f"files in folders that are no pictures are left out: {counted(self.left_out)}"
        return [said] * bool(self.left_out)


def pictures_at(paths: Sequence[str | Path]) -> Found:
    """The pictures at these paths, each once: a file whatever its name, and of a folder all that end as pictures do."""
    found = Found()
    for path in map(Path, paths):
        try:
            _add(fspath(path), found, is_folder=path.is_dir())
        except (DataError, OSError) as error:
            found.unreadable[fspath(path)] = _reason(error, fspath(path))
    found.files = list(dict.fromkeys(found.files))
    return found


def _add(path: str, found: Found, *, is_folder: bool) -> None:
    if not is_folder:
        found.files.append(path)
        return
    endings = {entry.path: ending_of(entry.name) for entry in files_below(path)}
    pictures = sorted((file for file, ending in endings.items() if ending in PICTURES), key=split)
    found.left_out.update(ending for ending in endings.values() if ending not in PICTURES)
    if not pictures:
        raise DataError(f"{path}: no picture in it ({', '.join(PICTURES)})")
    found.files += pictures


class LoosePictures(Dataset[tuple[Tensor, int]]):
    """Picture files as uint8 images [C, H, W], and 1; of one that cannot be read black, and 0.

    Args:
        shape: channels (1 makes them grey, 3 RGB), height and width in pixels.
        whole: scale pictures as a whole, as arrays of pixels are; else they are scaled by their shorter side, and the
            centre is cut out.

    Raises:
        DataError: pictures do not have that many channels.
    """

    def __init__(self, files: Sequence[str], shape: tuple[int, int, int], *, whole: bool = False) -> None:
        channels, height, width = self.shape = shape
        if channels not in (1, 3):
            raise DataError(f"the network takes images of {channels} channels, and pictures have 1 or 3")
        self.files, self.since = files, time.time_ns()
        self._pictures = Pictures(files, max(height, width), channels == 1)
        if whole or height != width:
            self._pictures.squared = self._scaled if whole else self._cut

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            return self._decoded(index), 1
        except Exception:  # whatever Pillow raises on a damaged file; `reason` says which
            return torch.zeros(self.shape, dtype=torch.uint8), 0

    def reason(self, index: int) -> str:
        """Why a picture cannot be read."""
        try:
            self._decoded(index)
        except Exception as error:  # likewise
            return _reason(error, self.files[index])
        return "could not be read a moment ago"

    def _decoded(self, index: int) -> Tensor:
        return self._pictures.decode((picture_in(self.files[index], self.since), 0))[0]

    def _scaled(self, picture: Image.Image) -> Tensor:
        return resized(_pixels(picture)[None], self.shape[1:])[0]

    def _cut(self, picture: Image.Image) -> Tensor:
        return _pixels(ImageOps.fit(picture, self.shape[:0:-1], Image.Resampling.BILINEAR))


def _pixels(picture: Image.Image) -> Tensor:
    from torchvision.transforms.v2 import functional

    found: Tensor = functional.pil_to_tensor(picture)
    return found


def _reason(error: Exception, path: str) -> str:
    text = error.text if isinstance(error, DataError) else reason_of(error)
    return text.removeprefix(f"{path}: ")
