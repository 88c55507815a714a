"""From a pool to one pooled file: search, recalibrate, score once on test, write."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lptool.checkpoints.masks import Mask, State, density, sparsity
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.reading import file_sha256, load_ticket
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import DENSE, Form, Sizes, sizes_of
from lptool.data.images import decoded
from lptool.device import go_on_with_threads, threads_on
from lptool.networks.matching import fitted_ticket
from lptool.pooling.calibration import TRIED
from lptool.pooling.catalogue import needs
from lptool.pooling.fingerprint import fingerprint, shaping
from lptool.pooling.finish import against_controls, finished, graded, in_own_types, pooled_metadata, scores_of
from lptool.pooling.journal import Journal, alone_with, check_journal, journal_of
from lptool.pooling.methods import pool_tickets
from lptool.pooling.outcome import Incumbent, OnProgress, Progress, SearchTrace
from lptool.pooling.outputs import may_replace
from lptool.pooling.scorer import name_of
from lptool.pooling.search import pruned_ticket
from lptool.pooling.setup import Bench
from lptool.pooling.targets import kept_of
from lptool.pooling.window import windowed
from lptool.ranks import ALONE, Ranks
from lptool.scoring.metrics import Comparison
from lptool.scoring.score import Score


@dataclass(frozen=True)
class Member:
    """One ticket of the pool; its sparsity in [0, 1]; the digest of its file."""

    file: str
    level: int
    sparsity: float
    sha256: str


@dataclass(frozen=True)
class Layer:
    """One prunable tensor: its density in the target ticket and in the pooled model, in [0, 1]."""

    name: str
    shape: tuple[int, ...]
    before: float
    after: float


RATIO_TRIED = 0.5  # of the window whose mean decides what BatchNorm is recalibrated on, where nothing is known
_SHIPPED = ("pooled", "ticket", "ticket_bn")  # of equally good ones the first is written


@dataclass(frozen=True)
class PoolResult:
    """One pooled model, as written; plain values, so that one process can send it to another.

    Attributes:
        sparsity: of the file. members: the pool's tickets, by place.
        val, test: scores of `ticket` (the target as it is), `ticket_bn` (recalibrated; absent without BN
            recalibration, and where nothing better than the target as it is was found) and `pooled` (the file written).
        against: control → the file written and the control, on the same test images.
        shipped: `pooled`, or the control written in its place because it scores better on val.
        layers: the prunable tensors, in the network's order. metadata: as in the file's header.
        plain_names: whether its tensors have the network's own names. form: how it is written. sizes: of its files.
        rounded: the score on test of the file as written, where its values are kept in a shorter type.
        options: that shaped it, see `shaping`.
        device: that was searched on. threads: of the CPU, where that is the device. seconds: all that it took.
    """

    output: Path
    sha256: str
    sparsity: float
    members: tuple[Member, ...]
    trace: SearchTrace
    shipped: str
    val: dict[str, Score]
    test: dict[str, Score]
    against: dict[str, Comparison]
    layers: tuple[Layer, ...]
    metadata: Metadata
    plain_names: bool
    form: Form
    sizes: Sizes
    rounded: Score | None
    options: dict[str, Any]
    device: str
    threads: int | None
    seconds: float = 0.0

    @property
    def improved(self) -> bool:
        """Whether the output is made of more than the target."""
        return self.shipped == "pooled" and bool(self.trace.accepted)


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


def _open_journal(bench: Bench, target: int, path: Path, ranks: Ranks, *, overwrite: bool) -> Journal:
    """The journal at `path`, the same on every rank; the scorer goes on with what it holds."""
    scorer, now = bench.scorer, fingerprint(bench, target)
    size, threads = scorer.batch_size.images, threads_on(bench.device)
    journal = ranks.on_first(lambda: Journal.open(path, now, size, threads, overwrite=overwrite))
    scorer.batch_size.images = journal.batch_size  # a probe can come out otherwise from day to day
    scorer.known.update(journal.known)
    return journal


def _begun_with(bench: Bench, target: int, path: Path, *, overwrite: bool) -> int | None:
    """How many threads the search in the journal at `path` was begun with, where one is and says so."""
    journal = check_journal(path, fingerprint(bench, target), overwrite=overwrite)
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
        threads: that torch shall compute with, but for a search that was begun with another number; None leaves it.

    Raises:
        OutputError: the journal is of another search (unless `overwrite`), or in use, or it or the output cannot be
            written, or another file is at `output` (unless `overwrite`).
    """
    started = time.perf_counter()
    path = journal or journal_of(output)
    with ExitStack() as held:
        ranks.on_first(lambda: held.enter_context(alone_with(path)))
        if threads:
            begun = ranks.on_first(lambda: _begun_with(bench, target, path, overwrite=overwrite))
            go_on_with_threads(begun, threads)
        bench = decided(bench, target, ranks)
        scores = _open_journal(bench, target, path, ranks, overwrite=overwrite)
        best, trace = searched(bench, target, ranks, _noting(bench, scores, ranks, on_progress))
        end = (bench, output, form, fitted, overwrite, best, trace)
        # On GPUs of different kinds each rank may have fitted a state of its own: then the first finishes its own.
        alike = len(set(ranks.gather(name_of(best.state)))) == 1
        result = _finish(*end, ranks) if alike else ranks.on_first(lambda: _finish(*end, ALONE))
    return replace(result, seconds=time.perf_counter() - started)


def _finish(
    bench: Bench,
    output: Path,
    form: Form,
    fitted: Callable[[Ticket], Ticket],
    overwrite: bool,
    best: Incumbent,
    trace: SearchTrace,
    ranks: Ranks,
) -> PoolResult:
    start, start_mask = pruned_ticket(bench.pool, trace.target, kept_of(bench, trace.target))
    states = in_own_types(finished(bench, start, best, trace, ranks), bench.pool.types(trace.target))
    val = scores_of(graded(bench, states, bench.data.val, ranks))
    # The search saw other statistics than the finished model has: never write less than a control gives on val.
    shipped = max((name for name in _SHIPPED if name in val), key=lambda name: bench.choice.merit(val[name]))
    states["pooled"], val["pooled"] = states[shipped], val[shipped]
    mask = best.mask if shipped == "pooled" else start_mask
    test = graded(bench, states, bench.data.test, ranks)
    end = End(shipped, states["pooled"], mask, val, scores_of(test), against_controls(test), overwrite)
    return ranks.on_first(lambda: _write(bench, output, form, fitted, trace, end))


@dataclass(frozen=True)
class End:
    """What is written, perhaps over another file, and what it and its controls score: see `PoolResult`."""

    shipped: str
    state: State
    mask: Mask
    val: dict[str, Score]
    test: dict[str, Score]
    against: dict[str, Comparison]
    overwrite: bool


def _write(
    bench: Bench, output: Path, form: Form, fitted: Callable[[Ticket], Ticket], trace: SearchTrace, end: End
) -> PoolResult:
    pool, mask = bench.pool, end.mask
    ticket = pool[trace.target]
    metadata = pooled_metadata(bench, ticket, trace, end.shipped, end.val, end.test)
    pooled = fitted(replace(ticket, state=end.state, mask=mask, metadata=metadata, file=str(output)))
    trace_of_file = metadata.trace | {"weights": form.weights(pooled)}  # so that a changed file is known
    pooled = replace(pooled, metadata=replace(pooled.metadata, trace=trace_of_file))
    # Asked again: hours may have passed since the output was checked.
    form.save(pooled, output, replace=may_replace(bench, trace.target, output, form, overwrite=end.overwrite))
    rounded = None
    if form.values:  # the file itself, read again: its values were shortened as it was written
        rounded = bench.score(fitted_ticket(bench.model, load_ticket(output), bench.arch).state, bench.data.test)
    return PoolResult(
        output=output,
        sha256=file_sha256(output),
        sparsity=sparsity(mask),
        members=tuple(
            Member(s.file, pool.level(i), 1 - pool.density(i), s.sha256) for i, s in enumerate(pool.summaries)
        ),
        trace=trace,
        shipped=end.shipped,
        val=end.val,
        test=end.test,
        against=end.against,
        layers=tuple(
            Layer(name, tuple(before.shape), density({name: before}), density({name: mask[name]}))
            for name, before in ticket.mask.items()
        ),
        metadata=pooled.metadata,
        plain_names=pooled.plain_names,
        form=form,
        sizes=sizes_of(pooled),
        rounded=rounded,
        options=shaping(bench.options),
        device=str(bench.device),
        threads=threads_on(bench.device),
    )
