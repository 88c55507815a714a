"""From a pool to one pooled file: search, recalibrate, score once on test, write."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import DENSE, Form
from lptool.data.images import decoded
from lptool.device import go_on_with_threads, threads_on
from lptool.pooling.calibration import TRIED
from lptool.pooling.catalogue import needs
from lptool.pooling.fingerprint import fingerprint, key_of
from lptool.pooling.finish import Destination, finish
from lptool.pooling.journal import Journal, alone_with, check_journal, journal_of
from lptool.pooling.methods import pool_tickets
from lptool.pooling.outcome import Incumbent, OnProgress, Progress, SearchTrace
from lptool.pooling.result import PoolResult
from lptool.pooling.scorer import name_of
from lptool.pooling.setup import Bench
from lptool.pooling.targets import kept_of
from lptool.pooling.window import windowed
from lptool.ranks import ALONE, Ranks

RATIO_TRIED = 0.5  # of the window whose mean decides what BatchNorm is recalibrated on, where nothing is known


def decided(bench: Bench, target: int, ranks: Ranks = ALONE) -> Bench:
    """The same bench, where nothing is known of the training with the images for BatchNorm that are best on val.

    They are tried on one mix alone, which is the likeliest to be a good one without a search.
    """
    if bench.calibration.mode != "auto":
        return bench
    mode = ranks.on_first(lambda: _best_on_val(bench, target))
    return replace(bench, calibration=replace(bench.calibration, mode=mode))


def _best_on_val(bench: Bench, target: int) -> str:
    mix, _ = windowed(bench.pool, target, kept_of(bench, target), RATIO_TRIED)
    data = replace(bench.data, val=decoded(bench.data.val, bench.device))  # once for all

    def merit(mode: str) -> float:
        tried = replace(bench, data=data, calibration=replace(bench.calibration, mode=mode))
        return bench.choice.merit(tried.scorer(mix))

    return max(TRIED, key=merit)  # of equals the first, which changes least


def _open_journal(bench: Bench, path: Path, now: dict[str, Any], ranks: Ranks, *, overwrite: bool) -> Journal:
    """The journal at `path`, the same on every rank; the scorer goes on with what it holds."""
    scorer = bench.scorer
    size, threads = scorer.batch_size.images, threads_on(bench.device)
    journal = ranks.on_first(lambda: Journal.open(path, now, size, threads, overwrite=overwrite))
    scorer.batch_size.images = journal.batch_size  # a probe can come out otherwise from day to day
    scorer.known.update(journal.known)
    return journal


def _begun_with(path: Path, now: dict[str, Any], *, overwrite: bool) -> int | None:
    """How many threads the search in the journal at `path` was begun with, where one is and says so."""
    journal = check_journal(path, now, overwrite=overwrite)
    return None if journal is None else journal.threads


def _noting(bench: Bench, journal: Journal, ranks: Ranks, on_progress: OnProgress) -> OnProgress:
    """Keeps each score in the journal, on rank 0, and where no state is scored twice, on every rank."""

    def note(progress: Progress) -> None:
        for scored in progress.scored:
            bench.scorer.known[scored.score.state] = scored.score
            if ranks.rank == 0:
                level = None if scored.candidate is None else bench.pool.level(scored.candidate)
                journal.add({"candidate": level, "alpha": scored.alpha}, scored.score)
        on_progress(progress)

    return note


def searched(
    bench: Bench, target: int, ranks: Ranks = ALONE, on_progress: OnProgress = lambda progress: None
) -> tuple[Incumbent, SearchTrace]:
    """Search by the options of the bench, without a journal."""
    scorer = bench.scorer
    return pool_tickets(
        bench.pool,
        scorer,
        target=target,
        keep=kept_of(bench, target),
        method=bench.options.method,
        choice=bench.choice,
        alphas=bench.options.alphas,
        alpha_search=bench.options.alpha_search,
        passes=bench.options.passes,
        decay=bench.options.decay,
        learning=bench.learning,
        gradient=bench.slope,
        rebuilder=bench.rebuilder if needs(bench.options.method, "rebuilder") else None,
        mask=bench.options.mask,
        score_as_is=scorer.as_is if scorer.recalibrates else None,
        ranks=ranks,
        on_progress=on_progress,
    )


def pool_target(
    bench: Bench,
    target: int,
    output: Path,
    *,
    form: Form = DENSE,
    fitted: Callable[[Ticket], Ticket] = lambda ticket: ticket,
    control: Path | None = None,
    journal: Path | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    ranks: Ranks = ALONE,
    on_progress: OnProgress = lambda progress: None,
) -> PoolResult:
    """Search, recalibrate, score once on test, and write the file.

    Each score goes to the journal, by default beside `output`, and what that holds already is not scored again. All
    ranks work to the end, rank 0 writes, and every rank returns the result.

    Args:
        output: the file. form: how to write it.
        fitted: the pooled ticket under the names that the file shall have; by default the target's own.
        control: also write `ticket + BN` there, in the same form, under the target's own names.
        threads: that torch shall compute with, but for a search that was begun with another number; None leaves it.

    Raises:
        OutputError: the journal is of another search (unless `overwrite`), or in use, or it or the output cannot be
            written, or another file is at `output` (unless `overwrite`).
    """
    started = time.perf_counter()
    path = journal or journal_of(output)
    with ExitStack() as held:
        ranks.on_first(lambda: held.enter_context(alone_with(path)))
        now = ranks.on_first(lambda: fingerprint(bench, target))
        if threads:
            begun = ranks.on_first(lambda: _begun_with(path, now, overwrite=overwrite))
            go_on_with_threads(begun, threads)
        bench = decided(bench, target, ranks)
        scores = _open_journal(bench, path, now, ranks, overwrite=overwrite)
        best, trace = searched(bench, target, ranks, _noting(bench, scores, ranks, on_progress))
        place = Destination(output, form, fitted, key_of(now, bench.options), overwrite, control)
        end = partial(finish, bench, place, best, trace)
        # On GPUs of different kinds each rank may have fitted a state of its own: then the first finishes its own.
        alike = len(set(ranks.gather(name_of(best.state)))) == 1
        result = end(ranks) if alike else ranks.on_first(end)
    return replace(result, seconds=time.perf_counter() - started)
