"""What `lptool inspect` finds out: one ticket after the other, and each beside its denser neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lptool.checkpoints import load_ticket, summarise_file
from lptool.masks import Mask, is_nested, overlap
from lptool.tickets import Summary, Ticket, find_problems, in_order, l2_distance, prunable_names

# Statistics and counters that a network keeps beside its parameters.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Neighbours:
    """A ticket beside the next denser one.

    Attributes:
        nested: whether it keeps only weights that the denser one keeps.
        overlap: share of its kept weights that the denser one keeps too, in [0, 1].
        distance: Euclidean distance over the prunable weights.
    """

    nested: bool
    overlap: float
    distance: float


@dataclass(frozen=True)
class Finding:
    """One file: its summary, layer by layer (name, shape, sparsity), and its place beside the denser neighbour.

    `parameters` and `nonzero` count all tensors but BatchNorm statistics; `neighbours` is None for the densest.
    """

    summary: Summary
    parameters: int
    nonzero: int
    layers: tuple[tuple[str, tuple[int, ...], float], ...]
    neighbours: Neighbours | None
    warnings: tuple[str, ...]


def inspect_files(files: Sequence[str | Path]) -> tuple[list[Finding], list[str]]:
    """Findings in the order of the pool, and what keeps the files from being pooled (nothing for a single file).

    Two tickets are in memory at a time. Raises CheckpointError where a file cannot be read.
    """
    summaries = [summarise_file(file) for file in files]
    problems = find_problems(summaries) if len(summaries) > 1 else []
    names = prunable_names(summaries)
    findings, denser = [], None
    for summary in in_order(summaries):
        ticket = load_ticket(summary.file)
        findings.append(_finding(summary, ticket, denser, names))
        denser = ticket
    return findings, problems


def _finding(summary: Summary, ticket: Ticket, denser: Ticket | None, names: Sequence[str]) -> Finding:
    parameters = [t for name, t in ticket.state.items() if not name.endswith(_BUFFERS)]
    neighbours = _compare(ticket, denser, names) if denser is not None else None
    return Finding(
        summary,
        sum(t.numel() for t in parameters),
        sum(int(t.count_nonzero()) for t in parameters),
        tuple((n, summary.shapes[n], 1 - int(kept.count_nonzero()) / kept.numel()) for n, kept in ticket.mask.items()),
        neighbours,
        tuple(_warnings(summary, neighbours)),
    )


def _compare(ticket: Ticket, denser: Ticket, names: Sequence[str]) -> Neighbours | None:
    """None where the two have different tensors."""
    if any(n not in t.state or t.state[n].shape != ticket.state[n].shape for t in (denser, ticket) for n in names):
        return None
    mine, theirs = (_whole_mask(t, names) for t in (ticket, denser))
    distance = l2_distance(ticket.state, denser.state, names)
    return Neighbours(is_nested(mine, theirs), overlap(mine, theirs), distance)


def _whole_mask(ticket: Ticket, names: Sequence[str]) -> Mask:
    return {
        n: ticket.mask[n] if n in ticket.mask else ticket.state[n].new_ones(()).bool().expand_as(ticket.state[n])
        for n in names
    }


def _warnings(summary: Summary, neighbours: Neighbours | None) -> list[str]:
    warnings = []
    if summary.not_finite:
        warnings.append(f"NaN or infinite values in {', '.join(summary.not_finite[:3])}")
    if summary.mask_source == "zeros":
        warnings.append("mask inferred from zeros")
    if neighbours is not None and not neighbours.nested:
        warnings.append("not nested in the denser neighbour")
    return warnings
