"""How far a run prunes."""

import math
from collections.abc import Sequence

import pytest

from lptool.errors import TrainError
from lptool.levels import check_levels, count_of, sparsities_to


@pytest.mark.parametrize("sparsity", [0.2, 0.36, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_a_target_is_reached_in_as_few_prunings_as_the_rate_takes(sparsity: float, rate: float) -> None:
    found = sparsities_to(sparsity, rate)
    assert found[-1] == sparsity
    assert 1 - (1 - rate) ** (len(found) - 1) < sparsity <= 1 - (1 - rate) ** len(found) + 1e-9
    for level, before in enumerate(found[:-1], start=1):
        assert before == pytest.approx(1 - math.prod([1 - rate] * level))
    check_levels(found)


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.5, float("nan")])
def test_a_target_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(TrainError, match=r"sparsity: expected a number in \(0, 1\)"):
        sparsities_to(sparsity, 0.2)


@pytest.mark.parametrize("levels", [(), (0.5, 0.5), (0.5, 0.4), (0.0, 0.5), (0.5, 1.0), (float("nan"),)])
def test_sparsities_that_do_not_grow_are_refused(levels: Sequence[float]) -> None:
    with pytest.raises(TrainError, match=r"sparsities: expected growing numbers in \(0, 1\)"):
        check_levels(levels)


def test_levels_are_counted() -> None:
    assert (count_of(4), count_of((0.5, 0.9))) == (4, 2)
    check_levels(4)
