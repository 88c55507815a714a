"""What a pooled model is compared with beside the controls: each ticket of its pool, and the ensemble of them all.

Neither is a single model at the target's sparsity, so they are reported and never chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lptool.bench import Bench
from lptool.evaluate import Score, score_of
from lptool.images import Images


@dataclass(frozen=True)
class References:
    """Scores by part of the data, `val` and `test`: of the ensemble, and of each ticket by its place in the pool."""

    ensemble: dict[str, Score]
    members: tuple[dict[str, Score], ...]


def references(bench: Bench) -> References:
    """Score every ticket of the pool as it is, and the mean of their predicted probabilities, on val and test."""
    by_part = {part: _on(bench, images) for part, images in (("val", bench.data.val), ("test", bench.data.test))}
    return References(
        ensemble={part: ensemble for part, (ensemble, _) in by_part.items()},
        members=tuple(
            {part: members[place] for part, (_, members) in by_part.items()} for place in range(len(bench.pool))
        ),
    )


def _on(bench: Bench, images: Images) -> tuple[Score, list[Score]]:
    """The score of the ensemble, and of each ticket."""
    members, total, labels = list[Score](), torch.zeros(()), torch.zeros(())
    for place in range(len(bench.pool)):
        logits, labels = bench.predict(bench.pool[place].state, images)
        members.append(score_of(logits, labels))
        total = total + logits.cpu().double().softmax(dim=1)  # in float32 a probability can become 0
    return score_of((total / len(bench.pool)).log(), labels.cpu()), members
