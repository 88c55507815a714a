"""The windowed mean against sums in plain lists, and which ratio is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from torch import Tensor

from lptool.checkpoints.masks import kept_count
from lptool.pooling.catalogue import RATIOS
from lptool.pooling.choice import Choice
from lptool.pooling.methods import pool_tickets
from lptool.scoring.score import Score
from tests.pooling.test_learned import Bowl, pruned_to
from tests.pooling.test_methods import line
from tests.pooling.test_search import SHAPES, as_lists, random_pool


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_best_of_the_weighted_means(seed: int) -> None:
    pool, target, bowl = random_pool(seed, 5, exact=False), seed % 5, Bowl(seed)
    keep, states = pool.kept(target), [as_lists(ticket.state) for ticket in pool]
    means = {}
    for ratio in RATIOS:
        weights = [ratio ** abs(i - target) for i in range(5)]
        sums = {
            n: [
                sum(w * s[n][j] for w, s in zip(weights, states, strict=True)) / sum(weights)
                for j in range(len(states[0][n]))
            ]
            for n in SHAPES
        }
        means[ratio] = pruned_to(keep, sums)[0]
    best = min(RATIOS, key=lambda ratio: bowl.loss(means[ratio]))
    model, trace = pool_tickets(pool, bowl.score, method="window", target=target, choice=Choice("nll"))
    start = bowl.loss(states[target])
    if bowl.loss(means[best]) > start:
        assert (trace.accepted, as_lists(model.state)) == ((), states[target])
        return
    for name in SHAPES:
        assert as_lists(model.state)[name] == pytest.approx(means[best][name], rel=1e-4, abs=1e-5)
    assert kept_count(model.mask) == keep
    assert trace.evaluations == 1 + len(RATIOS)
    weights = [best ** abs(i - target) for i in range(5)]
    assert trace.coefficients is not None
    assert trace.coefficients.values == (pytest.approx([w / sum(weights) for w in weights]),)
    assert [step.candidate for step in trace.steps if step.score] == [trace.steps[-1].candidate]


def test_those_pools_have_both_outcomes() -> None:
    found = set()
    for seed in range(8):
        pool = random_pool(seed, 5, exact=False)
        _, trace = pool_tickets(pool, Bowl(seed).score, method="window", target=seed % 5, choice=Choice("nll"))
        found.add(bool(trace.accepted))
    assert True in found


def test_of_equally_good_ratios_the_one_nearest_to_the_target() -> None:
    model, _ = pool_tickets(line(1.0, 2.0), lambda state, bar=0: Score(1, 1.0, 2), method="window", target=0)
    assert model.state["w"].item() == pytest.approx((1 + 0.2 * 2) / 1.2)


def test_a_mean_that_is_worse_than_the_target_is_not_taken() -> None:
    def score(state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
        return Score(9 if state["w"].item() == 1 else 8, 1.0, 10)

    model, trace = pool_tickets(line(1.0, 2.0), score, method="window", target=0)
    assert (model.state["w"].item(), trace.accepted) == (1.0, ())


def test_scorings_may_stop_where_another_ratio_is_better() -> None:
    bars = list[float]()

    def score(state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
        bars.append(bar)
        right = round(10 * (2 - state["w"].item()))  # fewer, the more the second ticket has to say
        return Score(right, 1.0, 10, complete=right >= bar)

    pool_tickets(line(1.0, 2.0), score, method="window", target=0)
    assert bars == [-math.inf, -math.inf, *[8] * (len(RATIOS) - 1)]
