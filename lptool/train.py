"""The bundled trainer: iterative magnitude pruning with late rewinding (Frankle et al. 2020).

Level 0 trains dense. Each later level prunes a share of the remaining weights by global magnitude, goes back to the
weights and the learning rate of the rewind epoch, and trains with the mask enforced after every step. A run leaves
one file per level and can be killed at any time: the same command goes on from the last finished epoch, and ends with
the very tickets that an uninterrupted run gives, because every epoch draws its randomness from its own seed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from lptool.checkpoints import load_ticket, read_header
from lptool.data import Data, load_data
from lptool.device import autocast_dtype, pick_device
from lptool.errors import TrainError
from lptool.evaluate import evaluate
from lptool.export import save_ticket, write_atomically, write_tensors
from lptool.images import random_crop_flip
from lptool.masks import Mask, apply_mask, kept_count, magnitude_mask, sparsity
from lptool.models import build_model, prunable_weights
from lptool.presets import TrainOptions
from lptool.tickets import Metadata, Ticket

Record = dict[str, Any]  # one line of train.jsonl


@dataclass
class _Run:
    """What stays the same over all levels of a run."""

    options: TrainOptions
    data: Data
    model: nn.Module
    device: torch.device
    compute: torch.dtype
    prunable: tuple[str, ...]
    out: Path
    on_epoch: Callable[[Record], None]

    def level_file(self, level: int) -> Path:
        return self.out / f"level_{level:02d}.safetensors"

    @property
    def journal(self) -> Path:
        return self.out / "train.jsonl"

    # Hidden from the shell's `*`, so that `DIR/*.safetensors` and `DIR/*` are the tickets.
    @property
    def rewind_file(self) -> Path:
        return self.out / ".resume" / "rewind.safetensors"

    @property
    def epoch_file(self) -> Path:
        return self.out / ".resume" / "epoch.safetensors"

    @property
    def options_file(self) -> Path:
        return self.out / ".resume" / "options.json"


@dataclass
class _Progress:
    """Where a level stands: the next epoch, momentum buffers by parameter name, and the best state so far."""

    epoch: int
    momentum: dict[str, Tensor]
    best: dict[str, Tensor]
    best_correct: int = -1


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
            if not run.level_file(level).exists():
                _train_level(run, level)
    run.epoch_file.unlink(missing_ok=True)
    return [run.level_file(level) for level in range(levels + 1)]


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
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    prunable = prunable_weights(model, options.prune)
    if not prunable:
        raise TrainError(f"architecture {options.arch!r} has no weights that --prune {options.prune} may touch")
    run = _Run(options, data.to(where), model, where, autocast_dtype(options.precision, where), prunable, out, on_epoch)
    _claim_folder(run)
    return run


def _claim_folder(run: _Run) -> None:
    """Remember the options in the folder, or refuse to go on where they differ from those it was begun with."""
    options = run.options.to_json()
    if run.options_file.exists():
        begun = json.loads(run.options_file.read_text())
        differing = [f"{k}: {begun.get(k)} there, {v} now" for k, v in options.items() if begun.get(k) != v]
        if differing:
            raise TrainError(
                f"{run.out}: holds a run with other options ({'; '.join(differing)}); choose another folder"
            )
    elif run.level_file(0).exists():
        raise TrainError(f"{run.out}: holds tickets of which no run is known; choose another folder")
    else:
        write_atomically(run.options_file, lambda file: file.write_text(json.dumps(options, indent=1)))


@contextmanager
def _reproducible() -> Iterator[None]:
    """Leave the caller's random state alone, and let cuDNN choose only kernels that repeat themselves."""
    with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


def _train_level(run: _Run, level: int) -> None:
    mask = _next_mask(run, level)
    optimizer = _optimizer(run)
    progress = _resume(run, level, mask, optimizer)
    _forget_records_after(run.journal, level, progress.epoch)
    for epoch in range(progress.epoch, run.options.epochs):
        record = _train_epoch(run, level, epoch, mask, optimizer)
        _append_record(run.journal, record)
        run.on_epoch(record)
        _keep_best(run, record, progress)
        if level == 0 and epoch + 1 == run.options.rewind_epoch:
            write_tensors(run.model.state_dict(), {"format": "pt"}, run.rewind_file)
        _save_progress(run, level, epoch + 1, optimizer, progress)
    _save_level(run, level, mask, progress)


def _next_mask(run: _Run, level: int) -> Mask:
    """All kept at level 0; later, the share `rate` of what the level before kept is pruned, smallest first."""
    state = run.model.state_dict()
    if level == 0:
        return {name: torch.ones_like(state[name], dtype=torch.bool) for name in run.prunable}
    before = load_ticket(run.level_file(level - 1))
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


def _resume(run: _Run, level: int, mask: Mask, optimizer: torch.optim.SGD) -> _Progress:
    """Put the model where this level goes on: after its last finished epoch, else at the rewind point."""
    saved = _load_progress(run, level)
    if saved is not None:
        progress, weights = saved
        run.model.load_state_dict(weights)
        for name, parameter in run.model.named_parameters():
            if name in progress.momentum:
                buffer = torch.empty_like(parameter, requires_grad=False).copy_(progress.momentum[name])
                optimizer.state[parameter]["momentum_buffer"] = buffer
        return progress
    if level == 0:
        if run.options.rewind_epoch == 0:
            write_tensors(run.model.state_dict(), {"format": "pt"}, run.rewind_file)
        return _Progress(0, {}, {})
    if not run.rewind_file.exists():
        raise TrainError(f"{run.rewind_file}: missing, and level {level} has to rewind to it; train into a new folder")
    run.model.load_state_dict(apply_mask(load_file(run.rewind_file, device=str(run.device)), mask))
    return _Progress(run.options.rewind_epoch, {}, {})


def _train_epoch(run: _Run, level: int, epoch: int, mask: Mask, optimizer: torch.optim.SGD) -> Record:
    """One pass over the training images, then one over val."""
    started = time.perf_counter()
    lr = learning_rate(run.options, epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss, correct, seen = _optimise(run, level, epoch, mask, optimizer)
    if not torch.isfinite(torch.tensor(loss)):
        raise TrainError(f"level {level}, epoch {epoch}: the loss became {loss}; try a lower --lr or --precision fp32")
    trained = time.perf_counter() - started
    batches = run.data.batches(run.data.val, 512, run.device)
    score = evaluate(run.model, batches, len(run.data.val))
    return {
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
    augment = partial(random_crop_flip, padding=padding, flip=flip, generator=generator)
    order = torch.randperm(len(train), generator=generator)
    return run.data.batches(train, options.batch_size, run.device, order=order, augment=augment)


def epoch_generator(seed: int, level: int, epoch: int) -> torch.Generator:
    """The randomness of one epoch, from its place in the run alone; also seeds the global generator (dropout)."""
    own = (seed * 1_000 + level) * 100_000 + epoch
    torch.manual_seed(own)
    return torch.Generator().manual_seed(own)


def _keep_best(run: _Run, record: Mapping[str, Any], progress: _Progress) -> None:
    correct = round(record["val_accuracy"] * len(run.data.val))
    if run.options.keep == "best" and correct > progress.best_correct:
        progress.best_correct = correct
        progress.best = {name: t.detach().clone() for name, t in run.model.state_dict().items()}


def _save_level(run: _Run, level: int, mask: Mask, progress: _Progress) -> None:
    state = progress.best if run.options.keep == "best" else run.model.state_dict()
    metadata = Metadata(
        arch=run.options.arch,
        arch_kwargs={"num_classes": run.data.num_classes, "in_chans": run.data.shape[0]},
        level=level,
        prunable=run.prunable,
        dataset=run.data.describe(),
        train={**run.options.to_json(), "compute": str(run.compute).removeprefix("torch.")},
    )
    save_ticket(Ticket(state, mask, metadata), run.level_file(level))


def _save_progress(run: _Run, level: int, epoch: int, optimizer: torch.optim.SGD, progress: _Progress) -> None:
    momentum = {n: optimizer.state[p]["momentum_buffer"] for n, p in run.model.named_parameters() if optimizer.state[p]}
    groups = {"model": run.model.state_dict(), "momentum": momentum, "best": progress.best}
    tensors = {f"{group}/{name}": t for group, named in groups.items() for name, t in named.items()}
    header = {"level": level, "epoch": epoch, "best_correct": progress.best_correct}
    write_tensors(tensors, {"lptool-resume": json.dumps(header)}, run.epoch_file)


def _load_progress(run: _Run, level: int) -> tuple[_Progress, dict[str, Tensor]] | None:
    """The progress of this level and the weights that go with it, or None where the level has not begun."""
    if not run.epoch_file.exists():
        return None
    header = json.loads(read_header(run.epoch_file)["lptool-resume"])
    if header["level"] != level:
        return None
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "momentum": {}, "best": {}}
    for key, tensor in load_file(run.epoch_file, device=str(run.device)).items():
        group, _, name = key.partition("/")
        groups[group][name] = tensor
    progress = _Progress(header["epoch"], groups["momentum"], groups["best"], header["best_correct"])
    return progress, groups["model"]


def _append_record(journal: Path, record: Record) -> None:
    with open(journal, "a") as file:
        file.write(json.dumps(record) + "\n")


def _forget_records_after(journal: Path, level: int, epoch: int) -> None:
    """Drop the records of epochs that will be trained again, and a line that was cut off."""
    if not journal.exists():
        return
    lines = [line for line in journal.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    kept = [line for line in lines if (json.loads(line)["level"], json.loads(line)["epoch"]) < (level, epoch)]
    write_atomically(journal, lambda file: file.write_text("".join(kept)))
