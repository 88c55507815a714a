"""Learned coefficients on a loss whose gradient is written down: against autograd, differences, and Adam in loops."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lptool.checkpoints.masks import State, kept_count, magnitude_prune
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.pool import Pool
from lptool.checkpoints.ticket import Ticket
from lptool.errors import PoolError
from lptool.pooling.catalogue import RATIOS
from lptool.pooling.choice import Choice
from lptool.pooling.learned import _Stacked, group
from lptool.pooling.methods import pool_tickets
from lptool.pooling.outcome import Incumbent, Progress, SearchTrace
from lptool.pooling.search import Learning, Search, grid
from lptool.ranks import ALONE, Ranks
from lptool.scoring.score import Score
from tests.pooling.test_methods import merit, nearest, never_worse
from tests.pooling.test_search import PRUNABLE, SHAPES, Lists, Together, as_lists, random_pool

PER = ("tensor", "block", "global")
# Three tickets, the target first, in the window of the first ratio, which is taken where all are equally good.
FIRST = [1 / 1.24, 0.2 / 1.24, 0.04 / 1.24]


class Bowl:
    """A loss of Σ ½·curvature·(weight − goal)², its gradient, and a score that falls with it."""

    def __init__(self, seed: int = 0, goal: Mapping[str, Tensor] | None = None) -> None:
        chance = random.Random(seed)
        self.goal = {n: [chance.uniform(-2, 2) for _ in range(math.prod(shape))] for n, shape in SHAPES.items()}
        if goal is not None:
            self.goal = {name: values for name, values in as_lists(goal).items() if name in SHAPES}
        self.curvature = {n: [chance.uniform(0.5, 2) for _ in values] for n, values in self.goal.items()}
        self.steps, self.states = list[int](), list[Lists]()

    def loss(self, state: Lists) -> float:
        return sum(c * (x - g) ** 2 / 2 for n in SHAPES for x, g, c in self._of(n, state))

    def slopes(self, state: Lists) -> Lists:
        return {n: [c * (x - g) for x, g, c in self._of(n, state)] for n in SHAPES}

    def _of(self, name: str, state: Lists) -> list[tuple[float, float, float]]:
        return list(zip(state[name], self.goal[name], self.curvature[name], strict=True))

    def __call__(self, state: Mapping[str, Tensor], step: int) -> State:
        self.steps.append(step)
        self.states.append(as_lists(state))
        slopes = self.slopes(as_lists(state))
        return {name: torch.tensor(slopes[name], dtype=state[name].dtype).view_as(state[name]) for name in SHAPES}

    def score(self, state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
        return Score(1, self.loss(as_lists(state)), 2)


def learn(pool: Pool, bowl: Bowl, **options: Any) -> tuple[Incumbent, SearchTrace]:
    return pool_tickets(pool, bowl.score, method="learned", gradient=bowl, choice=Choice("nll"), **options)


def search_of(pool: Pool, per: str, keep: int, target: int = 0) -> Search:
    bowl = Bowl()
    return Search(
        pool, target, keep, bowl.score, Choice(), (), grid, 1, 0.9, Learning(per), bowl, ALONE, lambda progress: None, 1
    )


def coefficients_of(trace: SearchTrace) -> list[list[float]]:
    assert trace.coefficients is not None
    return [list(row) for row in trace.coefficients.values]


def rows(per: str) -> dict[str, int]:
    """Which row of the coefficients a tensor goes by. Names here are of one part each: a tensor is a block."""
    return {name: 0 if per == "global" else i for i, name in enumerate(SHAPES)}


def mixed(states: Sequence[Lists], values: Sequence[Sequence[float]], row: Mapping[str, int]) -> Lists:
    return {
        n: [
            sum(c * x for c, x in zip(values[row[n]], xs, strict=True))
            for xs in zip(*(s[n] for s in states), strict=True)
        ]
        for n in SHAPES
    }


# The gradient by the coefficients


def stacked(seed: int, per: str) -> tuple[Pool, _Stacked, Tensor, dict[str, Tensor]]:
    """Tickets, random coefficients, and the mask of their mix."""
    pool = random_pool(seed, 4, exact=False)
    tickets = _Stacked(search_of(pool, per, 5))
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(tickets.groups), 4, generator=generator)
    _, mask = magnitude_prune(tickets.mixed(values), PRUNABLE, 5)
    return pool, tickets, values, mask


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("seed", range(6))
def test_the_gradient_is_that_of_autograd_through_the_mix_with_its_mask_held(seed: int, per: str) -> None:
    pool, tickets, values, mask = stacked(seed, per)
    bowl, row = Bowl(seed), rows(per)
    leaf = values.double().requires_grad_()
    mix = {
        name: sum(leaf[row[name], i] * pool[i].state[name].double() for i in range(4)) * mask.get(name, 1)
        for name in SHAPES
    }
    goal, curvature = (
        {n: torch.tensor(v[n], dtype=torch.float64).view(SHAPES[n]) for n in SHAPES}
        for v in (bowl.goal, bowl.curvature)
    )
    loss = sum((curvature[n] * (mix[n] - goal[n]) ** 2).sum() / 2 for n in SHAPES)
    (expected,) = torch.autograd.grad(loss, leaf)  # type: ignore[arg-type]
    pruned = {name: t * mask[name] if name in mask else t for name, t in tickets.mixed(values).items()}
    found = tickets.project(bowl(pruned, 0), mask, values)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("per", PER)
def test_the_gradient_is_that_of_differences(per: str) -> None:
    pool, tickets, values, mask = stacked(1, per)
    states, bowl, row = [as_lists(t.state) for t in pool], Bowl(1), rows(per)
    kept = {n: mask[n].flatten().tolist() if n in mask else [True] * math.prod(SHAPES[n]) for n in SHAPES}

    def loss(at: list[list[float]]) -> float:
        mix = mixed(states, at, row)
        return bowl.loss({n: [x * k for x, k in zip(mix[n], kept[n], strict=True)] for n in SHAPES})

    pruned = {name: t * mask[name] if name in mask else t for name, t in tickets.mixed(values).items()}
    found = tickets.project(bowl(pruned, 0), mask, values).tolist()
    for r, line in enumerate(found):
        for i, slope in enumerate(line):
            up, down = values.tolist(), values.tolist()
            up[r][i] += 1e-5
            down[r][i] -= 1e-5
            assert slope == pytest.approx((loss(up) - loss(down)) / 2e-5, rel=1e-3, abs=1e-4)


# The descent


def softmax(logits: Sequence[float]) -> list[float]:
    powers = [math.exp(x) for x in logits]
    return [power / sum(powers) for power in powers]


def pruned_to(keep: int, mix: Lists) -> tuple[Lists, set[tuple[str, int]]]:
    """The mix with all but its largest prunable weights 0, and the places of those."""
    places = [(n, i) for n in PRUNABLE for i in range(len(mix[n]))]
    out = set(sorted(places, key=lambda place: -abs(mix[place[0]][place[1]]))[keep:])
    return {n: [0.0 if (n, i) in out else x for i, x in enumerate(mix[n])] for n in SHAPES}, out


def windowed(states: Sequence[Lists], target: int, keep: int, bowl: Bowl) -> list[float]:
    """The coefficients of the windowed mean with the least loss."""

    def shares(ratio: float) -> list[float]:
        raw = [ratio ** abs(i - target) for i in range(len(states))]
        return [x / sum(raw) for x in raw]

    def loss(ratio: float) -> float:
        return bowl.loss(pruned_to(keep, mixed(states, [shares(ratio)], dict.fromkeys(SHAPES, 0)))[0])

    return shares(min(RATIOS, key=loss))


def adam(
    states: Sequence[Lists], target: int, keep: int, bowl: Bowl, learning: Learning
) -> tuple[list[list[float]], Lists]:
    """Kingma & Ba 2015, algorithm 1, with a rate that falls to 0; and the pruned mix of the last coefficients."""
    row = rows(learning.per)
    count = max(row.values()) + 1
    begin = windowed(states, target, keep, bowl)
    logits = [[math.log(x) for x in begin] for _ in range(count)]
    first, second = ([[0.0] * len(states) for _ in range(count)] for _ in range(2))

    def model() -> tuple[Lists, set[tuple[str, int]]]:
        return pruned_to(keep, mixed(states, [softmax(line) for line in logits], row))

    for step in range(learning.steps):
        state, out = model()
        slopes = bowl.slopes(state)
        rate = learning.lr * (learning.steps - step) / learning.steps
        for r in range(count):
            values = softmax(logits[r])
            by_value = [
                sum(
                    slopes[n][j] * ticket[n][j]
                    for n in SHAPES
                    for j in range(len(ticket[n]))
                    if row[n] == r and (n, j) not in out
                )
                for ticket in states
            ]
            for i in range(len(states)):
                slope = sum(
                    v * (float(i == k) - values[i]) * g for k, (v, g) in enumerate(zip(values, by_value, strict=True))
                )
                first[r][i] = 0.9 * first[r][i] + 0.1 * slope
                second[r][i] = 0.999 * second[r][i] + 0.001 * slope**2
                mean, square = first[r][i] / (1 - 0.9 ** (step + 1)), second[r][i] / (1 - 0.999 ** (step + 1))
                logits[r][i] -= rate * mean / (math.sqrt(square) + 1e-8)
    return [softmax(line) for line in logits], model()[0]


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("seed", range(8))
def test_the_coefficients_are_those_of_adam(seed: int, per: str) -> None:
    pool, target, bowl = random_pool(seed, 3 + seed % 2, exact=False), seed % 3, Bowl(seed)
    keep, learning = pool.kept(target) - seed % 2, Learning(per, 7, 0.03)
    states = [as_lists(ticket.state) for ticket in pool]
    expected, state = adam(states, target, keep, Bowl(seed), learning)
    model, trace = learn(pool, bowl, target=target, keep=keep, learning=learning)
    for found, row in zip(coefficients_of(trace), expected, strict=True):
        assert found == pytest.approx(row, rel=1e-4, abs=1e-5)
    for name in SHAPES:
        assert as_lists(model.state)[name] == pytest.approx(state[name], rel=1e-4, abs=1e-5)
    assert bowl.steps == list(range(7))
    assert [kept_count({n: torch.tensor(s[n]) != 0 for n in PRUNABLE}) for s in bowl.states] == [keep] * 7
    assert kept_count(model.mask) == keep
    assert model.state["steps"] == pool[target].state["steps"]


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("seed", range(4))
def test_it_descends(seed: int, per: str) -> None:
    pool, bowl = random_pool(seed, 4, exact=False), Bowl(seed)
    model, trace = learn(pool, bowl, target=0, learning=Learning(per, 100, 0.05))
    assert bowl.loss(as_lists(model.state)) < 0.98 * bowl.loss(bowl.states[0])  # the uniform mean
    assert merit(model.score, Choice("nll")) == -bowl.loss(as_lists(model.state))
    assert trace.ticket.nll == bowl.loss(as_lists(pool[0].state))


def test_finer_groups_descend_further() -> None:
    pool = random_pool(2, 4, exact=False)
    losses = [learn(pool, Bowl(2), target=0, learning=Learning(per, 400, 0.02))[0].score.nll for per in PER]
    assert losses[0] == losses[1] < losses[2]


def test_a_ticket_that_is_the_optimum_is_found() -> None:
    pool = random_pool(5, 3, exact=False)
    bowl = Bowl(5, goal=pool[1].state)
    _, trace = learn(pool, bowl, target=0, learning=Learning("global", 400, 0.1))
    assert coefficients_of(trace)[0] == pytest.approx([0.0, 1.0, 0.0], abs=0.02)


def test_what_it_tells() -> None:
    pool, told = random_pool(3, 4, exact=False), list[Progress]()
    model, trace = learn(pool, Bowl(3), target=1, learning=Learning("tensor", 5), on_progress=told.append)
    assert [step.candidate for step in trace.steps] == nearest(1, 4)
    assert all((s.alpha, s.accepted, s.score, s.attempts) == (None, True, None, ()) for s in trace.steps)
    assert trace.coefficients is not None
    assert trace.coefficients.groups == tuple(SHAPES)
    assert (trace.evaluations, trace.outcomes) == (1 + len(RATIOS) + 1, {"learned": model.score})
    ratios = len(RATIOS)  # are scored first, then the steps are taken
    scored = [1] * (1 + ratios) + [0] * 5 + [1]
    assert [(p.done, p.total, len(p.scored)) for p in told] == [(i, 6 + ratios, n) for i, n in enumerate(scored)]
    assert told[-1].scored[0].score == model.score
    assert {p.incumbent for p in told} == {trace.ticket}


def test_equal_searches_find_equal_coefficients_on_any_number_of_ranks() -> None:
    pool = random_pool(4, 4, exact=False)
    found = [learn(pool, Bowl(4), ranks=Together(0, count), learning=Learning(steps=9)) for count in (1, 1, 3)]
    assert len({str(coefficients_of(trace)) for _, trace in found}) == 1
    assert len({str(as_lists(model.state)) for model, _ in found}) == 1


def test_one_rank_learns_and_the_others_are_told() -> None:
    pool, results = random_pool(4, 4, exact=False), list[dict[int, Any]]()

    class First(Ranks):
        def share(self, tasks: Mapping[int, Callable[[], Any]]) -> dict[int, Any]:
            results.append({key: task() for key, task in tasks.items()})
            return results[-1]

    class Second(Ranks):
        def share(self, tasks: Mapping[int, Callable[[], Any]]) -> dict[int, Any]:
            return results.pop(0)

    model, _ = learn(pool, Bowl(4), ranks=First(0, 2), learning=Learning(steps=3))
    idle = Bowl(4)
    same, _ = learn(pool, idle, ranks=Second(1, 2), learning=Learning(steps=3))
    assert (idle.steps, results) == ([], [])
    assert as_lists(same.state) == as_lists(model.state)


def test_weights_that_are_pruned_have_no_say() -> None:
    pool = random_pool(6, 3, exact=False)

    def gradient(state: Mapping[str, Tensor], step: int) -> State:
        return {name: 1e6 * (state[name] == 0).float() for name in PRUNABLE}

    _, trace = pool_tickets(
        pool,
        Bowl().score,
        target=2,
        method="learned",
        gradient=gradient,
        learning=Learning(steps=3),
    )
    for row in coefficients_of(trace):
        assert row == pytest.approx(FIRST[::-1], abs=1e-6)


def test_tensors_without_a_gradient_stay_as_they_began_unless_they_share_a_coefficient() -> None:
    """As the statistics of BatchNorm, and parameters that the loss does not see."""
    pool = random_pool(7, 3, exact=False)
    bowl, states = Bowl(7), [as_lists(ticket.state) for ticket in pool]
    mean = mixed(states, [FIRST] * 3, rows("tensor"))["bias"]

    def gradient(state: Mapping[str, Tensor], step: int) -> State:
        return {"conv": bowl(state, step)["conv"]}

    for per, same in (("tensor", True), ("global", False)):
        options: dict[str, Any] = {"gradient": gradient, "learning": Learning(per, 5)}
        model, _ = pool_tickets(pool, Bowl().score, target=0, method="learned", **options)
        assert (as_lists(model.state)["bias"] == pytest.approx(mean)) is same


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_types_are_those_of_the_tickets(dtype: torch.dtype) -> None:
    pool = random_pool(8, 3, dtype=dtype)
    model, _ = learn(pool, Bowl(8), learning=Learning(steps=2))
    assert {name: t.dtype for name, t in model.state.items()} == {n: t.dtype for n, t in pool[0].state.items()}


# Groups


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("layer1.0.conv1.weight", "layer1.0"),
        ("layer1.0.bn1.running_mean", "layer1.0"),
        ("layer1.1.conv1.weight", "layer1.1"),
        ("blocks.2.1.conv.weight", "blocks.2"),
        ("features.13.weight", "features.13"),
        ("conv1.weight", "conv1"),
        ("stem.conv.weight", "stem.conv"),
        ("fc.bias", "fc"),
        ("0.weight", "0"),
        ("scale", "scale"),
    ],
)
def test_groups_of_a_name(name: str, block: str) -> None:
    assert [group(name, per) for per in PER] == [name, block, "all"]


def test_groups_of_a_network() -> None:
    """In the order of the tensors; counts are in none."""
    names = ["conv1.weight", "layer1.0.a", "layer1.0.b", "layer1.1.a", "fc.weight", "fc.bias"]
    state = {name: torch.ones(2) for name in names} | {"layer1.0.steps": torch.tensor(1)}
    tickets = [Ticket({n: t * 2**i for n, t in state.items()}, {}, Metadata(level=i)) for i in range(3)]
    expected = {"tensor": tuple(names), "block": ("conv1", "layer1.0", "layer1.1", "fc"), "global": ("all",)}
    for per, groups in expected.items():
        _, trace = pool_tickets(
            Pool.of(tickets),
            lambda state, bar=0: Score(1, 1.0, 2),
            method="learned",
            gradient=lambda state, step: {"fc.bias": torch.ones(2)},
            learning=Learning(per, 1, 0.5),
        )
        assert trace.coefficients is not None
        assert trace.coefficients.groups == groups
        *still, moved = trace.coefficients.values
        assert all(row == pytest.approx(FIRST[::-1]) for row in still)
        # Adam's first step is the rate, whatever the gradient; the third ticket, the largest, is above the mean
        steps = zip(FIRST[::-1], [0.5, 0.5, -0.5], strict=True)
        assert moved == pytest.approx(softmax([math.log(x) + step for x, step in steps]))


# What cannot be


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_refused(value: float) -> None:
    def gradient(state: Mapping[str, Tensor], step: int) -> State:
        return {"w": torch.full((1,), value if step == 2 else 1.0)}

    tickets = [Ticket({"w": torch.tensor([x])}, {}) for x in (1.0, 2.0)]
    with pytest.raises(PoolError, match="learned: the gradient of step 2 is not finite; try a lower --learning-rate"):
        pool_tickets(Pool.of(tickets), never_worse, method="learned", gradient=gradient)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "layer"}, "unknown group 'layer': expected tensor, block or global"),
        ({"steps": 0}, "learning steps must be 1 or more, found 0"),
        ({"lr": 0.0}, "the learning rate must be above 0 and at most 1000, found 0"),
        ({"lr": math.nan}, "the learning rate must be above 0 and at most 1000, found nan"),
        ({"lr": math.inf}, "the learning rate must be above 0 and at most 1000, found inf"),
        ({"lr": 1001}, "the learning rate must be above 0 and at most 1000, found 1001"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PoolError, match=message):
        Learning(**options)
