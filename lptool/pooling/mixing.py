"""Mixing two tickets: the one line of arithmetic the method rests on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lptool.checkpoints.masks import State


def interpolate(current: Mapping[str, Tensor], candidate: Mapping[str, Tensor], alpha: float) -> State:
    """`alpha·current + (1 − alpha)·candidate`, tensor by tensor.

    Floating tensors are mixed in float32 (float64 stays float64) and returned in the dtype of `current`; at alpha 1
    and 0 the values are exactly those of `current` and `candidate`. Integer and bool tensors, such as
    `num_batches_tracked`, are counts and not weights: they are taken from `current`.

    Args:
        current, candidate: state dicts of the same names and shapes.
        alpha: weight of `current`, in [0, 1].

    Raises:
        ValueError: `alpha` is outside [0, 1].

    Source: Yin et al. 2023, Algorithm 2.

    >>> from torch import tensor
    >>> interpolate({"w": tensor([1.0, 0.0])}, {"w": tensor([0.0, 4.0])}, alpha=0.75)
    {'w': tensor([0.7500, 1.0000])}
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1], found {alpha}")
    return {name: _mix(value, candidate[name], alpha) for name, value in current.items()}


def _mix(current: Tensor, candidate: Tensor, alpha: float) -> Tensor:
    if not current.is_floating_point():
        return current
    compute = torch.promote_types(current.dtype, torch.float32)  # else half precision would be rounded twice
    return (current.to(compute) * alpha).add_(candidate.to(compute), alpha=1.0 - alpha).to(current.dtype)
