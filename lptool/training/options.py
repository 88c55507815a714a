"""Everything that shapes the tickets of a run, and how far it prunes. Free of torch, so that `--help` starts fast."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lptool.checkpoints.header import AUGMENTS, FLIPS
from lptool.errors import TrainError, listed

Levels = int | Sequence[float]  # how many prunings at the rate of the options, or the sparsity after each


def sparsities_to(sparsity: float, rate: float, begun: Sequence[float] = ()) -> tuple[float, ...]:
    """The sparsity after each pruning, up to `sparsity`, in (0, 1): as few as `rate` allows, each by the same share.

    Args:
        rate: the largest share of the remaining weights that a level may prune. Where a whole number of levels at that
            rate ends elsewhere, they prune less each: else the last one would be trained for the little that is left.
        begun: what was planned before, in this folder; it is kept as far as it is no sparser.

    >>> [round(each, 3) for each in sparsities_to(0.8, 0.4)]
    [0.331, 0.553, 0.701, 0.8]
    """
    if not 0 < sparsity < 1:
        raise TrainError(f"expected a number in (0, 1), found {sparsity}", "sparsity")
    kept = [each for each in begun if each < sparsity]
    if sparsity in begun:
        return (*kept, sparsity)
    before = 1 - kept[-1] if kept else 1.0  # density
    count = math.log((1 - sparsity) / before) / math.log(1 - rate)  # levels at that very rate
    levels = max(1, math.ceil(count - 1e-9))  # no level for what rounding leaves
    exact = abs(levels - count) <= 1e-9
    share = 1 - rate if exact else ((1 - sparsity) / before) ** (1 / levels)
    return (*kept, *(1 - before * share**level for level in range(1, levels)), sparsity)


def check_levels(levels: Levels) -> None:
    """Refuse sparsities that do not grow. Raises TrainError."""
    if isinstance(levels, int):
        return
    if not levels or not all(a < b for a, b in zip((0.0, *levels), (*levels, 1.0), strict=True)):
        raise TrainError(f"expected growing numbers in (0, 1), found {list(levels)}", "sparsities")


def count_of(levels: Levels) -> int:
    """How many prunings."""
    return levels if isinstance(levels, int) else len(levels)


CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("multistep", "cosine", "linear"),
    "rewind": ("weights", "lr", "init"),
    "prune": ("conv", "all"),
    "scope": ("global", "layer"),
    "keep": ("last", "best"),
    "augment": AUGMENTS,
    "flip": FLIPS,
    "precision": ("auto", "fp32", "bf16"),
}


@dataclass(frozen=True)
class TrainOptions:
    """Everything that shapes the tickets of an IMP run, apart from how sparse each level is.

    Attributes:
        arch: a timm name, `module:callable` or `file.py:callable`. arch_kwargs: arguments of it, as JSON has them.
        dataset: see `lptool.data.dataset.load_data`.
        init_checkpoint: a file whose weights level 0 starts from; a head for other classes starts afresh.
        pretrained: whether level 0 starts from timm's weights for `arch`.
        rate: fraction of the remaining weights pruned at each level, in (0, 1).
        prune: `conv` (as in the paper), or `all` for convolutional and linear weights.
        scope: `global` compares the weights of all tensors (as in the paper), `layer` prunes each by the same share.
        rewind: what a level starts from: `weights` and schedule of the rewind point (as in the paper), the `lr` of it
            with the weights of the level before (Renda et al. 2020), or `init`, the first step (Frankle & Carbin 2019).
        rewind_epoch: the level-0 epoch to go back to, as a number or `3ep`, or the step, as `500it`.
        keep: `last` (as in the paper), or `best`, the epoch most accurate on val.
        epochs: length of the schedule; level 0 trains all of it, later levels from the rewind point on.
        batch_size: images per optimizer step, over all processes together.
        optimizer: `sgd` or `adamw`. lr: its learning rate at the height of the schedule.
        momentum, nesterov: of SGD. weight_decay: of either.
        schedule: `multistep` divides the rate by 10 at each of `milestones`; `cosine` and `linear` fall to 0.
        milestones: epochs; None takes 50 % and 75 % of them, as the published script rounds it: 91 and 136 of 182.
        warmup: epochs in which the rate climbs from 0.
        label_smoothing: in [0, 1).
        augment: `crop` is a random one after padding, `resized-crop` one of random size (Szegedy et al. 2015).
        crop_padding: pixels; None takes an eighth of the image size.
        flip: horizontal: `yes` at random, `alternate` every other epoch (Jordan 2024), `no`, or what suits the data.
        precision: `auto`, `fp32` or `bf16` (autocast).
        compile: whether the network goes through `torch.compile`.
        sync_bn: whether BatchNorm sees the images of all processes, and so does not depend on how many there are.
        image_size: side in pixels; None takes the data set's own.
        val_fraction, split_seed: the split of the training set into train and val.
        seed: of the initialisation, the order of the images and the augmentation.

    Defaults: Yin et al. 2023, section 4: SGD, momentum 0.9, weight decay 1e-4, lr 0.1, batch 128, 182 epochs,
    rewinding to epoch 9, 20 % per level.

    Raises:
        TrainError: a value out of range.

    >>> TrainOptions(epochs=20, rewind_epoch="3ep").rewind_epoch
    3
    """

    arch: str = "resnet18_cifar"
    dataset: str = "cifar10"
    init_checkpoint: str | None = None
    pretrained: bool = False
    rate: float = 0.2
    prune: str = "conv"
    scope: str = "global"
    rewind: str = "weights"
    rewind_epoch: int | str = 9
    keep: str = "last"
    epochs: int = 182
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    schedule: str = "multistep"
    milestones: tuple[int, ...] | None = None
    warmup: float = 0
    label_smoothing: float = 0.0
    augment: str = "crop"
    crop_padding: int | None = None
    flip: str = "auto"
    precision: str = "auto"
    compile: bool = False
    sync_bn: bool = True
    image_size: int | None = None
    val_fraction: float = 0.1
    split_seed: int = 0
    seed: int = 0
    arch_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.milestones, list):  # as JSON has it
            object.__setattr__(self, "milestones", tuple(self.milestones))
        rules = {name: (getattr(self, name) in known, listed(known)) for name, known in CHOICES.items()}
        rules |= {
            "rate": (0 < self.rate < 1, "in (0, 1)"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 2, "at least 2, because BatchNorm needs two images"),
            "lr": (0 < self.lr < math.inf, "a number above 0"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "nesterov": (not self.nesterov or self.momentum > 0, "a momentum above 0 with it"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or a number above it"),
            "milestones": (
                self.milestones is None
                or list(self.milestones) == sorted({m for m in self.milestones if 0 < m < self.epochs}),
                f"growing numbers of epochs from 1 to {self.epochs - 1}",
            ),
            "warmup": (0 <= self.warmup <= self.epochs, f"from 0 to epochs = {self.epochs}"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "crop_padding": (self.crop_padding is None or self.crop_padding >= 0, "0 or more pixels"),
            "image_size": (self.image_size is None or self.image_size >= 1, "at least 1 pixel"),
            "seed": (0 <= self.seed < 2**32, "from 0 to 2^32 − 1"),
            "split_seed": (0 <= self.split_seed < 2**32, "from 0 to 2^32 − 1"),
            "val_fraction": (0 < self.val_fraction < 1, "in (0, 1)"),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise TrainError(f"expected {expected}, found {getattr(self, name)}", name)
        self._check_rewind()
        if self.pretrained and self.init_checkpoint:
            raise TrainError("both say where level 0 starts; choose one", "pretrained", "init_checkpoint")

    def _check_rewind(self) -> None:
        if self.rewind == "init":
            object.__setattr__(self, "rewind_epoch", 0)
        number, unit = point(self.rewind_epoch)
        if unit == "ep":
            object.__setattr__(self, "rewind_epoch", number)
            if not 0 <= number < self.epochs:
                expected = f"from 0 to epochs − 1 = {self.epochs - 1}"
                raise TrainError(f"expected {expected}, found {self.rewind_epoch}", "rewind_epoch")

    def to_json(self) -> dict[str, Any]:
        """All options by name, as JSON has them."""
        document = asdict(self)
        if not self.arch_kwargs:  # as in runs begun before there were any
            del document["arch_kwargs"]
        return document | {"milestones": None if self.milestones is None else list(self.milestones)}


def point(text: int | str) -> tuple[int, str]:
    """A point of training, `3`, `3ep` or `500it`, as its number and `ep` or `it`. Raises TrainError."""
    found = re.fullmatch(r"(-?\d+)(ep|it)?", str(text))
    if found is None:
        raise TrainError(f"expected epochs (3 or 3ep) or steps (500it), found {text!r}", "rewind_epoch")
    return int(found[1]), found[2] or "ep"
