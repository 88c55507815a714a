"""The end of a search: finished states, their scores, how far they differ from the controls, and the file's header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lptool.checkpoints.masks import State
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.summary import Summary
from lptool.checkpoints.ticket import Ticket
from lptool.data.images import Images
from lptool.pooling.fingerprint import key_of
from lptool.pooling.outcome import Incumbent, SearchTrace
from lptool.pooling.setup import Bench
from lptool.ranks import ALONE, Ranks
from lptool.scoring.metrics import Comparison, mcnemar
from lptool.scoring.score import Graded, Score


def finished(bench: Bench, start: State, best: Incumbent, trace: SearchTrace, ranks: Ranks = ALONE) -> dict[str, State]:
    """What the search found and its controls, BatchNorm recalibrated where it is at all; the same on every rank."""
    if not trace.accepted:
        # The same object as its control, so that it is not scored twice: see `graded`.
        control = bench.recalibrated(start, ranks) if best.recalibrated else start
        return {"ticket": start, **({"ticket_bn": control} if best.recalibrated else {}), "pooled": control}
    states = {"ticket": start}
    if trace.ticket_bn:
        states["ticket_bn"] = bench.recalibrated(start, ranks)
    return states | {"pooled": bench.recalibrated(best.state, ranks) if best.recalibrated else best.state}


def in_own_types(states: dict[str, State], types: Mapping[str, torch.dtype]) -> dict[str, State]:
    """States as they are written: in the types of the target's file, but for a tensor that would overflow there.

    Two names of one state are one state again.
    """
    typed = {id(state): {name: _fitted(t, types[name]) for name, t in state.items()} for state in states.values()}
    return {name: typed[id(state)] for name, state in states.items()}


def _fitted(tensor: Tensor, kind: torch.dtype) -> Tensor:
    short = tensor.to(kind)
    return short if short is tensor or bool(short.isfinite().all()) else tensor


def graded(bench: Bench, states: dict[str, State], images: Images, ranks: Ranks = ALONE) -> dict[str, Graded]:
    """What comes out for each image under each state; two names of one state are scored once."""
    distinct = {id(state): state for state in states.values()}
    found = {key: bench.graded(state, images, ranks) for key, state in distinct.items()}
    return {name: found[id(state)] for name, state in states.items()}


def scores_of(found: dict[str, Graded]) -> dict[str, Score]:
    """The scores alone."""
    return {name: one.score for name, one in found.items()}


def against_controls(found: dict[str, Graded]) -> dict[str, Comparison]:
    """The pooled model beside each control on the same images: see `mcnemar`."""
    return {name: mcnemar(found["pooled"].right, one.right) for name, one in found.items() if name != "pooled"}


def pooled_metadata(
    bench: Bench, ticket: Ticket, trace: SearchTrace, shipped: str, val: dict[str, Score], test: dict[str, Score]
) -> Metadata:
    """Everything that made the file and nothing that changes from run to run, so that equal runs give equal bytes."""
    options, pool = bench.options, bench.pool
    origin = pool.summaries[trace.target]
    document = {
        "method": trace.method,
        "target": _named(origin, pool.level(trace.target)),
        "alphas": list(trace.alphas),
        "alpha_search": options.alpha_search,
        "chosen": trace.chosen,
        "select": options.select,
        "passes": options.passes,
        "decay": options.decay,
        "learning": asdict(bench.learning),
        "members": [
            _named(pool.summaries[s.candidate], pool.level(s.candidate)) | {"alpha": s.alpha, "accepted": s.accepted}
            for s in trace.steps
        ],
        "coefficients": asdict(trace.coefficients) if trace.coefficients else None,
        "settings": dict(trace.settings),
        "fits": [fit.to_json() for fit in trace.fits],
        "mask": options.mask,
        "fit_images": options.fit_images,
        "fit_positions": options.fit_positions,
        "shipped": shipped,
        "bn_images": bench.calibration.used,
        "augmentation": asdict(bench.calibration.recipe) if bench.calibration.used == "augmented" else None,
        "calibration_size": options.calibration_size,
        "final_calibration_size": options.final_calibration_size,
        "seed": options.seed,
        "evaluations": trace.evaluations,
        "search": key_of(bench, trace.target),
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
