"""One epoch of a run: this process's part of each batch, the steps, and the score on val."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor

from lptool.data.augment import recipe_of
from lptool.errors import SetupError, TrainError, first_line
from lptool.scoring.batching import BatchSize, is_out_of_memory
from lptool.scoring.score import Score, merged, predict, score_of
from lptool.scoring.weights import weights_of
from lptool.training.folder import Record
from lptool.training.parallel import noticing_peers, share_buffers
from lptool.training.schedule import learning_rate
from lptool.training.setup import Run
from lptool.training.steps import Part, run_steps

_SCORED_AT_ONCE = 512  # images of val


@dataclass(frozen=True)
class Level:
    """A level in training: its number, how sparse it is, what its steps multiply (see `run_steps`), its optimizer."""

    number: int
    sparsity: float
    pruned: Mapping[str, tuple[Tensor, Tensor]]
    optimizer: torch.optim.Optimizer


def train_epoch(run: Run, level: Level, epoch: int) -> tuple[Record, Score]:
    """One pass over the training images, then one over val: the record for `train.jsonl`, and the score on val.

    Raises:
        TrainError: the loss is not finite.
        RankError: another rank ended.
    """
    started = time.perf_counter()
    loss, accuracy, seen = _optimise(run, level, epoch)
    trained = time.perf_counter() - started
    score = _score(run)
    run.ranks.agree(lambda: check_finite(level.number, epoch, loss, score.nll))  # the last step shows only on val
    record = {
        "level": level.number,
        "epoch": epoch,
        "sparsity": round(level.sparsity, 6),
        "lr": learning_rate(run.options, epoch * run.steps_per_epoch, run.steps_per_epoch),
        "train_loss": loss,
        "train_accuracy": accuracy,
        "val_accuracy": score.accuracy,
        "val_nll": score.nll,
        "seconds": round(time.perf_counter() - started, 3),
        "images_per_second": round(seen / trained, 1),
    }
    return record, score


def check_finite(level: int, epoch: int, *losses: float) -> None:
    """Refuse to go on with a loss that is not finite. Raises TrainError."""
    worst = next((loss for loss in losses if not math.isfinite(loss)), None)
    if worst is not None:
        raise TrainError(
            f"level {level}, epoch {epoch}: the loss became {worst}; "
            "try a lower --lr or --precision fp32, in a new folder"
        )


def _optimise(run: Run, level: Level, epoch: int) -> tuple[float, float, int]:
    """Mean loss, accuracy and number of the images of one epoch of optimizer steps."""
    options, steps = run.options, run.steps_per_epoch
    first = run.first_step(level.number, epoch)
    rates = [learning_rate(options, epoch * steps + step, steps) for step in range(first, steps)]
    done = count(first + 1)
    with noticing_peers(run.ranks), _clear_errors(run, level.number, epoch):
        totals = run_steps(
            run.network,
            level.optimizer,
            _saving_rewind(run, level.number, epoch, _parts(run, level.number, epoch, first)),
            rates,
            level.pruned,
            compute=run.compute,
            label_smoothing=options.label_smoothing,
            processes=run.ranks.count,
            on_step=lambda: run.watch.on_step(run.where(level.number, epoch, next(done))),
        )
        share_buffers(run.model, run.ranks)
    sums = run.ranks.gather((float(totals.loss), int(totals.correct), totals.seen))
    loss, correct, seen = (sum(column) for column in zip(*sums, strict=True))
    return loss / seen, correct / seen, int(seen)


@contextmanager
def _clear_errors(run: Run, level: int, epoch: int) -> Iterator[None]:
    """Turn what torch raises for reasons that a user can act on into errors of ours."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            size = run.options.batch_size
            raise TrainError(
                f"level {level}, epoch {epoch}: batches of {size} images do not fit in memory; try a lower --batch-size"
            ) from error
        if run.options.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise SetupError(f"torch.compile fails here ({first_line(error)}); try --no-compile") from error
        raise


def _saving_rewind(run: Run, level: int, epoch: int, parts: Iterator[Part]) -> Iterator[Part]:
    """The parts as they are; at level 0 the weights are kept when the rewind point is reached."""
    before = run.rewind_step - epoch * run.steps_per_epoch
    for step, part in enumerate(parts):
        if level == 0 and step == before:
            run.ranks.on_first(lambda: run.folder.save_rewind(weights_of(run.model)))
        yield part


def _parts(run: Run, level: int, epoch: int, first: int) -> Iterator[Part]:
    """This process's part of each batch of an epoch, from step `first` on."""
    generator = epoch_generator(run.options.seed, level, epoch, run.ranks.rank)
    order = torch.randperm(len(run.data.train), generator=generator)
    whole = run.batches[first:]
    mine = [batch.tensor_split(run.ranks.count)[run.ranks.rank] for batch in whole]
    for batch, (pixels, labels) in zip(whole, augmented(run, epoch, order, mine, generator), strict=True):
        yield Part(pixels, labels, len(batch))


def augmented(
    run: Run, epoch: int, order: Tensor, batches: Sequence[Tensor], generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Training images and labels as an epoch sees them, of the places in `order` that make up each batch."""
    options, shape = run.options, run.data.shape
    recipe = recipe_of(options.augment, options.crop_padding, options.flip, dataset=run.data.name, shape=shape)
    images, augmentation = recipe.drawn(run.data.train, shape, order, generator, epoch=epoch, flip_seed=options.seed)
    augment = augmentation.to(run.device).apply
    return run.data.placed_batches(images, order, batches, run.device, augment=augment)


def epoch_generator(seed: int, level: int, epoch: int, rank: int = 0) -> torch.Generator:
    """The randomness of one epoch, from its place in the run alone, the same on every rank.

    Also seeds the global generator (dropout), on each rank in its own way.
    """
    own = (seed * 1_000 + level) * 100_000 + epoch  # another number for each, below 1,000 levels and 100,000 epochs
    # 2^64 divided by the golden ratio: its multiples lie far apart, so no rank meets the seed of another epoch.
    torch.manual_seed((own + rank * 0x9E3779B97F4A7C15) % 2**64)
    return torch.Generator().manual_seed(own)


def _score(run: Run) -> Score:
    """The score on val, of which each process takes a part."""

    def score(rows: Tensor) -> Score:
        batches = partial(run.data.batches, run.data.val, device=run.device, order=rows)
        return BatchSize(_SCORED_AT_ONCE).fit(lambda size: score_of(*predict(run.model, batches(batch_size=size))))

    parts = torch.arange(len(run.data.val)).tensor_split(run.ranks.count)  # some are empty where val is small
    return merged(
        list(run.ranks.share({k: partial(score, rows) for k, rows in enumerate(parts) if len(rows)}).values())
    )
