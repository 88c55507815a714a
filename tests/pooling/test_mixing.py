"""Interpolation: alpha·current + (1 − alpha)·candidate, and what it must leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lptool.checkpoints.masks import State
from lptool.pooling.mixing import interpolate

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def random_state(seed: int, dtype: torch.dtype) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(8, 4, 3, 3, generator=generator, dtype=torch.float64).to(dtype),
        "bn.running_var": torch.rand(8, generator=generator, dtype=torch.float64).to(dtype),
        "bn.num_batches_tracked": torch.randint(1000, (), generator=generator),
    }


def test_by_hand_on_2x2() -> None:
    current, candidate = torch.tensor([[4.0, 0.0], [-8.0, 1.0]]), torch.tensor([[0.0, 4.0], [8.0, 1.0]])
    mixed = interpolate({"w": current}, {"w": candidate}, 0.25)["w"]
    assert mixed.tolist() == [[1.0, 3.0], [4.0, 1.0]]


@pytest.mark.parametrize("dtype", FLOATS)
def test_alpha_one_is_current_and_alpha_zero_is_candidate_bit_for_bit(dtype: torch.dtype) -> None:
    current, candidate = random_state(1, dtype), random_state(2, dtype)
    for alpha, expected in ((1.0, current), (0.0, candidate)):
        mixed = interpolate(current, candidate, alpha)
        for name in ("conv.weight", "bn.running_var"):
            assert torch.equal(mixed[name], expected[name])


def is_rounded_once(mixed: Tensor, current: Tensor, candidate: Tensor, alpha: float) -> bool:
    """Whether `mixed` is the float64 result but for the roundings of float32 (or float64), and one to its dtype."""
    a, b = alpha * current.double(), (1 - alpha) * candidate.double()
    compute = torch.promote_types(mixed.dtype, torch.float32)
    room = torch.finfo(mixed.dtype).eps / 2 * (a + b).abs() + 2 * torch.finfo(compute).eps * (a.abs() + b.abs())
    return bool(((mixed.double() - (a + b)).abs() <= room).all())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.5, 0.95])
def test_the_dtype_stays_and_half_precision_is_mixed_in_float32(dtype: torch.dtype, alpha: float) -> None:
    current, candidate = random_state(1, dtype), random_state(2, dtype)
    mixed = interpolate(current, candidate, alpha)
    for name in ("conv.weight", "bn.running_var"):
        assert mixed[name].dtype == dtype
        assert is_rounded_once(mixed[name], current[name], candidate[name], alpha)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixing_in_half_precision_would_be_noticed(dtype: torch.dtype) -> None:
    """Each product rounded by itself: the test above would fail."""
    current, candidate = (random_state(seed, dtype)["conv.weight"] for seed in (1, 2))
    assert not is_rounded_once(current * 0.9 + candidate * (1 - 0.9), current, candidate, 0.9)


def test_the_dtype_is_that_of_current_where_the_candidate_has_another() -> None:
    mixed = interpolate({"w": torch.ones(2, dtype=torch.float16)}, {"w": torch.zeros(2)}, 0.5)["w"]
    assert (mixed.dtype, mixed.tolist()) == (torch.float16, [0.5, 0.5])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_integers_and_bools_come_from_current(alpha: float) -> None:
    current = {"n": torch.tensor(10), "flag": torch.tensor([True, False])}
    candidate = {"n": torch.tensor(90), "flag": torch.tensor([False, False])}
    mixed = interpolate(current, candidate, alpha)
    assert (mixed["n"].item(), mixed["n"].dtype) == (10, torch.int64)
    assert mixed["flag"].tolist() == [True, False]


@pytest.mark.parametrize("dtype", FLOATS)
def test_inputs_are_not_changed_and_the_order_of_names_stays(dtype: torch.dtype) -> None:
    current, candidate = random_state(1, dtype), random_state(2, dtype)
    mixed = interpolate(current, dict(reversed(candidate.items())), 0.3)
    assert list(mixed) == list(current)
    for state, seed in ((current, 1), (candidate, 2)):
        assert all(torch.equal(t, random_state(seed, dtype)[n]) for n, t in state.items())
    mixed["conv.weight"].zero_()
    assert current["conv.weight"].any()
    assert candidate["conv.weight"].any()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]"):
        interpolate({}, {}, alpha)
