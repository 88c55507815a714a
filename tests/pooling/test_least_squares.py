"""Ridge regression of many outputs at once: against torch's own solver, one output at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lptool.pooling.least_squares import Moments, best_ridge, conjugate_gradients


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
