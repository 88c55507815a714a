"""Ready-made training options: the paper's, ImageNet's and small ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lptool.errors import TrainError, near_miss
from lptool.training.options import TrainOptions


@dataclass(frozen=True)
class Preset:
    """Options with the number of prunings that go with them."""

    options: TrainOptions
    levels: int


PAPER_LEVELS = 18  # Yin et al. 2023, section 4


def _paper(arch: str, dataset: str) -> Preset:
    return Preset(TrainOptions(arch=arch, dataset=dataset), PAPER_LEVELS)


def _imagenet(arch: str) -> Preset:
    """ResNets on ImageNet as the lottery-ticket literature trains them (Frankle et al. 2020, table A1; Goyal 2017)."""
    options = TrainOptions(
        arch=arch,
        dataset="folder:imagenet",
        epochs=90,
        rewind_epoch=5,
        batch_size=1024,
        lr=0.4,
        warmup=5,
        milestones=(30, 60, 80),
        augment="resized-crop",
        image_size=224,
        val_fraction=0.04,  # of 1.28 million: about as many as ImageNet's own 50,000, which are test here
    )
    return Preset(options, levels=8)


PRESETS = {
    # half of the few training images are val: choosing on 180 of them would be choosing by luck
    "quickstart": Preset(
        TrainOptions(
            arch="resnet8_cifar", dataset="digits", epochs=15, rewind_epoch=3, precision="fp32", val_fraction=0.5
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
    "paper-imagenet-resnet18": _imagenet("resnet18"),
    "paper-imagenet-resnet34": _imagenet("resnet34"),
    "paper-imagenet-resnet50": _imagenet("resnet50"),
}


def preset(name: str) -> Preset:
    """The preset called `name`. Raises TrainError."""
    if name not in PRESETS:
        raise TrainError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}.{near_miss(name, PRESETS)}")
    return PRESETS[name]


def with_given(base: TrainOptions, given: Mapping[str, Any]) -> TrainOptions:
    """A preset's options, with what was `given` in their place.

    With other epochs than the preset's, its milestones, its warm-up and its rewind epoch lie at the same shares of
    them.

    Raises:
        TrainError: options that contradict each other.
    """
    return replace(base, **{**_scaled(base, given.get("epochs", base.epochs)), **given})


def _scaled(base: TrainOptions, epochs: int) -> dict[str, Any]:
    """A preset's points of training at the same shares of other epochs; a rewind point in steps stays."""
    if epochs == base.epochs:
        return {}
    share, rewind = epochs / base.epochs, base.rewind_epoch
    milestones = {round(milestone * share) for milestone in base.milestones or ()} - {0, epochs}
    if isinstance(rewind, int) and rewind:
        # Not 0 as long as there is another epoch: that would be the initialisation, which no preset rewinds to.
        rewind = max(1, round(rewind * share)) if epochs > 1 else 0
    return {
        "milestones": tuple(sorted(milestones)) or None,
        "warmup": base.warmup and base.warmup * share,
        "rewind_epoch": rewind,
    }
