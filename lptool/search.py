"""The method: greedy interpolation over a pool of tickets (Yin et al. 2023, Algorithm 2).

    target θ;  for each candidate, nearest level first:
        for each alpha:  mix = prune(alpha·θ + (1 − alpha)·candidate);  score mix on val
        the best mix replaces θ where it scores at least as well

The search sees a pool and a function `score(state, bar)`; model, images and BN recalibration are behind that function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lptool.errors import PoolError
from lptool.evaluate import Score, ScoreFunction
from lptool.interpolate import interpolate
from lptool.masks import Mask, State, kept_count, magnitude_mask
from lptool.pools import Pool
from lptool.ranks import ALONE, Ranks
from lptool.tickets import Ticket

# Yin et al. 2023, section 3.2: the coefficients of the search.
PAPER_ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Incumbent:
    """The best model so far, and its score on val.

    `recalibrated` says whether the score was taken after BN recalibration: only then shall the model that is written
    be recalibrated too.
    """

    state: State
    mask: Mask
    score: Score
    recalibrated: bool


@dataclass(frozen=True)
class Step:
    """One candidate's turn.

    Attributes:
        candidate: its place in the pool.
        alpha: the best coefficient; None where no alpha could reach the incumbent (all were cut short).
        score: of the best mix. attempts: every (alpha, score), in the order of the alphas.
    """

    candidate: int
    alpha: float | None
    accepted: bool
    score: Score | None
    attempts: tuple[tuple[float, Score], ...]


@dataclass(frozen=True)
class SearchTrace:
    """What a search did: start scores (`ticket_bn` is None without BN recalibration), steps, scorings."""

    method: str
    target: int
    alphas: tuple[float, ...]
    ticket: Score
    ticket_bn: Score | None
    steps: tuple[Step, ...]

    @property
    def evaluations(self) -> int:
        """How many states were scored, the target included."""
        return 1 + (self.ticket_bn is not None) + sum(len(step.attempts) for step in self.steps)

    @property
    def not_finite(self) -> int:
        """How many mixes were rejected because their score is not finite."""
        return sum(not math.isfinite(score.nll) for step in self.steps for _, score in step.attempts)

    @property
    def accepted(self) -> tuple[Step, ...]:
        """The steps that made the result."""
        return tuple(step for step in self.steps if step.accepted)


@dataclass(frozen=True)
class Scored:
    """A state that was scored: a mix with the candidate at this place of the pool, or the target itself (None)."""

    candidate: int | None
    alpha: float | None
    score: Score


@dataclass(frozen=True)
class Progress:
    """Where a search stands: what was scored since it was last told, and how many mixes of how many."""

    scored: tuple[Scored, ...]
    incumbent: Score
    done: int
    total: int


OnProgress = Callable[[Progress], None]
Mix = Callable[[float], tuple[State, Mask]]
# Of the alphas, the places scored so far, and the best of them if any reached the incumbent: the places to score next.
Explore = Callable[[Sequence[float], Collection[int], int | None], list[int]]


def pool_tickets(
    pool: Pool,
    score: ScoreFunction,
    *,
    target: int = -1,
    method: str = "greedy",
    alphas: Sequence[float] = PAPER_ALPHAS,
    alpha_search: str = "grid",
    score_as_is: ScoreFunction | None = None,
    ranks: Ranks = ALONE,
    on_progress: OnProgress = lambda progress: None,
) -> tuple[Incumbent, SearchTrace]:
    """Pool tickets into one model at the target's sparsity.

    Args:
        pool: at least two tickets.
        score: scores a state on val, after BN recalibration (see `Scorer`).
        target: place in the pool of the ticket to improve; by default the sparsest.
        method: `greedy` tries every alpha; `average` only 0.5.
        alphas: coefficients in [0, 1], in the order tried; the first of equal scores wins.
        alpha_search: `grid` tries every alpha; `coarse` every second one, then the neighbours of the best.
        score_as_is: scores the target without BN recalibration, so that the search starts from the better of the
            two; None where `score` does not recalibrate.
        ranks: the processes to spread the alphas over. The result is the same however many they are.
        on_progress: called after each round of scorings, on every rank.

    Returns:
        The best model, with exactly as many kept weights as the target, and the trace of the search. Where no
        candidate was accepted the model is the target, with the BatchNorm statistics that score better.

    Raises:
        PoolError: unknown method or alpha search, an alpha outside [0, 1], or no such target.
        RankError: another rank ended.

    Source: Yin et al. 2023, Algorithm 2; the acceptance bar is the target's own score on val.
    """
    if method not in METHODS:
        raise PoolError(f"unknown method {method!r}: expected {' or '.join(METHODS)}")
    if alpha_search not in ALPHA_SEARCHES:
        raise PoolError(f"unknown alpha search {alpha_search!r}: expected {' or '.join(ALPHA_SEARCHES)}")
    if not alphas or not all(0.0 <= alpha <= 1.0 for alpha in alphas):
        raise PoolError(f"alphas must be numbers in [0, 1], found {list(alphas)}")
    if not -len(pool) <= target < len(pool):
        raise PoolError(f"no target {target}: the pool has {len(pool)} tickets")
    target %= len(pool)
    coefficients = alphas_of(method, alphas)
    # Nothing here may hold the target's weights: they are freed when the first candidate is accepted.
    incumbent, ticket, ticket_bn = _start(pool[target], score, score_as_is)
    order = adjacent(target, len(pool))
    total = len(order) * len(coefficients)
    starts = tuple(Scored(None, None, found) for found in (ticket, ticket_bn) if found)
    on_progress(Progress(starts, incumbent.score, 0, total))
    search = _Search(pool, score, coefficients, ALPHA_SEARCHES[alpha_search], ranks, on_progress, total)
    steps: list[Step] = []
    for candidate in order:
        best, step = search.sweep(incumbent, candidate, done=len(steps) * len(coefficients))
        steps.append(step)
        incumbent = best or incumbent
    if score_as_is is None:
        incumbent = replace(incumbent, recalibrated=False)
    return incumbent, SearchTrace(method, target, coefficients, ticket, ticket_bn, tuple(steps))


# What each method tries; None: the alphas asked for.
METHODS: dict[str, tuple[float, ...] | None] = {"greedy": None, "average": (0.5,)}


def alphas_of(method: str, alphas: Sequence[float]) -> tuple[float, ...]:
    """The coefficients that a method tries where `alphas` are asked for."""
    return METHODS[method] or tuple(alphas)


def adjacent(target: int, count: int) -> list[int]:
    """The other places in a pool of `count`, nearest first, the denser one before the sparser at equal distance."""
    return sorted((i for i in range(count) if i != target), key=lambda i: (abs(i - target), i))


def _start(
    ticket: Ticket, score: ScoreFunction, score_as_is: ScoreFunction | None
) -> tuple[Incumbent, Score, Score | None]:
    """The incumbent to beat, the target as it is or recalibrated where that is better; and both scores."""
    if score_as_is is None:
        found = score(ticket.state)
        return Incumbent(ticket.state, ticket.mask, found, recalibrated=False), found, None
    as_is, with_bn = score_as_is(ticket.state), score(ticket.state)
    better = with_bn.correct > as_is.correct
    return Incumbent(ticket.state, ticket.mask, with_bn if better else as_is, recalibrated=better), as_is, with_bn


@dataclass(frozen=True)
class _Search:
    """What stays the same from candidate to candidate."""

    pool: Pool
    score: ScoreFunction
    alphas: tuple[float, ...]
    explore: Explore
    ranks: Ranks
    on_progress: OnProgress
    total: int

    def sweep(self, incumbent: Incumbent, place: int, done: int) -> tuple[Incumbent | None, Step]:
        """Try the alphas of one candidate; the best mix where it scores at least as well as the incumbent, else None.

        The bar lets a scoring stop early without changing any decision: a mix matters only if it reaches the
        incumbent and beats the best of this sweep, which an earlier alpha does with an equal score. A score that is
        not finite is a rejection. The best mix is made again at the end, so that one mix is in memory at a time.
        """
        candidate = self.pool[place].state
        mix = partial(_mix, incumbent.state, candidate, self.pool.prunable, kept_count(incumbent.mask))
        tried: dict[int, Score] = {}
        best: int | None = None

        def bar(i: int) -> int:
            return incumbent.score.correct if best is None else tried[best].correct + (i > best)

        while places := self.explore(self.alphas, tried, best):
            for start in range(0, len(places), self.ranks.count):
                found = self._scores(mix, {i: bar(i) for i in places[start : start + self.ranks.count]})
                tried |= found
                for i, result in sorted(found.items()):
                    if result.complete and result.correct >= bar(i) and math.isfinite(result.nll):
                        best = i
                scored = tuple(Scored(place, self.alphas[i], result) for i, result in found.items())
                self.on_progress(Progress(scored, incumbent.score, done + len(tried), self.total))
        attempts = tuple((self.alphas[i], tried[i]) for i in sorted(tried))
        if best is None:
            return None, Step(place, None, False, None, attempts)
        state, mask = mix(self.alphas[best])
        step = Step(place, self.alphas[best], True, tried[best], attempts)
        return Incumbent(state, mask, tried[best], recalibrated=True), step

    def _scores(self, mix: Mix, bars: dict[int, int]) -> dict[int, Score]:
        """The scores of the mixes at these places of the alphas, with their bars; at most one for each rank."""

        def scoring(place: int, bar: int) -> Score:
            return self.score(mix(self.alphas[place])[0], bar)

        tasks = {rank: partial(scoring, *task) for rank, task in enumerate(bars.items())}
        return dict(zip(bars, self.ranks.share(tasks).values(), strict=True))


def _mix(current: State, candidate: State, prunable: Sequence[str], keep: int, alpha: float) -> tuple[State, Mask]:
    """The mix of two states, pruned to `keep` weights, and its mask."""
    state = interpolate(current, candidate, alpha)
    mask = magnitude_mask({name: state[name] for name in prunable}, keep)
    for name, kept in mask.items():
        state[name].masked_fill_(~kept, 0)  # in place: the mix is ours alone, and a copy would be one state more
    return state, mask


def grid(alphas: Sequence[float], tried: Collection[int], best: int | None) -> list[int]:
    """Every alpha, in the order given."""
    return [i for i in range(len(alphas)) if i not in tried]


def coarse(alphas: Sequence[float], tried: Collection[int], best: int | None) -> list[int]:
    """Every second alpha by size; then the neighbours of the best, until it is the best of its neighbours."""
    by_size = sorted(range(len(alphas)), key=lambda i: alphas[i])
    if not tried:
        return by_size[1::2] or by_size
    if best is None:
        return []
    at = by_size.index(best)
    return [i for i in by_size[max(0, at - 1) : at + 2] if i not in tried]


ALPHA_SEARCHES: dict[str, Explore] = {"grid": grid, "coarse": coarse}
