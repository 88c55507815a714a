"""Latency on a clock that the tests set: what is counted, how often, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lptool.scoring.latency import BATCH, LEAST, MOST, WARM_UP, Timing, measure_latency, noise

CPU = torch.device("cpu")


class Counting(nn.Module):
    """Notes how many images come in, and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append((len(images), self.training, torch.is_grad_enabled()))
        return images


def clock_of(passes: Sequence[float]) -> Callable[[], float]:
    """Gives start and end of each pass in turn, one of them after the other."""
    ends = np.cumsum(np.repeat(passes, 2) * np.tile([0, 1], len(passes)))
    ticks = iter(ends.tolist())
    return lambda: next(ticks)


def test_the_first_passes_are_not_counted_and_the_others_are_all() -> None:
    slow, fast = [100.0] * WARM_UP, [float(number) for number in range(1, LEAST + 1)]
    model = Counting().train()
    found = measure_latency(model, (1, 4, 4), CPU, 8, clock_of([*slow, *fast, *slow, *reversed(fast)]))
    expected = float(np.median(fast)), float(np.quantile(fast, 0.95, method="inverted_cdf"))
    assert found.one == Timing(1, *expected, LEAST)
    assert found.batch == Timing(8, *expected, LEAST)
    assert found.warm_up == WARM_UP
    assert model.seen == [(1, False, False)] * (WARM_UP + LEAST) + [(8, False, False)] * (WARM_UP + LEAST)
    assert model.training


@pytest.mark.parametrize(("seconds", "passes"), [(1e-6, MOST), (0.02, 101), (10.0, LEAST)])
def test_short_passes_are_repeated_more_often(seconds: float, passes: int) -> None:
    found = measure_latency(Counting(), (1, 2, 2), CPU, clock=clock_of([seconds] * 500))
    assert abs(found.one.passes - passes) <= 1  # of sums of floats
    assert found.batch.images == BATCH


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 40, 200])
def test_the_quantile_is_a_time_that_was_measured(count: int) -> None:
    seconds = np.random.default_rng(count).random(count)
    found = Timing.of(1, seconds.tolist())
    assert found.q95 == np.quantile(seconds, 0.95, method="inverted_cdf")
    assert found.median == pytest.approx(np.median(seconds))


def test_images_are_as_a_data_set_has_them() -> None:
    images = noise(3, (2, 5, 7), CPU)
    assert images.shape == (3, 2, 5, 7)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, noise(3, (2, 5, 7), CPU))
