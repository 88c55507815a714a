"""What many tests share: tickets of the embedded digits and a pooled model of them, and a folder of real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lptool.pooling.job import PoolResult, pool_target
from lptool.pooling.setup import PoolOptions, open_bench
from lptool.training.job import train_tickets
from lptool.training.options import TrainOptions

torch.set_num_threads(1)  # the files of tests are spread over the cores; and float sums depend on it

# Files that start processes: begun first, so that no core waits for them at the end.
SLOW = (
    "test_examples_imagenet.py",
    "test_examples_researcher.py",
    "training/test_parallel.py",
    "test_ranks.py",
    "training/test_job.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first, each whole."""

    def rank(item: pytest.Item) -> int:
        return next(
            (place for place, name in enumerate(SLOW) if item.path.as_posix().endswith(f"tests/{name}")), len(SLOW)
        )

    items.sort(key=rank)


DIGITS = TrainOptions(
    arch="resnet8_cifar", dataset="digits", epochs=3, rewind_epoch=1, rate=0.5, precision="fp32", val_fraction=0.25
)


@pytest.fixture(scope="session")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four tickets of one run (levels 0 to 3). Read them; copy before you change one."""
    return train_tickets(DIGITS, 3, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real pictures as folder:DIR expects them: train, val and test with three classes of eight pictures each.

    Pieces of 30 to 70 pixels a side, cut from scikit-learn's two photographs; most are JPEGs, and each class has a
    grey, a palette and an RGBA PNG. Read them; copy before you change one.
    """
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images  # [427, 640, 3] each
    views = {"flower": flower, "sky": china[:130], "temple": china[200:]}
    forms = ["L", "P", "RGBA"] + ["RGB"] * 5
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("pictures")
    for part in ("train", "val", "test"):
        for name, view in views.items():
            (root / part / name).mkdir(parents=True)
            for number, form in enumerate(forms):
                height, width = rng.integers(30, 71, 2)
                top, left = rng.integers(view.shape[0] - height), rng.integers(view.shape[1] - width)
                piece = Image.fromarray(view[top : top + height, left : left + width]).convert(form)
                piece.save(root / part / name / f"{number}.{'jpg' if form == 'RGB' else 'png'}")
    return root


@pytest.fixture(scope="session")
def result(tickets: list[Path], tmp_path_factory: pytest.TempPathFactory) -> PoolResult:
    """The tickets pooled into their sparsest."""
    options = PoolOptions(method="greedy", alphas=(0.5,), calibration_size=64, device="cpu")
    return pool_target(open_bench(tickets, options), 3, tmp_path_factory.mktemp("out") / "a.safetensors")
