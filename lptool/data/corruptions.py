"""Corrupted test images: C-style ones made here, and the standard CIFAR-10-C and CIFAR-100-C files.

The C-style kinds follow Hendrycks & Dietterich 2019 (Benchmarking Neural Network Robustness to Common Corruptions) as
far as torchvision's v2 transforms go; the strengths are ours, so numbers do not compare with those on the files.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from lptool.data.dataset import Data
from lptool.data.images import Array, Images, decoded, in_memory
from lptool.errors import DataError, first_line, first_ten

SEVERITIES = (1, 2, 3, 4, 5)
GENERATED = "C-style, torchvision v2"
Seeds = Sequence[int]


@dataclass(frozen=True)
class CorruptedSet:
    """One kind at one severity; `images` makes or reads them when called. `extra`: no part of the mean."""

    name: str
    severity: int
    images: Callable[[], Images]
    extra: bool = False


@dataclass(frozen=True)
class Corruptions:
    """Where they come from, and every kind at every severity."""

    source: str
    sets: tuple[CorruptedSet, ...]


def gaussian_noise(images: Tensor, sigma: float, seeds: Seeds) -> Tensor:
    """`v2.GaussianNoise` with a generator per image; `sigma` on the scale [0, 1]."""
    noise = _normal(tuple(images.shape[1:]), seeds)
    return (images + noise * (sigma * 255)).round().clamp(0, 255).byte()


def gaussian_blur(images: Tensor, sigma: float, _: Seeds) -> Tensor:
    """`sigma` as a share of the shorter side."""
    side = min(images.shape[-2:])
    reach = min(int(3 * sigma * side) + 1, side - 1)  # the border is mirrored, once at most
    return v2.gaussian_blur(images, 2 * reach + 1, sigma * side)  # type: ignore[no-any-return]


def pixelate(images: Tensor, share: float, _: Seeds) -> Tensor:
    """Down to `share` of each side, and up again."""
    height, width = images.shape[-2:]
    small = v2.resize(images, [max(1, round(height * share)), max(1, round(width * share))], antialias=True)
    return v2.resize(small, [height, width], InterpolationMode.NEAREST_EXACT)  # type: ignore[no-any-return]


def elastic(images: Tensor, shift: float, seeds: Seeds) -> Tensor:
    """A smooth random field moves each pixel by `shift` of the image's side, in the root mean square of the way."""
    height, width = images.shape[-2:]
    coarse = _normal((2, 5, 5), seeds)
    fields = v2.resize(coarse, [height, width], InterpolationMode.BICUBIC)
    lengths = fields.square().sum(1, keepdim=True)  # squared, of both directions together
    fields *= 2 * shift / lengths.mean((2, 3), keepdim=True).sqrt()  # a grid is 2 wide
    pairs = zip(images, fields.permute(0, 2, 3, 1), strict=True)
    return torch.stack([v2.elastic(image, field[None]) for image, field in pairs])


def jpeg(images: Tensor, quality: float, _: Seeds) -> Tensor:
    """Encoded and decoded by Pillow: torchvision gives up its own encoder."""
    return torch.stack([_through_jpeg(image, int(quality)) for image in images])


Corrupt = Callable[[Tensor, float, Seeds], Tensor]


def _seedless(adjust: Callable[[Tensor, float], Tensor]) -> Corrupt:
    return lambda images, factor, _: adjust(images, factor)


# The strength at severities 1 to 5. Lengths are shares of the image's side: 1 pixel of 32 is 0.03.
KINDS: dict[str, tuple[Corrupt, tuple[float, float, float, float, float]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "gaussian_blur": (gaussian_blur, (0.025, 0.035, 0.045, 0.055, 0.07)),
    # These multiply a value, its difference from the image's mean grey, and from its own grey.
    "brightness": (_seedless(v2.adjust_brightness), (1.2, 1.4, 1.7, 2.0, 2.5)),
    "contrast": (_seedless(v2.adjust_contrast), (0.75, 0.5, 0.4, 0.3, 0.15)),
    "saturation": (_seedless(v2.adjust_saturation), (0.7, 0.5, 0.3, 0.15, 0.0)),
    "pixelate": (pixelate, (0.95, 0.6, 0.5, 0.4, 0.3)),
    "jpeg": (jpeg, (80, 60, 40, 25, 10)),
    "elastic": (elastic, (0.01, 0.02, 0.03, 0.04, 0.05)),
}
_COLOUR_ONLY = ("saturation",)


def _normal(shape: tuple[int, ...], seeds: Seeds) -> Tensor:
    """A random tensor per seed: an image's own, whatever batch it comes in."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    stream = io.BytesIO()
    v2.to_pil_image(image).save(stream, "JPEG", quality=quality)
    return v2.pil_to_tensor(Image.open(stream))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Corrupted:
    """Images of `source` at `places`, corrupted as they are needed; the same each time, in any order and batch."""

    source: Images
    places: Tensor
    kind: str
    severity: int
    seed: int = 0

    def __len__(self) -> int:
        return len(self.places)

    def subset(self, indices: Tensor) -> Corrupted:
        return replace(self, places=self.places[indices])

    def to(self, device: torch.device) -> Corrupted:
        return self

    def raw(self, order: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        corrupt, strengths = KINDS[self.kind]
        chunks = [self.places[indices] for indices in order]
        # Corrupted on the CPU, where random numbers are the same on every machine.
        for places, (images, labels) in zip(chunks, self.source.raw(chunks, torch.device("cpu")), strict=True):
            # A generator on the CPU looks at 32 bits of its seed. The factor, a prime larger than any test set, keeps
            # the images of two seeds from sharing generators.
            seeds = [(self.seed * 1_000_003 + place) % 2**32 for place in places.tolist()]
            yield corrupt(images, strengths[self.severity - 1], seeds).to(device), labels.to(device)

    def resized_crops(self, seed: int) -> Images | None:
        return None


def generated(data: Data, device: torch.device) -> Corruptions:
    """Every kind that `data` has the colours for, made of its test images.

    Raises:
        DataError: the images are neither grey nor RGB.
    """
    channels = data.shape[0]
    if channels not in (1, 3):
        raise DataError(f"{data.name}: corruptions are made of grey or RGB images, found {channels} channels")
    kinds = [kind for kind in KINDS if channels == 3 or kind not in _COLOUR_ONLY]
    test, places = data.test.to(torch.device("cpu")), torch.arange(len(data.test))
    made = [Corrupted(test, places, kind, severity) for kind in kinds for severity in SEVERITIES]
    return Corruptions(GENERATED, tuple(CorruptedSet(c.kind, c.severity, partial(decoded, c, device)) for c in made))


# The files of Hendrycks & Dietterich 2019: 15 kinds that scores are reported on, and 4 meant for validation.
STANDARD = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
ROWS = 10_000  # of each severity: severity s is rows (s − 1)·10,000 … s·10,000
_SOURCES = {10: "CIFAR-10-C", 100: "CIFAR-100-C"}


def standard_folder(data_dir: Path | None) -> Path | None:
    """The folder of `.npy` files that `data_dir` is or holds under its standard name; None where there is none."""
    places = [data_dir, *(data_dir / name for name in _SOURCES.values())] if data_dir else []
    names = {f"{name}.npy" for name in ("labels", *STANDARD, *EXTRA)}
    return next((p for p in places if (p.name in _SOURCES.values() and p.is_dir()) or _holds(p, names)), None)


def _holds(folder: Path, names: set[str]) -> bool:
    return any((folder / name).is_file() for name in names)


def standard(folder: Path, data: Data, rows: int = ROWS) -> Corruptions:
    """The standard files, mapped and not read; all are checked here.

    Args:
        data: what they are the corrupted test images of: its image shape and classes count.
        rows: images of each severity.

    Raises:
        DataError: a file is missing, damaged or has another shape; says which, what was expected and found.
    """
    absent = [f"{name}.npy" for name in ("labels", *STANDARD) if not (folder / f"{name}.npy").is_file()]
    if absent:
        raise DataError(f"{folder}: lacks {first_ten(absent, ', ')}; expected labels.npy and the 15 standard files")
    if data.num_classes not in _SOURCES:
        raise DataError(f"{folder}: is for the 10 or 100 classes of CIFAR, but {data.name} has {data.num_classes}")
    labels = _mapped(folder / "labels.npy", (5 * rows,))
    _check_labels(folder / "labels.npy", labels, data.num_classes)
    channels, height, width = data.shape
    names = [*STANDARD, *(name for name in EXTRA if (folder / f"{name}.npy").is_file())]
    arrays = {name: _mapped(folder / f"{name}.npy", (5 * rows, height, width, channels)) for name in names}
    sets = [
        CorruptedSet(name, severity, partial(in_memory, array[own], labels[own]), name in EXTRA)
        for name, array in arrays.items()
        for severity in SEVERITIES
        for own in [slice((severity - 1) * rows, severity * rows)]
    ]
    return Corruptions(_SOURCES[data.num_classes], tuple(sets))


def _mapped(path: Path, shape: tuple[int, ...]) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: all files take 2.9 GB
    except (OSError, ValueError, EOFError) as error:  # a short file among them
        raise DataError(f"{path}: not a whole .npy file ({first_line(error)}); download it again") from error
    expected = "uint8" if len(shape) > 1 else "integers"
    sound = array.dtype == np.uint8 if expected == "uint8" else array.dtype.kind in "ui"
    if array.shape != shape or not sound:
        raise DataError(f"{path}: expected {expected} {list(shape)}, found {array.dtype} {list(array.shape)}")
    return array


def _check_labels(path: Path, labels: Array, num_classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(f"{path}: labels go from {low} to {high}, expected 0 to {num_classes - 1}")
