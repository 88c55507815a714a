"""Pools: the order of the tickets, their alignment, and all that keeps them from being a pool."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.names import Names
from lptool.checkpoints.pool import Pool, find_problems, in_order, prunable_names
from lptool.checkpoints.summary import Summary
from lptool.checkpoints.ticket import Ticket
from lptool.errors import PoolError

_serial = itertools.count()


def bools(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def ticket(
    level: int | None = None, file: str = "t", masks: dict[str, Tensor] | None = None, **tensors: Tensor
) -> Ticket:
    """A ticket of the tensors `a` [4] and `b` [2] unless others are given; no two have the same weights."""
    state = {"a": torch.arange(1.0, 5.0), "b": torch.tensor([1.0, next(_serial)]), **tensors}
    return Ticket(state, masks or {}, Metadata(level=level), file)


@pytest.mark.parametrize("given", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_pool_is_ordered_by_level_whatever_the_density(given: tuple[int, ...]) -> None:
    masks = {0: bools(1, 0, 0, 0), 1: bools(1, 1, 1, 1), 2: bools(1, 1, 0, 0)}
    pool = Pool.of([ticket(level, masks={"a": masks[level]}) for level in given])
    assert [pool.level(i) for i in range(3)] == [0, 1, 2]
    assert [t.metadata.level for t in pool] == [0, 1, 2]


@pytest.mark.parametrize("level", [None, 7])
def test_a_pool_is_ordered_densest_first_where_a_file_does_not_say_its_level(level: int | None) -> None:
    """Over the prunable tensors of all; one that a ticket has no mask for is kept whole. Ties go by name."""
    tickets = [
        ticket(level, "half", {"a": bools(1, 1, 0, 0), "b": bools(1, 0)}),
        ticket(None, "two thirds", {"a": bools(1, 1, 0, 0)}),
        ticket(None, "the other half", {"a": bools(0, 0, 1, 1), "b": bools(0, 1)}),
        ticket(None, "dense"),
    ]
    pool = Pool.of(tickets)
    assert [t.file for t in pool] == ["dense", "two thirds", "half", "the other half"]
    assert [pool.level(i) for i in (0, 1, 3)] == [0, 1, 3]
    assert [pool.kept(i) for i in range(4)] == [6, 4, 3, 3]
    assert [pool.density(i) for i in range(4)] == [1.0, 4 / 6, 0.5, 0.5]


def test_all_masks_of_a_pool_cover_the_same_tensors() -> None:
    """Missing ones are filled with True, whether the ticket is dense or covers fewer tensors; none is changed."""
    sparse, dense = ticket(1, masks={"b": bools(0, 1), "a": bools(1, 0, 0, 1)}), ticket(0)
    partial = ticket(2, masks={"a": bools(1, 0, 0, 0)})
    pool = Pool.of([sparse, dense, partial])
    assert pool.prunable == ("a", "b")
    assert all(tuple(t.mask) == pool.prunable for t in pool)
    assert [[m.tolist() for m in t.mask.values()] for t in pool] == [
        [[True] * 4, [True] * 2],
        [[True, False, False, True], [False, True]],
        [[True, False, False, False], [True] * 2],
    ]
    assert [t.state["a"].tolist() for t in pool] == [[1, 2, 3, 4], [1, 0, 0, 4], [1, 0, 0, 0]]
    assert dense.mask == {}
    assert sparse.state["a"].tolist() == [1, 2, 3, 4]
    assert pool[1].file == "t"


def test_a_pool_is_a_sequence() -> None:
    pool = Pool.of([ticket(level) for level in range(3)])
    assert len(pool) == 3
    assert pool[-1].metadata.level == 2
    assert [t.metadata.level for t in pool[1:]] == [1, 2]
    with pytest.raises(IndexError):
        pool[3]


def test_a_ticket_is_loaded_only_when_it_is_asked_for() -> None:
    tickets = {f"f{level}": ticket(level, f"f{level}") for level in range(3)}
    loaded: list[str] = []

    def load(summary: Summary) -> Ticket:
        loaded.append(summary.file)
        return tickets[summary.file]

    pool = Pool([Summary.of(t) for t in tickets.values()], load)
    assert (len(pool), pool.density(2), loaded) == (3, 1.0, [])
    assert pool[2].file == "f2"
    assert loaded == ["f2"]


def test_prunable_names_are_those_of_any_ticket_in_the_order_of_the_first() -> None:
    masks = [{"b": bools(1, 1)}, {"a": bools(1, 1, 1, 1)}, {}]
    assert prunable_names([Summary.of(ticket(masks=mask)) for mask in masks]) == ("a", "b")


def test_every_problem_is_listed_at_once_and_before_any_weight_is_loaded() -> None:
    """NaN, missing, extra and reshaped tensors, and another architecture: each names the file and what was expected."""
    first = replace(ticket(file="first"), metadata=Metadata(arch="vgg"))
    renamed = Ticket({"a": torch.ones(4), "c": torch.ones(2), "d": torch.ones(1)}, {}, file="renamed")
    reshaped = ticket(file="reshaped", a=torch.ones(2, 2), b=torch.ones(3))
    spoiled = ticket(file="spoiled", b=torch.tensor([1.0, float("nan")]))
    foreign = replace(ticket(file="foreign"), metadata=Metadata(arch="resnet"))
    summaries = [Summary.of(t) for t in (first, renamed, reshaped, spoiled, foreign)]
    expected = [
        ("spoiled", "b", "NaN"),
        ("renamed", "lacks b", "first"),
        ("renamed", "has c, d", "first"),
        ("reshaped", "a is [2, 2]", "expected [4]", "first"),
        ("reshaped", "b is [3]", "expected [2]", "first"),
        ("foreign", "resnet", "expected vgg", "first"),
    ]
    problems = find_problems(summaries)
    assert len(problems) == len(expected)
    for problem, parts in zip(problems, expected, strict=True):
        assert all(part in problem for part in parts), problem
    with pytest.raises(PoolError) as caught:
        Pool(summaries, lambda summary: pytest.fail("a ticket was loaded"))
    assert all(problem in str(caught.value) for problem in problems)


def test_a_long_list_of_problems_ends_with_a_count() -> None:
    other = ticket(file="other", **{f"x{i}": torch.ones(1) for i in range(14)})
    with pytest.raises(PoolError, match="x9, … and 4 more, which t#0 lacks"):
        Pool.of([ticket(), other])


def test_a_ticket_given_twice_counts_once_and_the_pool_says_so() -> None:
    first, second = ticket(0, "first"), ticket(1, "second")
    pool = Pool.of([first, second, replace(first, file="copy")])
    assert [t.file for t in pool] == ["first", "second"]
    assert "copy#2: has the same weights as first#0; left out" in pool.warnings
    with pytest.raises(PoolError, match=r"copy#1: has the same weights.*\n.*at least two tickets, found 1"):
        Pool.of([first, replace(first, file="copy")])


def test_a_run_as_imp_makes_it_gives_no_warning() -> None:
    masks = [{}, {"a": bools(1, 1, 1, 0)}, {"a": bools(1, 0, 1, 0)}]
    assert Pool.of([ticket(level, masks=mask) for level, mask in enumerate(masks)]).warnings == ()


def trained(*said: dict[str, object]) -> tuple[str, ...]:
    """The warnings of a pool whose headers say this of training."""
    masks = [{}, *({"a": bools(*(place >= level for place in range(4)))} for level in range(1, len(said)))]
    tickets = [ticket(level, masks=mask) for level, mask in enumerate(masks)]
    headers = [replace(t.metadata, train=train) for t, train in zip(tickets, said, strict=True)]
    return Pool.of([replace(t, metadata=m) for t, m in zip(tickets, headers, strict=True)]).warnings


def test_tickets_of_several_seeds_are_named() -> None:
    apart = "tickets of different runs: seeds 1, 2, 10; pooling averages weights that have no common start"
    assert trained({"seed": 10, "lr": 1}, {"seed": 2}, {"seed": 1, "lr": 2}) == (apart,)
    (begun,) = trained(*({"seed": seed, "pretrained": True} for seed in (1, 2)))
    assert begun == "tickets of different runs: seeds 1, 2; pooling averages weights that were trained apart"


def test_tickets_of_several_ways_to_train_are_named() -> None:
    (line,) = trained({"seed": 1, "lr": 0.1, "augment": None}, {"seed": 1, "lr": 0.2, "augment": "crop"})
    assert line.startswith('tickets of different runs: lr 0.1, 0.2; augment "crop", null; ')
    (odd,) = trained({"seed": [1] * 100}, {"seed": "two\nlines"})
    assert "\n" not in odd
    assert len(odd) < 200


def test_one_run_may_go_on_elsewhere_and_say_less() -> None:
    assert trained({"seed": 1, "compute": "float32", "processes": 1}, {"seed": 1, "compute": "bfloat16"}, {}) == ()


def test_a_pool_under_the_names_of_a_network_is_the_same_pool() -> None:
    pool = Pool.of([ticket(1, masks={"a": bools(1, 0, 0, 1)}), ticket(0)])
    renamed = pool.for_model(Names({"a": "conv.weight"}), torch.device("cpu"))
    assert (renamed.prunable, pool.prunable) == (("conv.weight",), ("a",))
    assert [list(t.state) for t in renamed] == [["conv.weight"]] * 2
    assert [renamed.kept(i) for i in range(2)] == [pool.kept(i) for i in range(2)] == [4, 2]
    assert renamed[1].state["conv.weight"].tolist() == pool[1].state["a"].tolist() == [1, 0, 0, 4]
    assert list(renamed[1].extras) == ["b"]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_tickets_are_no_pool(count: int) -> None:
    with pytest.raises(PoolError, match=f"at least two tickets, found {count}"):
        Pool.of([ticket()] * count)


def test_tickets_that_fit_have_no_problem_though_one_does_not_say_its_architecture() -> None:
    known = replace(ticket(), metadata=Metadata(arch="vgg"))
    assert find_problems([Summary.of(t) for t in (known, ticket(), known)]) == []


def test_equal_levels_are_ordered_by_name() -> None:
    summaries = [Summary.of(ticket(level, file)) for level, file in ((1, "x"), (0, "y"), (1, "z"), (0, "w"))]
    assert [s.file for s in in_order(summaries)] == ["w", "y", "x", "z"]
