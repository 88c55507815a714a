"""Whole steps in place of weights: half a step off at most, kept weights kept, whatever the channel holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lptool.checkpoints.quantised import LARGEST, channel_at, channels_of, dequantise, quantise

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def weights_of(seed: int, dtype: torch.dtype, channels: int = 7, kept: int = 200) -> tuple[Tensor, Tensor]:
    """Channels of very different widths, in no order."""
    generator = torch.Generator().manual_seed(seed)
    channel = torch.randint(channels, (kept,), generator=generator)
    width = torch.logspace(-2, 2, channels)[channel]
    return (torch.randn(kept, generator=generator) * width).to(dtype), channel


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("seed", range(5))
def test_a_weight_comes_back_half_a_step_off_at_most(dtype: torch.dtype, seed: int) -> None:
    weights, channel = weights_of(seed, dtype)
    steps, scales = quantise(weights, channel, 7)
    step, exact = scales.double()[channel], weights.double()
    found = dequantise(steps, channel, scales, torch.float64).double()
    allowed = torch.where(exact.abs() < step / 2, step, step / 2)
    assert bool(((found - exact).abs() <= allowed * (1 + 1e-5) + exact.abs() * 1e-7).all())
    assert ((found - exact).abs() > 0.3 * step).any()  # so the bound is no idle one
    assert torch.equal(found.sign(), exact.sign())
    assert int(steps.abs().max()) == LARGEST


def test_steps_are_those_of_hand_and_of_numpy() -> None:
    weights = torch.tensor([1.27, 0.634, -0.636, 0.004, -0.004, 0.0, 12.7, -0.01])
    channel = torch.tensor([0, 0, 0, 0, 0, 0, 2, 2])
    steps, scales = quantise(weights, channel, 3)
    assert steps.tolist() == [127, 63, -64, 1, -1, 0, 127, -1]
    assert scales.tolist() == pytest.approx([0.01, 0.0, 0.1])
    own = steps.numpy().astype("f4") * scales.numpy()[channel.numpy()]
    assert dequantise(steps, channel, scales, torch.float32).numpy().tobytes() == own.tobytes()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("power", [0, 3, 30])
def test_no_kept_weight_becomes_zero_however_small(dtype: torch.dtype, power: int) -> None:
    """Down to the smallest numbers that the type has, beside weights a million times as large."""
    smallest = max(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps, 2.0**-149)
    weights = torch.tensor([smallest, -smallest, smallest * 2**power], dtype=torch.float64).to(dtype)
    steps, scales = quantise(weights, torch.zeros(3, dtype=torch.int64), 1)
    assert torch.equal(dequantise(steps, torch.zeros(3, dtype=torch.int64), scales, dtype).sign(), weights.sign())


def test_channels_of_zeros_and_without_weights() -> None:
    weights, channel = torch.tensor([0.0, -0.0, 5.0]), torch.tensor([0, 0, 2])
    steps, scales = quantise(weights, channel, 4)
    assert (steps.tolist(), scales[[0, 1, 3]].tolist()) == ([0, 0, 127], [0.0, 0.0, 0.0])
    nothing, none = quantise(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 2)
    assert (len(nothing), none.tolist()) == (0, [0.0, 0.0])


@pytest.mark.parametrize("largest", [math.inf, -math.inf, math.nan, 1e300])
def test_what_no_scale_can_hold_is_refused(largest: float) -> None:
    weights = torch.tensor([1.0, largest], dtype=torch.float64)
    with pytest.raises(ValueError, match="too large for int8"):
        quantise(weights, torch.tensor([0, 0]), 1)


def test_the_largest_float32_is_held() -> None:
    weights = torch.tensor([torch.finfo(torch.float32).max, 1.0])
    try:
        steps, scales = quantise(weights, torch.tensor([0, 0]), 1)
    except ValueError:  # rounded up, the scale is too large by itself: refused is right too, and infinity never is
        return
    assert bool(dequantise(steps, torch.tensor([0, 0]), scales, torch.float32).isfinite().all())


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (1, 5), (6,), (), (3, 1), (0, 3), (3, 0)])
def test_channels_are_rows_of_the_first_side(shape: tuple[int, ...]) -> None:
    size = math.prod(shape)
    expected = np.indices(shape)[0].flatten() if len(shape) > 1 else np.zeros(size)
    assert channel_at(np.arange(size), shape).tolist() == expected.tolist()
    assert channels_of(shape) == (shape[0] if len(shape) > 1 else 1)
