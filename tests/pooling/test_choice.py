"""How models are compared: small scores by hand, and early stopping against what could still have come."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch

from lptool.errors import PoolError
from lptool.pooling.choice import BY_ACCURACY, SELECTS, Choice
from lptool.scoring.score import Score

BY_NLL = Choice("nll")
INF = math.inf


def test_the_selections_are_by_accuracy_and_by_likelihood() -> None:
    assert SELECTS == ("accuracy", "nll")
    assert Choice() == BY_ACCURACY == Choice("accuracy")
    with pytest.raises(PoolError, match="unknown selection 'loss': expected accuracy or nll"):
        Choice("loss")


def test_merit_is_images_right_or_minus_the_nll() -> None:
    score = Score(7, 0.25, 9)
    assert (BY_ACCURACY.merit(score), BY_NLL.merit(score)) == (7, -0.25)


@pytest.mark.parametrize("nll", [math.nan, INF, -INF])
@pytest.mark.parametrize("choice", [BY_ACCURACY, BY_NLL])
def test_what_is_not_finite_is_worse_than_anything(choice: Choice, nll: float) -> None:
    broken, poor = Score(9, nll, 9), Score(0, 1e30, 9)
    assert choice.merit(broken) == -INF
    assert choice.replaces(poor, broken)
    assert not choice.replaces(broken, poor)
    assert not choice.replaces(broken, broken)


@pytest.mark.parametrize(
    ("choice", "new", "old", "expected"),
    [
        (BY_ACCURACY, Score(5, 1.0, 9), Score(5, 1.0, 9), True),
        (BY_ACCURACY, Score(5, 0.9, 9), Score(5, 1.0, 9), True),
        (BY_ACCURACY, Score(5, 1.1, 9), Score(5, 1.0, 9), False),
        (BY_ACCURACY, Score(4, 0.1, 9), Score(5, 1.0, 9), False),
        (BY_ACCURACY, Score(6, 9.0, 9), Score(5, 1.0, 9), True),
        (BY_NLL, Score(0, 1.0, 9), Score(5, 1.0, 9), True),
        (BY_NLL, Score(0, 0.9, 9), Score(5, 1.0, 9), True),
        (BY_NLL, Score(9, 1.1, 9), Score(5, 1.0, 9), False),
    ],
)
def test_as_good_replaces_and_worse_does_not(choice: Choice, new: Score, old: Score, expected: bool) -> None:
    """Of as many images right, those with a higher NLL are worse."""
    assert choice.replaces(new, old) is expected


@pytest.mark.parametrize("choice", [BY_ACCURACY, BY_NLL])
def test_a_bar_is_reached_by_a_whole_and_finite_score_that_is_no_lower(choice: Choice) -> None:
    score = Score(5, 0.5, 9)
    bar = choice.merit(score)
    assert [choice.reaches(score, b) for b in (-INF, bar, math.nextafter(bar, INF))] == [True, True, False]
    assert not choice.reaches(replace(score, complete=False), -INF)
    assert not choice.reaches(replace(score, nll=math.nan), -INF)


@pytest.mark.parametrize("choice", [BY_ACCURACY, BY_NLL])
def test_a_score_that_stopped_early_replaces_nothing(choice: Choice) -> None:
    """What it says of the images seen is no word on the others."""
    assert not choice.replaces(Score(5, 0.0, 5, complete=False), Score(1, 5.0, 9))


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("n", range(1, 5))
def test_a_score_answers_what_no_way_of_going_on_could_change(n: int, complete: bool) -> None:
    """A complete one everything; another one the bars that are missed even if all images left are right."""
    total = 4
    for correct in range(n + 1):
        ends = [correct + more for more in range(total - n + 1)]
        score = Score(correct, 1.0, n, complete)
        for bar in (-INF, *range(total + 3)):
            assert BY_ACCURACY.answers(score, bar, total) == (complete or all(end < bar for end in ends))


@pytest.mark.parametrize("n", range(1, 5))
@pytest.mark.parametrize("nll", [0.0, 0.5, 1.0, 3.0])
def test_by_nll_a_score_answers_what_is_missed_even_if_no_image_left_has_any_loss(nll: float, n: int) -> None:
    total = 4
    for bar in (-INF, -3.0, -1.1, -0.9, -0.6, -0.1, -1e-9):
        missed = -(nll * n) / total < bar
        assert BY_NLL.answers(Score(0, nll, n, complete=False), bar, total) == missed
        assert BY_NLL.answers(Score(0, nll, n), bar, total)


def test_a_bar_missed_by_rounding_alone_is_not_missed() -> None:
    """Sums in another order differ in their last bits, and a mix may be as good as the incumbent to the last."""
    for loss, missed in ((1.0, False), (1.00005, False), (1.0002, True)):
        assert BY_NLL.answers(Score(0, loss, 2, complete=False), -0.5, 4) is missed


def test_the_bar_of_minus_infinity_alone_is_always_in_reach() -> None:
    for choice in (BY_ACCURACY, BY_NLL):
        assert not choice.out_of_reach(-INF, 1e30, 10)
    assert [lost for lost in range(11) if BY_ACCURACY.out_of_reach(7, lost, 10)] == list(range(4, 11))
    assert [lost for lost in (0, 4.9, 5, 5.01, 6) if BY_NLL.out_of_reach(-0.5, lost, 10)] == [5.01, 6]


def test_what_is_lost_is_errors_or_losses() -> None:
    right, loss = torch.tensor([True, False, False]), torch.tensor([0.25, 1.0, 2.0])
    assert BY_ACCURACY.lost(right, loss).item() == 2
    assert BY_NLL.lost(right, loss).item() == 3.25


def some_scores(seed: int, count: int = 6, *, scaled: bool = True) -> list[Score]:
    draw = random.Random(seed)
    return [
        Score(draw.randint(3, 9), draw.uniform(0.5, 2), 10, scaled_nll=draw.uniform(0.2, 1) if scaled else None)
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_of_models_made_in_different_ways_the_likeliest_that_is_no_less_accurate_is_best(seed: int) -> None:
    start, *found = some_scores(seed)
    place = Choice().best(found, start)
    fit = [start, *(score for score in found if Choice().replaces(score, start))]
    least = min(fit, key=lambda score: score.scaled_nll or 0)
    assert (start if place is None else found[place]) is least


@pytest.mark.parametrize("choice", [Choice(), Choice("nll")], ids=str)
@pytest.mark.parametrize("seed", range(30))
def test_where_no_scaled_nll_is_known_the_highest_merit_is_best(seed: int, choice: Choice) -> None:
    """By NLL it is the plain one, known or not."""
    start, *found = some_scores(seed, scaled=choice.select == "nll")
    place = choice.best(found, start)
    merits = [choice.merit(score) for score in (start, *found)]
    assert choice.merit(start if place is None else found[place]) == max(merits)
    assert place is None or choice.replaces(found[place], start)


@pytest.mark.parametrize("scaled", [0.1, None])
def test_a_tie_that_raises_the_nll_is_never_best(scaled: float | None) -> None:
    """However well it tells classes apart."""
    start, tie = Score(5, 0.064, 10, scaled_nll=scaled and 0.5), Score(5, 0.102, 10, scaled_nll=scaled)
    assert Choice().best([tie], start) is None
    assert Choice().best([tie, replace(tie, nll=0.06)], start) == 1


@pytest.mark.parametrize("choice", [BY_ACCURACY, BY_NLL])
def test_standings_order_what_replaces_what(choice: Choice) -> None:
    scores = [Score(correct, nll, 9) for correct in (4, 5) for nll in (0.5, 1.0, math.nan)]
    for new in scores:
        for old in scores:
            expected = math.isfinite(new.nll) and choice.standing(new) >= choice.standing(old)
            assert choice.replaces(new, old) is expected
    assert max(scores, key=choice.standing) == Score(5 if choice == BY_ACCURACY else 4, 0.5, 9)  # of equals the first


def test_what_is_not_finite_or_was_cut_short_is_never_best() -> None:
    start = Score(5, 1.0, 10, scaled_nll=0.9)
    odd = [Score(9, math.nan, 10, scaled_nll=0.1), Score(9, 1.0, 9, complete=False, scaled_nll=0.1)]
    assert Choice().best(odd, start) is None
    assert Choice().best([*odd, Score(5, 1.0, 10, scaled_nll=0.8)], start) == 2
