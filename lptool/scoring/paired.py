"""Two models beside one another: on the same images of one run, and over several runs; torch is not imported.

Gains and errors are fractions of the images, in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LUCK = 0.05  # a p below this is called more than luck, as is usual
# Runs that a t-test needs here. With two it has one degree of freedom: gains that happen to be alike give a small p.
FEWEST = 3


def word_of(p: float, gain: float) -> str:
    """What a gain of either sign is: `helped`, `hurt`, or `within chance` where p is not below 0.05."""
    if p >= LUCK:
        return "within chance"
    return "helped" if gain > 0 else "hurt"


def exact_mcnemar(a_only: int, b_only: int) -> float:
    """The p of the exact, two-sided test of McNemar 1947, by the images that only one of two models gets right.

    Each of those is a fair coin if the two err equally often.

    >>> exact_mcnemar(5, 0)
    0.0625
    """
    from scipy.special import bdtr  # takes a moment to import

    # Both tails of a fair coin are alike; where they err on the same images, nothing speaks against chance.
    return min(1.0, 2 * float(bdtr(min(a_only, b_only), a_only + b_only, 0.5)))


def image_error(a_only: int, b_only: int, n: int) -> float:
    """The standard error that `n` test images leave in the difference of two models' accuracies on them.

    Of each image the difference is 1, 0 or -1; this is the error of the mean of those.

    >>> round(image_error(30, 10, 1000), 4)
    0.0063
    """
    return math.sqrt(a_only + b_only - (a_only - b_only) ** 2 / n) / n


@dataclass(frozen=True)
class Spread:
    """Of one value for each run: the mean, its standard error (None for one run), and of how many runs."""

    mean: float
    error: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises statistics.StatisticsError where there is no value.

        >>> Spread.of([1.0, 3.0])
        Spread(mean=2.0, error=1.0, n=2)
        """
        error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(fmean(values), error, len(values))

    def shown(self, scale: float = 100, digits: int = 2, sign: str = "") -> str:
        """As a person reads it, in points; `sign` is `+` where a gain shall show it.

        >>> Spread.of([0.01, 0.03]).shown(sign="+")
        '+2.00 ± 1.00'
        """
        error = "" if self.error is None else f" ± {scale * self.error:.{digits}f}"
        mean = round(scale * self.mean, digits) + 0.0  # no -0.00
        return f"{mean:{sign}.{digits}f}{error}"

    @property
    def p(self) -> float | None:
        """Of Student's paired, two-sided t-test that the mean is 0; None where that cannot be said.

        That is: fewer than three runs, or several of exactly one gain, for which the test is not made.

        >>> Spread.of([0.0, 0.0, 0.0]).p, Spread.of([0.01, 0.0101]).p
        (1.0, None)
        """
        if self.error is None or self.n < FEWEST:
            return None
        if self.error < 1e-12:  # what rounding leaves of 0
            return 1.0 if abs(self.mean) < 1e-12 else None
        from scipy.special import stdtr  # takes a moment to import

        return 2 * float(stdtr(self.n - 1, -abs(self.mean / self.error)))
