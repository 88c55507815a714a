"""The step that a run takes before it begins, with networks of all habits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lptool.errors import LptoolError
from lptool.ranks import ALONE
from lptool.training.job import train_tickets
from lptool.training.options import TrainOptions
from lptool.training.setup import UNWATCHED, Run, open_run
from lptool.training.trial import tried
from tests.helpers.networks import CONTIGUOUS, DATA, GOOD, REFUSED, SOURCE

CPU = torch.device("cpu")


def options_for(kind: str, folder: Path, **changes: Any) -> TrainOptions:
    (folder / "zoo.py").write_text(SOURCE)
    short: dict[str, Any] = {"epochs": 1, "rewind_epoch": 0, "batch_size": 12, "precision": "fp32"}
    return TrainOptions(arch=f"{folder}/zoo.py:{kind}", dataset="random", **short | changes)


def opened(kind: str, folder: Path, **changes: Any) -> Run:
    return open_run(options_for(kind, folder, **changes), 1, folder / "out", None, CPU, DATA, ALONE, UNWATCHED)


@pytest.mark.parametrize("kind", GOOD)
def test_a_trial_leaves_the_network_as_it_was(kind: str, tmp_path: Path) -> None:
    """Weights, statistics and the caller's random numbers; and finds the layout in which training works."""
    run = opened(kind, tmp_path)
    state = run.model.state_dict()
    before = {name: t.clone() for name, t in state.items()}
    torch.manual_seed(7)
    assert tried(run) is run
    drawn = torch.rand(())
    after = run.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert torch.equal(drawn, torch.rand((), generator=torch.Generator().manual_seed(7)))
    kernels = [p for p in run.model.parameters() if p.dim() in (4, 5) and min(p.shape[1:]) > 1]
    assert all(kernel.is_contiguous() == (kind in CONTIGUOUS) for kernel in kernels)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trained_is_one_clear_line_and_nothing_is_written(kind: str, tmp_path: Path) -> None:
    with pytest.raises(LptoolError, match=REFUSED[kind]) as caught:
        train_tickets(options_for(kind, tmp_path), 1, tmp_path / "out", data=DATA, device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"optimizer": "adamw"}, {"precision": "bf16"}, {"augment": "resized-crop"}])
def test_the_trial_goes_by_the_options(changes: dict[str, Any], tmp_path: Path) -> None:
    assert tried(opened("Views", tmp_path, **changes)).model.training
