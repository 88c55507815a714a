"""Training options and the presets of the paper. Free of torch, so that `--help` starts fast."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from lptool.errors import TrainError, near_miss


@dataclass(frozen=True)
class TrainOptions:
    """Everything that shapes the tickets of an IMP run, apart from the number of levels.

    Attributes:
        arch: a timm name, `module:callable` or `file.py:callable`.
        dataset: see `lptool.data.load_data`.
        rate: fraction of the remaining weights pruned at each level, in (0, 1).
        epochs: length of the schedule; level 0 trains all of it, later levels from `rewind_epoch` on.
        rewind_epoch: the level-0 epoch that weights and schedule go back to; 0 is the initialisation.
        prune: `conv` (as in the paper), or `all` for convolutional and linear weights.
        keep: `last` (as in the paper), or `best`, the epoch most accurate on val.
        batch_size: images per optimizer step.
        lr: learning rate, divided by 10 at 50 % and 75 % of the epochs.
        momentum, weight_decay: of SGD.
        crop_padding: pixels of the random crop; None takes an eighth of the image size.
        flip: random horizontal flips; None takes what suits the data set.
        precision: `auto`, `fp32` or `bf16` (autocast).
        image_size: side in pixels; None takes the data set's own.
        val_fraction, split_seed: the split of the training set into train and val.
        seed: of the initialisation, the order of the images and the augmentation.

    Defaults: Yin et al. 2023, section 4: SGD, momentum 0.9, weight decay 1e-4, lr 0.1, batch 128, 182 epochs,
    rewinding to epoch 9, 20 % per level.
    """

    arch: str = "resnet18_cifar"
    dataset: str = "cifar10"
    rate: float = 0.2
    epochs: int = 182
    rewind_epoch: int = 9
    prune: str = "conv"
    keep: str = "last"
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    crop_padding: int | None = None
    flip: bool | None = None
    precision: str = "auto"
    image_size: int | None = None
    val_fraction: float = 0.1
    split_seed: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        rules = {
            "rate": (0 < self.rate < 1, "in (0, 1)"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "rewind_epoch": (0 <= self.rewind_epoch < self.epochs, f"from 0 to epochs − 1 = {self.epochs - 1}"),
            "prune": (self.prune in ("conv", "all"), "conv or all"),
            "keep": (self.keep in ("last", "best"), "last or best"),
            "batch_size": (self.batch_size >= 2, "at least 2, because BatchNorm needs two images"),
            "lr": (0 < self.lr < math.inf, "a number above 0"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or a number above it"),
            "crop_padding": (self.crop_padding is None or self.crop_padding >= 0, "0 or more pixels"),
            "image_size": (self.image_size is None or self.image_size >= 1, "at least 1 pixel"),
            "seed": (0 <= self.seed < 2**32, "from 0 to 2^32 − 1"),
            "split_seed": (0 <= self.split_seed < 2**32, "from 0 to 2^32 − 1"),
            "precision": (self.precision in ("auto", "fp32", "bf16"), "auto, fp32 or bf16"),
            "val_fraction": (0 < self.val_fraction < 1, "in (0, 1)"),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise TrainError(f"{name}: expected {expected}, found {getattr(self, name)}")

    def to_json(self) -> dict[str, Any]:
        """All options by name."""
        return asdict(self)


@dataclass(frozen=True)
class Preset:
    """Options with the number of prunings that go with them."""

    options: TrainOptions
    levels: int


def _paper(arch: str, dataset: str) -> Preset:
    return Preset(TrainOptions(arch=arch, dataset=dataset), levels=18)  # Yin et al. 2023, section 4


PRESETS = {
    # half of the few training images are val: choosing on 180 of them would be choosing by luck
    "quickstart": Preset(
        TrainOptions(
            arch="resnet8_cifar",
            dataset="digits",
            epochs=15,
            rewind_epoch=3,
            precision="fp32",
            val_fraction=0.5,
        ),
        levels=5,
    ),
    "fashion-mnist-resnet8": Preset(
        TrainOptions(arch="resnet8_cifar", dataset="fashion-mnist", epochs=10, rewind_epoch=2), levels=11
    ),
    "paper-cifar10-resnet18": _paper("resnet18_cifar", "cifar10"),
    "paper-cifar10-vgg16": _paper("vgg16_bn_cifar", "cifar10"),
    "paper-cifar100-resnet18": _paper("resnet18_cifar", "cifar100"),
    "paper-cifar100-vgg16": _paper("vgg16_bn_cifar", "cifar100"),
}


def preset(name: str) -> Preset:
    """The preset called `name`. Raises TrainError."""
    if name not in PRESETS:
        raise TrainError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}.{near_miss(name, PRESETS)}")
    return PRESETS[name]


OPTION_NAMES = tuple(field.name for field in fields(TrainOptions))
