"""Tickets: the checkpoints of an IMP run, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from lptool.checkpoints.masks import Mask, State, apply_mask
from lptool.checkpoints.metadata import Metadata


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

    >>> ticket = Ticket({"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([True, False])})
    >>> ticket.shapes
    {'w': (2,)}
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

    def widened(self) -> Ticket:
        """The same ticket to compute with: floats shorter than float32, whose sums overflow and lose digits, as that.

        >>> Ticket({"w": torch.tensor([3.0], dtype=torch.float16)}, {}).widened().state["w"].dtype
        torch.float32
        """
        short = {name: t for name, t in self.state.items() if t.is_floating_point() and t.itemsize < 4}
        return replace(self, state=self.state | {name: t.float() for name, t in short.items()}) if short else self

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
