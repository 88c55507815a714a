"""From a pool to one pooled file: search, recalibrate, score once on test, write."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lptool.bench import Bench, PoolOptions
from lptool.checkpoints import file_sha256
from lptool.errors import OutputError, PoolError
from lptool.evaluate import Score, recalibrated
from lptool.export import check_output, save_ticket
from lptool.images import Images
from lptool.masks import State
from lptool.pools import Pool
from lptool.search import METHODS, OnProgress, SearchTrace, pool_tickets
from lptool.tickets import Metadata, Summary, Ticket


@dataclass(frozen=True)
class PoolResult:
    """One pooled model, as written.

    Attributes:
        val, test: scores of `ticket` (the target as it is), `ticket_bn` (recalibrated on all training images; absent
            without BN recalibration) and `pooled` (the file written).
        shipped: `pooled`, or the control written in its place because it scores better on val.
    """

    output: Path
    sha256: str
    ticket: Ticket
    trace: SearchTrace
    pool: Pool
    shipped: str
    seconds: float
    val: dict[str, Score]
    test: dict[str, Score]

    @property
    def improved(self) -> bool:
        """Whether the output is made of more than the target."""
        return self.shipped == "pooled" and bool(self.trace.accepted)


def outputs_of(bench: Bench, targets: Sequence[int], out: Path, *, overwrite: bool) -> list[Path]:
    """Where the pooled model of each target goes; refuses, before any search, what must not be written.

    With target `all` one file per level: `STEM_level_NN.safetensors` beside `out`, or in it where it is a folder.

    Raises:
        OutputError: an output exists, is an input, or cannot be written.
    """
    outputs = [_output_for(out, bench.pool.level(target), bench.options.target) for target in targets]
    twice = {str(output) for output in outputs if outputs.count(output) > 1}
    if twice:
        raise OutputError(
            f"{', '.join(sorted(twice))}: two tickets have this level; pool them one by one with --target"
        )
    for output in outputs:
        check_output(output, bench.inputs, overwrite=overwrite)
    return outputs


def _output_for(out: Path, level: int, target: str) -> Path:
    if target != "all":
        return out
    if out.suffix == ".safetensors":
        return out.with_name(f"{out.stem}_level_{level:02d}.safetensors")
    return out / f"level_{level:02d}.safetensors"


def choose_targets(bench: Bench) -> list[int]:
    """Places in the pool of the tickets to improve. `matching` scores tickets on val. Raises PoolError."""
    pool, target = bench.pool, bench.options.target
    if target == "all":
        return list(range(len(pool)))
    if target == "sparsest":
        return [_sparsest(pool, range(len(pool)))]
    if target == "matching":
        correct = [bench.score(ticket.state, bench.data.val).correct for ticket in pool]
        return [_sparsest(pool, [i for i, right in enumerate(correct) if right >= correct[0]])]
    for i, summary in enumerate(pool.summaries):
        if target == str(pool.level(i)) or Path(target).resolve() == Path(summary.file).resolve():
            return [i]
    levels = ", ".join(str(pool.level(i)) for i in range(len(pool)))
    raise PoolError(f"no target {target!r}: expected sparsest, matching, all, a level ({levels}) or one of the files")


def _sparsest(pool: Pool, places: Sequence[int] | range) -> int:
    """Of equally sparse tickets the last one; one that was trained before one that was pooled already."""
    return max(places, key=lambda i: (-pool.kept(i), pool.summaries[i].metadata.kind != "pooled", i))


def evaluations_at_most(options: PoolOptions, tickets: int) -> int:
    """States that one search scores: the target twice (once without BN recalibration) and every mix."""
    alphas = METHODS[options.method] or options.alphas
    return 1 + options.recalibrate + (tickets - 1) * len(alphas)


def pool_target(bench: Bench, target: int, output: Path, on_progress: OnProgress = lambda progress: None) -> PoolResult:
    """Search, recalibrate on the whole training set, score once on test, and write the file."""
    started = time.perf_counter()
    options, pool = bench.options, bench.pool
    scorer = bench.scorer
    best, trace = pool_tickets(
        pool,
        scorer,
        target=target,
        method=options.method,
        alphas=options.alphas,
        score_as_is=scorer.as_is if scorer.recalibrates else None,
        on_progress=on_progress,
    )

    def finished(state: State) -> State:
        return recalibrated(bench.model, state, bench.batches(bench.data.train))

    ticket = pool[target]
    states = {"ticket": ticket.state}
    if scorer.recalibrates:
        states["ticket_bn"] = finished(ticket.state)
    if trace.accepted:
        states["pooled"] = finished(best.state) if best.recalibrated else best.state
    else:
        states["pooled"] = states["ticket_bn" if best.recalibrated else "ticket"]
    val = _scores(bench, states, bench.data.val)
    # The search saw fewer calibration images than the finished model: never write less than a control gives on val.
    shipped = max(("pooled", "ticket", "ticket_bn"), key=lambda name: val[name].correct if name in val else -1)
    states["pooled"], val["pooled"] = states[shipped], val[shipped]
    mask = best.mask if shipped == "pooled" else ticket.mask
    test = _scores(bench, states, bench.data.test)
    metadata = _pooled_metadata(bench, ticket, trace, shipped, val, test)
    pooled = replace(ticket, state=states["pooled"], mask=mask, metadata=metadata, file=str(output))
    save_ticket(pooled, output)
    seconds = time.perf_counter() - started
    return PoolResult(output, file_sha256(output), pooled, trace, pool, shipped, seconds, val, test)


def _scores(bench: Bench, states: dict[str, State], images: Images) -> dict[str, Score]:
    """The score of each state; two names of one state are scored once."""
    distinct = {id(state): bench.score(state, images) for state in {id(s): s for s in states.values()}.values()}
    return {name: distinct[id(state)] for name, state in states.items()}


def _pooled_metadata(
    bench: Bench, ticket: Ticket, trace: SearchTrace, shipped: str, val: dict[str, Score], test: dict[str, Score]
) -> Metadata:
    """Everything that made the file and nothing that changes from run to run, so that equal runs give equal bytes."""
    options, pool = bench.options, bench.pool
    origin = pool.summaries[trace.target]
    document = {
        "method": trace.method,
        "target": _named(origin, pool.level(trace.target)),
        "alphas": list(trace.alphas),
        "members": [
            _named(pool.summaries[s.candidate], pool.level(s.candidate)) | {"alpha": s.alpha, "accepted": s.accepted}
            for s in trace.steps
        ],
        "shipped": shipped,
        "bn_recalibration": options.recalibrate,
        "calibration_size": options.calibration_size,
        "seed": options.seed,
        "evaluations": trace.evaluations,
    }
    scores = {"val": {k: s.to_json() for k, s in val.items()}, "test": {k: s.to_json() for k, s in test.items()}}
    return replace(
        origin.metadata,
        kind="pooled",
        arch=bench.arch,
        arch_kwargs=bench.arch_kwargs,
        level=pool.level(trace.target),
        prunable=tuple(ticket.own_names.get(name, name) for name in pool.prunable),
        dataset=bench.data.describe(),
        trace=document,
        scores=scores,
    )


def _named(summary: Summary, level: int) -> dict[str, Any]:
    return {"file": Path(summary.file).name, "sha256": summary.sha256, "level": level}
