"""The bundled trainer: iterative magnitude pruning with late rewinding (Frankle et al. 2020).

Level 0 trains dense. Each later level prunes a share of the remaining weights by magnitude, goes back to the weights
and the learning rate of the rewind point, and trains with the mask enforced after every step. A run leaves one file per
level and can be killed at any time: the same command goes on from the last finished epoch, and ends with the very
tickets that an uninterrupted run gives (on a GPU, where its kernels repeat themselves), because every epoch draws its
randomness from its own seed.

Several processes train as one: each takes a part of every batch, and the first one writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch

from lptool.checkpoints.masks import Mask, apply_mask, sparsity
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.data.dataset import Data
from lptool.device import pick_device, threads_on
from lptool.networks.matching import fit_names
from lptool.ranks import ALONE, Ranks
from lptool.scoring.score import Score
from lptool.scoring.weights import names_of, put_weights, weights_of
from lptool.training.epoch import Level, train_epoch
from lptool.training.folder import Progress
from lptool.training.options import Levels, TrainOptions, count_of
from lptool.training.pruning import next_mask
from lptool.training.setup import UNWATCHED, Run, Watch, open_run, over_processes
from lptool.training.start import kwargs_of
from lptool.training.steps import make_optimizer, multipliers, optimizer_state, restore_optimizer
from lptool.training.trial import tried


def train_tickets(
    options: TrainOptions,
    levels: Levels,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    device: str = "auto",
    data: Data | None = None,
    ranks: Ranks = ALONE,
    watch: Watch = UNWATCHED,
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
        watch: called as the run goes on, on every rank.

    Returns:
        The level files, densest first.

    Raises:
        TrainError: the folder holds a run with other options, nothing would be left after pruning, or the loss
            became infinite.
        DataError, ArchError, OutputError, SetupError: as their names say.
        RankError: another rank ended.

    Source: Yin et al. 2023, Algorithm 1; rewinding as in Frankle et al. 2020.

    >>> import lptool
    >>> options = lptool.TrainOptions(arch="resnet8_cifar", dataset="digits", epochs=1, rewind_epoch=0)
    >>> [file.name for file in lptool.train_tickets(options, 1, "run", device="cpu")]
    ['level_00.safetensors', 'level_01.safetensors']
    """
    where = ranks.agree(lambda: pick_device(device))
    with _reproducible(where):
        asked = (options, levels, Path(out), data_dir, where, data, ranks, watch)
        run = ranks.first_ahead(lambda: tried(open_run(*asked)))
        with ExitStack() as held:
            ranks.on_first(lambda: _claim(run, held))
            run = over_processes(run)
            for level in range(count_of(levels) + 1):
                if not ranks.on_first(partial(run.folder.has, level, run.identity, run.sparsities)):
                    _train_level(run, level)
            ranks.on_first(run.folder.finish)
    return [run.folder.level(level) for level in range(count_of(levels) + 1)]


def _claim(run: Run, held: ExitStack) -> None:
    """Make the folder this run's, and keep other commands out of it as long as `held` is."""
    # Before anything is put into a folder that is another's, or takes nothing.
    if run.folder.check(run.identity, run.sparsities) is None:
        run.folder.check_writable()
    held.enter_context(run.folder.alone())
    run.folder.claim(run.identity, run.sparsities, threads_on(run.device))


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """Leave the caller's random state alone, and let cuDNN choose only kernels that repeat themselves."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def _train_level(run: Run, number: int) -> None:
    mask, progress = run.ranks.on_first(lambda: _begin(run, number))
    run.ranks.agree(partial(run.watch.on_level, number, progress.epoch))
    put_weights(run.model, progress.model, mask)
    optimizer = make_optimizer(run.model, run.options, run.device)
    restore_optimizer(run.model, optimizer, progress.optimizer)
    # Level 0 has pruned nothing, so its steps have nothing to multiply.
    level = Level(number, sparsity(mask), multipliers(run.model, mask) if number else {}, optimizer)
    while progress.epoch < run.options.epochs:
        record, score = train_epoch(run, level, progress.epoch)
        progress = _advance(run, progress, optimizer, score)
        # The record first: after a kill between the two, `forget_after` drops it and the epoch is trained again.
        run.ranks.on_first(partial(run.folder.append, record))
        run.watch.on_epoch(record)
        run.ranks.on_first(partial(run.folder.save_progress, number, progress))
    run.ranks.on_first(lambda: _save_level(run, number, mask, progress))


def _begin(run: Run, level: int) -> tuple[Mask, Progress]:
    """The mask of a level and where it goes on: after its last finished epoch, else at its start. On the CPU."""
    mask, before = _mask_and_ticket_before(run, level)
    progress = run.folder.load_progress(level) or _start_of(run, level, mask, before)
    run.folder.check_progress(progress, weights_of(run.model))
    run.folder.forget_after(level, progress.epoch)
    return mask, progress


def _mask_and_ticket_before(run: Run, level: int) -> tuple[Mask, Ticket | None]:
    if level == 0:
        weights = weights_of(run.model)
        return {name: torch.ones(weights[name].shape, dtype=torch.bool) for name in run.prunable}, None
    file = load_ticket(run.folder.level(level - 1))
    before = file.renamed(fit_names(run.model, file.shapes, run.options.arch, file.file))
    options = run.options
    return next_mask(before.state, before.mask, level, run.levels, options.rate, options.scope), before


def _start_of(run: Run, level: int, mask: Mask, before: Ticket | None) -> Progress:
    if before is None:
        return Progress(0, {name: t.cpu() for name, t in weights_of(run.model).items()})
    state = before.state if run.options.rewind == "lr" else run.folder.load_rewind()
    # No optimizer state: each level starts a fresh one, and of the rewind point only weights were kept.
    return Progress(run.rewind_step // run.steps_per_epoch, apply_mask(state, mask))


def _advance(run: Run, before: Progress, optimizer: torch.optim.Optimizer, score: Score) -> Progress:
    """The progress after one more epoch."""
    model = weights_of(run.model)
    after = Progress(before.epoch + 1, model, optimizer_state(run.model, optimizer), before.best, before.best_correct)
    if run.options.keep == "best" and score.correct > before.best_correct:
        after.best_correct = score.correct
        after.best = {name: t.detach().clone() for name, t in model.items()}
    return after


def _save_level(run: Run, level: int, mask: Mask, progress: Progress) -> None:
    state = progress.best if run.options.keep == "best" else progress.model
    metadata = Metadata(
        arch=run.options.arch,
        arch_kwargs=kwargs_of(run.options, run.data.num_classes, run.data.shape[0]),
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
    ticket = Ticket({name: t.cpu() for name, t in state.items()}, mask, metadata)
    save_ticket(ticket.renamed(names_of(run.model)), run.folder.level(level), replace=False)
