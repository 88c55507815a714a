"""The end of a search: how far the pooled model differs from its controls, image by image."""

import pytest
import torch
from scipy.stats import binomtest

from lptool.pooling.finish import against_controls, judged
from lptool.pooling.job import PoolResult
from lptool.pooling.setup import PoolOptions, open_bench


def test_controls_are_compared_on_the_same_images() -> None:
    pooled = torch.tensor([True, True, True, True, False, True])
    found = against_controls({"ticket": ~pooled, "ticket_bn": pooled.clone(), "pooled": pooled})
    assert [(c.a_only, c.b_only) for c in found.values()] == [(5, 1), (0, 0)]
    assert [c.p for c in found.values()] == pytest.approx([binomtest(5, 6).pvalue, 1.0])


def test_what_differs_between_scores_is_what_the_comparison_counts(result: PoolResult) -> None:
    assert set(result.against) == {"ticket", "ticket_bn"}
    for control, found in result.against.items():
        difference = result.test["pooled"].correct - result.test[control].correct
        assert found.a_only - found.b_only == difference


def test_two_names_of_one_state_are_scored_once(result: PoolResult) -> None:
    bench = open_bench([member.file for member in result.members], PoolOptions(method="greedy", device="cpu"))
    dense, sparse = bench.pool[0].state, bench.pool[3].state
    scores, right = judged(bench, {"a": dense, "b": sparse, "c": dense}, bench.data.test)
    assert list(scores) == list(right) == ["a", "b", "c"]
    assert scores["a"] is scores["c"]
    assert scores["a"] == bench.score(dense, bench.data.test)
    assert [int(found.sum()) for found in right.values()] == [score.correct for score in scores.values()]
