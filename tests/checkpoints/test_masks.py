"""Masks, and pruning to an exact count. The oracle sorts every weight in plain Python."""

from __future__ import annotations

import pytest
import torch

from lptool.checkpoints.masks import (
    Mask,
    State,
    apply_mask,
    density,
    kept_count,
    magnitude_mask,
    magnitude_prune,
    sparsity,
    total_count,
)
from tests.helpers.masks import is_nested

SEEDS = range(40)


def tied_weights(seed: int, dtype: torch.dtype = torch.float32) -> State:
    """Three tensors of small integers, so that nearly every magnitude is tied."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv": (2, 3, 2, 2), "fc": (4, 3), "bias": (5,)}
    return {n: torch.randint(-3, 4, shape, generator=generator).to(dtype) for n, shape in shapes.items()}


def sorted_oracle(weights: State, keep: int, within: Mask | None = None) -> list[int]:
    """The flat positions kept: largest magnitude first; of equals, the earlier tensor and the earlier element."""
    flat = [abs(value) for w in weights.values() for value in w.flatten().tolist()]
    allowed = [kept for n in weights for kept in within[n].flatten().tolist()] if within else [True] * len(flat)
    order = sorted((i for i in range(len(flat)) if allowed[i]), key=lambda i: (-flat[i], i))
    return sorted(order[:keep])


def kept_positions(mask: Mask) -> list[int]:
    return torch.cat([kept.flatten() for kept in mask.values()]).nonzero().flatten().tolist()


def test_by_hand_on_2x2() -> None:
    """|w| = 4 3 / 3 1 and one weight of 3 elsewhere: three are tied at 3, the first of them stay."""
    weights = {"a": torch.tensor([[-4.0, 3.0], [-3.0, 1.0]]), "b": torch.tensor([3.0])}
    expected = {
        1: [[True, False], [False, False]],
        2: [[True, True], [False, False]],
        3: [[True, True], [True, False]],
        4: [[True, True], [True, False]],
        5: [[True, True], [True, True]],
    }
    for keep, kept in expected.items():
        mask = magnitude_mask(weights, keep)
        assert mask["a"].tolist() == kept
        assert mask["b"].tolist() == [keep >= 4]


@pytest.mark.parametrize("seed", SEEDS)
def test_keeps_exactly_k_as_a_full_sort_does_ties_included(seed: int) -> None:
    weights = tied_weights(seed)
    for keep in range(total_count(weights) + 1):
        mask = magnitude_mask(weights, keep)
        assert kept_count(mask) == keep
        assert kept_positions(mask) == sorted_oracle(weights, keep)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keeps_exactly_k_in_every_dtype(dtype: torch.dtype) -> None:
    weights = tied_weights(0, dtype)
    for keep in range(total_count(weights) + 1):
        assert kept_positions(magnitude_mask(weights, keep)) == sorted_oracle(weights, keep)


def test_keeps_exactly_k_of_a_million_equal_weights() -> None:
    weights = {"w": torch.ones(1000, 1000)}
    mask = magnitude_mask(weights, 123_457)
    assert kept_positions(mask) == list(range(123_457))


@pytest.mark.parametrize("seed", SEEDS)
def test_within_keeps_exactly_k_and_stays_nested(seed: int) -> None:
    """Weights that `within` prunes are never kept, though they may be the largest of all."""
    weights = tied_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    within = {n: torch.rand(w.shape, generator=generator) < 0.6 for n, w in weights.items()}
    for keep in range(kept_count(within) + 1):
        mask = magnitude_mask(weights, keep, within)
        assert is_nested(mask, within)
        assert kept_positions(mask) == sorted_oracle(weights, keep, within)


@pytest.mark.parametrize("keep", [-1, 30, 100])
def test_a_count_out_of_range_is_refused(keep: int) -> None:
    weights = {"w": torch.zeros(29)}
    with pytest.raises(ValueError, match=rf"from 0 to 29, found {keep}"):
        magnitude_mask(weights, keep)


def test_within_limits_the_count() -> None:
    weights, within = {"w": torch.ones(3)}, {"w": torch.tensor([True, False, True])}
    with pytest.raises(ValueError, match="from 0 to 2, found 3"):
        magnitude_mask(weights, 3, within)


@pytest.mark.parametrize("seed", SEEDS)
def test_pruning_twice_is_pruning_once(seed: int) -> None:
    """Also where fewer than k weights are other than 0, so that some zeros are among the kept."""
    state = tied_weights(seed)
    for keep in (0, 1, 20, 38, total_count(state)):
        once, mask = magnitude_prune(state, state, keep)
        twice, again = magnitude_prune(once, state, keep)
        assert all(torch.equal(once[n], twice[n]) for n in state)
        assert is_nested(again, mask)
        assert is_nested(mask, again)


@pytest.mark.parametrize("seed", SEEDS)
def test_pruning_in_two_steps_is_pruning_in_one(seed: int) -> None:
    state = tied_weights(seed)
    halfway, _ = magnitude_prune(state, state, 25)
    assert kept_positions(magnitude_prune(halfway, state, 10)[1]) == kept_positions(
        magnitude_prune(state, state, 10)[1]
    )


def test_pruning_touches_only_the_names_given_and_no_input() -> None:
    state = {**tied_weights(3), "steps": torch.tensor(7)}
    before = {n: t.clone() for n, t in state.items()}
    pruned, mask = magnitude_prune(state, ["fc", "conv"], 5)
    assert list(mask) == ["fc", "conv"]
    assert list(pruned) == list(state)
    for name in ("bias", "steps"):
        assert torch.equal(pruned[name], before[name])
    for name in mask:
        assert torch.equal(pruned[name][mask[name]], before[name][mask[name]])
        assert not pruned[name][~mask[name]].any()
    assert all(torch.equal(state[n], before[n]) for n in state)


def test_keeping_all_changes_nothing() -> None:
    state = tied_weights(1)
    pruned, mask = magnitude_prune(state, state, total_count(state))
    assert density(mask) == 1.0
    assert all(torch.equal(pruned[n], state[n]) for n in state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_pruned_weights_are_plus_zero_and_the_dtype_stays(dtype: torch.dtype) -> None:
    pruned = apply_mask({"w": torch.tensor([-1.5, -2.0], dtype=dtype)}, {"w": torch.tensor([False, True])})["w"]
    assert pruned.dtype == dtype
    assert pruned.tolist() == [0.0, -2.0]
    assert not pruned.signbit()[0]


def test_density_and_sparsity_by_hand() -> None:
    mask = {"a": torch.tensor([[True, False], [False, False]]), "b": torch.tensor([True, True, True, False])}
    assert (kept_count(mask), total_count(mask)) == (4, 8)
    assert (density(mask), sparsity(mask)) == (0.5, 0.5)
    assert (density({}), sparsity({})) == (1.0, 0.0)


def test_nothing_to_prune_is_no_error() -> None:
    assert magnitude_mask({}, 0) == {}


def test_nan_is_refused_because_it_has_no_magnitude() -> None:
    with pytest.raises(ValueError, match="hold NaN"):
        magnitude_mask({"w": torch.tensor([float("nan"), 1.0, 2.0])}, 1)


def test_float64_weights_are_compared_in_float64() -> None:
    weights = {"w": torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)}
    assert magnitude_mask(weights, 1)["w"].tolist() == [False, True]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_of_float_is_put_in_order(seed: int) -> None:
    """Zeros of both signs, subnormals, neighbours that differ in the last bit, huge and infinite ones."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.tensor([0.0, -0.0, 1e-45, -1e-40, 1.0, 1.0000001, -1.0000002, 3e38, float("inf"), -2.0])
    weights = kinds[torch.randint(len(kinds), (60,), generator=generator)]
    keep = int(torch.randint(61, (), generator=generator))
    kept = magnitude_mask({"w": weights}, keep)["w"]
    magnitudes = weights.abs().tolist()
    expected = sorted(range(60), key=lambda i: -magnitudes[i])[:keep]  # stable: of equal ones the first
    assert kept.nonzero().flatten().tolist() == sorted(expected)
