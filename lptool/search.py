"""The method: greedy interpolation over a pool of tickets (Yin et al. 2023, Algorithm 2).

    target θ;  for each candidate, nearest level first:
        for each alpha:  mix = prune(alpha·θ + (1 − alpha)·candidate);  score mix on val
        the best mix replaces θ where it scores at least as well

The search sees a pool and a function `score(state, bar)`; model, images and BN recalibration are behind that function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lptool.errors import PoolError
from lptool.evaluate import Score, ScoreFunction
from lptool.interpolate import interpolate
from lptool.masks import Mask, State, kept_count, magnitude_mask
from lptool.pools import Pool
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
        score: of the best mix. attempts: every (alpha, score) in the order tried.
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
    def accepted(self) -> tuple[Step, ...]:
        """The steps that made the result."""
        return tuple(step for step in self.steps if step.accepted)


@dataclass(frozen=True)
class Progress:
    """Where a search stands, before each scoring: scoring `done` + 1 of `total`."""

    candidate: int
    alpha: float
    incumbent: Score
    done: int
    total: int


OnProgress = Callable[[Progress], None]


def pool_tickets(
    pool: Pool,
    score: ScoreFunction,
    *,
    target: int = -1,
    method: str = "greedy",
    alphas: Sequence[float] = PAPER_ALPHAS,
    score_as_is: ScoreFunction | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> tuple[Incumbent, SearchTrace]:
    """Pool tickets into one model at the target's sparsity.

    Args:
        pool: at least two tickets.
        score: scores a state on val, after BN recalibration (see `Scorer`).
        target: place in the pool of the ticket to improve; by default the sparsest.
        method: `greedy` tries every alpha; `average` only 0.5.
        alphas: coefficients in [0, 1], in the order tried; the first of equal scores wins.
        score_as_is: scores the target without BN recalibration, so that the search starts from the better of the
            two; None where `score` does not recalibrate.
        on_progress: called before each scoring of a mix.

    Returns:
        The best model, with exactly as many kept weights as the target, and the trace of the search. Where no
        candidate was accepted the model is the target, with the BatchNorm statistics that score better.

    Raises:
        PoolError: unknown method, an alpha outside [0, 1], or no such target.

    Source: Yin et al. 2023, Algorithm 2; the acceptance bar is the target's own score on val.
    """
    if method not in METHODS:
        raise PoolError(f"unknown method {method!r}: expected {' or '.join(METHODS)}")
    if not alphas or not all(0.0 <= alpha <= 1.0 for alpha in alphas):
        raise PoolError(f"alphas must be numbers in [0, 1], found {list(alphas)}")
    if not -len(pool) <= target < len(pool):
        raise PoolError(f"no target {target}: the pool has {len(pool)} tickets")
    target %= len(pool)
    coefficients = METHODS[method] or tuple(alphas)
    ticket, ticket_bn = _scores_of_target(pool[target].state, score, score_as_is)
    model, steps = _greedy(pool, target, (ticket, ticket_bn), score, coefficients, on_progress)
    if score_as_is is None:
        model = replace(model, recalibrated=False)
    return model, SearchTrace(method, target, coefficients, ticket, ticket_bn, steps)


# What each method tries; None: the alphas asked for.
METHODS: dict[str, tuple[float, ...] | None] = {"greedy": None, "average": (0.5,)}


def adjacent(target: int, count: int) -> list[int]:
    """The other places in a pool of `count`, nearest first, the denser one before the sparser at equal distance."""
    return sorted((i for i in range(count) if i != target), key=lambda i: (abs(i - target), i))


def _scores_of_target(
    state: State, score: ScoreFunction, score_as_is: ScoreFunction | None
) -> tuple[Score, Score | None]:
    """With the BatchNorm statistics it has, and recalibrated (None where `score` does not recalibrate)."""
    return (score(state), None) if score_as_is is None else (score_as_is(state), score(state))


def _start(ticket: Ticket, as_is: Score, with_bn: Score | None) -> Incumbent:
    """The incumbent to beat: the target as it is, or recalibrated where that is better."""
    better = with_bn is not None and with_bn.correct > as_is.correct
    return Incumbent(ticket.state, ticket.mask, with_bn if better and with_bn else as_is, recalibrated=better)


def _greedy(
    pool: Pool,
    target: int,
    scores: tuple[Score, Score | None],
    score: ScoreFunction,
    alphas: tuple[float, ...],
    on_progress: OnProgress,
) -> tuple[Incumbent, tuple[Step, ...]]:
    incumbent = _start(pool[target], *scores)  # nothing else may hold the target: it is freed when it is replaced
    steps: list[Step] = []
    order = adjacent(target, len(pool))
    for candidate in order:
        progress = Progress(candidate, alphas[0], incumbent.score, len(steps) * len(alphas), len(order) * len(alphas))
        best, step = _sweep(pool, incumbent, alphas, score, progress, on_progress)
        steps.append(step)
        incumbent = best or incumbent
    return incumbent, tuple(steps)


def _sweep(
    pool: Pool,
    incumbent: Incumbent,
    alphas: tuple[float, ...],
    score: ScoreFunction,
    progress: Progress,
    on_progress: OnProgress,
) -> tuple[Incumbent | None, Step]:
    """Try every alpha of one candidate; the best mix where it scores at least as well as the incumbent, else None.

    The bar lets a scoring stop early without changing any decision: a mix matters only if it reaches the incumbent
    and beats the best of this sweep. A score that is not finite is a rejection. The best mix is made again at the end,
    so that one mix is in memory at a time.
    """
    candidate = pool[progress.candidate].state
    keep = kept_count(incumbent.mask)

    def mix(alpha: float) -> tuple[State, Mask]:
        state = interpolate(incumbent.state, candidate, alpha)
        mask = magnitude_mask({name: state[name] for name in pool.prunable}, keep)
        for name, kept in mask.items():
            state[name].masked_fill_(~kept, 0)  # in place: the mix is ours alone, and a copy would be one state more
        return state, mask

    best: tuple[float, Score] | None = None
    attempts = []
    for tried, alpha in enumerate(alphas):
        on_progress(replace(progress, alpha=alpha, done=progress.done + tried))
        bar = incumbent.score.correct if best is None else best[1].correct + 1
        result = score(mix(alpha)[0], bar)
        attempts.append((alpha, result))
        if result.complete and result.correct >= bar and math.isfinite(result.nll):
            best = alpha, result
    if best is None:
        return None, Step(progress.candidate, None, False, None, tuple(attempts))
    state, mask = mix(best[0])
    step = Step(progress.candidate, best[0], True, best[1], tuple(attempts))
    return Incumbent(state, mask, best[1], recalibrated=True), step
