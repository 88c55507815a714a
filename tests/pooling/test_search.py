"""The search, against the paper's Algorithm 2 written again in plain lists and loops.

Scores here are whole numbers, coarse on purpose, so that equal scores are everywhere: between alphas, and with the
incumbent. Weights of the exact tests are multiples of 1/4 and alphas of 1/4, so float32 arithmetic is exact, and
magnitudes are tied too.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lptool.checkpoints.masks import kept_count, magnitude_prune
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.pool import Pool
from lptool.checkpoints.ticket import Ticket
from lptool.errors import PoolError
from lptool.pooling.catalogue import PAPER_ALPHAS
from lptool.pooling.choice import BY_ACCURACY, Choice
from lptool.pooling.methods import pool_tickets
from lptool.pooling.outcome import Incumbent, Progress, SearchTrace
from lptool.pooling.scorer import Scorer
from lptool.pooling.search import adjacent, coarse
from lptool.ranks import Ranks
from lptool.scoring.batching import BatchSize
from lptool.scoring.score import Batch, Score, ScoreFunction

Lists = dict[str, list[float]]
Plain = Callable[[Lists], int]

SHAPES = {"conv": (2, 3), "bias": (3,), "fc": (4,)}
PRUNABLE = ("conv", "fc")
IMAGES = 40
ALPHAS = (0.25, 0.5, 0.75)
SEEDS = range(80)


def random_pool(seed: int, count: int, *, dtype: torch.dtype = torch.float32, exact: bool = True) -> Pool:
    """Tickets ever sparser, the first one dense; masks are not nested, as the search does not need it."""
    generator = torch.Generator().manual_seed(seed)
    tickets = []
    for level in range(count):
        state: dict[str, Tensor] = {
            name: torch.randint(-8, 9, shape, generator=generator).to(dtype) / 4
            if exact
            else torch.randn(shape, generator=generator, dtype=dtype)
            for name, shape in SHAPES.items()
        }
        noise = {name: torch.rand(SHAPES[name], generator=generator) for name in PRUNABLE}
        _, mask = magnitude_prune(noise, PRUNABLE, 10 - 8 * level // count)
        steps = {"steps": torch.randint(100, (), generator=generator)}
        tickets.append(Ticket(state | steps, mask, Metadata(level=level, prunable=PRUNABLE)))
    return Pool.of(tickets)


def as_lists(state: Mapping[str, Tensor]) -> Lists:
    return {name: t.flatten().tolist() for name, t in state.items()}


def quadratic(seed: int, coarseness: int = 3) -> Plain:
    """Images right: fewer, in steps, the further the weights are from a random goal."""
    chance = random.Random(seed)
    goal = {name: [chance.uniform(-2, 2) for _ in range(12)] for name in SHAPES}

    def plain(state: Lists) -> int:
        distance = sum((x - g) ** 2 for name in SHAPES for x, g in zip(state[name], goal[name], strict=False))
        return max(0, IMAGES - int(distance) // coarseness)

    return plain


@dataclass
class Scoring:
    """A score function over `plain`, that counts its calls.

    `gives_up` says, of the images right, whether scoring stops where the bar is out of reach; the score it then
    gives speaks of some images only, all of them right, so that reading it as a whole one would be noticed.
    """

    plain: Plain
    gives_up: Callable[[int], bool] = lambda correct: False
    bars: list[int] = field(default_factory=list)
    nll: Callable[[Lists], float] = lambda state: 1.0

    def __call__(self, state: Mapping[str, Tensor], bar: int = 0) -> Score:
        self.bars.append(bar)
        weights = as_lists(state)
        correct = self.plain(weights)
        if correct < bar and self.gives_up(correct):
            return Score(correct, 0.0, max(1, correct), complete=False)
        return Score(correct, self.nll(weights), IMAGES)


IGNORES_THE_BAR = lambda correct: False  # noqa: E731
HONOURS_THE_BAR = lambda correct: True  # noqa: E731
SOMETIMES = lambda correct: correct % 2 == 0  # noqa: E731


@dataclass
class Found:
    """What the plain search finds: weights, (candidate, alpha, images right) of each step accepted, ties met."""

    state: Lists
    accepted: list[tuple[int, float, int]]
    tied_alphas: int = 0
    tied_incumbent: int = 0
    less_likely: int = 0


def likelihood(state: Lists) -> float:
    """A mean loss that takes three values, whatever the images right."""
    return 1 + int(sum(4 * x for name in SHAPES for x in state[name])) % 3


def plain_search(
    pool: Pool,
    target: int,
    alphas: Sequence[float],
    start: int,
    plain: Plain,
    nll: Callable[[Lists], float] = lambda state: 1.0,
) -> Found:
    """Yin et al. 2023, Algorithm 2, as the design fixes it: a tie must not raise the NLL."""
    theta = as_lists(pool[target].state)
    keep = sum(sum(kept) for kept in as_lists(pool[target].mask).values())
    found = Found(theta, [])
    order = []
    for distance in range(1, len(pool)):
        order += [i for i in (target - distance, target + distance) if 0 <= i < len(pool)]
    bar = start
    for candidate in order:
        other = as_lists(pool[candidate].state)
        tried = []
        for alpha in alphas:
            mix = {
                name: [alpha * x + (1 - alpha) * y for x, y in zip(theta[name], other[name], strict=True)]
                for name in SHAPES
            }
            places = [(name, i) for name in PRUNABLE for i in range(len(mix[name]))]
            for name, i in sorted(places, key=lambda place: -abs(mix[place[0]][place[1]]))[int(keep) :]:
                mix[name][i] = 0.0
            mix["steps"] = theta["steps"]
            tried.append((plain(mix), alpha, mix))
        best = max(score for score, _, _ in tried)
        _, alpha, mix = next(trial for trial in tried if trial[0] == best)
        found.tied_alphas += [score for score, _, _ in tried].count(best) > 1
        found.less_likely += best == bar and nll(mix) > nll(theta)
        if best > bar or (best == bar and nll(mix) <= nll(theta)):
            found.tied_incumbent += best == bar
            found.accepted.append((candidate, alpha, best))
            bar, theta = best, mix
    found.state = theta
    return found


def drawn(seed: int) -> tuple[Pool, int, tuple[float, ...], Plain, Plain]:
    """A pool, a target, alphas in some order, and what counts the images right with and without recalibration."""
    chance = random.Random(seed)
    count = chance.randint(2, 6)
    alphas = tuple(chance.sample((0.0, *ALPHAS, 1.0), chance.randint(1, 5)))
    return random_pool(seed, count), chance.randrange(count), alphas, quadratic(seed), quadratic(seed + 1000)


@pytest.mark.parametrize("gives_up", [IGNORES_THE_BAR, HONOURS_THE_BAR, SOMETIMES], ids=["ignores", "honours", "some"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_search_is_algorithm_2_whether_or_not_the_score_honours_the_bar(
    seed: int, gives_up: Callable[[int], bool]
) -> None:
    pool, target, alphas, plain, plain_as_is = drawn(seed)
    before = [as_lists(ticket.state) for ticket in pool]
    ticket = before[target]
    start = max(plain(ticket), plain_as_is(ticket))
    expected = plain_search(pool, target, alphas, start, plain, likelihood)
    score, as_is = Scoring(plain, gives_up, nll=likelihood), Scoring(plain_as_is, gives_up, nll=likelihood)

    model, trace = pool_tickets(pool, score, target=target, alphas=alphas, score_as_is=as_is)

    assert [(s.candidate, s.alpha, s.score and s.score.correct) for s in trace.accepted] == expected.accepted
    assert as_lists(model.state) == expected.state
    assert model.score.correct == (expected.accepted[-1][2] if expected.accepted else start)
    assert model.score.complete
    assert kept_count(model.mask) == pool.kept(target)
    assert not any(model.state[name][~model.mask[name]].any() for name in PRUNABLE)
    assert tuple(model.mask) == PRUNABLE
    assert (trace.target, trace.alphas) == (target, alphas)
    assert (trace.ticket.correct, trace.ticket_bn and trace.ticket_bn.correct) == (plain_as_is(ticket), plain(ticket))
    assert trace.evaluations == len(score.bars) + len(as_is.bars)
    assert [as_lists(ticket.state) for ticket in pool] == before


def test_the_pools_above_are_full_of_ties_and_of_both_outcomes() -> None:
    found = []
    for seed in SEEDS:
        pool, target, alphas, plain, as_is = drawn(seed)
        ticket = as_lists(pool[target].state)
        found.append(plain_search(pool, target, alphas, max(plain(ticket), as_is(ticket)), plain, likelihood))
    assert sum(f.tied_alphas for f in found) > 20
    assert sum(f.tied_incumbent for f in found) > 10
    assert sum(f.less_likely for f in found) > 10
    assert sum(not f.accepted for f in found) > 10
    assert sum(len(f.accepted) > 1 for f in found) > 10


@pytest.mark.parametrize("seed", range(20))
def test_the_search_is_algorithm_2_with_the_coefficients_of_the_paper(seed: int) -> None:
    """Weights are any float64 here, so they agree but for rounding."""
    pool, plain = random_pool(seed, 4, dtype=torch.float64, exact=False), quadratic(seed, 1)
    target = seed % 4
    expected = plain_search(pool, target, PAPER_ALPHAS, plain(as_lists(pool[target].state)), plain)
    model, trace = pool_tickets(pool, Scoring(plain, HONOURS_THE_BAR), target=target)
    assert [(s.candidate, s.alpha, s.score and s.score.correct) for s in trace.accepted] == expected.accepted
    for name, values in as_lists(model.state).items():
        assert values == pytest.approx(expected.state[name], rel=1e-12, abs=1e-12)
    assert kept_count(model.mask) == pool.kept(target)
    assert trace.ticket_bn is None


def test_the_coefficients_are_those_of_the_paper() -> None:
    assert PAPER_ALPHAS == (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@pytest.mark.parametrize(
    ("target", "count", "order"),
    [(3, 7, [2, 4, 1, 5, 0, 6]), (0, 4, [1, 2, 3]), (3, 4, [2, 1, 0]), (1, 5, [0, 2, 3, 4]), (0, 1, [])],
)
def test_candidates_come_nearest_first_the_denser_before_the_sparser(target: int, count: int, order: list[int]) -> None:
    assert adjacent(target, count) == order


def two_by_two() -> Pool:
    """Dense [[4, 3], [2, 1]] and sparse [[0, 1], [0, 5]], with a count each."""
    dense = {"w": torch.tensor([[4.0, 3.0], [2.0, 1.0]]), "steps": torch.tensor(10)}
    sparse = {"w": torch.tensor([[0.0, 1.0], [0.0, 5.0]]), "steps": torch.tensor(20)}
    mask = {"w": torch.tensor([[False, True], [False, True]])}
    return Pool.of([Ticket(dense, {}, Metadata(level=0)), Ticket(sparse, mask, Metadata(level=1))])


def never_worse(state: Mapping[str, Tensor], bar: int = 0) -> Score:
    return Score(1, 0.5, 2)


def test_by_hand_a_sparse_target_keeps_its_count_of_weights() -> None:
    """The mean is [[2, 2], [1, 3]]; of the two weights kept one is 3, and of the tied twos the first."""
    model, trace = pool_tickets(two_by_two(), never_worse, method="average")
    assert model.state["w"].tolist() == [[2.0, 0.0], [0.0, 3.0]]
    assert model.mask["w"].tolist() == [[True, False], [False, True]]
    assert model.state["steps"].item() == 20
    assert (trace.target, trace.evaluations, len(trace.accepted)) == (1, 2, 1)


def test_by_hand_a_dense_target_is_not_pruned() -> None:
    model, _ = pool_tickets(two_by_two(), never_worse, method="average", target=0)
    assert model.state["w"].tolist() == [[2.0, 2.0], [1.0, 3.0]]
    assert model.mask["w"].all()
    assert model.state["steps"].item() == 10


@pytest.mark.parametrize("seed", range(10))
def test_average_is_greedy_with_alpha_one_half_only(seed: int) -> None:
    pool, target, _, plain, _ = drawn(seed)
    average, trace = pool_tickets(pool, Scoring(plain), target=target, method="average", alphas=ALPHAS)
    greedy, _ = pool_tickets(pool, Scoring(plain), target=target, method="greedy", alphas=(0.5,))
    assert (trace.method, trace.alphas) == ("average", (0.5,))
    assert all([alpha for alpha, _ in step.attempts] == [0.5] for step in trace.steps)
    assert as_lists(average.state) == as_lists(greedy.state)


def constant(correct: int) -> ScoreFunction:
    return Scoring(lambda state: correct)


@pytest.mark.parametrize(("as_is", "with_bn", "recalibrated"), [(7, 5, False), (5, 7, True), (6, 6, False)])
def test_the_search_starts_from_the_better_of_ticket_and_ticket_with_bn(
    as_is: int, with_bn: int, recalibrated: bool
) -> None:
    """No mix is better here, so the start is what comes out: the target's own weights and mask."""
    pool = two_by_two()
    ticket = as_lists(pool[1].state)
    score = Scoring(lambda state: with_bn if state == ticket else 4)
    model, trace = pool_tickets(pool, score, alphas=ALPHAS, score_as_is=constant(as_is))
    assert model.recalibrated is recalibrated
    assert model.score.correct == max(as_is, with_bn)
    assert (trace.ticket.correct, trace.ticket_bn and trace.ticket_bn.correct) == (as_is, with_bn)
    assert as_lists(model.state) == ticket
    assert as_lists(model.mask) == as_lists(pool[1].mask)
    assert trace.accepted == ()
    assert [(step.alpha, step.score, len(step.attempts)) for step in trace.steps] == [(None, None, 3)]


@pytest.mark.parametrize(("start", "accepted"), [(5, True), (6, True), (7, False)])
def test_a_mix_as_good_as_the_incumbent_is_accepted_and_a_worse_one_is_not(start: int, accepted: bool) -> None:
    _, trace = pool_tickets(two_by_two(), constant(6), alphas=ALPHAS, score_as_is=constant(start))
    better_start = max(start, 6)
    assert bool(trace.accepted) == (better_start == 6) == accepted


@pytest.mark.parametrize(("nll", "accepted"), [(0.9, True), (1.0, True), (1.1, False)])
def test_a_tie_that_raises_the_nll_is_rejected(nll: float, accepted: bool) -> None:
    """The first alpha ties; later ones, with a lower NLL, are no better by images right and are not looked at."""
    mixes = iter([Score(6, nll, IMAGES), *[Score(6, 0.1, IMAGES)] * 2])
    ticket = as_lists(two_by_two()[1].state)
    score = lambda state, bar=0: Score(6, 1.0, IMAGES) if as_lists(state) == ticket else next(mixes)  # noqa: E731
    _, trace = pool_tickets(two_by_two(), score, alphas=ALPHAS)
    assert [(step.accepted, step.alpha) for step in trace.steps] == [(accepted, ALPHAS[0] if accepted else None)]


def test_of_alphas_that_score_the_same_the_first_tried_wins() -> None:
    for alphas in (ALPHAS, ALPHAS[::-1]):
        _, trace = pool_tickets(two_by_two(), never_worse, alphas=alphas)
        assert [step.alpha for step in trace.steps] == [alphas[0]]


def test_a_mix_accepted_with_recalibration_asks_for_it_again() -> None:
    model, _ = pool_tickets(two_by_two(), constant(6), score_as_is=constant(5))
    assert model.recalibrated


def test_progress_is_told_after_each_scoring() -> None:
    pool, score = random_pool(0, 4), Scoring(quadratic(0))
    told: list[Progress] = []
    scored_before: list[int] = []

    def on_progress(progress: Progress) -> None:
        told.append(progress)
        scored_before.append(len(score.bars))

    _, trace = pool_tickets(pool, score, target=1, alphas=ALPHAS, on_progress=on_progress)
    scored = [one for progress in told for one in progress.scored]
    expected = [(None, None), *((c, alpha) for c in (0, 2, 3) for alpha in ALPHAS)]
    assert [(one.candidate, one.alpha) for one in scored] == expected
    assert [(p.done, p.total) for p in told] == [(i, 9) for i in range(10)]
    assert scored_before == list(range(1, 11))
    assert [one.score for one in scored[1:]] == [score for step in trace.steps for _, score in step.attempts]
    assert told[0].incumbent == trace.ticket == scored[0].score


def test_a_target_counts_from_the_end_as_places_of_a_sequence_do() -> None:
    pool, score = random_pool(1, 4), Scoring(quadratic(1))
    assert [pool_tickets(pool, score, target=t, alphas=ALPHAS)[1].target for t in (-1, -4, 2)] == [3, 0, 2]
    assert pool_tickets(pool, score, alphas=ALPHAS)[1].target == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gredy"}, "unknown method 'gredy': expected greedy, average, window, .* or auto"),
        ({"alphas": ()}, r"alphas: expected numbers in \[0, 1\], found \[\]"),
        ({"alphas": (0.5, 1.01)}, r"alphas: expected .* found \[0.5, 1.01\]"),
        ({"alphas": (-0.01,)}, r"alphas: expected .* found \[-0.01\]"),
        ({"alphas": (float("nan"),)}, r"alphas: expected .* found \[nan\]"),
        ({"alpha_search": "fine"}, "unknown alpha search 'fine': expected grid or coarse"),
        ({"target": 2}, "no target 2: the pool has 2 tickets"),
        ({"target": -3}, "no target -3: the pool has 2 tickets"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_scored(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PoolError, match=message):
        pool_tickets(two_by_two(), lambda state, bar=0: pytest.fail("a state was scored"), **options)


def test_without_recalibration_in_the_score_the_result_asks_for_none() -> None:
    """A mix that was scored with the statistics it has must be written with them."""
    tickets = [Ticket({"w": torch.tensor([[value, 1.0]])}, {}) for value in (0.0, 1.0)]

    def score(state: Mapping[str, Tensor], bar: int = 0) -> Score:
        return Score(int(10 * state["w"][0, 0]), 0.0, 10)

    alone, trace = pool_tickets(Pool.of(tickets), score, target=0, alphas=(0.5,))
    assert trace.accepted
    assert not alone.recalibrated
    both, _ = pool_tickets(Pool.of(tickets), score, target=0, alphas=(0.5,), score_as_is=score)
    assert both.recalibrated


@pytest.mark.parametrize("nll", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_a_rejection(nll: float) -> None:
    """A mix whose logits overflow may still get images right by luck."""
    tickets = [Ticket({"w": torch.tensor([[value, 1.0]])}, {}) for value in (0.0, 1.0)]

    def score(state: Mapping[str, Tensor], bar: int = 0) -> Score:
        return Score(1, 0.0, 10) if state["w"][0, 0] == 0 else Score(9, nll, 10)

    model, trace = pool_tickets(Pool.of(tickets), score, target=0)
    assert trace.accepted == ()
    assert trace.not_finite == len(PAPER_ALPHAS)
    assert model.score.correct == 1


class Together(Ranks):
    """Several ranks in one process: each task is run here, all of a round before any result is looked at."""

    def share(self, tasks: Mapping[int, Callable[[], Any]]) -> dict[int, Any]:
        assert len(tasks) <= self.count
        return {key: task() for key, task in tasks.items()}

    def agree(self, task: Callable[[], Any]) -> Any:
        return task()


@pytest.mark.parametrize("gives_up", [IGNORES_THE_BAR, HONOURS_THE_BAR, SOMETIMES], ids=["ignores", "honours", "some"])
@pytest.mark.parametrize("alpha_search", ["grid", "coarse"])
@pytest.mark.parametrize("seed", range(10))
def test_the_number_of_ranks_changes_nothing(seed: int, alpha_search: str, gives_up: Callable[[int], bool]) -> None:
    pool, target, alphas, plain, _ = drawn(seed)
    found = []
    for count in (1, 2, 3, 8):
        model, trace = pool_tickets(
            pool,
            Scoring(plain, gives_up),
            target=target,
            alphas=alphas,
            alpha_search=alpha_search,
            ranks=Together(0, count),
        )
        steps = [(step.candidate, step.alpha, step.accepted, step.score) for step in trace.steps]
        found.append((steps, as_lists(model.state), model.score, trace.evaluations))
    assert found[1:] == found[:-1]


def test_coarse_brackets_and_refines() -> None:
    """Every second alpha by size; then both neighbours of the best; then on, as long as a neighbour is better."""
    alphas = (0.9, 0.1, 0.5, 0.3, 0.7)  # by size: places 1, 3, 2, 4, 0
    assert coarse(alphas, (), None) == [3, 4]
    assert coarse(alphas, {3, 4}, None) == []
    assert coarse(alphas, {3, 4}, 3) == [1, 2]
    assert coarse(alphas, {3, 4, 1, 2}, 2) == []
    assert coarse(alphas, {3, 4, 1, 2}, 1) == []
    assert coarse(alphas, {3, 4, 2}, 4) == [0]
    assert coarse((0.5,), (), None) == [0]
    assert coarse((0.5,), {0}, 0) == []


@pytest.mark.parametrize("peak", range(11))
def test_coarse_finds_the_peak_of_a_single_hump_with_less_work(peak: int) -> None:
    """One weight, so that the mix is alpha itself; the score falls off on both sides of the peak."""
    tickets = [Ticket({"w": torch.tensor([value])}, {}) for value in (1.0, 0.0)]

    def score(state: Mapping[str, Tensor], bar: int = 0) -> Score:
        return Score(1000 - round(900 * abs(float(state["w"]) - PAPER_ALPHAS[peak])), 0.0, 1000)

    start = lambda state, bar=0: Score(950, 0.0, 1000)  # noqa: E731
    best, coarse_trace = pool_tickets(
        Pool.of(tickets), lambda s, bar=0: score(s), target=0, alpha_search="coarse", score_as_is=start
    )
    grid, trace = pool_tickets(Pool.of(tickets), lambda s, bar=0: score(s), target=0, score_as_is=start)
    if grid.score == best.score:
        assert coarse_trace.evaluations < trace.evaluations
    assert {step.alpha for step in coarse_trace.steps} <= {PAPER_ALPHAS[peak], None}
    assert {step.alpha for step in trace.steps} == {PAPER_ALPHAS[peak]}


VAL = 45


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def network_pool(seed: int) -> tuple[Pool, int, list[Batch], list[Batch]]:
    """Tickets around one network, ever sparser; val whose labels are mostly what that network says; calibration."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    teacher = small_network().eval()
    tickets = []
    for level in range(4):
        away = 0.1 if level == seed % 4 and seed % 8 < 4 else 0.4  # so that some targets are hard to improve
        state = {
            name: t + away * torch.randn(t.shape, generator=generator) if t.is_floating_point() else t
            for name, t in teacher.state_dict().items()
        }
        state["1.running_var"] = state["1.running_var"].abs() + 0.1
        keep = round(36 * 0.7**level)
        pruned, mask = magnitude_prune(state, ["0.weight"], keep)
        tickets.append(Ticket(pruned, mask if level else {}, Metadata(level=level)))
    images = torch.randn(VAL, 1, 4, 4, generator=generator)
    noise = torch.randint(3, (VAL,), generator=generator)
    with torch.no_grad():
        labels = torch.where(torch.rand(VAL, generator=generator) < 0.25, noise, teacher(images).argmax(1))
    calibration = [(torch.randn(8, 1, 4, 4, generator=generator), torch.zeros(8)) for _ in range(2)]
    return Pool.of(tickets), seed % 4, [(images, labels)], calibration


def network_scorer(val: list[Batch], calibration: list[Batch], batch_size: int, choice: Choice = BY_ACCURACY) -> Scorer:
    images, labels = val[0]

    def batches(size: int, *, order: Tensor | None = None) -> Iterable[Batch]:
        places = torch.arange(VAL) if order is None else order
        return [(images[chunk], labels[chunk]) for chunk in places.split(size)]

    sizes = {"batch_size": BatchSize(batch_size)}
    return Scorer(small_network(), batches, VAL, lambda size, order=None: calibration, choice=choice, **sizes)


def steps_of(trace: SearchTrace) -> list[tuple[int, float | None, int]]:
    return [(step.candidate, step.alpha, step.score.correct if step.score else -1) for step in trace.steps]


NETWORK_SEEDS = range(24)


@functools.cache
def searched_whole(seed: int) -> tuple[Incumbent, SearchTrace]:
    """The pool of `network_pool`, every mix of it scored whole by a scorer of its own."""
    pool, target, val, calibration = network_pool(seed)

    def whole(state: Mapping[str, Tensor], bar: int = 0) -> Score:
        return network_scorer(val, calibration, VAL)(state)

    def whole_as_is(state: Mapping[str, Tensor], bar: int = 0) -> Score:
        return network_scorer(val, calibration, VAL).as_is(state)

    return pool_tickets(pool, whole, target=target, score_as_is=whole_as_is)


@pytest.mark.parametrize("seed", NETWORK_SEEDS)
def test_the_scorers_short_cuts_change_nothing_that_comes_out(seed: int) -> None:
    """Early rejection, hardest first and scores remembered, against every mix scored whole by a scorer of its own.

    With 45 val images and eleven alphas nearly every sweep has ties.
    """
    pool, target, val, calibration = network_pool(seed)
    scorer = network_scorer(val, calibration, (1, 4, 16)[seed % 3])
    expected, full = searched_whole(seed)
    model, trace = pool_tickets(pool, scorer, target=target, score_as_is=scorer.as_is)
    assert steps_of(trace) == [
        (c, alpha if accepted else None, correct if accepted else -1)
        for (c, alpha, correct), accepted in zip(steps_of(full), [s.accepted for s in full.steps], strict=True)
    ]
    assert model.score.correct == expected.score.correct
    assert model.score.nll == pytest.approx(expected.score.nll, rel=1e-6)
    assert model.recalibrated == expected.recalibrated
    for name, t in expected.state.items():
        assert t.numpy().tobytes() == model.state[name].numpy().tobytes()
    assert scorer.images["val"] < VAL * trace.evaluations


@pytest.mark.parametrize("choice", [Choice("nll"), Choice()], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_nor_do_they_by_likelihood_and_in_two_passes(seed: int, choice: Choice) -> None:
    pool, target, val, calibration = network_pool(seed)

    def whole(state: Mapping[str, Tensor], bar: float = 0) -> Score:
        return network_scorer(val, calibration, VAL, choice)(state)

    scorer = network_scorer(val, calibration, (1, 4, 16)[seed % 3], choice)
    expected, full = pool_tickets(pool, whole, target=target, choice=choice, passes=2)
    model, trace = pool_tickets(pool, scorer, target=target, choice=choice, passes=2)
    assert [(step.number, step.alpha) for step in trace.steps] == [(step.number, step.alpha) for step in full.steps]
    assert model.score.nll == pytest.approx(expected.score.nll, rel=1e-6)
    for name, t in expected.state.items():
        assert t.numpy().tobytes() == model.state[name].numpy().tobytes()
    assert scorer.images["val"] < VAL * trace.evaluations


def test_those_pools_have_ties_and_both_outcomes() -> None:
    accepted, tied, steps = 0, 0, 0
    for seed in NETWORK_SEEDS:
        _, trace = searched_whole(seed)
        for step in trace.accepted:
            best = [score.correct for _, score in step.attempts].count(step.score.correct if step.score else -1)
            tied += best > 1
        accepted += len(trace.accepted)
        steps += len(trace.steps)
    assert tied > 12
    assert 12 < accepted < steps - 12
