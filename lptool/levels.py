"""How far a run prunes: a number of levels at its rate, or the sparsity of each. Free of torch, as options are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lptool.errors import TrainError

Levels = int | Sequence[float]  # how many prunings at the rate of the options, or the sparsity after each


def sparsities_to(sparsity: float, rate: float) -> tuple[float, ...]:
    """The sparsity after each pruning by `rate`, until the last one reaches `sparsity`, in (0, 1), exactly."""
    if not 0 < sparsity < 1:
        raise TrainError(f"expected a number in (0, 1), found {sparsity}", "sparsity")
    count = math.ceil(math.log(1 - sparsity) / math.log(1 - rate) - 1e-9)  # no level for what rounding leaves
    return (*(1 - (1 - rate) ** level for level in range(1, count)), sparsity)


def check_levels(levels: Levels) -> None:
    """Refuse sparsities that do not grow. Raises TrainError."""
    if isinstance(levels, int):
        return
    if not levels or not all(a < b for a, b in zip((0.0, *levels), (*levels, 1.0), strict=True)):
        raise TrainError(f"expected growing numbers in (0, 1), found {list(levels)}", "sparsities")


def count_of(levels: Levels) -> int:
    """How many prunings."""
    return levels if isinstance(levels, int) else len(levels)
