"""Barriers by hand, between tickets of one run, and between runs that never met."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import DIGITS

from lptool.barrier import POINTS, STABLE, Barrier, barriers
from lptool.bench import PoolOptions, open_bench
from lptool.evaluate import Score
from lptool.train import train_tickets


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
