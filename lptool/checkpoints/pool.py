"""Pools: the tickets of one run, in order, with aligned masks, loaded one at a time."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import overload

import torch

from lptool.checkpoints.evidence import of_pruning
from lptool.checkpoints.masks import apply_mask
from lptool.checkpoints.names import Names
from lptool.checkpoints.summary import Summary
from lptool.checkpoints.ticket import Ticket
from lptool.device import release_freed_memory
from lptool.errors import PoolError, first_and_count, first_ten, one_line
from lptool.provenance import arch_name
from lptool.tables import percent


class Pool(Sequence[Ticket]):
    """Tickets of one run, ordered densest first, all with the same prunable names and shapes.

    A sequence that loads each ticket when it is asked for, so that memory does not grow with the number of tickets.

    Attributes:
        summaries: one per ticket, in order. prunable: names of the tensors that pruning may touch, in any ticket.
        warnings: what is unusual and was accepted, one line each.

    >>> from torch import tensor
    >>> dense = Ticket({"w": tensor([2.0, 1.0])}, {"w": tensor([True, True])}, file="dense")
    >>> sparse = Ticket({"w": tensor([3.0, 0.0])}, {"w": tensor([True, False])}, file="sparse")
    >>> pool = Pool.of([sparse, dense])
    >>> pool.density(0), pool.density(1), pool[1].state
    (1.0, 0.5, {'w': tensor([3., 0.])})
    """

    def __init__(self, summaries: Sequence[Summary], load: Callable[[Summary], Ticket]) -> None:
        """Order and align. Raises PoolError that lists every mismatch, before any weight is touched."""
        kept, duplicates = without_duplicates(summaries)
        problems = find_problems(kept)
        if problems:
            raise PoolError("\n  ".join(["these tickets cannot be pooled:", *duplicates, *problems]))
        self.summaries = tuple(in_order(of_pruning(kept)))
        self.prunable = prunable_names(self.summaries)
        self.warnings = (*first_and_count(duplicates), *unusual(self.summaries))
        self._load = load
        self._filed: Callable[[int], Ticket] = lambda index: load(self.summaries[index])

    @classmethod
    def of(cls, tickets: Sequence[Ticket]) -> Pool:
        """A pool of tickets that are in memory already."""
        # Tickets in memory may all have the same name.
        by_file = {f"{ticket.file}#{i}": ticket for i, ticket in enumerate(tickets)}
        summaries = [replace(Summary.of(ticket), file=name) for name, ticket in by_file.items()]
        return cls(summaries, lambda summary: by_file[summary.file])

    def for_model(self, names: Names, device: torch.device) -> Pool:
        """The same pool under the names of a network on `device`; tensors that are no part of it become extras.

        Its tickets are widened (see `Ticket`); `types` says how their files keep them.
        """
        # A copy, because the constructor would order and check everything again.
        renamed = copy.copy(self)
        renamed.summaries = tuple(summary.renamed(names) for summary in self.summaries)
        prunable = {name for summary in renamed.summaries for name in summary.prunable}
        wanted = dict.fromkeys(names.of[name] for name in self.prunable if name in names.of)
        renamed.prunable = tuple(name for name in wanted if name in prunable)
        renamed._load = lambda summary: self._load(summary).renamed(names).widened().to(device)
        renamed._filed = lambda index: self._load(self.summaries[index]).renamed(names)
        return renamed

    def types(self, index: int) -> dict[str, torch.dtype]:
        """The type in which a ticket's file keeps each tensor."""
        return {name: t.dtype for name, t in self._filed(index).state.items()}

    def __len__(self) -> int:
        return len(self.summaries)

    @overload
    def __getitem__(self, index: int) -> Ticket: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Ticket]: ...
    def __getitem__(self, index: int | slice) -> Ticket | Sequence[Ticket]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        release_freed_memory()  # of the ticket that was asked for before
        ticket = self._load(self.summaries[index])
        pruned = ticket.mask.keys() & self.summaries[index].prunable
        mask = {
            # what another ticket prunes and this one keeps whole
            name: ticket.mask[name] if name in pruned else torch.ones_like(ticket.state[name], dtype=torch.bool)
            for name in self.prunable
        }
        return replace(ticket, state=apply_mask(ticket.state, mask), mask=mask)

    def level(self, index: int) -> int:
        """The level the file says, else the place in the pool."""
        level = self.summaries[index].metadata.level
        return index if level is None else level

    def density(self, index: int) -> float:
        """Kept fraction of the pool's prunable weights, in [0, 1]."""
        return self.summaries[index].density(self.prunable)

    def kept(self, index: int) -> int:
        """Kept weights of the pool's prunable tensors."""
        return self.summaries[index].kept(self.prunable)


def prunable_names(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """Names that are prunable in any ticket, in the order of the first one's tensors."""
    prunable = {name for summary in summaries for name in summary.prunable}
    return tuple(name for name in summaries[0].tensors if name in prunable)


def in_order(summaries: Sequence[Summary]) -> list[Summary]:
    """By level where every file says one, else densest first; names in natural order break ties."""
    summaries = sorted(summaries, key=lambda s: natural(s.file))
    levels = [s.metadata.level for s in summaries]
    if all(level is not None for level in levels):
        return sorted(summaries, key=lambda s: s.metadata.level or 0)
    names = prunable_names(summaries)
    return sorted(summaries, key=lambda s: -s.density([n for n in names if n in s.tensors]))


def natural(name: str) -> list[int | str]:
    """A sort key by which level_10 comes after level_9. Text and numbers alternate, so like is compared with like."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def without_duplicates(summaries: Sequence[Summary]) -> tuple[list[Summary], list[str]]:
    """Each set of weights once, the first time it comes, and a line about each that was dropped."""
    first: dict[str, Summary] = {}
    dropped = []
    for summary in summaries:
        twin = first.setdefault(summary.weights, summary)
        if twin is not summary:
            dropped.append(f"{summary.file}: has the same weights as {twin.file}; left out")
    return list(first.values()), dropped


def find_problems(summaries: Sequence[Summary]) -> list[str]:
    """All that keeps the tickets from being pooled, one line each; empty where they can be."""
    problems = [
        f"{s.file}: {first_ten(s.not_finite, ', ')} holds NaN or infinite values; leave this ticket out"
        for s in summaries
        if s.not_finite
    ]
    if len(summaries) < 2:
        problems.append(f"a pool needs at least two tickets, found {len(summaries)}; name more checkpoints")
    for other in summaries[1:]:
        problems += _mismatches(summaries[0], other)
    return problems


def _mismatches(first: Summary, other: Summary) -> list[str]:
    missing = [name for name in first.tensors if name not in other.tensors]
    extra = [name for name in other.tensors if name not in first.tensors]
    problems = []
    if missing:
        problems.append(f"{other.file}: lacks {first_ten(missing, ', ')}, which {first.file} has")
    if extra:
        problems.append(f"{other.file}: has {first_ten(extra, ', ')}, which {first.file} lacks")
    for name, tally in other.tensors.items():
        expected = first.tensors.get(name, tally).shape
        if tally.shape != expected:
            problems.append(
                f"{other.file}: {name} is {list(tally.shape)}, expected {list(expected)} as in {first.file}"
            )
    mine, theirs = first.metadata.arch, other.metadata.arch
    if mine and theirs and arch_name(mine) != arch_name(theirs):
        problems.append(f"{other.file}: architecture {one_line(theirs)}, expected {one_line(mine)} as in {first.file}")
    return problems


# A share of zeros below which a tensor of every ticket may have got them in training and not by pruning.
_FEW_ZEROS = 0.01


def unusual(summaries: Sequence[Summary]) -> list[str]:
    """What is unusual in an ordered pool but can be pooled, one line each."""
    names = prunable_names(summaries)
    if not names:
        return ["nothing is pruned in any ticket: no masks, and no zeros; the pooled model will be dense"]
    densities = [s.density(names) for s in summaries]
    pairs = list(zip(summaries, summaries[1:], densities, densities[1:], strict=False))
    lines = _different_runs(summaries)
    lines += first_and_count([f"{s.file}: is a pooled model and not a ticket" for s in summaries if _is_pooled(s)])
    if densities[0] < 1:
        kept, size = summaries[0].kept(names), summaries[0].size(names)
        lines.append(f"no dense ticket: the densest, {summaries[0].file}, keeps {kept:,} of {size:,} prunable weights")
    lines += first_and_count(
        [f"{b.file}: as dense as {a.file} ({percent(now)})" for a, b, then, now in pairs if then == now]
    )
    lines += first_and_count(
        f"{b.file}: denser ({percent(now)}) than {a.file} ({percent(then)}), which comes before it"
        for a, b, then, now in pairs
        if now > then
    )
    return lines + _unusual_masks(summaries, names)


def _is_pooled(summary: Summary) -> bool:
    return summary.metadata.kind == "pooled"


# What headers say of training that may differ within a run: where it was computed, and where files lay.
_PLACES = {"arch", "dataset", "init_checkpoint", "compute", "processes", "precision", "compile"}


def _different_runs(summaries: Sequence[Summary]) -> list[str]:
    """A line where the headers say that the tickets are not of one run, by the seed or else by other options."""
    trained = [s.metadata.train for s in summaries if not _is_pooled(s)]
    found: dict[str, dict[str, None]] = {}  # option → its values, in the order of the pool
    for key, value in ((key, value) for train in trained for key, value in train.items() if key not in _PLACES):
        found.setdefault(key, {})[one_line(json.dumps(value, sort_keys=True))[:40]] = None
    odd = {"seeds" if key == "seed" else one_line(key): [*values] for key, values in found.items() if len(values) > 1}
    if not odd:
        return []
    named = ["seeds"] if "seeds" in odd else list(odd)
    said = "; ".join(f"{key} {', '.join(sorted(odd[key], key=natural))}" for key in named)
    begun = any(train.get("pretrained") or train.get("init_checkpoint") for train in trained)
    start = "have no common start" if "seeds" in odd and not begun else "were trained apart"
    return [f"tickets of different runs: {said}; pooling averages weights that {start}"]


def _unusual_masks(summaries: Sequence[Summary], names: Sequence[str]) -> list[str]:
    sparse = [s for s in summaries if s.density(names) < 1]
    whole = {name: [s.file for s in sparse if s.kept([name]) == s.size([name])] for name in names}
    partly = {name: files for name, files in whole.items() if files}
    files = list(dict.fromkeys(file for found in partly.values() for file in found))
    lines = []
    if partly:
        lines.append(f"{first_ten(list(partly), ', ')}: pruned only in some tickets, whole in {first_ten(files, ', ')}")
    inferred = [s for s in summaries if s.mask_source == "zeros"]
    if inferred:
        lines.append(
            f"{inferred[0].file}: no masks in the file, so every exact zero counts as pruned (where it has masks, say "
            "where with --mask-key)" + (f" (and {len(inferred) - 1} more files)" if inferred[1:] else "")
        )
        few = [n for n in names if all(1 - s.density([n]) < _FEW_ZEROS for s in inferred)]
        if few:
            lines.append(f"{first_ten(few, ', ')}: so few zeros that they may be kept weights that happen to be 0")
    return lines
