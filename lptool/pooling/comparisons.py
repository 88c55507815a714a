"""Loss barriers: whether the straight line between two tickets stays low, which is what pooling them rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lptool.data.images import Images
from lptool.pooling.mixing import interpolate
from lptool.pooling.setup import Bench
from lptool.ranks import ALONE, Ranks
from lptool.scoring.score import Graded, Score, for_each_batch
from lptool.scoring.weights import put_weights

POINTS = 11
# The threshold of Frankle et al. 2020 (Linear Mode Connectivity), section 3, for another measure: there two networks
# of one sparsity, trained from the same weights, are stable where the test error rises by less above the mean of both.
# Here the ends differ in sparsity and so in error, and the rise is above the line between them, on val.
STABLE = 0.02


@dataclass(frozen=True)
class Barrier:
    """The line between two tickets: scores at equally spaced points from the denser (first) to the sparser (last).

    Attributes:
        recalibrated: whether BatchNorm was, at each point; False where the network has none.
    """

    denser: str
    sparser: str
    scores: tuple[Score, ...]
    recalibrated: bool = True

    @property
    def error(self) -> float:
        """How far the error rises above the straight line between its ends (Entezari et al. 2022, equation 1); ≥ 0."""
        return _rise([1 - score.accuracy for score in self.scores])

    @property
    def nll(self) -> float:
        """The same for the negative log-likelihood, in nats."""
        return _rise([score.nll for score in self.scores])

    @property
    def verdict(self) -> str:
        """Whether the pair can be pooled, in words."""
        if not all(math.isfinite(score.nll) for score in self.scores):
            return "no verdict: scores on the line between them are not finite"
        if self.error < STABLE:
            return "can be pooled: the line between them stays low"
        return "cannot be pooled: a barrier lies between them, as between runs of another init or rewind point"


def _rise(line: list[float]) -> float:
    last = len(line) - 1
    return max(y - ((last - i) * line[0] + i * line[-1]) / last for i, y in enumerate(line))


def barriers(bench: Bench) -> Iterator[Barrier]:
    """The barrier between each ticket and the next sparser one, on val, BatchNorm recalibrated at each point.

    On images augmented as in training where the tickets say how, else on images as they are.
    """
    files = [summary.file for summary in bench.pool.summaries]
    for place in range(1, len(bench.pool)):
        denser, sparser = bench.pool[place - 1].state, bench.pool[place].state
        alphas = [1 - i / (POINTS - 1) for i in range(POINTS)]  # from the denser end, which alpha weighs
        scores = tuple(bench.scorer(interpolate(denser, sparser, alpha)) for alpha in alphas)
        yield Barrier(files[place - 1], files[place], scores, recalibrated=bench.calibration.used != "none")


@dataclass(frozen=True)
class References:
    """Scores by part of the data, `val` and `test`: of the ensemble, and of each ticket by its place in the pool."""

    ensemble: dict[str, Score]
    members: tuple[dict[str, Score], ...]


def references(bench: Bench, ranks: Ranks = ALONE) -> References:
    """Score every ticket of the pool as it is, and the mean of their predicted probabilities, on val and test.

    Batches are spread over the ranks.
    """
    val, test = (_on(bench, images, ranks) for images in (bench.data.val, bench.data.test))
    together, *members = ({"val": on_val, "test": on_test} for on_val, on_test in zip(val, test, strict=True))
    return References(together, tuple(members))


def _on(bench: Bench, images: Images, ranks: Ranks) -> list[Score]:
    """The score of the ensemble, then of each ticket."""

    def mine(size: int) -> list[list[Graded]]:
        """Of each of them the batches that are this rank's."""
        members, total, labels = list[list[Graded]](), list[Tensor](), list[Tensor]()
        for place in range(len(bench.pool)):
            put_weights(bench.model, bench.pool[place].state)
            found = for_each_batch(bench.model, bench.mine(images, size, ranks), lambda *each: each)
            members.append([Graded.of(*each) for each in found])
            chances = [logits.cpu().double().softmax(1) for logits, _ in found]  # in float32 one can become 0
            total = [a + b for a, b in zip(total, chances, strict=True)] if place else chances
            labels = [known.cpu() for _, known in found]
        mean = [(sum_of / len(bench.pool)).log() for sum_of in total]
        return [[Graded.of(*each) for each in zip(mean, labels, strict=True)], *members]

    return [Graded.gathered(each, ranks).score for each in bench.batch_size.fit(mine, ranks)]
