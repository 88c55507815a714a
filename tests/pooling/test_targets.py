"""Which tickets are improved, and how many weights are kept: the fixtures keep 1, 1/2, 1/4 and 1/8 of them."""

from dataclasses import replace
from pathlib import Path

import pytest

import lptool
from lptool.errors import PoolError
from lptool.pooling.setup import Bench, open_bench
from lptool.pooling.targets import choose_targets, kept_at
from lptool.scoring.score import Score
from tests.pooling.test_job import QUICK, right


def test_targets(tickets: list[Path]) -> None:
    bench = open_bench(tickets, QUICK)
    correct = [right(lptool.load_model(path), bench, bench.data.val) for path in tickets]
    matching = max(i for i, score in enumerate(correct) if score >= correct[0])
    expected = {"sparsest": [3], "all": [0, 1, 2, 3], "2": [2], str(tickets[1]): [1], "matching": [matching]}
    for target, places in expected.items():
        assert choose_targets(replace(bench, options=replace(QUICK, target=target))) == places
    with pytest.raises(PoolError, match=r"no target '7': expected .* a level \(0, 1, 2, 3\)"):
        choose_targets(replace(bench, options=replace(QUICK, target="7")))


@pytest.mark.parametrize(
    ("correct", "place"), [((50, 52, 50, 49), 2), ((50, 49, 48, 50), 3), ((50, 49, 49, 49), 0), ((50, 50, 50, 51), 3)]
)
def test_matching_is_the_sparsest_that_gets_no_fewer_right_than_the_densest(
    tickets: list[Path], monkeypatch: pytest.MonkeyPatch, correct: tuple[int, ...], place: int
) -> None:
    scores = iter([Score(right, 1.0, 100) for right in correct])
    monkeypatch.setattr(Bench, "score", lambda *_: next(scores))
    assert choose_targets(open_bench(tickets, replace(QUICK, target="matching"))) == [place]


@pytest.mark.parametrize(
    ("sparsity", "place"), [(0.0, 0), (0.3, 0), (0.499, 0), (0.6, 1), (0.74, 1), (0.8, 2), (0.9, 3), (0.999, 3)]
)
def test_a_sparsity_between_two_tickets_takes_the_denser_as_its_target(
    tickets: list[Path], sparsity: float, place: int
) -> None:
    """The tickets keep 1, 1/2, 1/4 and 1/8 of their weights."""
    bench = open_bench(tickets, QUICK)
    assert choose_targets(replace(bench, options=replace(QUICK, sparsity=sparsity))) == [place]


def test_the_sparsity_of_a_ticket_takes_that_ticket(tickets: list[Path]) -> None:
    """And a weight more the one before it, a weight less still this one."""
    bench = open_bench(tickets, QUICK)
    total, kept = bench.pool.kept(0), bench.pool.kept(2)
    for keep, place in ((kept, 2), (kept + 1, 1), (kept - 1, 2)):
        options = replace(QUICK, sparsity=1 - keep / total)
        assert kept_at(bench.pool, 1 - keep / total) == keep
        assert choose_targets(replace(bench, options=options)) == [place]


def test_a_sparsity_that_cannot_be(tickets: list[Path]) -> None:
    bench = open_bench(tickets, QUICK)
    for sparsity, message in [
        (-0.1, r"sparsity: expected a number in \[0, 1\), such as 0.9 for 90 %, found -0.1"),
        (1.0, r"sparsity: expected a number in \[0, 1\), .* found 1"),
        (90.0, r"sparsity: expected a number in \[0, 1\), .* found 90"),
        (float("nan"), r"sparsity: expected a number in \[0, 1\), .* found nan"),
        (0.999999, "sparsity: 0.999999 would leave none of the [0-9,]+ prunable weights; expected less"),
    ]:
        with pytest.raises(PoolError, match=message):
            choose_targets(replace(bench, options=replace(QUICK, sparsity=sparsity)))
    sparse = open_bench(tickets[1:], QUICK)
    message = "sparsity: expected at least 0.5, the sparsity of the densest ticket .*level_01.safetensors"
    with pytest.raises(PoolError, match=message):
        choose_targets(replace(sparse, options=replace(QUICK, sparsity=0.4)))
