"""What the commands under test work on: a run of tiny tickets, their network and their images."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from pathlib import Path

import numpy as np

from tests.helpers.runs import target
from tests.helpers.training import NETWORKS

ARCH = ("--arch", "net.py:certain")
TRAIN = (*ARCH, "--dataset", "npz:in/data.npz", "--epochs", "2", "--rewind-epoch", "1", "--rate", "0.5",
         "--val-fraction", "0.25", "--device", "cpu", "--batch-size", "24")  # fmt: skip


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise on which classes differ in brightness, so that something is learnt: uint8 [N, 8, 8] and labels."""
    draw, labels = np.random.default_rng(seed), np.arange(count) % 4
    return (draw.integers(100, size=(count, 8, 8)) + 50 * labels[:, None, None]).astype(np.uint8), labels


def make_material(folder: Path) -> Path:
    """A folder with `net.py` and `in/`: data, a run of three tickets, and documents of two other runs."""
    from click.testing import CliRunner

    from lptool.cli import main

    (folder / "in").mkdir(parents=True)
    (folder / "net.py").write_text(NETWORKS)
    (train, train_labels), (test, test_labels) = images(64, 0), images(16, 1)
    np.savez(
        folder / "in/data.npz", train_images=train, train_labels=train_labels, test_images=test, test_labels=test_labels
    )
    for seed in range(2):
        (folder / f"in/gains{seed}.json").write_text(json.dumps(target(seed, 2, (900, 910, 930))))
    here = Path.cwd()
    os.chdir(folder)
    try:
        made = CliRunner().invoke(main, ["train", "-o", "in/run", *TRAIN, "--levels", "2"])
    finally:
        os.chdir(here)
    assert made.exit_code == 0, made.output
    return folder


def warm_up() -> None:
    """Import all that commands import, so that each fork of this process finds it there."""
    import lptool

    for module in pkgutil.walk_packages(lptool.__path__, "lptool."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    import matplotlib.font_manager  # which looks for fonts by a program, once
    import sklearn.datasets
    import torch

    torch.set_num_threads(1)
    _ = matplotlib, sklearn
