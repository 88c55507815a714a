"""Tickets and pools: the checkpoints of one IMP run, in order, with aligned masks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, overload

import torch
from torch import Tensor

from lptool.errors import CheckpointError, PoolError, first_ten
from lptool.masks import Mask, State, apply_mask

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Metadata:
    """What a file says of itself; the JSON document under `lptool` in a safetensors header.

    Attributes:
        kind: `ticket`, or `pooled` for the output of a search.
        arch: name of the architecture, None where the file does not say.
        arch_kwargs: arguments to build it with, such as `num_classes`.
        level: IMP round, 0 dense; None where the file does not say.
        prunable: names of the tensors that pruning may touch; empty where the file does not say.
        dataset: name, normalisation and split of the data the ticket was trained on.
        train: every option that shaped the ticket.
        trace: for a pooled model: method, members with their sha256 and alpha.
        scores: for a pooled model: val and test scores.
    """

    kind: str = "ticket"
    arch: str | None = None
    arch_kwargs: dict[str, Any] = field(default_factory=dict)
    level: int | None = None
    prunable: tuple[str, ...] = ()
    dataset: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    trace: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)

    def to_json(self, sparsity: float) -> str:
        """The header document, with the sparsity of the state it describes."""
        document = asdict(self)
        document["arch"] = {"name": self.arch, "kwargs": document.pop("arch_kwargs")} if self.arch else None
        return json.dumps({"version": FORMAT_VERSION, "sparsity": sparsity, **document}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, file: str) -> Metadata:
        """Read a header document. Raises CheckpointError where it is not one of ours, or of a later version."""
        try:
            document = json.loads(text)
            version = document["version"]
            arch = document.get("arch") or {"name": None, "kwargs": {}}
            known = {key: document[key] for key in ("kind", "level", "dataset", "train", "trace", "scores")}
            found = cls(arch=arch["name"], arch_kwargs=arch["kwargs"], prunable=tuple(document["prunable"]), **known)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{file}: the `lptool` metadata in its header is damaged ({error!r})") from error
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{file}: written in format {version}, this lptool reads {FORMAT_VERSION}; upgrade it"
            )
        return found._checked(file)

    def _checked(self, file: str) -> Metadata:
        documents = (self.arch_kwargs, self.dataset, self.train, self.trace, self.scores)
        sound = (
            self.kind in ("ticket", "pooled")
            and isinstance(self.arch, str | None)
            and isinstance(self.level, int | None)
            and all(isinstance(name, str) for name in self.prunable)
            and all(isinstance(document, dict) for document in documents)
        )
        if not sound:
            raise CheckpointError(f"{file}: the `lptool` metadata in its header has values of the wrong type")
        return self


@dataclass(frozen=True)
class Ticket:
    """One IMP checkpoint, in memory.

    Attributes:
        state: name → tensor, in the order and under the names of the architecture; pruned weights are exactly 0.
        mask: name → bool tensor of the same shape, True = kept; only the prunable tensors.
        metadata: what the file says of itself.
        file: where it came from, for messages.
    """

    state: State
    mask: Mask
    metadata: Metadata = field(default_factory=Metadata)
    file: str = "<memory>"


@dataclass(frozen=True)
class Summary:
    """What ordering and alignment need to know of a ticket, without its weights.

    Attributes:
        shapes: name → shape of every tensor.
        kept: name → number of kept weights of every prunable tensor of this file.
        mask_source: where the mask came from: `metadata`, `zeros` (inferred) or `none` (nothing is pruned).
        sha256: of the file, or of the tensors for a ticket in memory.
        not_finite: names of floating tensors with NaN or infinite values.
    """

    file: str
    format: str
    metadata: Metadata
    shapes: dict[str, tuple[int, ...]]
    kept: dict[str, int]
    mask_source: str
    sha256: str
    not_finite: tuple[str, ...] = ()

    def size(self, names: Sequence[str] | None = None) -> int:
        """Number of elements in the tensors `names`, by default in all."""
        return sum(_product(self.shapes[name]) for name in (self.shapes if names is None else names))

    def kept_of(self, names: Sequence[str]) -> int:
        """Kept weights over `names`; a tensor without a mask of its own is kept whole."""
        return sum(self.kept.get(name, _product(self.shapes[name])) for name in names)

    def density(self, names: Sequence[str] | None = None) -> float:
        """Kept fraction over `names`, by default over this file's own prunable tensors; 1.0 where there are none."""
        names = tuple(self.kept) if names is None else names
        return self.kept_of(names) / max(1, self.size(names)) if names else 1.0


def _product(shape: Sequence[int]) -> int:
    result = 1
    for length in shape:
        result *= length
    return result


class Pool(Sequence[Ticket]):
    """Tickets of one run, ordered densest first, all with the same prunable names and shapes.

    A sequence that loads each ticket when it is asked for, so that memory does not grow with the number of tickets.
    """

    def __init__(self, summaries: Sequence[Summary], load: Callable[[Summary], Ticket]) -> None:
        """Order and align. Raises PoolError that lists every mismatch, before any weight is touched."""
        problems = find_problems(summaries)
        if problems:
            raise PoolError("these tickets cannot be pooled:\n  " + first_ten(problems))
        self.summaries = tuple(in_order(summaries))
        self.prunable = prunable_names(summaries)
        self._load = load

    @classmethod
    def of(cls, tickets: Sequence[Ticket]) -> Pool:
        """A pool of tickets that are in memory already."""
        by_file = {f"{ticket.file}#{i}": ticket for i, ticket in enumerate(tickets)}
        summaries = [replace(summarise(ticket), file=name) for name, ticket in by_file.items()]
        return cls(summaries, lambda summary: by_file[summary.file])

    def __len__(self) -> int:
        return len(self.summaries)

    @overload
    def __getitem__(self, index: int) -> Ticket: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Ticket]: ...
    def __getitem__(self, index: int | slice) -> Ticket | Sequence[Ticket]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._aligned(self._load(self.summaries[index]))

    def _aligned(self, ticket: Ticket) -> Ticket:
        whole = {name: torch.ones_like(ticket.state[name], dtype=torch.bool) for name in self.prunable}
        mask = {name: ticket.mask.get(name, whole[name]) for name in self.prunable}
        return replace(ticket, state=apply_mask(ticket.state, mask), mask=mask)

    def level(self, index: int) -> int:
        """The level the file says, else the position in the pool."""
        level = self.summaries[index].metadata.level
        return index if level is None else level

    def density(self, index: int) -> float:
        """Kept fraction of the pool's prunable weights, in [0, 1]."""
        return self.summaries[index].density(self.prunable)

    def kept(self, index: int) -> int:
        """Kept weights of the pool's prunable tensors."""
        return self.summaries[index].kept_of(self.prunable)


def summarise(ticket: Ticket, *, format: str = "memory", mask_source: str = "metadata", sha256: str = "") -> Summary:
    """The summary of a ticket in memory."""
    not_finite = [n for n, t in ticket.state.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    return Summary(
        file=ticket.file,
        format=format,
        metadata=ticket.metadata,
        shapes={name: tuple(t.shape) for name, t in ticket.state.items()},
        kept={name: int(kept.count_nonzero()) for name, kept in ticket.mask.items()},
        mask_source=mask_source,
        sha256=sha256,
        not_finite=tuple(not_finite),
    )


def prunable_names(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """Names that are prunable in any ticket, in the order of the first one's tensors."""
    prunable = {name for summary in summaries for name in summary.kept}
    return tuple(name for name in summaries[0].shapes if name in prunable)


def in_order(summaries: Sequence[Summary]) -> list[Summary]:
    """By level where every file says one, else densest first; the order given breaks ties."""
    levels = [s.metadata.level for s in summaries]
    if all(level is not None for level in levels):
        return sorted(summaries, key=lambda s: s.metadata.level or 0)
    names = prunable_names(summaries)
    return sorted(summaries, key=lambda s: -s.density([n for n in names if n in s.shapes]))


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
    missing = [name for name in first.shapes if name not in other.shapes]
    extra = [name for name in other.shapes if name not in first.shapes]
    reshaped = [n for n, shape in first.shapes.items() if other.shapes.get(n, shape) != shape]
    problems = []
    if missing:
        problems.append(f"{other.file}: lacks {first_ten(missing, ', ')}, which {first.file} has")
    if extra:
        problems.append(f"{other.file}: has {first_ten(extra, ', ')}, which {first.file} lacks")
    problems += [
        f"{other.file}: {name} is {list(other.shapes[name])}, expected {list(first.shapes[name])} as in {first.file}"
        for name in reshaped
    ]
    mine, theirs = first.metadata.arch, other.metadata.arch
    if mine and theirs and mine != theirs:
        problems.append(f"{other.file}: architecture {theirs}, expected {mine} as in {first.file}")
    return problems


def l2_distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: Sequence[str]) -> float:
    """Euclidean distance between two states over the tensors `names`."""
    return float(sum(float((a[n].double() - b[n].double()).square().sum()) for n in names) ** 0.5)
