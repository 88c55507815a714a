"""One step of a run before it begins: what would make training fail shows here, while nothing is written."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lptool.errors import LptoolError, TrainError, first_line
from lptool.networks.running import check_forward, make_ready
from lptool.scoring.batching import is_out_of_memory
from lptool.scoring.score import cast_forward
from lptool.training.epoch import augmented, check_finite, epoch_generator
from lptool.training.schedule import learning_rate
from lptool.training.setup import Run
from lptool.training.steps import Part, make_optimizer, multipliers, run_steps

_IMAGES = 4  # BatchNorm needs two


def tried(run: Run) -> Run:
    """The run, its network on its device and ready, once it has taken a step on a few images of its own.

    Raises:
        ArchError: the network cannot take the images, or lacks classes.
        TrainError: it cannot be trained with these options.
    """
    count = min(_IMAGES, len(run.data.train))
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        batches = augmented(run, 0, torch.arange(count), [torch.arange(count)], epoch_generator(run.options.seed, 0, 0))
        [(images, labels)] = batches
        make_ready(run.model, run.device, partial(_try, run, Part(images, labels, count)))
    return run


def _try(run: Run, part: Part) -> None:
    """A forward pass as on val, then a step of training; the network is left as it was."""
    options, data = run.options, run.data
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    try:
        classes = check_forward(run.model, data.shape, data.num_classes, options.arch, run.device)
        _check_logits_in_training(run, part, classes)
        totals = run_steps(
            run.model,
            make_optimizer(run.model, options, run.device),
            [part],
            [learning_rate(options, 0, run.steps_per_epoch)],
            multipliers(run.model, {name: torch.ones_like(before[name]) for name in run.prunable}),
            compute=run.compute,
            label_smoothing=options.label_smoothing,
            processes=1,
            on_step=lambda: None,
        )
        check_finite(0, 0, float(totals.loss))
    except LptoolError:
        raise
    except Exception as error:  # a user's own code may raise anything
        if is_out_of_memory(error):
            raise TrainError("not even a few images fit in memory; free some, or choose another --device") from error
        reason = first_line(error)
        raise TrainError(
            f"architecture {options.arch!r} cannot be trained on images of {list(data.shape)}: {reason}"
        ) from error
    finally:
        run.model.load_state_dict(before)
        run.model.zero_grad()


def _check_logits_in_training(run: Run, part: Part, classes: int) -> None:
    """Refuse a network that gives other things in training than in evaluation. Raises TrainError."""
    run.model.train()
    with torch.no_grad():
        logits = cast_forward(run.model, run.compute)(part.images)
    expected = [len(part.images), classes]
    found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != expected:
        raise TrainError(
            f"architecture {run.options.arch!r} gives {found} for {len(part.images)} images in training mode, expected "
            f"{expected} as in evaluation: let its forward return the logits alone, first, or under the name `logits`"
        )
