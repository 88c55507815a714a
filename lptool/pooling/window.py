"""Means in which a ticket counts the less the further its level lies from the target's.

    model = prune(Σ wᵢ·ticketᵢ / Σ wᵢ),  wᵢ = ratio^|i − target|

The neighbours of a target are the likeliest to lie in one basin with it, and for a sparse target far denser tickets
spoil the plain mean: weights that the target lacks come through the pruning. The ratio is the one number that is chosen
on val, so there is little room for luck.
"""

from __future__ import annotations

import math

from lptool.checkpoints.masks import Mask, State
from lptool.checkpoints.pool import Pool
from lptool.pooling.catalogue import RATIOS
from lptool.pooling.mixing import interpolate
from lptool.pooling.outcome import Coefficients, Incumbent, Outcome, steps_to
from lptool.pooling.search import Search, adjacent, prune
from lptool.scoring.score import Score


def window(search: Search, start: Incumbent) -> Outcome:
    """The mean whose ratio is best on val, where that replaces the target."""
    scores = score_ratios(search, start)
    ratio = best_ratio(search, scores)
    score = scores.pop(ratio)
    state, mask = mean(search, ratio)
    accepted = search.choice.replaces(score, start.score)
    best = Incumbent(state, mask, score, recalibrated=True) if accepted else start
    steps = steps_to(score, alphas(search.target, len(search.pool), ratio), accepted=accepted)
    settings = {"window": ratio} if accepted else {}
    return Outcome("window", best, steps, coefficients(search, ratio), tuple(scores.values()), settings)


def score_ratios(search: Search, start: Incumbent) -> dict[float, Score]:
    """The score on val of the mean of each ratio; a scoring stops where that ratio cannot be the best any more."""
    scores: dict[float, Score] = {}
    for ratio in RATIOS:
        bar = max((search.choice.merit(score) for score in scores.values() if score.complete), default=-math.inf)
        scores[ratio] = search.score_once(mean(search, ratio)[0], search.order[-1], None, start.score, bar)
    return scores


def best_ratio(search: Search, scores: dict[float, Score]) -> float:
    """Of equally good ratios the first, which stays nearest to the target."""
    merits = {ratio: search.choice.merit(score) for ratio, score in scores.items() if score.complete}
    return max(merits, key=lambda ratio: merits[ratio])


def mean(search: Search, ratio: float) -> tuple[State, Mask]:
    """The weighted mean of all tickets, pruned, and its mask."""
    return windowed(search.pool, search.target, search.keep, ratio)


def windowed(pool: Pool, target: int, keep: int, ratio: float) -> tuple[State, Mask]:
    """The weighted mean of a pool around a target with `keep` weights kept, and its mask."""
    state = pool[target].state
    for place, alpha in alphas(target, len(pool), ratio).items():
        state = interpolate(state, pool[place].state, alpha)
    return prune(state, pool.prunable, keep)


def weights(target: int, count: int, ratio: float) -> list[float]:
    """How much each of `count` tickets counts, by its place in the pool; the target counts 1."""
    return [ratio ** abs(place - target) for place in range(count)]


def alphas(target: int, count: int, ratio: float) -> dict[int, float]:
    """The alphas that make the mean, one candidate after the other: the share of what was mixed before."""
    found, total, weight = {}, 1.0, weights(target, count, ratio)
    for place in adjacent(target, count):
        found[place] = total / (total + weight[place])
        total += weight[place]
    return found


def shares(search: Search, ratio: float) -> tuple[float, ...]:
    """What the mean takes of each ticket, by its place in the pool; 1 in all."""
    raw = weights(search.target, len(search.pool), ratio)
    return tuple(weight / sum(raw) for weight in raw)


def coefficients(search: Search, ratio: float) -> Coefficients:
    """The shares as an outcome has them."""
    return Coefficients(("all",), (shares(search, ratio),))
