"""Each method against the same method in plain lists and loops, over pools and scores that are drawn at random.

Weights are float64, so that both agree but for rounding far below what decides anything.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lptool.checkpoints.masks import Mask, State, kept_count
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.pool import Pool
from lptool.checkpoints.ticket import Ticket
from lptool.errors import PoolError
from lptool.pooling.catalogue import METHODS, TEACHERS, methods_of, mixes_at_most
from lptool.pooling.choice import Choice
from lptool.pooling.methods import pool_tickets
from lptool.pooling.outcome import Incumbent, LayerFit, Progress, Rebuilt, SearchTrace
from lptool.pooling.search import Learning
from lptool.scoring.score import Score, ScoreFunction
from tests.pooling.test_search import PRUNABLE, SHAPES, Lists, Together, as_lists, random_pool

IMAGES = 14
ALPHAS = (0.25, 0.5, 0.75)
ONCE = ("swa", "ema", "uniform")  # one mix, without choosing
CHOICES = [Choice(select) for select in ("accuracy", "nll")]
SEEDS = range(16)


@dataclass
class Judge:
    """A score function: an image has a goal of its own, its loss is the distance, and it is right where that is small.

    `gives_up`: where the bar is missed the score is of some images only, all of them right, and without any loss.
    """

    seed: int
    choice: Choice = field(default_factory=Choice)
    gives_up: bool = False
    calls: int = 0

    def of(self, state: Lists) -> Score:
        chance = random.Random(self.seed)
        losses = []
        for _ in range(IMAGES):
            goal = {name: [chance.uniform(-2, 2) for _ in range(6)] for name in SHAPES}
            losses.append(
                sum((x - g) ** 2 for name in SHAPES for x, g in zip(state[name], goal[name], strict=False)) / 10
            )
        right = [loss < 2.7 for loss in losses]
        return Score(sum(right), sum(losses) / IMAGES, IMAGES)

    def __call__(self, state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
        self.calls += 1
        score = self.of(as_lists(state))
        reached = (score.correct if self.choice.select == "accuracy" else -score.nll) >= bar
        return score if reached or not self.gives_up else Score(3, 0.0, 3, complete=False)


def merit(score: Score, choice: Choice) -> float:
    return score.correct if choice.select == "accuracy" else -score.nll


def as_good(new: Score, old: Score, choice: Choice) -> bool:
    """More right, or as many with no higher NLL; by NLL, no higher a one."""
    return merit(new, choice) > merit(old, choice) or (merit(new, choice) == merit(old, choice) and new.nll <= old.nll)


def drawn(seed: int) -> tuple[Pool, int, int]:
    """A pool, a target, and how many weights to keep: as many as the target, or fewer."""
    chance = random.Random(seed)
    pool = random_pool(seed, chance.randint(2, 5), dtype=torch.float64, exact=False)
    target = chance.randrange(len(pool))
    return pool, target, pool.kept(target) - seed % 2 * chance.randrange(pool.kept(target))


def states_of(pool: Pool) -> list[Lists]:
    return [as_lists(ticket.state) for ticket in pool]


def nearest(target: int, count: int) -> list[int]:
    return [i for d in range(1, count) for i in (target - d, target + d) if 0 <= i < count]


def pruned(state: Lists, keep: int) -> Lists:
    """All but the largest set to 0; of equal ones the first is larger."""
    places = [(name, i) for name in PRUNABLE for i in range(len(state[name]))]
    largest = set(sorted(places, key=lambda place: -abs(state[place[0]][place[1]]))[:keep])
    return {
        name: [x if name not in PRUNABLE or (name, i) in largest else 0.0 for i, x in enumerate(values)]
        for name, values in state.items()
    }


def mixed(a: Lists, b: Lists, alpha: float) -> Lists:
    """Counts are those of `a`."""
    both = {n: [alpha * x + (1 - alpha) * y for x, y in zip(a[n], b[n], strict=True)] for n in SHAPES}
    return both | {"steps": a["steps"]}


def mean(states: Sequence[Lists]) -> Lists:
    """Counts are those of the first."""
    both = {n: [sum(xs) / len(states) for xs in zip(*(s[n] for s in states), strict=True)] for n in SHAPES}
    return both | {"steps": states[0]["steps"]}


def plain_swa(states: list[Lists], order: list[int], target: int, keep: int) -> Lists:
    current = states[target]
    for members, place in enumerate(order, start=1):
        total = {n: [x * members + y for x, y in zip(current[n], states[place][n], strict=True)] for n in SHAPES}
        average = {n: [x / (members + 1) for x in total[n]] for n in SHAPES}
        current = pruned(average | {"steps": current["steps"]}, keep)
    return current


def plain_ema(states: list[Lists], order: list[int], target: int, keep: int) -> Lists:
    current = states[target]
    for place in order:
        current = pruned(mixed(current, states[place], 0.7), keep)
    return current


def plain_uniform(states: list[Lists], order: list[int], target: int, keep: int) -> Lists:
    return pruned(mean([states[target], *(states[i] for i in order)]), keep)


def assert_close(state: Mapping[str, Tensor], expected: Lists) -> None:
    found = as_lists(state)
    assert set(found) == set(expected)
    for name, values in found.items():
        assert values == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name


@dataclass
class Greedy:
    """What a plain greedy search finds; `decided` has pass, candidate, and alpha or None of each turn."""

    state: Lists
    score: Score
    decided: list[tuple[int, int, float | None]] = field(default_factory=list)


def plain_greedy(pool: Pool, target: int, keep: int, judge: Judge, alphas: Sequence[float], passes: int) -> Greedy:
    states = states_of(pool)
    start = pruned(states[target], keep)
    found = Greedy(start, judge.of(start))
    for number in range(1, passes + 1):
        accepted = 0
        for place in nearest(target, len(pool)):
            mixes = [pruned(mixed(found.state, states[place], alpha), keep) for alpha in alphas]
            scores = [judge.of(mix) for mix in mixes]
            best = max(range(len(alphas)), key=lambda i: (merit(scores[i], judge.choice), -i))
            accepted_now = as_good(scores[best], found.score, judge.choice)
            found.decided.append((number, place, alphas[best] if accepted_now else None))
            if accepted_now:
                found.state, found.score = mixes[best], scores[best]
                accepted += 1
        if not accepted:
            break
    return found


def decided(trace: SearchTrace) -> list[tuple[int, int, float | None]]:
    return [(step.number, step.candidate, step.alpha) for step in trace.steps]


@pytest.mark.parametrize("gives_up", [False, True])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_by_any_choice_and_in_any_number_of_passes(seed: int, choice: Choice, gives_up: bool) -> None:
    pool, target, keep = drawn(seed)
    judge, passes = Judge(seed, choice, gives_up), 1 + seed % 4
    expected = plain_greedy(pool, target, keep, judge, ALPHAS, passes)
    model, trace = pool_tickets(pool, judge, target=target, keep=keep, alphas=ALPHAS, choice=choice, passes=passes)
    assert decided(trace) == expected.decided
    assert_close(model.state, expected.state)
    assert merit(model.score, choice) == pytest.approx(merit(expected.score, choice))
    assert trace.evaluations == judge.calls == 1 + 3 * len(trace.steps)


def test_those_pools_have_several_passes() -> None:
    last = []
    for seed in SEEDS:
        pool, target, keep = drawn(seed)
        found = [
            plain_greedy(pool, target, keep, Judge(seed, choice), ALPHAS, 1 + seed % 4).decided for choice in CHOICES
        ]
        last += [(turns[-1][0], 1 + seed % 4) for turns in found]
    assert sum(number > 1 for number, _ in last) > 8
    assert sum(number < passes for number, passes in last) > 8  # a pass that accepted nothing was the last


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_average_is_greedy_with_one_half(seed: int, choice: Choice) -> None:
    pool, target, keep = drawn(seed)
    options: dict[str, Any] = {"target": target, "keep": keep, "choice": choice, "passes": 2, "method": "average"}
    expected = plain_greedy(pool, target, keep, Judge(seed, choice), (0.5,), 2)
    model, trace = pool_tickets(pool, Judge(seed, choice), alphas=(0.1, 0.9), **options)
    assert decided(trace) == expected.decided
    assert_close(model.state, expected.state)


PLAIN_ONCE = {"swa": plain_swa, "ema": plain_ema, "uniform": plain_uniform}


@pytest.mark.parametrize("method", ONCE)
@pytest.mark.parametrize("seed", SEEDS)
def test_an_average_without_choosing(seed: int, method: str) -> None:
    """Better or worse than the target, it is the result; scored once, whole."""
    pool, target, keep = drawn(seed)
    judge, order = Judge(seed, gives_up=True), nearest(target, len(pool))
    expected = PLAIN_ONCE[method](states_of(pool), order, target, keep)
    model, trace = pool_tickets(pool, judge, target=target, keep=keep, method=method, decay=0.7)
    assert_close(model.state, expected)
    assert model.score == Judge(seed).of(as_lists(model.state))
    assert [step.candidate for step in trace.steps] == order
    alphas = [0.7] * len(order) if method == "ema" else [n / (n + 1) for n in range(1, len(pool))]
    assert [step.alpha for step in trace.steps] == alphas
    assert [step.accepted for step in trace.steps] == [True] * len(order)
    assert [step.score for step in trace.steps] == [None] * (len(order) - 1) + [model.score]
    assert trace.evaluations == judge.calls == 2


def line(*values: float) -> Pool:
    """Tickets of a single weight, that nothing prunes."""
    tickets = [Ticket({"w": torch.tensor([x])}, {}, Metadata(level=i)) for i, x in enumerate(values)]
    return Pool.of(tickets)


def never_worse(state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
    return Score(1, 0.5, 2)


@pytest.mark.parametrize(
    ("method", "decay", "value"),
    [
        ("swa", 0.9, 6.0),  # (12 + 6 + 0) / 3
        ("uniform", 0.9, 6.0),
        ("ema", 0.5, 4.5),  # (12/2 + 6/2) / 2 + 0/2
        ("ema", 0.75, 7.875),  # 0.75 (0.75·12 + 0.25·6) + 0.25·0
        ("ema", 1.0, 12.0),
        ("ema", 0.0, 0.0),
        ("average", 0.9, 4.5),
        ("soup", 0.9, 6.0),
    ],
)
def test_by_hand_the_target_12_with_6_and_then_0(method: str, decay: float, value: float) -> None:
    model, _ = pool_tickets(line(0.0, 6.0, 12.0), never_worse, method=method, decay=decay)
    assert model.state["w"].item() == pytest.approx(value, rel=1e-6)


def test_by_hand_swa_prunes_at_each_step_and_uniform_and_soup_once() -> None:
    """One of two weights is kept. [0, 8] and [6, 0] are [3, 4], so [0, 4]; with [9, 0] that is [3, 2.67], so [3, 0].

    The mean of the three is [5, 2.67], so [5, 0].
    """
    rows = [[9.0, 0.0], [6.0, 0.0], [0.0, 8.0]]
    masks = [torch.tensor([x != 0 for x in row]) for row in rows]
    pool = Pool.of([Ticket({"w": torch.tensor(r)}, {"w": masks[i]}, Metadata(level=i)) for i, r in enumerate(rows)])
    for method, expected in (("swa", [3.0, 0.0]), ("uniform", [5.0, 0.0]), ("soup", [5.0, 0.0])):
        model, _ = pool_tickets(pool, never_worse, method=method)
        assert model.state["w"].tolist() == pytest.approx(expected, rel=1e-6)
        assert model.mask["w"].tolist() == [True, False]


@pytest.mark.parametrize("gives_up", [False, True])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_soup_takes_the_best_first_and_keeps_what_makes_it_no_worse(seed: int, choice: Choice, gives_up: bool) -> None:
    pool, target, keep = drawn(seed)
    judge, states = Judge(seed, choice, gives_up), states_of(pool)
    start = pruned(states[target], keep)
    result, score, members, expected = start, judge.of(start), [target], []
    alone = {place: merit(judge.of(pruned(states[place], keep)), choice) for place in nearest(target, len(pool))}
    for place in sorted(alone, key=lambda place: -alone[place]):
        grown = pruned(mean([states[i] for i in [*members, place]]), keep)
        found = judge.of(grown)
        accepted = as_good(found, score, choice)
        expected.append((place, len(members) / (len(members) + 1), accepted))
        if accepted:
            members, result, score = [*members, place], grown, found
    model, trace = pool_tickets(pool, judge, target=target, keep=keep, method="soup", choice=choice)
    assert [(s.candidate, s.alpha, s.accepted) for s in trace.steps] == expected
    assert_close(model.state, result)
    assert merit(model.score, choice) == pytest.approx(merit(score, choice))
    assert trace.evaluations == judge.calls == 1 + 2 * (len(pool) - 1)


def test_of_candidates_as_good_by_themselves_soup_takes_the_nearest_first() -> None:
    _, trace = pool_tickets(line(1.0, 2.0, 3.0, 4.0), never_worse, method="soup", target=1)
    assert [step.candidate for step in trace.steps] == [0, 2, 3]


def hold_still(state: Mapping[str, Tensor], step: int) -> State:
    return {name: torch.zeros_like(state[name]) for name in SHAPES}


class Leans:
    """A stand-in for what fits layers: the kept weights go to those of the teacher, the mean of the tickets."""

    def teach(self, tickets: Iterable[tuple[float, Mapping[str, Tensor]]]) -> State:
        means: State = {}
        for share, state in tickets:
            means = {name: means.get(name, 0) + share * state[name] for name in SHAPES}
        return means

    def recalibrated(self, state: State) -> State:
        return state

    def rebuild(
        self,
        start: State,
        mask: Mask,
        teacher: State,
        on_layer: Callable[[str], None] = lambda name: None,
        room: Mask | None = None,
    ) -> Rebuilt:
        found = {name: t + 0.7 * (teacher[name] - t) for name, t in start.items() if name in SHAPES}
        state = {n: found[n] * mask[n] if n in mask else found.get(n, t) for n, t in start.items()}
        return Rebuilt(state, mask, tuple(LayerFit(name, 0.3, 0.2, 0.1) for name in SHAPES))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_auto_goes_on_from_what_its_methods_give(seed: int, choice: Choice) -> None:
    """Without a rebuilder it is window; with one it rebuilds what window gives, where that is better."""
    pool, target, keep = drawn(seed)
    options: dict[str, Any] = {"target": target, "keep": keep, "choice": choice}
    first, window = pool_tickets(pool, Judge(seed, choice), method="window", **options)
    alone, _ = pool_tickets(pool, Judge(seed, choice), method="auto", **options)
    assert as_lists(alone.state) == as_lists(first.state)
    judge = Judge(seed, choice)
    model, trace = pool_tickets(pool, judge, method="auto", rebuilder=Leans(), **options)
    assert trace.evaluations == judge.calls == window.evaluations + len(TEACHERS)
    assert list(trace.outcomes) == ["window", "reconstruct"]
    assert trace.outcomes["window"] == first.score
    rebuilt = [
        Leans().rebuild(first.state, first.mask, Leans().teach(weighed(pool, target, ratio))).state
        for ratio in TEACHERS
    ]
    place = choice.best([Judge(seed, choice)(state) for state in rebuilt], first.score)
    if place is None:
        assert as_lists(model.state) == as_lists(first.state)
        assert trace.chosen == "window"
    else:
        assert_close(model.state, as_lists(rebuilt[place]))
        assert trace.chosen == "reconstruct"
        assert trace.settings == {**window.settings, "teacher": TEACHERS[place]}
    assert choice.merit(model.score) >= choice.merit(first.score) >= choice.merit(trace.start)


def weighed(pool: Pool, target: int, ratio: float) -> list[tuple[float, State]]:
    raw = [ratio ** abs(place - target) for place in range(len(pool))]
    return [(weight / sum(raw), pool[place].state) for place, weight in enumerate(raw)]


def test_a_single_method_is_what_it_is() -> None:
    _, trace = pool_tickets(line(1.0, 2.0), never_worse, method="swa")
    assert (trace.method, trace.chosen, list(trace.outcomes)) == ("swa", "swa", ["swa"])


ALL = (*METHODS, "auto")
QUICK = Learning(steps=3)


def pooled(pool: Pool, score: ScoreFunction, method: str, **options: Any) -> tuple[Incumbent, SearchTrace]:
    defaults: dict[str, Any] = {"alphas": ALPHAS, "passes": 2, "gradient": hold_still, "learning": QUICK} | {
        "rebuilder": Leans()
    }
    return pool_tickets(pool, score, method=method, **{**defaults, **options})


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("seed", range(6))
def test_what_every_method_promises(seed: int, method: str) -> None:
    """Exactly `keep` weights, counts of the target, inputs as they were; and progress that adds up."""
    pool, target, keep = drawn(seed)
    judge, as_is = Judge(seed), Judge(seed + 1)
    before, told = [as_lists(t.state) | as_lists(t.mask) for t in pool], list[Progress]()
    raw = [{name: t.clone() for name, t in ticket.state.items()} for ticket in pool]
    model, trace = pooled(
        pool,
        judge,
        method,
        target=target,
        keep=keep,
        score_as_is=as_is,
        on_progress=told.append,
        decay=0.7,
        ranks=Together(0, 1 + seed % 3),
    )
    assert kept_count(model.mask) == keep
    assert tuple(model.mask) == PRUNABLE
    assert not any(model.state[name][~model.mask[name]].any() for name in PRUNABLE)
    assert torch.equal(model.state["steps"], raw[target]["steps"])
    assert list(model.state) == list(raw[target])
    assert [as_lists(t.state) | as_lists(t.mask) for t in pool] == before
    assert trace.evaluations == judge.calls + as_is.calls == sum(len(progress.scored) for progress in told)
    learned = QUICK.steps * (method == "learned")
    total = mixes_at_most(methods_of(method), len(pool), ALPHAS, 2) + learned
    assert {progress.total for progress in told} == {total}
    counts = [progress.done for progress in told]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == trace.evaluations - 2 + learned <= total
    assert (trace.ticket, trace.ticket_bn) == (told[0].scored[0].score, told[0].scored[1].score)
    assert (trace.coefficients is not None) == (trace.chosen in ("learned", "window") or bool(trace.settings))


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("gives_up", [False, True])
def test_ranks_change_nothing(method: str, gives_up: bool) -> None:
    for seed in range(4):
        pool, target, keep = drawn(seed)
        found = []
        for count in (1, 2, 5):
            judge = Judge(seed, Choice("nll"), gives_up)
            model, trace = pooled(
                pool, judge, method, target=target, keep=keep, choice=judge.choice, ranks=Together(0, count)
            )
            steps = [replace(step, attempts=()) for step in trace.steps]
            found.append((as_lists(model.state), model.score, steps, trace.evaluations, trace.chosen))
        assert found[1:] == found[:-1]


@pytest.mark.parametrize("method", ALL)
def test_a_mix_whose_score_is_not_finite_is_no_result(method: str) -> None:
    """However many images it gets right: the target comes out, and no step is accepted."""
    pool = random_pool(3, 4)
    ticket = as_lists(pool[2].state)
    judge = Judge(3)

    def score(state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
        found = judge(state)
        return found if as_lists(state) == ticket else Score(IMAGES, math.nan, IMAGES)

    step = lambda state, step: {name: torch.ones_like(state[name]) for name in SHAPES}  # noqa: E731
    model, trace = pooled(pool, score, method, target=2, gradient=step)
    assert as_lists(model.state) == ticket
    assert (model.score, trace.accepted) == (trace.ticket, ())
    assert trace.not_finite == trace.evaluations - 1 > 0


@pytest.mark.parametrize("method", [*ONCE, "soup"])
def test_a_mix_is_written_as_it_was_scored(method: str) -> None:
    """With recalibration where the score has it, and only there."""
    for as_is in (None, never_worse):
        model, trace = pool_tickets(line(1.0, 2.0), never_worse, method=method, score_as_is=as_is)
        assert trace.accepted
        assert model.recalibrated is (as_is is not None)


@pytest.mark.parametrize("select", ["accuracy", "nll"])
def test_the_search_starts_from_the_ticket_that_is_better_by_the_choice(select: str) -> None:
    """Recalibration gets fewer images right and makes them likelier; no mix is any good."""
    pool = line(1.0, 2.0)

    def with_bn(state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
        return Score(5, 0.5, 9) if state["w"].item() == 2.0 else Score(0, 9.0, 9)

    def as_is(state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
        return Score(6, 0.6, 9)

    model, trace = pool_tickets(pool, with_bn, score_as_is=as_is, choice=Choice(select), alphas=ALPHAS)
    assert model.recalibrated is (select == "nll")
    assert model.score == (trace.ticket_bn if select == "nll" else trace.ticket)


@pytest.mark.parametrize(("nll", "recalibrated"), [(0.5, True), (0.6, False), (0.7, False)])
def test_of_starts_with_as_many_images_right_the_likelier_is_taken(nll: float, recalibrated: bool) -> None:
    """And the ticket as it is where both are alike. A mix that ties has to be no less likely than that."""
    pool = line(1.0, 2.0)

    def with_bn(state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
        return Score(5, nll if state["w"].item() == 2.0 else 0.65, 9)

    def as_is(state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
        return Score(5, 0.6, 9)

    model, trace = pool_tickets(pool, with_bn, score_as_is=as_is, alphas=ALPHAS)
    assert (model.recalibrated, model.score.nll, trace.accepted) == (recalibrated, min(nll, 0.6), ())


@pytest.mark.parametrize("seed", range(6))
def test_a_target_that_keeps_less_is_pruned_before_it_is_scored(seed: int) -> None:
    pool = random_pool(seed, 3, dtype=torch.float64, exact=False)
    seen = list[Lists]()

    def score(state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
        seen.append(as_lists(state))
        return Score(len(seen) <= 2, 1.0, 1)

    model, _ = pool_tickets(pool, score, target=1, keep=3, alphas=ALPHAS, score_as_is=score)
    expected = pruned(as_lists(pool[1].state), 3)
    assert seen[0] == seen[1] == expected == as_lists(model.state)
    assert all(sum(x != 0 for name in PRUNABLE for x in state[name]) <= 3 for state in seen)


def test_a_target_keeps_the_weights_of_its_mask_even_where_they_are_zero() -> None:
    """Else the mask would be another one, though as many are kept."""
    mask = {"w": torch.tensor([False, True, True])}
    tickets = [Ticket({"w": torch.tensor([1.0, 2.0, 3.0])}, {}), Ticket({"w": torch.tensor([0.0, 5.0, 0.0])}, mask)]
    pool = Pool.of([replace(t, metadata=Metadata(level=i)) for i, t in enumerate(tickets)])
    calls = iter([Score(2, 1.0, 2)])
    model, _ = pool_tickets(pool, lambda state, bar=0: next(calls, Score(0, 1.0, 2)))
    assert model.mask["w"].tolist() == [False, True, True]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"method": "mean"}, "unknown method 'mean': expected greedy, average, window, .*reconstruct or auto"),
    ({"method": "learned"}, "method 'learned' needs a gradient"),
    ({"method": "reconstruct"}, "method 'reconstruct' needs a rebuilder"),
    ({"mask": "none"}, "unknown mask 'none': expected start or refit"),
    ({"decay": -0.1}, r"decay: expected a number in \[0, 1\], found -0.1"),
    ({"decay": 1.1}, r"decay: expected a number in \[0, 1\], found 1.1"),
    ({"decay": math.nan}, "decay: expected a number in"),
    ({"passes": 0}, "passes: expected 1 or more, found 0"),
    ({"keep": 0}, "cannot keep 0 weights: the target has 4"),
    ({"keep": 5}, "cannot keep 5 weights: the target has 4"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_scored(options: dict[str, Any], message: str) -> None:
    pool = random_pool(0, 4)
    assert pool.kept(3) == 4
    with pytest.raises(PoolError, match=message):
        pool_tickets(pool, lambda state, bar=0: pytest.fail("a state was scored"), **options)
