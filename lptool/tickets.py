"""Tickets: the checkpoints of an IMP run, what they say of themselves, and their summaries."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lptool.errors import CheckpointError
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
        kwargs = document.pop("arch_kwargs")
        document["arch"] = {"name": self.arch, "kwargs": kwargs} if self.arch else None
        return json.dumps({"version": FORMAT_VERSION, "sparsity": sparsity, **document}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, file: str) -> Metadata:
        """Read a header document. Raises CheckpointError where it is not one of ours, or of a later version."""
        try:
            document = json.loads(text)
            version = document["version"]
            if version != FORMAT_VERSION:
                raise CheckpointError(f"{file}: written in format {version}, expected {FORMAT_VERSION}; upgrade lptool")
            arch = document.get("arch") or {"name": None, "kwargs": {}}
            known = {key: document[key] for key in ("kind", "level", "dataset", "train", "trace", "scores")}
            found = cls(arch=arch["name"], arch_kwargs=arch["kwargs"], prunable=_names(document["prunable"]), **known)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{file}: the `lptool` metadata in its header is damaged ({error!r})") from error
        return found._checked(file)

    def _checked(self, file: str) -> Metadata:
        check_arguments(self.arch_kwargs, file)
        documents = (self.arch_kwargs, self.dataset, self.train, self.trace, self.scores)
        sound = (
            self.kind in ("ticket", "pooled")
            and isinstance(self.arch, str | None)
            and (self.level is None or type(self.level) is int)
            and all(isinstance(name, str) for name in self.prunable)
            and all(isinstance(document, dict) for document in documents)
        )
        if not sound:
            raise CheckpointError(f"{file}: the `lptool` metadata in its header has values of the wrong type")
        return self


# Arguments of timm that load files, or anything from the net: to read a file makes nobody do that.
_LOADING = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def check_arguments(kwargs: Any, file: str) -> None:
    """Refuse arguments of an architecture that would load something. Raises CheckpointError."""
    loading = [name for name in _LOADING if isinstance(kwargs, dict) and name in kwargs]
    if loading:
        raise CheckpointError(
            f"{file}: wants its architecture built with {', '.join(loading)}, which could load anything"
        )


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list of names, found {value!r}")
    return tuple(value)


@dataclass(frozen=True)
class Ticket:
    """One IMP checkpoint, in memory.

    Attributes:
        state: name → tensor, under the plain names of the network; pruned weights are exactly 0.
        mask: name → bool tensor of the same shape, True = kept; only the prunable tensors.
        metadata: what the file says of itself.
        file: where it came from, for messages.
        own_names: plain name → name that the file's program gives the tensor, where it differs.
        extras: tensors that are no part of the network, such as a module that normalises; carried into the output.
    """

    state: State
    mask: Mask
    metadata: Metadata = field(default_factory=Metadata)
    file: str = "<memory>"
    own_names: Mapping[str, str] = field(default_factory=dict)
    extras: State = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Plain name → shape of every tensor of the state."""
        return {name: tuple(t.shape) for name, t in self.state.items()}

    @property
    def plain_names(self) -> bool:
        """Whether the file that it makes has the tensors of the network under its names, and no others."""
        return not self.extras and all(name == own for name, own in self.own_names.items())

    def to(self, device: torch.device) -> Ticket:
        """The same ticket with its weights on `device`; extras stay where they are."""
        state = {name: t.to(device) for name, t in self.state.items()}
        return replace(self, state=state, mask={name: kept.to(device) for name, kept in self.mask.items()})

    def tensors(self) -> State:
        """All tensors, extras too, under its own program's names; pruned weights exactly 0."""
        masked = {**apply_mask(self.state, self.mask), **self.extras}
        return {self.own_names.get(name, name): t for name, t in masked.items()}

    def renamed(self, names: Mapping[str, str]) -> Ticket:
        """The same ticket under the names of a network: plain name → the network's; other tensors become extras."""
        own = {names.get(name, name): self.own_names.get(name, name) for name in (*self.state, *self.extras)}
        return replace(
            self,
            state={names[name]: t for name, t in self.state.items() if name in names},
            mask={names[name]: kept for name, kept in self.mask.items() if name in names},
            extras={**self.extras, **{name: t for name, t in self.state.items() if name not in names}},
            own_names=own,
        )


@dataclass(frozen=True)
class Tally:
    """What is kept of one tensor: shape, kept weights (None where it has no mask), nonzeros, NaNs, and a digest."""

    shape: tuple[int, ...]
    kept: int | None
    nonzero: int
    finite: bool
    digest: str

    @classmethod
    def of(cls, tensor: Tensor, kept: int | None) -> Tally:
        """Read a tensor once."""
        return cls(
            shape=tuple(tensor.shape),
            kept=kept,
            nonzero=int(tensor.count_nonzero()),
            finite=bool(tensor.isfinite().all()),
            digest=digest_of_tensor(tensor),
        )

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Summary:
    """What ordering and alignment need to know of a ticket, without its weights.

    Attributes:
        tensors: plain name → tally, in the order of the file.
        prunable: names of the tensors with a mask of their own.
        mask_source: where the mask came from: `mask tensors`, `packed`, `mask.pth`, `metadata`, `zeros` (inferred) or
            `none`.
        sha256: of the file. weights: of the tensors alone, equal for equal weights in different files.
        notes: what a person should know of how the file was read.
        files: all that were read for it, such as shards and masks.
    """

    file: str
    format: str
    metadata: Metadata
    tensors: dict[str, Tally]
    prunable: tuple[str, ...]
    mask_source: str
    sha256: str
    weights: str
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, ticket: Ticket) -> Summary:
        """The summary of a ticket in memory."""
        counts = {name: int(kept.count_nonzero()) for name, kept in ticket.mask.items()}
        tensors = {name: Tally.of(t, counts.get(name)) for name, t in ticket.state.items()}
        digest = digest_of({name: tally.digest for name, tally in tensors.items()})
        source = "mask tensors" if ticket.mask else "none"
        return cls(ticket.file, "memory", ticket.metadata, tensors, tuple(ticket.mask), source, digest, digest)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Plain name → shape of every tensor."""
        return {name: tally.shape for name, tally in self.tensors.items()}

    @property
    def not_finite(self) -> list[str]:
        """Names of the tensors with NaN or infinite values."""
        return [name for name, tally in self.tensors.items() if not tally.finite]

    def renamed(self, names: Mapping[str, str]) -> Summary:
        """The same summary under the names of a network; tensors that are no part of it are left out."""
        tensors = {names[name]: tally for name, tally in self.tensors.items() if name in names}
        return replace(self, tensors=tensors, prunable=tuple(names[n] for n in self.prunable if n in names))

    def size(self, names: Sequence[str] | None = None) -> int:
        """Number of elements in the tensors `names`, by default in the prunable ones."""
        return sum(self.tensors[name].size for name in (self.prunable if names is None else names))

    def kept(self, names: Sequence[str] | None = None) -> int:
        """Kept weights over `names`, by default over the prunable ones; a tensor without a mask is kept whole."""
        tallies = [self.tensors[name] for name in (self.prunable if names is None else names)]
        return sum(t.size if t.kept is None else t.kept for t in tallies)

    def density(self, names: Sequence[str] | None = None) -> float:
        """Kept fraction over `names`, by default over the prunable ones; 1.0 where there are none."""
        size = self.size(names)
        return self.kept(names) / size if size else 1.0


def digest_of_tensor(tensor: Tensor) -> str:
    """Hex sha256 of a tensor's dtype, shape and values."""
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_of(digests: Mapping[str, str]) -> str:
    """One digest for all tensors, given by name, whatever their order."""
    return hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()


def l2_distance(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Euclidean distance between two states, given tensor by tensor."""
    return math.sqrt(sum(float((a.double() - b.double()).square().sum()) for a, b in pairs))
