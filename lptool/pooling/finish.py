"""The end of a search: finished states, their scores, how far they differ from the controls, and the file written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lptool.checkpoints.header import CONTROL, CONTROLS, Verdict
from lptool.checkpoints.masks import Mask, State, density, sparsity
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.reading import file_sha256, load_ticket
from lptool.checkpoints.summary import Summary
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import Form, sizes_of
from lptool.data.images import Images
from lptool.device import threads_on
from lptool.networks.matching import fitted_ticket
from lptool.pooling.fingerprint import control_key, shaping
from lptool.pooling.outcome import Incumbent, SearchTrace
from lptool.pooling.outputs import may_replace
from lptool.pooling.result import Layer, Member, PoolResult, WrittenControl
from lptool.pooling.search import pruned_ticket
from lptool.pooling.setup import Bench
from lptool.pooling.targets import kept_of
from lptool.pooling.verdict import better_control, verdict_of
from lptool.ranks import ALONE, Ranks
from lptool.scoring.metrics import Comparison, mcnemar
from lptool.scoring.score import Graded, Score


def finished(bench: Bench, start: State, best: Incumbent, trace: SearchTrace, ranks: Ranks = ALONE) -> dict[str, State]:
    """What the search found and its controls, BatchNorm recalibrated where it is at all; the same on every rank."""
    states = {"ticket": start}
    if bench.recalibrates:
        states["ticket_bn"] = bench.recalibrated(start, ranks)
    if not trace.accepted:  # the same object as the control that it is, so that it is not scored twice: see `graded`
        return states | {"pooled": states["ticket_bn"] if best.recalibrated else start}
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


@dataclass(frozen=True)
class Destination:
    """Where and how a pooled model is written.

    Attributes:
        fitted: the ticket under the names that the file shall have. control: where its control is written too.
        key: of the search, by which a file of its own is known. overwrite: replace any other file too.
    """

    output: Path
    form: Form
    fitted: Callable[[Ticket], Ticket]
    key: str
    overwrite: bool
    control: Path | None = None


@dataclass(frozen=True)
class End:
    """What is written, and what it and its controls score: see `PoolResult`."""

    shipped: str
    state: State
    mask: Mask
    val: dict[str, Score]
    test: dict[str, Score]
    against: dict[str, Comparison]
    verdict: Verdict
    gains: Tensor
    control: Control


@dataclass(frozen=True)
class Control:
    """What a pooled model is compared with, as it may be written too, and the row of the table that it is.

    That is `ticket_bn`, or `ticket` where nothing is recalibrated at all.
    """

    row: str
    state: State
    mask: Mask


def finish(bench: Bench, place: Destination, best: Incumbent, trace: SearchTrace, ranks: Ranks = ALONE) -> PoolResult:
    """Finish what a search found, score it once on test, and write it; but for `seconds`, the result is whole."""
    start, start_mask = pruned_ticket(bench.pool, trace.target, kept_of(bench, trace.target))
    states = in_own_types(finished(bench, start, best, trace, ranks), bench.pool.types(trace.target))
    on_val = graded(bench, states, bench.data.val, ranks)
    val = scores_of(on_val)
    # The search saw other statistics than the finished model has: never write less than a control gives on val.
    control = better_control(val, bench.choice)
    better = bool(trace.accepted) and bench.choice.replaces(val["pooled"], val[control])
    shipped, mask = ("pooled", best.mask) if better else (control, start_mask)
    states["pooled"], val["pooled"], on_val["pooled"] = states[shipped], val[shipped], on_val[shipped]
    test = graded(bench, states, bench.data.test, ranks)
    against, n_test = against_controls(test), len(test["pooled"].right)
    verdict = verdict_of(control, against[control], on_val, n_test)
    gains = test["pooled"].right.to(torch.int8) - test[control].right.to(torch.int8)
    row = "ticket_bn" if "ticket_bn" in states else "ticket"
    beside = Control(row, states[row], start_mask)
    end = End(shipped, states["pooled"], mask, val, scores_of(test), against, verdict, gains, beside)
    return ranks.on_first(lambda: _write(bench, place, trace, end))


def _write(bench: Bench, place: Destination, trace: SearchTrace, end: End) -> PoolResult:
    pool, mask, output, form = bench.pool, end.mask, place.output, place.form
    ticket = pool[trace.target]
    control = None
    if place.control:  # first: where the output is there, all is
        metadata = control_metadata(bench, control_key(place.key), ticket, trace, end)
        _save(replace(ticket, state=end.control.state, mask=end.control.mask, metadata=metadata), place.control, place)
        control = WrittenControl(place.control, file_sha256(place.control), end.control.row)
    metadata = pooled_metadata(bench, place.key, ticket, trace, end)
    pooled = place.fitted(replace(ticket, state=end.state, mask=mask, metadata=metadata, file=str(output)))
    pooled = _save(pooled, output, place)
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
        verdict=end.verdict,
        gains=end.gains,
        layers=tuple(
            Layer(name, tuple(before.shape), density({name: before}), density({name: mask[name]}))
            for name, before in ticket.mask.items()
        ),
        metadata=pooled.metadata,
        plain_names=pooled.plain_names,
        form=form,
        written=output.stat().st_size,
        sizes=sizes_of(pooled),
        control=control,
        rounded=rounded,
        options=shaping(bench.options),
        device=str(bench.device),
        threads=threads_on(bench.device),
        warnings=bench.warnings,
    )


def _save(ticket: Ticket, output: Path, place: Destination) -> Ticket:
    """Write a ticket; what it became, which says what its weights are, so that a changed file is known."""
    trace = ticket.metadata.trace | {"weights": place.form.weights(ticket)}
    ticket = replace(ticket, metadata=replace(ticket.metadata, trace=trace))
    # Asked again: hours may have passed since the output was checked.
    again = may_replace(output, trace["search"], place.form, overwrite=place.overwrite)
    place.form.save(ticket, output, replace=again)
    return ticket


def control_metadata(bench: Bench, key: str, ticket: Ticket, trace: SearchTrace, end: End) -> Metadata:
    """What a control is and how it was made, as `pooled_metadata` says it of a pooled model."""
    summary, level = bench.pool.summaries[trace.target], bench.pool.level(trace.target)
    document = {
        "method": CONTROL,
        "target": _named(summary, level),
        "shipped": end.control.row,
        **_recalibration(bench),
        "search": key,
    }
    parts = {"val": end.val, "test": end.test}
    controls = {part: {row: found[row] for row in CONTROLS if row in found} for part, found in parts.items()}
    return _metadata(bench, ticket, trace.target, document, controls)


def _recalibration(bench: Bench) -> dict[str, Any]:
    """What BatchNorm of finished models was recalibrated on."""
    used, calibration = bench.calibration.used, bench.calibration
    return {
        "bn_images": used,
        "augmentation": asdict(calibration.recipe) if used == "augmented" else None,
        "final_calibration_size": bench.options.final_calibration_size,
        "seed": bench.options.seed,
    }


def _metadata(
    bench: Bench, ticket: Ticket, target: int, trace: dict[str, Any], scores: dict[str, dict[str, Score]]
) -> Metadata:
    return replace(
        bench.pool.summaries[target].metadata,
        kind="pooled",
        arch=bench.arch,
        arch_kwargs=bench.arch_kwargs,
        level=bench.pool.level(target),
        prunable=tuple(ticket.own_names.get(name, name) for name in bench.pool.prunable),
        dataset=bench.data.describe(),
        trace=trace,
        scores={part: {name: score.to_json() for name, score in found.items()} for part, found in scores.items()},
    )


def pooled_metadata(bench: Bench, key: str, ticket: Ticket, trace: SearchTrace, end: End) -> Metadata:
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
        "shipped": end.shipped,
        "verdict": asdict(end.verdict),
        **_recalibration(bench),
        "calibration_size": options.calibration_size,
        "evaluations": trace.evaluations,
        "search": key,
    }
    return _metadata(bench, ticket, trace.target, document, {"val": end.val, "test": end.test})


def _named(summary: Summary, level: int) -> dict[str, Any]:
    return {"file": Path(summary.file).name, "sha256": summary.sha256, "level": level}
