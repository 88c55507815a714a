"""Masks: which weights a ticket keeps, and pruning by global magnitude to an exact count.

A mask maps the name of each prunable tensor to a bool tensor of the same shape, True where the weight is kept.
Every function here is pure: inputs are never changed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
Mask = dict[str, Tensor]


def kept_count(mask: Mapping[str, Tensor]) -> int:
    """How many weights the mask keeps."""
    return sum(int(kept.count_nonzero()) for kept in mask.values())


def total_count(mask: Mapping[str, Tensor]) -> int:
    """How many weights the mask covers, kept or not."""
    return sum(kept.numel() for kept in mask.values())


def density(mask: Mapping[str, Tensor]) -> float:
    """Kept fraction of the prunable weights, in [0, 1]; 1.0 for a mask that covers nothing."""
    total = total_count(mask)
    return kept_count(mask) / total if total else 1.0


def sparsity(mask: Mapping[str, Tensor]) -> float:
    """1 − density, in [0, 1]."""
    return 1.0 - density(mask)


def apply_mask(state: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> State:
    """The state with every pruned weight exactly +0; tensors the mask does not cover are passed on as they are."""
    return {name: torch.where(mask[name], t, torch.zeros_like(t)) if name in mask else t for name, t in state.items()}


def magnitude_mask(weights: Mapping[str, Tensor], keep: int, within: Mapping[str, Tensor] | None = None) -> Mask:
    """The mask that keeps exactly `keep` weights, the largest in magnitude over all tensors together.

    Ties at the threshold are kept in the order of the tensors and of their elements, so the result depends on
    nothing but the weights. A partial selection finds the threshold; nothing is sorted.

    Args:
        weights: name → float tensor of any shape; all on one device.
        keep: how many to keep, from 0 to their number (with `within`, to its kept count).
        within: where given, only weights that it keeps may be kept, so that masks stay nested.

    Raises:
        ValueError: `keep` is outside that range, or a weight is NaN.

    Source: global magnitude pruning, as in Han et al. 2015; Yin et al. 2023, Algorithm 1.
    """
    if not weights:
        return {}
    # One type for all, float32 at least: the one that the threshold is found fast in.
    dtype = functools.reduce(torch.promote_types, (w.dtype for w in weights.values()), torch.float32)
    magnitude = torch.cat([w.detach().flatten().to(dtype) for w in weights.values()]).abs_()
    if bool(magnitude.isnan().any()):
        raise ValueError("the weights hold NaN, which has no magnitude to prune by")
    allowed = None if within is None else torch.cat([within[name].flatten() for name in weights])
    limit = len(magnitude) if allowed is None else int(allowed.count_nonzero())
    if not 0 <= keep <= limit:
        raise ValueError(f"keep must be from 0 to {limit}, found {keep}")
    if allowed is None:
        kept = _largest(magnitude, keep)
    else:
        kept = torch.zeros_like(allowed).masked_scatter_(allowed, _largest(magnitude[allowed], keep))
    pieces = kept.split([w.numel() for w in weights.values()])
    return {name: piece.view(w.shape) for (name, w), piece in zip(weights.items(), pieces, strict=True)}


def _largest(magnitude: Tensor, keep: int) -> Tensor:
    """True at the `keep` largest of a flat tensor of magnitudes; of equal ones the first."""
    if keep in (0, len(magnitude)):  # all or nothing: no threshold lies between
        return torch.full_like(magnitude, keep > 0, dtype=torch.bool)
    threshold = _nth_smallest(magnitude, len(magnitude) - keep)
    above = magnitude > threshold
    ties = (magnitude == threshold).nonzero().flatten()
    above[ties[: keep - int(above.count_nonzero())]] = True
    return above


def _nth_smallest(magnitude: Tensor, n: int) -> Tensor:
    """The value that n others are not larger than.

    The bits of floats that are not negative, read as integers, have the order of the floats. So one count of the upper
    16 bits finds the upper half of the value, and one count of the lower 16 bits, among the floats with that upper
    half, finds the rest: two passes on any device, however many values are equal. A quickselect takes three times as
    long, and twenty times where most weights are 0 already.
    """
    if magnitude.dtype != torch.float32:
        return magnitude.kthvalue(n + 1).values
    bits = magnitude.view(torch.int32)
    upper = bits >> 16
    high, n = _bucket(upper, n)
    low, _ = _bucket(bits[upper == high] & 0xFFFF, n)
    return torch.tensor(high << 16 | low, dtype=torch.int32, device=magnitude.device).view(torch.float32)


def _bucket(values: Tensor, n: int) -> tuple[int, int]:
    """The nth smallest (from 0) of int32 values under 2^16, and how many of those equal to it come before it."""
    up_to = values.bincount(minlength=1).cumsum(0)
    bucket = int(torch.searchsorted(up_to, n, right=True))
    return bucket, n - (int(up_to[bucket - 1]) if bucket else 0)


def magnitude_prune(state: Mapping[str, Tensor], names: Iterable[str], keep: int) -> tuple[State, Mask]:
    """Prune a state dict to exactly `keep` weights by global magnitude.

    Args:
        state: name → tensor of any shape; not changed.
        names: of the float tensors to prune, over which the weights are compared together.
        keep: how many of their weights stay, from 0 to their number.

    Returns:
        The state with pruned weights exactly 0 and the rest untouched, and its mask (True = kept).

    Raises:
        ValueError: `keep` is out of range, or a weight is NaN.

    Source: see `magnitude_mask`.

    >>> state, mask = magnitude_prune({"w": torch.tensor([3.0, -1.0, 2.0])}, ["w"], keep=2)
    >>> state["w"], mask["w"]
    (tensor([3., 0., 2.]), tensor([ True, False,  True]))
    """
    mask = magnitude_mask({name: state[name] for name in names}, keep)
    return apply_mask(state, mask), mask
