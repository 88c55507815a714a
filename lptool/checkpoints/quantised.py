"""Kept weights as whole steps from -127 to 127, the step of each output channel its largest weight divided by 127.

Symmetric, per channel, to nearest: what `docs/format.md` calls values `I8`. A kept weight that is not 0 stays so: where
it lies nearer to 0 than half a step, it becomes one step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lptool.checkpoints.positions import Positions

LARGEST = 127  # steps; -128 is not written, so that both signs reach equally far


def channels_of(shape: Sequence[int]) -> int:
    """How many scales a tensor has: one for each row of its first side, which is the output channel; of a vector one.

    >>> channels_of([64, 3, 3, 3]), channels_of([10]), channels_of([])
    (64, 1, 1)
    """
    return shape[0] if len(shape) > 1 else 1


def channel_at(positions: Positions, shape: Sequence[int]) -> Tensor:
    """The channel of each kept weight, int64 [kept], by its place in the flattened tensor."""
    return torch.from_numpy(positions * channels_of(shape) // max(1, int(np.prod(shape, dtype=np.int64))))


def quantise(weights: Tensor, channel: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Steps int8 [kept] and scales float32 [channels], the width of a step in each channel; 0 where all weights are 0.

    A weight that comes back differs by half a step at most, or where it was nearer to 0 than that by less than a step.

    Args:
        weights: floats [kept].
        channel: int64 [kept], of each weight. channels: how many there are.

    Raises:
        ValueError: a weight is not finite, or too large for float32.

    >>> steps, scales = quantise(torch.tensor([2.54, -1.2, 0.001]), torch.tensor([0, 0, 0]), 1)
    >>> steps, scales
    (tensor([127, -60,   1], dtype=torch.int8), tensor([0.0200]))
    """
    exact = weights.double()
    largest = torch.zeros(channels, dtype=torch.float64).scatter_reduce_(0, channel, exact.abs(), "amax")
    scales = (largest / LARGEST).float()
    # Rounded up, so that the largest weight is no more than 127 steps, and no scale of a channel with weights is 0.
    short = scales.double() * LARGEST < largest
    scales = torch.where(short, torch.nextafter(scales, torch.tensor(torch.inf)), scales)
    if not bool((scales * LARGEST).isfinite().all()) or not bool(exact.isfinite().all()):
        raise ValueError(f"{weights.abs().max().item():g} is too large for int8 with a scale in float32")
    width = scales.double()[channel]
    steps = (exact / width).nan_to_num().round()  # 0 / 0 in a channel of zeros
    steps = torch.where((steps == 0) & (exact != 0), exact.sign(), steps)
    return steps.to(torch.int8), scales


def dequantise(steps: Tensor, channel: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights [kept] that steps stand for: their product with the scale in float32, then rounded to `dtype`."""
    return (steps.float() * scales[channel]).to(dtype)
