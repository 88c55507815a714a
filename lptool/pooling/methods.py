"""The methods: each a small function from a search and its first incumbent to an outcome.

`greedy` and `average` are of Yin et al. 2023, Algorithm 2; the others are the usual ways to average weights, brought to
sparse networks: whatever is averaged is pruned to the target's number of weights by magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module

from lptool.checkpoints.pool import Pool
from lptool.errors import PoolError
from lptool.pooling.catalogue import MASKS, METHODS, PAPER_ALPHAS, alphas_of, methods_of, mixes_at_most
from lptool.pooling.choice import BY_ACCURACY, Choice
from lptool.pooling.mixing import interpolate
from lptool.pooling.outcome import Incumbent, OnProgress, Outcome, Progress, Scored, SearchTrace, Step, steps_to
from lptool.pooling.search import (
    ALPHA_SEARCHES,
    LEARNING,
    GradientFunction,
    Learning,
    Rebuilder,
    Search,
    pruned_ticket,
)
from lptool.ranks import ALONE, Ranks
from lptool.scoring.score import Score, ScoreFunction


def greedy(search: Search, start: Incumbent, alphas: Sequence[float] | None = None, name: str = "greedy") -> Outcome:
    """Mix in one candidate after the other, nearest first, each with the alpha that is best on val.

    Source: Yin et al. 2023, Algorithm 2. A pass that accepts no candidate is the last one.
    """
    incumbent, steps = start, list[Step]()
    for number in range(1, search.passes + 1):
        before = incumbent
        for candidate in search.order:
            best, step = search.sweep(incumbent, candidate, alphas or search.alphas)
            steps.append(replace(step, number=number))
            incumbent = best or incumbent
        if incumbent is before:
            break
    return Outcome(name, incumbent, tuple(steps))


def average(search: Search, start: Incumbent) -> Outcome:
    """Like `greedy`, with alpha 0.5 only. Source: Yin et al. 2023, section 3.2."""
    return greedy(search, start, METHODS["average"].alphas, "average")


def swa(search: Search, start: Incumbent) -> Outcome:
    """The running mean, from the target outwards, pruned at each step. Source: Izmailov et al. 2018, algorithm 1."""
    return _without_choice(search, start, "swa", lambda members: members / (members + 1))


def ema(search: Search, start: Incumbent) -> Outcome:
    """`average ← decay·average + (1 − decay)·ticket`, from the target outwards, pruned at each step."""
    return _without_choice(search, start, "ema", lambda members: search.decay)


def uniform(search: Search, start: Incumbent) -> Outcome:
    """The mean of all tickets, pruned once at the end. Source: Wortsman et al. 2022, section 2 (uniform soup)."""
    return _without_choice(search, start, "uniform", lambda members: members / (members + 1), prune_each=False)


def _without_choice(
    search: Search, start: Incumbent, name: str, alpha_of: Callable[[int], float], *, prune_each: bool = True
) -> Outcome:
    """Mix in every candidate, nearest first, and score the last mix alone.

    Args:
        alpha_of: the weight of the mix so far, by how many tickets are in it.
        prune_each: prune after each candidate, or once at the end.
    """
    alphas = {place: alpha_of(members) for members, place in enumerate(search.order, start=1)}
    state = search.pool[search.target].state
    for candidate, alpha in alphas.items():
        state = interpolate(state, search.pool[candidate].state, alpha)
        if prune_each:
            search.prune(state)
    state, mask = search.prune(state)
    score = search.score_once(state, candidate, alpha, start.score)
    finite = math.isfinite(score.nll)
    best = Incumbent(state, mask, score, recalibrated=True) if finite else start
    return Outcome(name, best, steps_to(score, alphas, accepted=finite))


def soup(search: Search, start: Incumbent) -> Outcome:
    """The mean of the target and those candidates that make it no worse, tried in the order of their own scores.

    A candidate by itself is scored pruned to the result's sparsity. The mean is taken of the tickets as they are, and
    pruned for scoring.

    Source: Wortsman et al. 2022, recipe 1 (greedy soup).
    """
    alone = {place: _pruned_alone(search, place, start.score) for place in search.order}
    ranking = sorted(alone, key=lambda place: -search.choice.merit(alone[place]))
    mean, incumbent, steps = search.pool[search.target].state, start, list[Step]()
    for candidate in ranking:
        members = 1 + sum(step.accepted for step in steps)
        alpha = members / (members + 1)
        grown = interpolate(mean, search.pool[candidate].state, alpha)
        # Pruned in place, so in a copy: the mean itself stays whole.
        state, mask = search.prune(dict(grown) | {name: grown[name].clone() for name in search.pool.prunable})
        score = search.score_once(state, candidate, alpha, incumbent.score)
        accepted = search.choice.replaces(score, incumbent.score)
        steps.append(Step(candidate, alpha, accepted, score, ((alpha, score),)))
        if accepted:
            mean, incumbent = grown, Incumbent(state, mask, score, recalibrated=True)
    return Outcome("soup", incumbent, tuple(steps), ranked=tuple(alone.values()))


def _pruned_alone(search: Search, place: int, incumbent: Score) -> Score:
    state = search.pool[place].state
    return search.score_once(search.prune(state)[0], place, None, incumbent)


def function_of(name: str) -> Callable[[Search, Incumbent], Outcome]:
    """The function of a method of the catalogue."""
    module = import_module(f"lptool.pooling.{METHODS[name].module}")  # by its name, as the rows know no torch
    return getattr(module, name)  # type: ignore[no-any-return]


def pool_tickets(
    pool: Pool,
    score: ScoreFunction,
    *,
    target: int = -1,
    keep: int | None = None,
    method: str = "greedy",
    choice: Choice = BY_ACCURACY,
    alphas: Sequence[float] = PAPER_ALPHAS,
    alpha_search: str = "grid",
    passes: int = 1,
    decay: float = 0.9,
    learning: Learning = LEARNING,
    gradient: GradientFunction | None = None,
    rebuilder: Rebuilder | None = None,
    mask: str = "start",
    score_as_is: ScoreFunction | None = None,
    ranks: Ranks = ALONE,
    on_progress: OnProgress = lambda progress: None,
) -> tuple[Incumbent, SearchTrace]:
    """Pool tickets into one model.

    >>> import torch
    >>> from lptool import Pool, Score, Ticket
    >>> dense = Ticket({"w": torch.tensor([2.0, 1.0])}, mask={})
    >>> sparse = Ticket({"w": torch.tensor([0.0, 3.0])}, mask={"w": torch.tensor([False, True])})
    >>> def score(state, bar=-math.inf):  # of 10 images: the more right, the nearer the weights are to [0, 2]
    ...     distance = float((state["w"] - torch.tensor([0.0, 2.0])).norm())
    ...     return Score(correct=round(10 - distance), nll=distance, n=10)
    >>> best, trace = pool_tickets(Pool.of([dense, sparse]), score, alphas=(0.25, 0.5, 0.75))
    >>> best.state["w"], best.mask["w"], best.score.correct  # [1, 2] = 0.5·sparse + 0.5·dense, pruned to one weight
    (tensor([0., 2.]), tensor([False,  True]), 10)
    >>> [(step.candidate, step.alpha, step.accepted) for step in trace.steps]
    [(0, 0.5, True)]

    Args:
        pool: at least two tickets, aligned: tensors of the same names and shapes, on one device.
        score: scores a state dict on val, after BN recalibration (see `Scorer`): images right, and the mean negative
            log-likelihood in nats. It may stop early, with `complete=False`, where `bar` is out of reach (see
            `Choice`).
        target: place in the pool of the ticket to improve; by default the sparsest.
        keep: how many prunable weights the result keeps, at most as many as the target; by default as many.
        method: one of the catalogue (see docs/method.md), or `auto` for those in it whose needs are given, each from
            the best model so far.
        choice: how models are compared on val; a `score` that stops early must do so by the same.
        alphas: coefficients in [0, 1], in the order tried; the first of equal scores wins.
        alpha_search: `grid` tries every alpha; `coarse` every second one, then the neighbours of the best.
        passes: how often `greedy` and `average` go through the candidates.
        decay: of `ema`, in [0, 1].
        learning, gradient: of `learned`.
        rebuilder: of `reconstruct`; without one, `auto` leaves that out.
        mask: of `reconstruct`: that of the `start`, or chosen anew (`refit`) with as many weights in each layer.
        score_as_is: scores a state dict with the BN statistics it has, so that the search starts from the better of
            target and recalibrated target; None where `score` does not recalibrate.
        ranks: the processes to spread the alphas over. The result is the same however many they are.
        on_progress: called after each round of scorings, on every rank.

    Returns:
        The best model, with exactly `keep` kept weights, and the trace of the search. Where no candidate was accepted
        the model is the target, with the BatchNorm statistics that score better. The result of `swa`, `ema`, `uniform`
        and `learned` is what they make, better than the target or not: compare its score with `trace.start`.

    Raises:
        PoolError: an unknown or impossible option, `learned` without a `gradient` or with one that is not finite,
            or `reconstruct` without a `rebuilder`.
        RankError: another rank ended.

    Source: Yin et al. 2023, Algorithm 2; the acceptance bar is the target's own score on val.
    """
    given = {"gradient": gradient, "rebuilder": rebuilder}
    names = methods_of(method, [name for name, each in given.items() if each is not None])
    _check(pool, target, keep, alphas, alpha_search, passes, decay, mask)
    target %= len(pool)
    keep = pool.kept(target) if keep is None else keep
    tried = alphas_of(method, alphas)
    total = mixes_at_most(names, len(pool), alphas, passes) + learning.steps * ("learned" in names)
    search = Search(
        pool, target, keep, score, choice, tried, ALPHA_SEARCHES[alpha_search], passes, decay, learning, gradient,
        ranks, on_progress, total, rebuilder, mask,
    )  # fmt: skip
    start, ticket, ticket_bn = _start(search, score_as_is)
    outcomes = list(_in_turn(names, search, start))
    best = next((outcome for outcome in reversed(outcomes) if outcome.improved), outcomes[0])
    incumbent = best.best if score_as_is else replace(best.best, recalibrated=False)
    scores = [score for outcome in outcomes for score in outcome.scores]
    return incumbent, SearchTrace(
        method=method,
        chosen=best.method,
        target=target,
        alphas=tried,
        ticket=ticket,
        ticket_bn=ticket_bn,
        start=start.score,
        steps=best.steps,
        coefficients=best.coefficients,
        settings=best.settings,
        fits=best.fits,
        outcomes={outcome.method: outcome.best.score for outcome in outcomes},
        evaluations=1 + (ticket_bn is not None) + len(scores),
        not_finite=sum(not math.isfinite(score.nll) for score in scores),
    )


def _in_turn(names: Sequence[str], search: Search, start: Incumbent) -> Iterator[Outcome]:
    """What each method makes of the best model so far; what that was made by is kept with it."""
    settings: dict[str, float] = {}
    for name in names:
        outcome = function_of(name)(search, start)
        if outcome.improved:
            start, settings = outcome.best, {**settings, **outcome.settings}
            outcome = replace(outcome, settings=settings)
        yield outcome


def _check(
    pool: Pool,
    target: int,
    keep: int | None,
    alphas: Sequence[float],
    alpha_search: str,
    passes: int,
    decay: float,
    mask: str,
) -> None:
    if mask not in MASKS:
        raise PoolError(f"unknown mask {mask!r}: expected {' or '.join(MASKS)}")
    if alpha_search not in ALPHA_SEARCHES:
        raise PoolError(f"unknown alpha search {alpha_search!r}: expected {' or '.join(ALPHA_SEARCHES)}")
    if not alphas or not all(0.0 <= alpha <= 1.0 for alpha in alphas):
        raise PoolError(f"expected numbers in [0, 1], found {list(alphas)}", "alphas")
    if not 0.0 <= decay <= 1.0:
        raise PoolError(f"expected a number in [0, 1], found {decay}", "decay")
    if passes < 1:
        raise PoolError(f"expected 1 or more, found {passes}", "passes")
    if not -len(pool) <= target < len(pool):
        raise PoolError(f"no target {target}: the pool has {len(pool)} tickets")
    if keep is not None and not min(1, pool.kept(target)) <= keep <= pool.kept(target):  # 0 of files without masks
        raise PoolError(f"cannot keep {keep} weights: the target has {pool.kept(target)}")


def _start(search: Search, score_as_is: ScoreFunction | None) -> tuple[Incumbent, Score, Score | None]:
    """The first incumbent: the target as it is, or with BN recalibrated where that is better; and both scores."""
    state, mask = pruned_ticket(search.pool, search.target, search.keep)
    if score_as_is is None:
        found, with_bn = search.score(state), None
        incumbent = Incumbent(state, mask, found, recalibrated=False)
    else:
        found, with_bn = score_as_is(state), search.score(state)
        better = search.choice.standing(with_bn) > search.choice.standing(found)  # of equals what changes least
        incumbent = Incumbent(state, mask, with_bn if better else found, recalibrated=better)
    starts = tuple(Scored(None, None, score) for score in (found, with_bn) if score)
    search.on_progress(Progress(starts, incumbent.score, 0, search.total))
    return incumbent, found, with_bn
