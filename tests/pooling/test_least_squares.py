"""Ridge regression of many outputs at once: against torch's own solver, one output at a time."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from lptool.pooling.least_squares import Moments, System, best_ridge, conjugate_gradients, thinned


def summed(z: Tensor, u: Tensor, batches: int = 1) -> Moments:
    """Of samples [groups, samples, inputs] and [groups, samples, outputs]."""
    moments = Moments()
    for inputs, targets in zip(z.chunk(batches, 1), u.chunk(batches, 1), strict=True):
        moments.add(inputs, targets.transpose(0, 1).flatten(1))
    return moments


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_the_steps_lead_to_the_ridge_solution(ridge: float) -> None:
    """Each output by itself, solved on its kept weights by torch's own solver."""
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(2, 40, 9, generator=draw, dtype=torch.float64)
    u = torch.randn(2, 40, 3, generator=draw, dtype=torch.float64)
    start = torch.randn(2, 3, 9, generator=draw, dtype=torch.float64)
    mask = torch.rand(2, 3, 9, generator=draw) < 0.6
    products, cross = z.transpose(1, 2) @ z / 40, u.transpose(1, 2) @ z / 40
    system = summed(z, u).system(centred=False)
    torch.testing.assert_close(system.products, products)
    torch.testing.assert_close(system.cross, cross)
    found = conjugate_gradients(system, start, mask, ridge, steps=30)
    for group in range(2):
        pull = ridge * products[group].diagonal().mean()
        for output in range(3):
            kept = mask[group, output]
            a = products[group][kept][:, kept] + pull * torch.eye(int(kept.sum()), dtype=torch.float64)
            b = cross[group, output, kept] + pull * start[group, output, kept]
            torch.testing.assert_close(found[group, output, kept], torch.linalg.solve(a, b))
            assert not found[group, output, ~kept].any()


def test_the_error_is_that_of_the_residuals() -> None:
    draw = torch.Generator().manual_seed(1)
    z, u, w = (torch.randn(2, n, m, generator=draw, dtype=torch.float64) for n, m in ((50, 6), (50, 4), (4, 6)))
    plain = (z @ w.transpose(1, 2) - u).square().mean(1)
    torch.testing.assert_close(summed(z, u).system(centred=False).error(w), plain)
    centred = ((z - z.mean(1, keepdim=True)) @ w.transpose(1, 2) - (u - u.mean(1, keepdim=True))).square().mean(1)
    torch.testing.assert_close(summed(z, u).system(centred=True).error(w), centred)


def test_moments_of_parts_add_up() -> None:
    draw = torch.Generator().manual_seed(2)
    z, u = (torch.randn(1, 60, n, generator=draw, dtype=torch.float64) for n in (5, 3))
    whole, parts = summed(z, u), summed(z[:, :20], u[:, :20]) + summed(z[:, 20:], u[:, 20:], batches=4)
    assert whole.samples == parts.samples
    for one, other in zip(
        vars(whole.system(centred=True)).values(), vars(parts.system(centred=True)).values(), strict=True
    ):
        torch.testing.assert_close(one, other)


def regression(noise: float, samples: int = 40, inputs: int = 30) -> tuple[Moments, Moments, Tensor, Tensor]:
    """A few samples of a rule that has some noise, many more of it, and a start that knows nothing."""
    draw = torch.Generator().manual_seed(3)
    rule = torch.randn(1, inputs, 4, generator=draw, dtype=torch.float64)

    def some(count: int) -> Moments:
        z = torch.randn(1, count, inputs, generator=draw, dtype=torch.float64)
        return summed(z, z @ rule + noise * torch.randn(1, count, 4, generator=draw, dtype=torch.float64))

    return some(samples), some(4000), torch.zeros(1, 4, inputs, dtype=torch.float64), torch.ones(1, 4, inputs).bool()


@pytest.mark.parametrize("noise", [0.0, 20.0])
def test_the_ridge_is_that_which_serves_unseen_samples_best(noise: float) -> None:
    """Without noise the weak one, with much of it the strong one."""
    known, unseen, start, kept = regression(noise)
    parts = [moments.system(centred=True) for moments in (known, unseen)]
    found = best_ridge(*parts, start, kept, (0.001, 1000.0))
    errors = {
        r: float(parts[1].error(conjugate_gradients(parts[0], start, kept, r, 60)).sum()) for r in (0.001, 1000.0)
    }
    assert found
    assert found[0] == (0.001 if noise == 0 else 1000.0)
    assert (errors[0.001] < errors[1000.0]) == (noise == 0)


def test_a_start_that_nothing_betters_is_left() -> None:
    known, unseen, start, kept = regression(0.0, samples=400)
    exact = conjugate_gradients(known.system(centred=True), start, kept, 1e-9, 100)
    assert best_ridge(known.system(centred=True), unseen.system(centred=True), exact, kept, (10.0,)) is None


def test_an_output_that_is_not_finite_has_no_say() -> None:
    known, unseen, start, kept = regression(0.0)
    parts = [moments.system(centred=True) for moments in (known, unseen)]
    clean = best_ridge(*parts, start, kept, (0.1, 1.0))
    for part in parts:
        part.cross[:, 1] = math.nan
        part.power[:, 1] = math.nan
    found = best_ridge(*parts, start, kept, (0.1, 1.0))
    assert clean
    assert found
    assert found[0] == clean[0]
    torch.testing.assert_close(found[1][:, [0, 2, 3]], clean[1][:, [0, 2, 3]])


def sparse_truth(count: int) -> tuple[System, Tensor, Tensor]:
    """Correlated inputs, a rule with `count` weights in two groups of three outputs, and which weights these are."""
    draw = torch.Generator().manual_seed(4)
    mixing = torch.eye(20, dtype=torch.float64) + 0.2 * torch.randn(20, 20, generator=draw, dtype=torch.float64)
    z = torch.randn(2, 400, 20, generator=draw, dtype=torch.float64) @ mixing
    places = torch.randperm(2 * 3 * 20, generator=draw)[:count]
    truth = torch.zeros(2 * 3 * 20, dtype=torch.bool).index_fill_(0, places, True).view(2, 3, 20)
    rule = truth * (1 + torch.rand(2, 3, 20, generator=draw, dtype=torch.float64))
    return summed(z, z @ rule.transpose(1, 2)).system(centred=True), rule, truth


@pytest.mark.parametrize("count", [10, 30, 60])
def test_a_sparse_rule_in_the_room_is_found(count: int) -> None:
    """It is the only one of so few weights without an error, however the outputs share them."""
    system, rule, truth = sparse_truth(count)
    room = truth | (torch.rand(truth.shape, generator=torch.Generator().manual_seed(5)) < 0.5)
    w, kept = thinned(system, torch.zeros_like(rule), room, count, 1e-6, steps=60)
    assert torch.equal(kept, truth)
    torch.testing.assert_close(w, rule, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", [0, 1, 7, 33, 59])
def test_exactly_so_many_weights_are_left_and_all_lie_in_the_room(count: int) -> None:
    system, rule, _ = sparse_truth(60)
    room = torch.rand(rule.shape, generator=torch.Generator().manual_seed(6)) < 0.5
    (w, kept), again = (thinned(system, torch.zeros_like(rule), room, count, 0.1, steps=10) for _ in range(2))
    assert int(kept.sum()) == count
    assert not (kept & ~room).any()
    assert not w[~kept].any()
    assert torch.equal(w, again[0])
    assert torch.equal(kept, again[1])


def test_the_weight_that_goes_is_the_one_whose_loss_costs_least() -> None:
    """Of a whole room: against a fit by torch's own solver without each weight in turn."""
    system, rule, _ = sparse_truth(60)
    noisy = rule[:1, :1] + 0.1 * torch.randn(1, 1, 20, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    system = System(system.products[:1], noisy @ system.products[:1], system.power[:1, :1], *[torch.zeros(1, 1)] * 2)
    _, kept = thinned(system, torch.zeros_like(noisy), torch.ones_like(noisy).bool(), 19, 0.1, steps=60)
    ridged = system.products[0] + 0.1 * system.products[0].diagonal().mean() * torch.eye(20, dtype=torch.float64)

    def gain(places: tuple[int, ...]) -> float:  # of the fit with these weights alone: bᵀA⁻¹b
        cross = system.cross[0, 0, list(places)]
        return float(cross @ torch.linalg.solve(ridged[list(places)][:, list(places)], cross))

    assert tuple(kept.flatten().nonzero().flatten().tolist()) == max(combinations(range(20), 19), key=gain)


def test_of_equal_weights_the_first_stay() -> None:
    products, ones = torch.eye(6, dtype=torch.float64)[None], torch.ones(1, 2, 6, dtype=torch.float64)
    system = System(products, ones, 6 * ones[..., 0], 0 * ones[:, 0], 0 * ones[..., 0])
    _, kept = thinned(system, 0 * ones, ones.bool(), 5, 0.1, steps=10)
    assert kept.flatten().tolist() == [True] * 5 + [False] * 7


def test_where_a_room_holds_no_more_nothing_is_chosen() -> None:
    system, rule, truth = sparse_truth(30)
    w, kept = thinned(system, torch.zeros_like(rule), truth, 30, 0.1, steps=10)
    assert torch.equal(kept, truth)
    assert torch.equal(w, conjugate_gradients(system, torch.zeros_like(rule), truth, 0.1, 10))
