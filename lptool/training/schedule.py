"""When things happen in training: the learning rate of each step, and the step that later levels go back to."""

from __future__ import annotations

import math

from lptool.errors import TrainError
from lptool.training.options import TrainOptions, point

PAPER_EPOCHS, PAPER_MILESTONES = 182, (91, 136)  # the published script's: 75 % of 182 would be 136.5


def learning_rate(options: TrainOptions, step: int, steps_per_epoch: int) -> float:
    """The rate of an optimizer step, counted from 0 at the start of level 0's schedule.

    Warm-up climbs in equal steps to `lr`. Then `multistep` divides by 10 at each milestone (Yin et al. 2023, section
    4: at 50 % and 75 % of the epochs; in their script, 91 and 136 of 182); `cosine` (Loshchilov & Hutter 2017, without
    restarts) and `linear` fall to 0 at the end of the last epoch.
    """
    climb = options.warmup * steps_per_epoch
    if step < climb:
        return options.lr * min(1.0, (step + 1) / climb)  # the climb may end between two steps
    if options.schedule == "multistep":
        epoch = step // steps_per_epoch
        milestones: tuple[float, ...] = options.milestones or tuple(
            options.epochs * each / PAPER_EPOCHS for each in PAPER_MILESTONES
        )
        return options.lr * 0.1 ** sum(epoch >= milestone for milestone in milestones)
    done = (step - climb) / (options.epochs * steps_per_epoch - climb)
    return options.lr * (1 - done if options.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2)


def rewind_step(options: TrainOptions, steps_per_epoch: int) -> int:
    """The step of level 0 that later levels go back to: its weights are those before that step.

    Raises:
        TrainError: the schedule has no such step.
    """
    number, unit = point(options.rewind_epoch)
    step, total = number * (steps_per_epoch if unit == "ep" else 1), options.epochs * steps_per_epoch
    if not 0 <= step < total:
        raise TrainError(
            f"expected a step from 0 to {total - 1} ({options.epochs} epochs of {steps_per_epoch}), "
            f"found {options.rewind_epoch}",
            "rewind_epoch",
        )
    return step
