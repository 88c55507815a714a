"""How models are compared on val, by images right or by likelihood, and when a scoring may stop.

Models are compared by one number, the *merit* of their score: the images right, or minus the mean loss. Each image that
is scored can only lower the merit that is still possible: a wrong one by one image, any one by its loss. So a model
cannot reach a merit of `bar` any more, however well it does on the images left, once

                  lost so far           more than may be lost
    accuracy      images wrong      >   total − bar
    nll           sum of losses     >   total · (−bar)

which is `Choice.out_of_reach`. A scoring that stops there changes no decision, as the model would have been rejected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lptool.errors import PoolError
from lptool.scoring.score import Score

SELECTS = ("accuracy", "nll")
# Losses are summed in float32 and in another order while a scoring runs: it stops only where it is worse by more.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Choice:
    """The order of models that a search goes by.

    Attributes:
        select: `accuracy` counts the val images right (the paper); `nll` takes the mean negative log-likelihood,
            which says something of every image and so is less noisy where val is small.

    Raises:
        PoolError: unknown `select`.

    >>> surer, righter = Score(correct=8, nll=0.4, n=10), Score(correct=9, nll=0.6, n=10)
    >>> Choice().replaces(righter, surer), Choice("nll").replaces(righter, surer)
    (True, False)
    """

    select: str = "accuracy"

    def __post_init__(self) -> None:
        if self.select not in SELECTS:
            raise PoolError(f"unknown selection {self.select!r}: expected {' or '.join(SELECTS)}")

    def merit(self, score: Score) -> float:
        """What is maximised, of a complete score: images right, or minus the NLL; −inf for what is not finite."""
        if not math.isfinite(score.nll):
            return -math.inf
        return score.correct if self.select == "accuracy" else -score.nll

    def reaches(self, score: Score, bar: float) -> bool:
        """Whether the merit of a score is `bar` or more; of one that is incomplete or not finite it never is."""
        return score.complete and math.isfinite(score.nll) and self.merit(score) >= bar

    def standing(self, score: Score) -> tuple[float, float]:
        """The order of complete scores: by the merit, and of equal ones by the NLL, as a tie that raises it was harm.

        >>> sure, unsure = Score(correct=9, nll=0.1, n=10), Score(correct=9, nll=0.2, n=10)
        >>> Choice().standing(sure) > Choice().standing(unsure)
        True
        """
        merit = self.merit(score)
        return merit, merit if merit == -math.inf else -score.nll

    def replaces(self, new: Score, old: Score) -> bool:
        """Whether a model of score `new` takes the place of one of score `old`: its standing is no lower.

        This is the rule wherever one model is put in another's place: a mix in that of the incumbent, the teacher or
        the method in that of its start, the finished model in that of a control.
        """
        return self.reaches(new, -math.inf) and self.standing(new) >= self.standing(old)

    def best(self, found: Sequence[Score], start: Score) -> int | None:
        """The place of the best of a few models that were made in different ways; None where the start stays.

        A score that a search has maximised is flattered, the more so the more it tried, and another method would be
        passed over for that. So of those that may replace the start, the least NLL after temperature scaling wins, if
        it is less than the start's: no search maximises that; see docs/tables.md. Where it is not known, the highest
        standing.
        """
        places = [i for i, score in enumerate(found) if self.replaces(score, start)]
        known = all(math.isfinite(_scaled(score)) for score in (start, *(found[i] for i in places)))
        if self.select == "nll" or not known:
            return max(places, key=lambda i: self.standing(found[i]), default=None)
        place = min(places, key=lambda i: _scaled(found[i]), default=None)
        return place if place is not None and _scaled(found[place]) < _scaled(start) else None

    def lost(self, right: Tensor, loss: Tensor) -> Tensor:
        """What images, given as bool [B] and float [B], take from the merit: a scalar on their device, 0 or more."""
        return (~right).count_nonzero() if self.select == "accuracy" else loss.sum()

    def out_of_reach(self, bar: float, lost: float, total: int) -> bool:
        """Whether a model that has `lost` this much on some of the `total` images cannot reach a merit of `bar`."""
        return lost > (total - bar if self.select == "accuracy" else total * -bar * (1 + _ROUNDING))

    def answers(self, score: Score, bar: float, total: int) -> bool:
        """Whether a score says all there is to know: it is complete, or `bar` is out of its reach."""
        lost = score.n - score.correct if self.select == "accuracy" else score.nll * score.n
        return score.complete or self.out_of_reach(bar, lost, total)


def _scaled(score: Score) -> float:
    return math.inf if score.scaled_nll is None else score.scaled_nll


BY_ACCURACY = Choice()
