"""Barriers by hand, between tickets of one run, and between runs that never met."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lptool.networks.architecture import load_model
from lptool.pooling.comparisons import POINTS, STABLE, Barrier, barriers, references
from lptool.pooling.setup import Bench, PoolOptions, open_bench
from lptool.scoring.batching import BatchSize
from lptool.scoring.score import Score
from lptool.training.job import train_tickets
from tests.helpers.training import DIGITS


def line(*correct: int) -> Barrier:
    return Barrier("a", "b", tuple(Score(c, 1 - c / 100, 100) for c in correct))


def test_the_height_is_the_worst_error_over_the_straight_line() -> None:
    barrier = line(90, 85, 50, 81)
    straight = 0.10 + (0.19 - 0.10) * 2 / 3
    assert barrier.error == pytest.approx(0.50 - straight)
    assert barrier.nll == pytest.approx(0.50 - straight)
    assert "cannot be pooled" in barrier.verdict


def test_a_flat_line_can_be_pooled() -> None:
    assert line(90, 91, 92, 90).error == 0
    assert line(90, 80, 70, 60).error == pytest.approx(0)  # one end is worse, and nothing lies between
    assert line(90, 89, 90).verdict.startswith("can be pooled")
    assert STABLE == 0.02  # Frankle et al. 2020


def test_tickets_of_one_run_are_nearer_than_those_of_two(tmp_path: Path, tickets: list[Path]) -> None:
    """A network from another initialisation lies behind a barrier; the next level of the same run does not."""
    other = train_tickets(replace(DIGITS, seed=7), 1, tmp_path)
    options = PoolOptions(device="cpu", calibration_size=256)
    (within,) = barriers(open_bench(tickets[:2], options))
    (between,) = barriers(open_bench([tickets[0], other[1]], options))
    assert len(within.scores) == POINTS
    assert between.error > within.error
    assert between.error > STABLE


def test_the_ends_are_the_recalibrated_tickets(tickets: list[Path]) -> None:
    bench = open_bench(tickets[:2], PoolOptions(device="cpu", calibration_size=256))
    (barrier,) = barriers(bench)
    assert barrier.scores[0] == bench.scorer(bench.pool[0].state)
    assert barrier.scores[-1] == bench.scorer(bench.pool[1].state)


def plain(logits: torch.Tensor, labels: torch.Tensor) -> Score:
    """Equal to a score whose NLL differs in the last digits only."""
    nll = -float(F.log_softmax(logits, dim=1)[range(len(labels)), labels].mean())
    return Score(int((logits.argmax(1) == labels).sum()), pytest.approx(nll, rel=1e-4), len(labels))


def test_members_are_the_tickets_as_they_are_and_the_ensemble_their_mean(tickets: list[Path]) -> None:
    bench = open_bench(tickets[:3], PoolOptions(device="cpu"))
    found = references(bench)
    for part, images in (("val", bench.data.val), ("test", bench.data.test)):
        ((x, labels),) = bench.data.batches(images, len(images), torch.device("cpu"))
        with torch.inference_mode():
            each = [load_model(path).eval()(x).double() for path in tickets[:3]]
        mean = sum(F.softmax(logits, dim=1) for logits in each) / 3
        assert isinstance(mean, torch.Tensor)
        assert found.ensemble[part] == plain(mean.log(), labels)
        assert [member[part] for member in found.members] == [plain(logits, labels) for logits in each]


def test_a_probability_that_float32_has_no_room_for_is_not_lost() -> None:
    """Two tickets as sure of the wrong class as can be leave a finite loss."""
    state, sure = SimpleNamespace(state={}), (torch.tensor([[200.0, 0.0]]), torch.tensor([1]))
    bench = SimpleNamespace(
        pool=[state, state],
        data=SimpleNamespace(val=None, test=None),
        model=nn.Identity(),  # its logits are the images
        mine=lambda images, size, ranks: [sure],
        batch_size=BatchSize(1),
    )
    found = references(cast(Bench, bench))
    assert found.ensemble["val"] == Score(0, pytest.approx(200.0), 1)
