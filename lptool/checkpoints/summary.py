"""What ordering and alignment need to know of a ticket, without its weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.names import Names
from lptool.checkpoints.nested import USUAL, Keys
from lptool.checkpoints.regular import Stamp
from lptool.checkpoints.ticket import Ticket


@dataclass(frozen=True)
class Tally:
    """What is kept of one tensor: shape, kept weights (None where it has no mask), nonzeros, NaNs, and a digest."""

    shape: tuple[int, ...]
    kept: int | None
    nonzero: int
    finite: bool
    digest: str

    @classmethod
    def of(cls, tensor: Tensor, mask: Tensor | None) -> Tally:
        """Read a tensor, and its mask where it has one, once."""
        return cls(
            shape=tuple(tensor.shape),
            kept=None if mask is None else int(mask.count_nonzero()),
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
        mask_source: where the mask came from: `mask tensors`, `packed`, `masks`, `mask.pth`, `metadata`, `zeros`
            (inferred) or `none`.
        sha256: of the file. weights: of the tensors alone, equal for equal weights in different files.
        notes: what a person should know of how the file was read.
        files: all that were read for it, such as shards and masks. stamps: what tells whether each is still the same.
        keys: where its weights and masks lie, as named.
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
    stamps: tuple[Stamp, ...] = ()
    keys: Keys = USUAL

    @classmethod
    def of(cls, ticket: Ticket) -> Summary:
        """The summary of a ticket in memory."""
        tensors = {name: Tally.of(t, ticket.mask.get(name)) for name, t in ticket.state.items()}
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

    def renamed(self, names: Names) -> Summary:
        """The same summary under the names of a network; tensors that are no part of it are left out."""
        tensors: dict[str, Tally] = {}
        for plain, name in names.of.items():
            tally = self.tensors[plain]
            twin = tensors.get(name, tally)
            # As of a ticket: a copy that differs does not count, and of equal ones one may have the mask.
            tensors[name] = twin if twin.digest == tally.digest and tally.kept is None else tally
        masked = dict.fromkeys(names.of[plain] for plain in self.prunable if plain in names.of)
        return replace(self, tensors=tensors, prunable=tuple(n for n in masked if tensors[n].kept is not None))

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


def notes_of(summaries: Iterable[Summary]) -> list[str]:
    """What a person should know of how files were read: one line for each note, however many files have it."""
    files: dict[str, list[str]] = {}
    for summary in summaries:
        for note in summary.notes:
            files.setdefault(note, []).append(summary.file)
    return [f"{of[0]}: {note}" + f" (and {len(of) - 1} more files)" * (len(of) > 1) for note, of in files.items()]


def digest_of_tensor(tensor: Tensor) -> str:
    """Hex sha256 of a tensor's dtype, shape and values."""
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    # As bytes, because numpy lacks bfloat16; flat, because torch shows no single number as bytes.
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_of(digests: Mapping[str, str]) -> str:
    """One digest for all tensors, given by name, whatever their order."""
    return hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()


def l2_distance(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Euclidean distance between two states, given tensor by tensor."""
    # In float64: a sum of millions of squares in float32 would lose the small ones.
    return math.sqrt(sum(float((a.double() - b.double()).square().sum()) for a, b in pairs))
