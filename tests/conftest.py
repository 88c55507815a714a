"""Tickets that many tests share: trained once per session on the embedded digits, in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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
