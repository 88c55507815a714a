"""Every method at every level of several IMP runs: from tickets to the tables of docs/results.md.

    python benchmarks/accuracy.py --work runs/accuracy                       # everything, about three hours on two cores
    python benchmarks/accuracy.py --work runs/accuracy --setting fashion-mnist --seed 0    # one run of it
    python benchmarks/accuracy.py --table > docs/results.md                  # the tables alone, from the JSON files

Resumable: a run goes on with the epoch, and with the level and method, that it was cut off at; a seed whose JSON file in
benchmarks/results/accuracy is complete needs its tickets no more.

Two settings, both with a network that fits its training set (`train_accuracy` in the JSON files): full Fashion-MNIST,
and the 5,085 real CIFAR-10 images of `cifar10-mini.npz`. The methods see val alone. Test is scored once for each
finished model, whatever val says of it, so that methods are compared and not the controls that `lptool pool` would ship
in their place; `auto` is the best on val of the methods it consists of. Finished means: BatchNorm recalibrated on
8,192 training images (docs: as good as all of them, benchmarks/calibration.py) and scored in float32.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lptool.bench import Bench, PoolOptions, open_bench
from lptool.choice import Choice
from lptool.evaluate import recalibrated
from lptool.images import sample
from lptool.masks import State
from lptool.methods import pool_tickets
from lptool.presets import TrainOptions
from lptool.scorer import Scorer

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "accuracy"
FINISHING_IMAGES = 8192


@dataclass(frozen=True)
class Setting:
    """How the tickets of one data set are made. `levels` is the number of prunings."""

    options: dict[str, Any]
    levels: int


SETTINGS = {
    "fashion-mnist": Setting(
        {"dataset": "fashion-mnist", "epochs": 12, "rewind_epoch": 3, "rate": 0.3, "crop_padding": 0, "flip": False}, 7
    ),
    "cifar10-mini": Setting(
        {"dataset": "npz:{cifar}", "epochs": 40, "rewind_epoch": 8, "crop_padding": 2, "val_fraction": 0.2}, 9
    ),
}
COMMON = {"arch": "resnet10_cifar", "lr": 0.05}


@dataclass(frozen=True)
class Variant:
    """A method with what it chooses by."""

    method: str
    choice: Choice = Choice()
    passes: int = 1


VARIANTS = {
    "average": Variant("average"),
    "greedy": Variant("greedy"),
    "greedy, NLL": Variant("greedy", Choice("nll")),
    "greedy, folds": Variant("greedy", Choice(folds=True)),
    "greedy, NLL, folds": Variant("greedy", Choice("nll", folds=True)),
    "soup": Variant("soup"),
    "swa": Variant("swa"),
    "ema": Variant("ema"),
    "uniform": Variant("uniform"),
    "learned": Variant("learned"),
}
