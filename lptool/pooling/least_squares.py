"""Ridge regression of all outputs of a layer at once, each on the inputs that it keeps.

    min over w   mean (Z·w − u)² + ridge·d·‖w − start‖²,   d = mean of Z²; w is 0 where nothing is kept

Only means of products of Z and u are needed, which are summed up batch after batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lptool.device import in_float64

ROUNDS = 6  # of dropping weights: what a weight is worth changes as others go
TRIAL_STEPS = 8  # of conjugate gradients, for each ridge that is tried; the next goes on from there


@dataclass(frozen=True)
class System:
    """Means over samples of the inputs Z and the targets U of a layer, by groups of its channels; float64.

    Attributes:
        products: of Z and Z, [groups, inputs, inputs]. cross: of U and Z, [groups, outputs, inputs].
        power: of U and itself, [groups, outputs].
        inputs: Z, [groups, inputs]. targets: U, [groups, outputs].
    """

    products: Tensor
    cross: Tensor
    power: Tensor
    inputs: Tensor
    targets: Tensor

    def centred(self) -> System:
        """The same of Z and U without their means, as a layer fits them that can shift its outputs."""
        z, u = self.inputs, self.targets
        means = z[:, :, None] * z[:, None, :]
        return replace(
            self,
            products=torch.sub(self.products, means, out=means),  # these are large: 170 MB of 4,608 inputs
            cross=self.cross - u[:, :, None] * z[:, None, :],
            power=self.power - u * u,
        )

    def error(self, weights: Tensor) -> Tensor:
        """The mean squared error of weights [groups, outputs, inputs], of each output: [groups, outputs]."""
        explained = ((weights @ self.products - 2 * self.cross) * weights).sum(-1)
        return explained + self.power


class Moments:
    """What a `System` is the mean of; summed in float64, as sums of many float32 lose what is small."""

    def __init__(self) -> None:
        self.samples = 0
        self._sums: list[Tensor] = []

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Take samples: inputs [groups, samples, inputs of a group] and targets [samples, outputs]."""
        wanted = targets.unflatten(1, (len(inputs), -1)).transpose(0, 1)  # [groups, samples, outputs of a group]
        across = inputs.transpose(1, 2)
        parts = [across @ inputs, wanted.transpose(1, 2) @ inputs, wanted.square().sum(1), inputs.sum(1), wanted.sum(1)]
        if not self._sums:
            self._sums = [torch.zeros_like(in_float64(part)) for part in parts]
        for total, part in zip(self._sums, parts, strict=True):
            total += part.to(total.device)
        self.samples += inputs.shape[1]

    def system(self, *, centred: bool) -> System:
        """Of what was taken so far; see `System.centred`."""
        means = System(*(part / self.samples for part in self._sums))
        return means.centred() if centred else means

    def __add__(self, other: Moments) -> Moments:
        both = Moments()
        both.samples = self.samples + other.samples
        both._sums = [a + b for a, b in zip(self._sums, other._sums, strict=True)]
        return both


def best_ridge(
    known: System, unseen: System, start: Tensor, kept: Tensor, ridges: Sequence[float]
) -> tuple[float, Tensor] | None:
    """The ridge whose weights, fitted to `known`, have the least error on `unseen`, and these weights.

    None where the start [groups, outputs, inputs] itself has no larger one: then there is nothing to be learned.
    """

    def loss(weights: Tensor) -> float:
        error = unseen.error(weights)[usable].sum()
        return float(error) if error.isfinite() else math.inf

    begin = start * kept
    usable = unseen.error(begin).isfinite()  # an output that was broken before says nothing of a ridge
    best, least, weights = None, loss(begin), begin
    for ridge in sorted(ridges, reverse=True):
        weights = conjugate_gradients(known, start, kept, ridge, TRIAL_STEPS, first=weights)
        if (found := loss(weights)) < least:
            best, least = (ridge, weights), found
    return best


def conjugate_gradients(
    system: System, start: Tensor, kept: Tensor, ridge: float, steps: int, first: Tensor | None = None
) -> Tensor:
    """For each output the kept weights w that minimise ½·wᵀGw − bᵀw + ½·ridge·mean(diag G)·‖w − start‖².

    Outputs are independent of each other; all of them take their steps together.

    Args:
        system: G is its `products`, b its `cross`.
        start: [groups, outputs, inputs]. kept: likewise, bool. first: guess, by default the start.
        steps: as many as a group has inputs give the exact minimum, but for rounding.

    Source: Hestenes & Stiefel 1952, with Jacobi's preconditioner.
    """
    keep, diagonal = kept.to(start.dtype), system.products.diagonal(dim1=1, dim2=2)
    pull = _pull(system, ridge)
    scale = 1 / (diagonal[:, None] + pull)
    w = (start if first is None else first) * keep
    residual = (system.cross - w @ system.products + pull * (start - w)) * keep
    direction = scaled = residual * scale
    size = (residual * scaled).sum(-1, keepdim=True)
    for _ in range(steps):
        moved = (direction @ system.products + pull * direction) * keep
        step = size / (direction * moved).sum(-1, keepdim=True).clamp_min(1e-30)  # 0 / 0 where nothing is left to do
        w, residual = w + step * direction, residual - step * moved
        scaled, before = residual * scale, size
        size = (residual * scaled).sum(-1, keepdim=True)
        direction = scaled + size / before.clamp_min(1e-30) * direction
    return w


def thinned(
    system: System, start: Tensor, room: Tensor, count: int, ridge: float, steps: int, first: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weights fitted within a room, the least of which are dropped until `count` are left; and which these are.

    Without weight i, the others fitted anew, what is minimised grows by ½·wᵢ² / [G⁻¹]ᵢᵢ, the ridge on the diagonal of
    G: exactly while all inputs are kept, and later about so. The weights of all outputs are ranked together, of equal
    ones the first stay. The same share of them goes in each round, and the others are fitted anew.

    Args: as `conjugate_gradients` has them; `room` in place of `kept`.

    Source: Hassibi & Stork 1993; Frantar & Alistarh 2022, who take them one by one.
    """
    kept, many = room, int(room.sum())
    w = conjugate_gradients(system, start, room, ridge, steps, first)
    if many == count:
        return w, kept
    free = _freedom(system, ridge)
    for number in range(1, ROUNDS + 1):
        left = round(many * (count / many) ** (number / ROUNDS))
        worth = torch.where(kept, (w.square() / free).nan_to_num(0.0), -math.inf).flatten()
        best = worth.argsort(descending=True, stable=True)[:left]
        kept = torch.zeros_like(kept.flatten()).index_fill_(0, best, True).view_as(kept)
        w = conjugate_gradients(system, start, kept, ridge, steps // 2, w)
    return conjugate_gradients(system, start, kept, ridge, steps, w), kept


def _freedom(system: System, ridge: float) -> Tensor:
    """The diagonal of G⁻¹, with the ridge in G: [groups, 1, inputs]."""
    ridged = system.products.clone()
    ridged.diagonal(dim1=1, dim2=2).add_(_pull(system, ridge)[..., 0])
    # Without a check: where rounding leaves nothing to invert the ranking is arbitrary, and the fit still sound.
    inverse: Tensor = torch.linalg.inv_ex(ridged).inverse
    return inverse.diagonal(dim1=1, dim2=2)[:, None]


def _pull(system: System, ridge: float) -> Tensor:
    """The strength of a ridge, [groups, 1, 1]."""
    return (ridge * system.products.diagonal(dim1=1, dim2=2).mean(1)).clamp_min(1e-12)[:, None, None]
