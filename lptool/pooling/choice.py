"""How models are compared on val: by images right or by likelihood."""

from __future__ import annotations

import math
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

    def allowance(self, bar: float, total: int) -> float:
        """How large the `cost` of all `total` images may become before a merit of `bar` is out of reach."""
        return total - bar if self.select == "accuracy" else -bar * total * (1 + _ROUNDING)

    def cost(self, right: Tensor, loss: Tensor) -> Tensor:
        """What images, given as bool [B] and float [B], take from the merit: a scalar on their device, 0 or more."""
        return (~right).count_nonzero() if self.select == "accuracy" else loss.sum()

    def settles(self, score: Score, bar: float, total: int) -> bool:
        """Whether nothing more is to be learned: the score is complete, or cannot reach `bar` any more."""
        spent = score.n - score.correct if self.select == "accuracy" else score.nll * score.n
        return score.complete or spent > self.allowance(bar, total)

    def replaces(self, new: Score, old: Score) -> bool:
        """Whether `new` is at least as good as `old`."""
        return new.complete and self.merit(new) > -math.inf and self.merit(new) >= self.merit(old)


BY_ACCURACY = Choice()
