"""What many tests share: tickets and a pooled model of them, made once per session on the embedded digits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lptool.bench import PoolOptions, open_bench
from lptool.pipeline import PoolResult, pool_target
from lptool.train import train_tickets
from lptool.train_options import TrainOptions

DIGITS = TrainOptions(
    arch="resnet8_cifar", dataset="digits", epochs=3, rewind_epoch=1, rate=0.5, precision="fp32", val_fraction=0.25
)


@pytest.fixture(scope="session")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four tickets of one run (levels 0 to 3). Read them; copy before you change one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # float sums depend on it, and so would the tickets
    files = train_tickets(DIGITS, 3, tmp_path_factory.mktemp("run"))
    torch.set_num_threads(before)
    return files


@pytest.fixture(scope="session")
def result(tickets: list[Path], tmp_path_factory: pytest.TempPathFactory) -> PoolResult:
    """The tickets pooled into their sparsest."""
    options = PoolOptions(alphas=(0.5,), calibration_size=64, device="cpu")
    return pool_target(open_bench(tickets, options), 3, tmp_path_factory.mktemp("out") / "a.safetensors")
