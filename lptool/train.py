"""The bundled trainer: iterative magnitude pruning with late rewinding (Frankle et al. 2020).

Level 0 trains dense. Each later level prunes a share of the remaining weights by global magnitude, goes back to the
weights and the learning rate of the rewind epoch, and trains with the mask enforced after every step. A run leaves
one file per level and can be killed at any time: the same command goes on from the last finished epoch, and ends with
the very tickets that an uninterrupted run gives, because every epoch draws its randomness from its own seed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lptool.augment import draw
from lptool.checkpoints import load_ticket
from lptool.data import Data, load_data
from lptool.device import autocast_dtype, pick_device
from lptool.errors import TrainError
from lptool.evaluate import Score, evaluate
from lptool.export import save_ticket
from lptool.masks import Mask, apply_mask, kept_count, magnitude_mask, sparsity
from lptool.models import build_model, check_forward, prunable_weights
from lptool.presets import TrainOptions
from lptool.run_folder import Progress, Record, RunFolder
from lptool.tickets import Metadata, Ticket


@dataclass(frozen=True)
class _Run:
    """What stays the same over all levels of a run."""

    options: TrainOptions
    data: Data
    model: nn.Module
    device: torch.device
    compute: torch.dtype
    prunable: tuple[str, ...]
    folder: RunFolder
    on_epoch: Callable[[Record], None]


def train_tickets(
    options: TrainOptions,
    levels: int,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    device: str = "auto",
    data: Data | None = None,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> list[Path]:
    """Train the tickets of one IMP run, or finish a run that was cut off.

    Args:
        options: everything that shapes the tickets.
        levels: number of prunings after the dense level 0; may grow from one call to the next.
        out: folder for `level_00.safetensors` …, `train.jsonl` (one record per epoch) and what a rerun resumes from.
        data_dir: see `load_data`. data: used in place of loading `options.dataset`.
        device: see `pick_device`.
        on_epoch: called with each record of `train.jsonl`.

    Returns:
        The level files, densest first.

    Raises:
        TrainError: the folder holds a run with other options, nothing would be left after pruning, or the loss
            became infinite.
        DataError, ArchError, OutputError, SetupError: as their names say.

    Source: Yin et al. 2023, Algorithm 1; rewinding as in Frankle et al. 2020.
    """
    run = _start(options, Path(out), data_dir, device, data, on_epoch)
    with _reproducible():
        for level in range(levels + 1):
            if not run.folder.level(level).exists():
                _train_level(run, level)
    run.folder.finish()
    return [run.folder.level(level) for level in range(levels + 1)]


def _start(
    options: TrainOptions,
    out: Path,
    data_dir: str | Path | None,
    device: str,
    data: Data | None,
    on_epoch: Callable[[Record], None],
) -> _Run:
    where = pick_device(device)
    data = data or load_data(
        options.dataset,
        data_dir,
        val_fraction=options.val_fraction,
        split_seed=options.split_seed,
        image_size=options.image_size,
    )
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = build_model(options.arch, data.num_classes, data.shape[0])
        check_forward(model, data.shape, data.num_classes, options.arch)
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    prunable = prunable_weights(model, options.prune)
    if not prunable:
        raise TrainError(f"architecture {options.arch!r} has no weights that --prune {options.prune} may touch")
    folder = RunFolder(out)
    folder.claim(options.to_json())
    return _Run(
        options, data.to(where), model, where, autocast_dtype(options.precision, where), prunable, folder, on_epoch
    )


@contextmanager
def _reproducible() -> Iterator[None]:
    """Leave the caller's random state alone, and let cuDNN choose only kernels that repeat themselves."""
    with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


def _train_level(run: _Run, level: int) -> None:
    mask = _next_mask(run, level)
    optimizer = _optimizer(run)
    progress = _resume(run, level, mask, optimizer)
    run.folder.forget_after(level, progress.epoch)
    while progress.epoch < run.options.epochs:
        record, score = _train_epoch(run, level, progress.epoch, mask, optimizer)
        run.folder.append(record)
        run.on_epoch(record)
        progress = _advance(run, progress, optimizer, score)
        if level == 0 and progress.epoch == run.options.rewind_epoch:
            run.folder.save_rewind(progress.model)
        run.folder.save_progress(level, progress)
    _save_level(run, level, mask, progress)


def _next_mask(run: _Run, level: int) -> Mask:
    """All kept at level 0; later, the share `rate` of what the level before kept is pruned, smallest first."""
    state = run.model.state_dict()
    if level == 0:
        return {name: torch.ones_like(state[name], dtype=torch.bool) for name in run.prunable}
    before = load_ticket(run.folder.level(level - 1))
    keep = round(kept_count(before.mask) * (1 - run.options.rate))
    if keep == 0:
        raise TrainError(
            f"level {level}: pruning {run.options.rate:g} of the weights leaves none; ask for fewer levels"
        )
    mask = magnitude_mask({name: before.state[name] for name in run.prunable}, keep, within=before.mask)
    return {name: kept.to(run.device) for name, kept in mask.items()}


def _optimizer(run: _Run) -> torch.optim.SGD:
    o = run.options
    return torch.optim.SGD(run.model.parameters(), lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay)


def _resume(run: _Run, level: int, mask: Mask, optimizer: torch.optim.SGD) -> Progress:
    """Put the model where this level goes on: after its last finished epoch, else at the rewind point."""
    progress = run.folder.load_progress(level, run.device)
    if progress is not None:
        run.model.load_state_dict(progress.model)
        for name, parameter in run.model.named_parameters():
            if name in progress.momentum:
                buffer = torch.empty_like(parameter, requires_grad=False).copy_(progress.momentum[name])
                optimizer.state[parameter]["momentum_buffer"] = buffer
        return progress
    if level > 0:
        run.model.load_state_dict(apply_mask(run.folder.load_rewind(run.device), mask))
        return Progress(run.options.rewind_epoch)
    if run.options.rewind_epoch == 0:
        run.folder.save_rewind(run.model.state_dict())
    return Progress(0)


def _advance(run: _Run, before: Progress, optimizer: torch.optim.SGD, score: Score) -> Progress:
    """The progress after one more epoch."""
    momentum = {n: optimizer.state[p]["momentum_buffer"] for n, p in run.model.named_parameters() if optimizer.state[p]}
    after = Progress(before.epoch + 1, run.model.state_dict(), momentum, before.best, before.best_correct)
    if run.options.keep == "best" and score.correct > before.best_correct:
        after.best_correct = score.correct
        after.best = {name: t.detach().clone() for name, t in after.model.items()}
    return after


def _train_epoch(run: _Run, level: int, epoch: int, mask: Mask, optimizer: torch.optim.SGD) -> tuple[Record, Score]:
    """One pass over the training images, then one over val."""
    started = time.perf_counter()
    lr = learning_rate(run.options, epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss, correct, seen = _optimise(run, level, epoch, mask, optimizer)
    trained = time.perf_counter() - started
    batches = run.data.batches(run.data.val, 512, run.device)
    score = evaluate(run.model, batches)
    worst = loss if not math.isfinite(loss) else score.nll  # the last step shows only on val
    if not math.isfinite(worst):
        raise TrainError(f"level {level}, epoch {epoch}: the loss became {worst}; try a lower --lr or --precision fp32")
    record = {
        "level": level,
        "epoch": epoch,
        "sparsity": round(sparsity(mask), 6),
        "lr": lr,
        "train_loss": loss,
        "train_accuracy": correct / seen,
        "val_accuracy": score.accuracy,
        "val_nll": score.nll,
        "seconds": round(time.perf_counter() - started, 3),
        "images_per_second": round(seen / trained, 1),
    }
    return record, score


def learning_rate(options: TrainOptions, epoch: int) -> float:
    """The rate of an epoch: divided by 10 at 50 % and again at 75 % of the epochs (Yin et al. 2023, section 4)."""
    drops = sum(epoch >= options.epochs * part for part in (0.5, 0.75))
    return options.lr * 0.1**drops


def _optimise(run: _Run, level: int, epoch: int, mask: Mask, optimizer: torch.optim.SGD) -> tuple[float, int, int]:
    """Mean loss, images right and images seen over one epoch of optimizer steps."""
    generator = epoch_generator(run.options.seed, level, epoch)
    parameters = dict(run.model.named_parameters())
    pruned: list[Tensor] = [parameters[name] for name in mask]
    kept: list[Tensor] = [kept.to(parameters[name].dtype) for name, kept in mask.items()]
    loss_sum = torch.zeros((), device=run.device)
    correct = torch.zeros((), device=run.device, dtype=torch.long)
    run.model.train()
    for images, labels in _training_batches(run, generator):
        with torch.autocast(run.device.type, run.compute, enabled=run.compute != torch.float32):
            logits = run.model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_mul_(pruned, kept)
            loss_sum += loss * len(labels)
            correct += (logits.argmax(dim=1) == labels).count_nonzero()
    seen = len(run.data.train)
    return float(loss_sum) / seen, int(correct), seen


def _training_batches(run: _Run, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    options, train = run.options, run.data.train
    padding = run.data.shape[1] // 8 if options.crop_padding is None else options.crop_padding
    flip = run.data.name != "digits" if options.flip is None else options.flip  # a mirrored digit is no digit
    order = torch.randperm(len(train), generator=generator)
    augmentation = draw(order, run.data.shape, crop_padding=padding, flip=flip, generator=generator).to(run.device)
    return run.data.batches(train, options.batch_size, run.device, order=order, augment=augmentation.apply)


def epoch_generator(seed: int, level: int, epoch: int) -> torch.Generator:
    """The randomness of one epoch, from its place in the run alone; also seeds the global generator (dropout)."""
    own = (seed * 1_000 + level) * 100_000 + epoch
    torch.manual_seed(own)
    return torch.Generator().manual_seed(own)


def _save_level(run: _Run, level: int, mask: Mask, progress: Progress) -> None:
    state = progress.best if run.options.keep == "best" else progress.model
    metadata = Metadata(
        arch=run.options.arch,
        arch_kwargs={"num_classes": run.data.num_classes, "in_chans": run.data.shape[0]},
        level=level,
        prunable=run.prunable,
        dataset=run.data.describe(),
        train={**run.options.to_json(), "compute": str(run.compute).removeprefix("torch.")},
    )
    save_ticket(Ticket(state, mask, metadata), run.folder.level(level))
