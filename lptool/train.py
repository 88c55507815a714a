"""The bundled trainer: iterative magnitude pruning with late rewinding (Frankle et al. 2020).

Level 0 trains dense. Each later level prunes a share of the remaining weights by magnitude, goes back to the weights
and the learning rate of the rewind point, and trains with the mask enforced after every step. A run leaves one file per
level and can be killed at any time: the same command goes on from the last finished epoch, and ends with the very
tickets that an uninterrupted run gives, because every epoch draws its randomness from its own seed.

Several processes train as one: each takes a part of every batch, and the first one writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from lptool.augment import draw
from lptool.checkpoints import load_ticket
from lptool.data import Data, load_data
from lptool.device import autocast_dtype, pick_device
from lptool.errors import TrainError
from lptool.evaluate import Score, evaluate, merged
from lptool.export import save_ticket
from lptool.masks import Mask, apply_mask, sparsity
from lptool.models import prunable_weights
from lptool.optimise import Part, make_optimizer, optimizer_state, restore_optimizer, run_steps
from lptool.parallel import share_buffers, spread
from lptool.pruning import Levels, check_levels, count_of, next_mask, planned
from lptool.ranks import ALONE, Ranks
from lptool.run_folder import Progress, Record, RunFolder
from lptool.schedule import learning_rate, rewind_step
from lptool.starting_point import initial_model
from lptool.tickets import Metadata, Ticket
from lptool.train_options import TrainOptions


@dataclass(frozen=True)
class Where:
    """Where a run stands: `images` of this epoch are done out of `of`. Levels and epochs count from 0."""

    level: int
    epoch: int
    images: int
    of: int


@dataclass(frozen=True)
class Watch:
    """Who is told what happens: each step, and each record of `train.jsonl`."""

    on_step: Callable[[Where], None] = lambda where: None
    on_epoch: Callable[[Record], None] = lambda record: None


@dataclass(frozen=True)
class _Run:
    """What stays the same over all levels of a run. `network` is what a step calls, `model` what is kept of it."""

    options: TrainOptions
    levels: Levels
    data: Data
    model: nn.Module
    network: nn.Module
    device: torch.device
    compute: torch.dtype
    prunable: tuple[str, ...]
    origin: dict[str, str]
    folder: RunFolder
    ranks: Ranks
    watch: Watch

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.data.train) / self.options.batch_size)

    @property
    def batches(self) -> tuple[Tensor, ...]:
        """The places in an epoch's order that make up each batch: even ones, for BatchNorm's sake."""
        return torch.arange(len(self.data.train)).tensor_split(self.steps_per_epoch)

    @property
    def rewind_step(self) -> int:
        return rewind_step(self.options, self.steps_per_epoch)

    def first_step(self, level: int, epoch: int) -> int:
        """The step of an epoch that a level begins with: not 0 only where it rewinds into the middle of one."""
        of_epoch = self.rewind_step - epoch * self.steps_per_epoch
        return of_epoch if level and 0 < of_epoch < self.steps_per_epoch else 0


def train_tickets(
    options: TrainOptions,
    levels: Levels,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    device: str = "auto",
    data: Data | None = None,
    ranks: Ranks = ALONE,
    watch: Watch = Watch(),
) -> list[Path]:
    """Train the tickets of one IMP run, or finish a run that was cut off.

    Args:
        options: everything that shapes the tickets.
        levels: number of prunings after the dense level 0, or the sparsity after each of them, growing, in (0, 1);
            there may be more of them from one call to the next.
        out: folder for `level_00.safetensors` …, `train.jsonl` (one record per epoch) and what a rerun resumes from.
        data_dir: see `load_data`. data: used in place of loading `options.dataset`.
        device: see `pick_device`.
        ranks: the processes that train together (see `join_ranks`). Each has to call this; the first one writes.
        watch: who is told what happens, on every rank.

    Returns:
        The level files, densest first.

    Raises:
        TrainError: the folder holds a run with other options, nothing would be left after pruning, or the loss
            became infinite.
        DataError, ArchError, OutputError, SetupError: as their names say.
        RankError: another rank ended.

    Source: Yin et al. 2023, Algorithm 1; rewinding as in Frankle et al. 2020.
    """
    check_levels(levels)
    with _reproducible():
        run = ranks.first_ahead(lambda: _open(options, levels, Path(out), data_dir, device, data, ranks, watch))
        ranks.on_first(lambda: run.folder.claim(options.to_json()))
        run = _spread(run)
        for level in range(count_of(levels) + 1):
            if not ranks.on_first(partial(_is_finished, run, level)):
                _train_level(run, level)
        ranks.on_first(run.folder.finish)
    return [run.folder.level(level) for level in range(count_of(levels) + 1)]


def _open(
    options: TrainOptions,
    levels: Levels,
    out: Path,
    data_dir: str | Path | None,
    device: str,
    data: Data | None,
    ranks: Ranks,
    watch: Watch,
) -> _Run:
    """Everything checked, nothing written."""
    where = pick_device(device)
    data = data or load_data(
        options.dataset,
        data_dir,
        val_fraction=options.val_fraction,
        split_seed=options.split_seed,
        image_size=options.image_size,
    )
    model, origin = initial_model(options, data.num_classes, data.shape)
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    prunable = prunable_weights(model, options.prune)
    if not prunable:
        raise TrainError(f"architecture {options.arch!r} has no weights that --prune {options.prune} may touch")
    compute = autocast_dtype(options.precision, where)
    run = _Run(
        options, levels, data.to(where), model, model, where, compute, prunable, origin, RunFolder(out), ranks, watch
    )
    _check_parts(run)
    _ = run.rewind_step  # refused here where there is no such step
    return run


def _check_parts(run: _Run) -> None:
    """Every process needs images of every batch."""
    smallest = len(run.data.train) // run.steps_per_epoch
    if smallest < run.ranks.count * (1 if run.options.sync_bn else 2):
        raise TrainError(
            f"batch_size: batches of {smallest} images are too small for {run.ranks.count} processes; "
            "take larger ones or fewer processes"
        )


def _spread(run: _Run) -> _Run:
    model, network = spread(run.model, run.device, run.ranks, sync_bn=run.options.sync_bn)
    if run.options.compile:
        network = torch.compile(network)  # type: ignore[assignment]
    return replace(run, model=model, network=network)


@contextmanager
def _reproducible() -> Iterator[None]:
    """Leave the caller's random state alone, and let cuDNN choose only kernels that repeat themselves."""
    with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


def _is_finished(run: _Run, level: int) -> bool:
    """Whether a level's ticket is there. Raises TrainError where it is of another sparsity than is asked for."""
    file = run.folder.level(level)
    if not file.exists():
        return False
    if not isinstance(run.levels, int):
        mask = load_ticket(file).mask
        expected = planned(run.levels, level, mask)
        wanted = 1 - expected / sum(kept.numel() for kept in mask.values())
        if abs(sparsity(mask) - wanted) > 1e-9:
            raise TrainError(
                f"{file}: is {sparsity(mask):.2%} sparse, expected {wanted:.2%}; ask for the sparsities that the run "
                "was begun with, or choose another folder"
            )
    return True


def _train_level(run: _Run, level: int) -> None:
    mask, progress = run.ranks.on_first(lambda: _begin(run, level))
    run.model.load_state_dict(progress.model)
    optimizer = make_optimizer(run.model, run.options, run.device)
    restore_optimizer(run.model, optimizer, progress.optimizer)
    pruned = _multipliers(run, mask) if level else {}
    while progress.epoch < run.options.epochs:
        record, score = _train_epoch(run, level, progress.epoch, mask, pruned, optimizer)
        progress = _advance(run, progress, optimizer, score)
        run.ranks.on_first(partial(run.folder.append, record))
        run.watch.on_epoch(record)
        run.ranks.on_first(partial(run.folder.save_progress, level, progress))
    run.ranks.on_first(lambda: _save_level(run, level, mask, progress))


def _begin(run: _Run, level: int) -> tuple[Mask, Progress]:
    """The mask of a level and where it goes on: after its last finished epoch, else at its start. On the CPU."""
    mask, before = _mask_and_ticket_before(run, level)
    progress = run.folder.load_progress(level) or _start_of(run, level, mask, before)
    run.folder.forget_after(level, progress.epoch)
    return mask, progress


def _mask_and_ticket_before(run: _Run, level: int) -> tuple[Mask, Ticket | None]:
    if level == 0:
        shapes = {name: t.shape for name, t in run.model.state_dict().items()}
        return {name: torch.ones(shapes[name], dtype=torch.bool) for name in run.prunable}, None
    before = load_ticket(run.folder.level(level - 1))
    options = run.options
    return next_mask(before.state, before.mask, level, run.levels, options.rate, options.scope), before


def _start_of(run: _Run, level: int, mask: Mask, before: Ticket | None) -> Progress:
    if before is None:
        return Progress(0, {name: t.cpu() for name, t in run.model.state_dict().items()})
    state = before.state if run.options.rewind == "lr" else run.folder.load_rewind()
    return Progress(run.rewind_step // run.steps_per_epoch, apply_mask(state, mask))


def _multipliers(run: _Run, mask: Mask) -> dict[str, tuple[Tensor, Tensor]]:
    parameters = dict(run.model.named_parameters())
    return {
        name: (parameters[name], torch.empty_like(parameters[name], requires_grad=False).copy_(kept))
        for name, kept in mask.items()
    }


def _advance(run: _Run, before: Progress, optimizer: torch.optim.Optimizer, score: Score) -> Progress:
    """The progress after one more epoch."""
    model = run.model.state_dict()
    after = Progress(before.epoch + 1, model, optimizer_state(run.model, optimizer), before.best, before.best_correct)
    if run.options.keep == "best" and score.correct > before.best_correct:
        after.best_correct = score.correct
        after.best = {name: t.detach().clone() for name, t in model.items()}
    return after


def _train_epoch(
    run: _Run,
    level: int,
    epoch: int,
    mask: Mask,
    pruned: dict[str, tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
) -> tuple[Record, Score]:
    """One pass over the training images, then one over val."""
    started = time.perf_counter()
    loss, accuracy, seen = _optimise(run, level, epoch, pruned, optimizer)
    trained = time.perf_counter() - started
    score = _score(run)
    run.ranks.agree(lambda: _check_finite(level, epoch, loss, score.nll))  # the last step shows only on val
    record = {
        "level": level,
        "epoch": epoch,
        "sparsity": round(sparsity(mask), 6),
        "lr": learning_rate(run.options, epoch * run.steps_per_epoch, run.steps_per_epoch),
        "train_loss": loss,
        "train_accuracy": accuracy,
        "val_accuracy": score.accuracy,
        "val_nll": score.nll,
        "seconds": round(time.perf_counter() - started, 3),
        "images_per_second": round(seen / trained, 1),
    }
    return record, score


def _check_finite(level: int, epoch: int, *losses: float) -> None:
    worst = next((loss for loss in losses if not math.isfinite(loss)), None)
    if worst is not None:
        raise TrainError(f"level {level}, epoch {epoch}: the loss became {worst}; try a lower --lr or --precision fp32")


def _optimise(
    run: _Run,
    level: int,
    epoch: int,
    pruned: dict[str, tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
) -> tuple[float, float, int]:
    """Mean loss, accuracy and number of the images of one epoch of optimizer steps."""
    options, steps = run.options, run.steps_per_epoch
    first = run.first_step(level, epoch)
    rates = [learning_rate(options, epoch * steps + step, steps) for step in range(first, steps)]
    images = sum(map(len, run.batches[:first]))

    def on_step(count: int) -> None:
        nonlocal images
        images += count
        run.watch.on_step(Where(level, epoch, images, len(run.data.train)))

    totals = run_steps(
        run.network,
        optimizer,
        _saving_rewind(run, level, epoch, _parts(run, level, epoch, first)),
        rates,
        pruned,
        compute=run.compute,
        label_smoothing=options.label_smoothing,
        processes=run.ranks.count,
        on_step=on_step,
    )
    share_buffers(run.model, run.ranks)
    sums = run.ranks.gather((float(totals.loss), int(totals.correct), totals.seen))
    loss, correct, seen = (sum(column) for column in zip(*sums, strict=True))
    return loss / seen, correct / seen, int(seen)


def _saving_rewind(run: _Run, level: int, epoch: int, parts: Iterator[Part]) -> Iterator[Part]:
    """The parts as they are; at level 0 the weights are kept when the rewind point is reached."""
    before = run.rewind_step - epoch * run.steps_per_epoch
    for step, part in enumerate(parts):
        if level == 0 and step == before:
            run.ranks.on_first(lambda: run.folder.save_rewind(run.model.state_dict()))
        yield part


def _parts(run: _Run, level: int, epoch: int, first: int) -> Iterator[Part]:
    """This process's part of each batch of an epoch, from step `first` on."""
    options, train, ranks = run.options, run.data.train, run.ranks
    generator = epoch_generator(options.seed, level, epoch, ranks.rank)
    order = torch.randperm(len(train), generator=generator)
    # From files, a crop of random size is taken of the whole picture, as it is decoded.
    resized_crop = options.augment == "resized-crop"
    pictures = train.resized_crops(generator.initial_seed()) if resized_crop else None
    augmentation = draw(
        order,
        run.data.shape,
        crop_padding=0 if resized_crop else _crop_padding(run),
        flip=_flip(run),
        resized_crop=resized_crop and pictures is None,
        generator=generator,
        epoch=epoch,
        flip_seed=options.seed,
    ).to(run.device)
    whole = run.batches[first:]
    mine = [batch.tensor_split(ranks.count)[ranks.rank] for batch in whole]
    batches = run.data.placed_batches(pictures or train, order, mine, run.device, augment=augmentation.apply)
    for batch, (images, labels) in zip(whole, batches, strict=True):
        yield Part(images, labels, len(batch))


def _crop_padding(run: _Run) -> int:
    return run.data.shape[1] // 8 if run.options.crop_padding is None else run.options.crop_padding


def _flip(run: _Run) -> bool | Literal["alternate"]:
    if run.options.flip == "auto":
        return run.data.name != "digits"  # a mirrored digit is no digit
    return "alternate" if run.options.flip == "alternate" else run.options.flip == "yes"


def epoch_generator(seed: int, level: int, epoch: int, rank: int = 0) -> torch.Generator:
    """The randomness of one epoch, from its place in the run alone, the same on every rank.

    Also seeds the global generator (dropout), on each rank in its own way.
    """
    own = (seed * 1_000 + level) * 100_000 + epoch
    torch.manual_seed((own + rank * 0x9E3779B97F4A7C15) % 2**64)  # far apart, whatever the seeds
    return torch.Generator().manual_seed(own)


def _score(run: _Run) -> Score:
    """The score on val, of which each process takes a part."""

    def score(rows: Tensor) -> Score:
        return evaluate(run.model, run.data.batches(run.data.val, 512, run.device, order=rows))

    parts = torch.arange(len(run.data.val)).tensor_split(run.ranks.count)
    return merged(
        list(run.ranks.share({k: partial(score, rows) for k, rows in enumerate(parts) if len(rows)}).values())
    )


def _save_level(run: _Run, level: int, mask: Mask, progress: Progress) -> None:
    state = progress.best if run.options.keep == "best" else progress.model
    metadata = Metadata(
        arch=run.options.arch,
        arch_kwargs={"num_classes": run.data.num_classes, "in_chans": run.data.shape[0]},
        level=level,
        prunable=run.prunable,
        dataset=run.data.describe(),
        train={
            **run.options.to_json(),
            **run.origin,
            "compute": str(run.compute).removeprefix("torch."),
            "processes": run.ranks.count,
        },
    )
    save_ticket(Ticket({name: t.cpu() for name, t in state.items()}, mask, metadata), run.folder.level(level))
