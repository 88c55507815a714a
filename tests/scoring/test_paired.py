"""Tests of two models, against SciPy's own."""

import random

import pytest
import scipy.stats

from lptool.scoring.paired import Spread, exact_mcnemar, image_error


@pytest.mark.parametrize(("a_only", "b_only"), [(0, 0), (1, 0), (7, 2), (2, 7), (40, 41), (300, 240)])
def test_mcnemar_is_the_binomial_test(a_only: int, b_only: int) -> None:
    expected = scipy.stats.binomtest(a_only, a_only + b_only).pvalue if a_only + b_only else 1.0
    assert exact_mcnemar(a_only, b_only) == pytest.approx(expected)


def test_the_error_of_the_images_is_that_of_the_mean_of_their_differences() -> None:
    differences = [1] * 30 + [-1] * 10 + [0] * 960
    deviation = scipy.stats.sem(differences, ddof=0)
    assert image_error(30, 10, 1000) == pytest.approx(deviation)


@pytest.mark.parametrize("n", [3, 4, 10])
def test_the_t_test_is_scipys(n: int) -> None:
    rng = random.Random(n)
    gains = [rng.gauss(0.002, 0.004) for _ in range(n)]
    found = Spread.of(gains)
    assert found.error == pytest.approx(scipy.stats.sem(gains))
    assert found.p == pytest.approx(scipy.stats.ttest_1samp(gains, 0).pvalue)


def test_it_is_not_made_where_it_says_nothing() -> None:
    assert Spread.of([0.3]).p is None
    assert Spread.of([0.1 + 0.2, 0.3]).p is None  # equal but for rounding
    assert Spread.of([0.0, 0.0, 0.0]).p == 1


def test_as_a_person_reads_it() -> None:
    assert Spread.of([0.0123]).shown() == "1.23"
    assert Spread.of([-0.01, -0.03]).shown(sign="+") == "-2.00 ± 1.00"
    assert Spread.of([0.25, 0.75]).shown(1, 1) == "0.5 ± 0.2"
