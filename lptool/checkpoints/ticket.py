"""Tickets: the checkpoints of an IMP run, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lptool.checkpoints.masks import Mask, State, apply_mask
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.names import Names


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
        copies, mask_names: further names and masks that the network has and the output needs: see `Names`.

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
    copies: Mapping[str, str] = field(default_factory=dict)
    mask_names: Mapping[str, tuple[str, torch.dtype]] = field(default_factory=dict)

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
        """All tensors, extras, copies and masks too, under its own program's names; pruned weights exactly 0."""
        masked = {**apply_mask(self.state, self.mask), **self.extras}
        copies = {name: masked[first] for name, first in self.copies.items()}
        masks = {name: self._kept(weight).to(dtype) for name, (weight, dtype) in self.mask_names.items()}
        return {self.own_names.get(name, name): t for name, t in {**masked, **copies, **masks}.items()}

    def mask_in_file(self) -> Mask:
        """The mask under its own program's names, of copies too."""
        copies = {name: self.mask[first] for name, first in self.copies.items() if first in self.mask}
        return {self.own_names.get(name, name): kept for name, kept in {**self.mask, **copies}.items()}

    def _kept(self, name: str) -> Tensor:
        return self.mask[name] if name in self.mask else torch.ones_like(self.state[name])

    def renamed(self, names: Names) -> Ticket:
        """The same ticket under the names of a network; tensors that are no part of it become extras."""
        state, mask = State(), Mask()
        for plain, name in names.of.items():
            if plain in self.state:
                if name in state and not torch.equal(state[name], self.state[plain]):
                    mask.pop(name, None)  # of a copy that does not count
                state[name] = self.state[plain]
                mask |= {name: self.mask[plain]} if plain in self.mask else {}
        extras = {**self.extras, **{plain: t for plain, t in self.state.items() if plain not in names.of}}
        return replace(
            self,
            state=state,
            mask=mask,
            extras=extras,
            own_names={**names.in_file(self.own_names), **{n: self.own_names.get(n, n) for n in extras}},
            copies=names.copies,
            mask_names=names.mask_names,
        )
