"""Loss barriers: whether the straight line between two tickets stays low, which is what pooling them rests on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lptool.data.images import Images
from lptool.pooling.mixing import interpolate
from lptool.pooling.setup import Bench
from lptool.scoring.score import Score, score_of

POINTS = 11
# Frankle et al. 2020 (Linear Mode Connectivity), section 3: two networks are connected where the error rises by less.
STABLE = 0.02


@dataclass(frozen=True)
class Barrier:
    """The line between two tickets: scores at equally spaced points from the denser (first) to the sparser (last)."""

    denser: str
    sparser: str
    scores: tuple[Score, ...]

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
        yield Barrier(files[place - 1], files[place], scores)


@dataclass(frozen=True)
class References:
    """Scores by part of the data, `val` and `test`: of the ensemble, and of each ticket by its place in the pool."""

    ensemble: dict[str, Score]
    members: tuple[dict[str, Score], ...]


def references(bench: Bench) -> References:
    """Score every ticket of the pool as it is, and the mean of their predicted probabilities, on val and test."""
    val, test = _on(bench, bench.data.val), _on(bench, bench.data.test)
    together, *members = ({"val": on_val, "test": on_test} for on_val, on_test in zip(val, test, strict=True))
    return References(together, tuple(members))


def _on(bench: Bench, images: Images) -> list[Score]:
    """The score of the ensemble, then of each ticket."""
    members, total, labels = list[Score](), torch.zeros(()), torch.zeros(())
    for place in range(len(bench.pool)):
        logits, labels = bench.predict(bench.pool[place].state, images)
        members.append(score_of(logits, labels))
        total = total + logits.cpu().double().softmax(dim=1)  # in float32 a probability can become 0
    return [score_of((total / len(bench.pool)).log(), labels.cpu()), *members]
