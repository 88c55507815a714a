"""Learning rates against torch's own schedulers, and the step to rewind to."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.optim import lr_scheduler

from lptool.errors import TrainError
from lptool.training.options import TrainOptions
from lptool.training.schedule import learning_rate, rewind_step

STEPS = 7  # an epoch
PLAIN = TrainOptions(epochs=12, rewind_epoch=0, lr=0.3)


def ours(options: TrainOptions, steps: int = STEPS) -> list[float]:
    return [learning_rate(options, step, steps) for step in range(options.epochs * steps)]


def torchs(make: type, every: int = 1, **arguments: object) -> list[float]:
    """The rates that a scheduler of torch gives, stepped after every so many steps."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=PLAIN.lr)
    scheduler = make(optimizer, **arguments)
    rates = []
    for step in range(PLAIN.epochs * STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == every - 1:
            scheduler.step()
    return rates


def test_multistep_is_torchs() -> None:
    expected = torchs(lr_scheduler.MultiStepLR, every=STEPS, milestones=[6, 9])  # 50 % and 75 % of 12
    assert ours(PLAIN) == pytest.approx(expected)
    named = torchs(lr_scheduler.MultiStepLR, every=STEPS, milestones=[2, 3, 11])
    assert ours(replace(PLAIN, milestones=(2, 3, 11))) == pytest.approx(named)


def test_cosine_is_torchs() -> None:
    expected = torchs(lr_scheduler.CosineAnnealingLR, T_max=PLAIN.epochs * STEPS)
    assert ours(replace(PLAIN, schedule="cosine")) == pytest.approx(expected)


def test_linear_is_torchs() -> None:
    expected = torchs(lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=PLAIN.epochs * STEPS)
    assert ours(replace(PLAIN, schedule="linear")) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epochs", "rates"),
    [
        (1, [0.1]),
        (2, [0.1, 0.01]),
        (4, [0.1, 0.1, 0.01, 0.001]),
        (5, [0.1, 0.1, 0.1, 0.01, 0.001]),
        (182, [0.1] * 91 + [0.01] * 45 + [0.001] * 46),  # the published script's epochs, where 75 % is 136.5
    ],
)
def test_multistep_drops_at_half_and_three_quarters(epochs: int, rates: list[float]) -> None:
    options = TrainOptions(epochs=epochs, rewind_epoch=0, lr=0.1)
    assert ours(options, steps=1) == pytest.approx(rates)


@pytest.mark.parametrize("schedule", ["multistep", "cosine", "linear"])
@pytest.mark.parametrize("warmup", [1, 2.5, 12])
def test_warm_up_climbs_evenly_to_the_full_rate(schedule: str, warmup: float) -> None:
    options = replace(PLAIN, schedule=schedule, warmup=warmup, milestones=(11,))
    climb = math.ceil(warmup * STEPS)
    rates = ours(options)[:climb]
    assert rates[0] == pytest.approx(PLAIN.lr / (warmup * STEPS))
    assert rates[-1] == pytest.approx(PLAIN.lr)
    rises = [b - a for a, b in itertools.pairwise(rates[:-1])]
    assert rises == pytest.approx([rates[0]] * len(rises))
    if warmup < 12:
        assert ours(options)[climb] == pytest.approx(PLAIN.lr, rel=0.02)


def test_a_rate_is_always_above_0_and_never_above_the_height() -> None:
    for schedule in ("multistep", "cosine", "linear"):
        rates = ours(replace(PLAIN, schedule=schedule, warmup=3))
        assert all(0 < rate <= PLAIN.lr for rate in rates), schedule


@pytest.mark.parametrize(("point", "step"), [(0, 0), (2, 14), ("2ep", 14), ("0it", 0), ("15it", 15), ("83it", 83)])
def test_the_rewind_point_in_steps(point: int | str, step: int) -> None:
    assert rewind_step(replace(PLAIN, rewind_epoch=point), STEPS) == step


@pytest.mark.parametrize("point", ["84it", "-1it"])
def test_a_rewind_point_outside_the_schedule_is_refused(point: str) -> None:
    with pytest.raises(TrainError, match=rf"expected a step from 0 to 83 \(12 epochs of 7\), found {point}"):
        rewind_step(replace(PLAIN, rewind_epoch=point), STEPS)
