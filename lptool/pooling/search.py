"""The common ground of the methods: an incumbent, candidates, and the sweep of Yin et al. 2023, Algorithm 2.

    for each alpha:  mix = prune(alpha·incumbent + (1 − alpha)·candidate);  score mix on val
    the best mix replaces the incumbent where it is better, or as good with no higher NLL

A search sees a pool and a function `score(state, bar)`; model, images and BN recalibration are behind that function.
`lptool.pooling.methods` has the methods that are made of this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from lptool.checkpoints.masks import Mask, State, kept_count, magnitude_mask
from lptool.checkpoints.pool import Pool
from lptool.errors import PoolError
from lptool.pooling.choice import Choice
from lptool.pooling.mixing import interpolate
from lptool.pooling.outcome import Incumbent, OnProgress, Progress, Rebuilt, Scored, Step
from lptool.ranks import Ranks
from lptool.scoring.score import Score, ScoreFunction

PER = ("tensor", "block", "global")
_LARGEST_RATE = 1000  # logits lie about 1; with a rate far beyond this, Adam itself overflows


@dataclass(frozen=True)
class Learning:
    """How `learned` finds its coefficients.

    Attributes:
        per: `tensor`, `block` or `global`: what shares one coefficient per ticket.
        steps: of gradient descent. lr: of Adam, falling to 0 in equal steps.

    Raises:
        PoolError: an unknown `per`, or a number out of range.
    """

    per: str = "tensor"
    steps: int = 150
    lr: float = 0.02

    def __post_init__(self) -> None:
        if self.per not in PER:
            raise PoolError(f"unknown group {self.per!r}: expected {', '.join(PER[:-1])} or {PER[-1]}")
        if self.steps < 1:
            raise PoolError(f"learning steps must be 1 or more, found {self.steps}")
        if not 0 < self.lr <= _LARGEST_RATE:
            raise PoolError(f"the learning rate must be above 0 and at most {_LARGEST_RATE}, found {self.lr}")


LEARNING = Learning()
# Chooses which alphas to score next, by their places in the list of alphas; none ends the sweep. It is given that list,
# the places scored so far, and the place of the best of them: None as long as none is as good as the incumbent.
Explore = Callable[[Sequence[float], Collection[int], int | None], list[int]]


class GradientFunction(Protocol):
    """The gradient of the mean loss on the training images of a step, by the state's parameters."""

    def __call__(self, state: Mapping[str, Tensor], step: int) -> State: ...


class Rebuilder(Protocol):
    """Fits kept weights to the mean activations of tickets: see `lptool.pooling.reconstruction`."""

    def teach(self, tickets: Iterable[tuple[float, Mapping[str, Tensor]]]) -> Any:
        """The teacher that tickets make, each with its share; the shares add up to 1."""

    def recalibrated(self, state: State) -> State:
        """The state with the BatchNorm statistics that a rebuilding starts from."""

    def rebuild(
        self, start: State, mask: Mask, teacher: Any, on_layer: Callable[[str], None], room: Mask | None
    ) -> Rebuilt:
        """The start with its kept weights fitted to the teacher; each layer is named first.

        With a `room` they are chosen anew within that and the mask, as many in each layer.
        """


@dataclass
class Search:
    """What every method is given: all that stays the same while it runs, and how many mixes were scored so far.

    Attributes:
        pool: the tickets. target: the place of the one to improve. keep: how many weights the result keeps.
        score: scores a state on val. choice: how scores are compared.
        alphas, explore: which coefficients are tried, and in what order.
        passes: how often the candidates are gone through. decay: of `ema`.
        learning, gradient: for `learned`. rebuilder, mask: for `reconstruct`.
        ranks: the processes that scorings are spread over.
        on_progress: called after each round of scorings.
        total: of mixes and learning steps, at most. done: of them, so far.
    """

    pool: Pool
    target: int
    keep: int
    score: ScoreFunction
    choice: Choice
    alphas: tuple[float, ...]
    explore: Explore
    passes: int
    decay: float
    learning: Learning
    gradient: GradientFunction | None
    ranks: Ranks
    on_progress: OnProgress
    total: int
    rebuilder: Rebuilder | None = None
    mask: str = "start"
    done: int = 0

    @property
    def order(self) -> list[int]:
        """The candidates, nearest first."""
        return adjacent(self.target, len(self.pool))

    def prune(self, state: State) -> tuple[State, Mask]:
        """Prune `state` to the result's number of weights, in place: it must be the caller's own."""
        return prune(state, self.pool.prunable, self.keep)

    def mix(self, current: State, candidate: State, alpha: float) -> tuple[State, Mask]:
        """The mix of two states, pruned, and its mask."""
        return self.prune(interpolate(current, candidate, alpha))

    def score_once(
        self, state: State, place: int | None, alpha: float | None, incumbent: Score, bar: float = -math.inf
    ) -> Score:
        """Score one state on the first rank, and give every rank its score; without a `bar` on all of val."""
        score = self.ranks.on_first(partial(self.score, state, bar))
        self.report((Scored(place, alpha, score),), incumbent)
        return score

    def report(self, scored: tuple[Scored, ...], incumbent: Score) -> None:
        """Count mixes that were scored, and report how far the search has come."""
        self.done += len(scored)
        self.on_progress(Progress(scored, incumbent, self.done, self.total))

    def say(self, doing: str, incumbent: Score) -> None:
        """Report what begins now, where nothing is scored for long."""
        self.on_progress(Progress((), incumbent, self.done, self.total, doing))

    def sweep(self, incumbent: Incumbent, place: int, alphas: Sequence[float]) -> tuple[Incumbent | None, Step]:
        """Try the alphas of one candidate; the best mix where it replaces the incumbent, else None.

        The best mix is the one of highest merit, of equal ones the first. The bar lets a scoring stop early without
        changing any decision: a mix can only be chosen if it is as good as the incumbent, as good as the best so far of
        the alphas after it, and better than the best so far of those before it. A score that is not finite reaches no
        bar. The best mix is made again at the end, so that one mix is in memory at a time.
        """
        mix = partial(self.mix, incumbent.state, self.pool[place].state)
        tried: dict[int, Score] = {}
        best: int | None = None  # of those as good as the incumbent

        def bar(i: int) -> float:
            merit = self.choice.merit(incumbent.score if best is None else tried[best])
            # Just above the best where that is of an earlier alpha, which wins a tie.
            return math.nextafter(merit, math.inf) if best is not None and i > best else merit

        def scoring(i: int) -> Callable[[], Score]:
            now = bar(i)  # as it is before the round, on every rank alike
            return lambda: self.score(mix(alphas[i])[0], now)

        while places := self.explore(alphas, tried, best):
            for start in range(0, len(places), self.ranks.count):  # a round: one scoring on each rank
                among = places[start : start + self.ranks.count]
                found = self.ranks.share({rank: scoring(i) for rank, i in enumerate(among)})
                tried |= dict(zip(among, found.values(), strict=True))
                for i in sorted(among):  # in the order that one rank alone would go
                    if self.choice.reaches(tried[i], bar(i)):
                        best = i
                self.report(tuple(Scored(place, alphas[i], tried[i]) for i in among), incumbent.score)
        attempts = tuple((alphas[i], tried[i]) for i in sorted(tried))
        if best is None or not self.choice.replaces(tried[best], incumbent.score):
            return None, Step(place, None, False, None, attempts)
        state, mask = mix(alphas[best])
        step = Step(place, alphas[best], True, tried[best], attempts)
        return Incumbent(state, mask, tried[best], recalibrated=True), step


def pruned_ticket(pool: Pool, target: int, keep: int) -> tuple[State, Mask]:
    """A ticket's weights and mask with `keep` weights kept."""
    ticket = pool[target]
    if kept_count(ticket.mask) == keep:  # pruned anew, weights of the mask that are 0 could be changed for others
        return ticket.state, ticket.mask
    return prune(ticket.state, pool.prunable, keep)


def prune(state: State, prunable: Sequence[str], keep: int) -> tuple[State, Mask]:
    """Set all but the `keep` largest prunable weights to 0, in place: these tensors must be the caller's own."""
    mask = magnitude_mask({name: state[name] for name in prunable}, keep)
    for name, kept in mask.items():
        state[name].masked_fill_(~kept, 0)  # in place: a copy would be one state more in memory
    return state, mask


def adjacent(target: int, count: int) -> list[int]:
    """The other places in a pool of `count`, nearest first, the denser one before the sparser at equal distance."""
    return sorted((i for i in range(count) if i != target), key=lambda i: (abs(i - target), i))


def grid(alphas: Sequence[float], tried: Collection[int], best: int | None) -> list[int]:
    """Every alpha, in the order given."""
    return [i for i in range(len(alphas)) if i not in tried]


def coarse(alphas: Sequence[float], tried: Collection[int], best: int | None) -> list[int]:
    """Every second alpha by size; then the neighbours of the best so far, until neither of them is better."""
    by_size = sorted(range(len(alphas)), key=lambda i: alphas[i])
    if not tried:
        return by_size[1::2] or by_size  # a single alpha has no second one
    if best is None:
        return []
    at = by_size.index(best)
    return [i for i in by_size[max(0, at - 1) : at + 2] if i not in tried]


ALPHA_SEARCHES: dict[str, Explore] = {"grid": grid, "coarse": coarse}
