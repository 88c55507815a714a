"""Tickets and pools: what a header says, the order of a pool, its alignment, and all that can keep it from being one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lptool.errors import CheckpointError, PoolError
from lptool.tickets import (
    FORMAT_VERSION,
    Metadata,
    Pool,
    Summary,
    Ticket,
    find_problems,
    in_order,
    l2_distance,
    prunable_names,
    summarise,
)

FULL = Metadata(
    kind="pooled",
    arch="resnet20_cifar",
    arch_kwargs={"num_classes": 10, "in_chans": 1},
    level=3,
    prunable=("conv.weight", "fc.weight"),
    dataset={"name": "digits", "split": {"seed": 0, "hash": "abc"}},
    train={"epochs": 3, "rate": 0.2},
    trace={"members": [{"file": "lével_02.safetensors", "alpha": 0.05}]},
    scores={"val": {"pooled": {"accuracy": 0.1 + 0.2, "nll": 1e-300, "n": 3}}},
)


def document(**changes: Any) -> dict[str, Any]:
    """A sound header document but for `changes`; a value of `...` takes the key out."""
    found = {**json.loads(FULL.to_json(0.5)), **changes}
    return {key: value for key, value in found.items() if value is not ...}


def bools(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def ticket(level: int | None = None, file: str = "t", masks: dict[str, Tensor] | None = None, **tensors: Tensor) -> Ticket:
    """A ticket of the tensors `a` [4] and `b` [2] unless others are given."""
    state = {"a": torch.arange(1.0, 5.0), "b": torch.ones(2), **tensors}
    return Ticket(state, masks or {}, Metadata(level=level), file)


@pytest.mark.parametrize("metadata", [FULL, Metadata(), replace(FULL, kind="ticket", level=None, prunable=())])
def test_metadata_goes_to_json_and_back_unchanged(metadata: Metadata) -> None:
    text = metadata.to_json(0.75)
    assert Metadata.from_json(text, "f") == metadata
    assert Metadata.from_json(text, "f").to_json(0.75) == text


def test_the_document_has_the_names_that_the_design_fixes() -> None:
    found = json.loads(FULL.to_json(0.75))
    assert found["version"] == FORMAT_VERSION
    assert found["arch"] == {"name": "resnet20_cifar", "kwargs": {"num_classes": 10, "in_chans": 1}}
    assert (found["kind"], found["level"], found["sparsity"]) == ("pooled", 3, 0.75)
    assert {"dataset", "trace", "scores"} <= set(found)


@pytest.mark.parametrize(
    "text", ["", "{", "null", "3", "[]", '"text"', "{}", '{"version": 1}', "[" * 100_000, "9" * 5000, '{"format": "pt"}']
)
def test_a_text_that_is_not_our_document_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"file\.safetensors.*metadata"):
        Metadata.from_json(text, "file.safetensors")


@pytest.mark.parametrize("key", ["version", "kind", "level", "prunable", "dataset", "train", "trace", "scores"])
def test_a_document_that_lacks_a_key_is_refused(key: str) -> None:
    with pytest.raises(CheckpointError, match=f"damaged.*{key}"):
        Metadata.from_json(json.dumps(document(**{key: ...})), "f")


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "dog"},
        {"kind": ["ticket"]},
        {"arch": "resnet18"},
        {"arch": {"name": "resnet18"}},
        {"arch": {"name": 3, "kwargs": {}}},
        {"arch": {"name": "resnet18", "kwargs": [1]}},
        {"level": "3"},
        {"level": 1.5},
        {"prunable": 7},
        {"prunable": None},
        {"prunable": [1, 2]},
        {"dataset": "digits"},
        {"train": None},
        {"trace": []},
        {"scores": 0.9},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="^f: the `lptool` metadata in its header"):
        Metadata.from_json(json.dumps(document(**changes)), "f")


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99, "2", None])
def test_another_version_is_refused_and_named(version: object) -> None:
    with pytest.raises(CheckpointError, match=f"f: written in format {version}, this lptool reads {FORMAT_VERSION}"):
        Metadata.from_json(json.dumps(document(version=version)), "f")


def test_a_summary_counts_by_hand() -> None:
    found = summarise(ticket(masks={"a": bools(1, 0, 0, 0)}, c=torch.tensor(3)), sha256="beef")
    assert found.shapes == {"a": (4,), "b": (2,), "c": ()}
    assert found.kept == {"a": 1}
    assert (found.size(), found.size(["a", "b"]), found.kept_of(["a", "b"])) == (7, 6, 3)
    assert (found.density(), found.density(["a", "b"]), found.density([])) == (0.25, 0.5, 1.0)
    assert (found.sha256, found.not_finite) == ("beef", ())


def test_a_summary_names_the_tensors_that_are_not_finite() -> None:
    found = summarise(ticket(a=torch.tensor([1.0, float("nan")]), b=torch.tensor([float("-inf")]), n=torch.tensor(1)))
    assert found.not_finite == ("a", "b")


@pytest.mark.parametrize("given", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_pool_is_ordered_by_level_whatever_the_density(given: tuple[int, ...]) -> None:
    masks = {0: bools(1, 0, 0, 0), 1: bools(1, 1, 1, 1), 2: bools(1, 1, 0, 0)}
    pool = Pool.of([ticket(level, masks={"a": masks[level]}) for level in given])
    assert [pool.level(i) for i in range(3)] == [0, 1, 2]
    assert [t.metadata.level for t in pool] == [0, 1, 2]


@pytest.mark.parametrize("level", [None, 7])
def test_a_pool_is_ordered_densest_first_where_a_file_does_not_say_its_level(level: int | None) -> None:
    """Over the prunable tensors of all: a ticket without a mask for one of them keeps it whole. Ties keep their order."""
    tickets = [
        ticket(level, "half", {"a": bools(1, 1, 0, 0), "b": bools(1, 0)}),
        ticket(None, "two thirds", {"a": bools(1, 1, 0, 0)}),
        ticket(None, "half again", {"a": bools(0, 0, 1, 1), "b": bools(0, 1)}),
        ticket(None, "dense"),
    ]
    pool = Pool.of(tickets)
    assert [t.file for t in pool] == ["dense", "two thirds", "half", "half again"]
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

    pool = Pool([summarise(t) for t in tickets.values()], load)
    assert (len(pool), pool.density(2), loaded) == (3, 1.0, [])
    assert pool[2].file == "f2"
    assert loaded == ["f2"]


def test_prunable_names_are_those_of_any_ticket_in_the_order_of_the_first() -> None:
    masks = [{"b": bools(1, 1)}, {"a": bools(1, 1, 1, 1)}, {}]
    assert prunable_names([summarise(ticket(masks=mask)) for mask in masks]) == ("a", "b")


def test_every_problem_is_listed_at_once_and_before_any_weight_is_loaded() -> None:
    """NaN, missing, extra and reshaped tensors, and another architecture: each names the file and what was expected."""
    first = replace(ticket(file="first"), metadata=Metadata(arch="vgg"))
    renamed = Ticket({"a": torch.ones(4), "c": torch.ones(2), "d": torch.ones(1)}, {}, file="renamed")
    reshaped = ticket(file="reshaped", a=torch.ones(2, 2), b=torch.ones(3))
    spoiled = ticket(file="spoiled", b=torch.tensor([1.0, float("nan")]))
    foreign = replace(ticket(file="foreign"), metadata=Metadata(arch="resnet"))
    summaries = [summarise(t) for t in (first, renamed, reshaped, spoiled, foreign)]
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
    with pytest.raises(PoolError, match="x9, … and 4 more, which t lacks"):
        Pool.of([ticket(), other])


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_tickets_are_no_pool(count: int) -> None:
    with pytest.raises(PoolError, match=f"at least two tickets, found {count}"):
        Pool.of([ticket()] * count)


def test_tickets_that_fit_have_no_problem_though_one_does_not_say_its_architecture() -> None:
    known = replace(ticket(), metadata=Metadata(arch="vgg"))
    assert find_problems([summarise(t) for t in (known, ticket(), known)]) == []


def test_order_of_equal_levels_is_the_order_given() -> None:
    summaries = [summarise(ticket(level, file)) for level, file in ((1, "x"), (0, "y"), (1, "z"), (0, "w"))]
    assert [s.file for s in in_order(summaries)] == ["y", "w", "x", "z"]


def test_l2_distance_by_hand() -> None:
    a = {"p": torch.tensor([[3.0, 0.0], [0.0, 0.0]]), "q": torch.tensor([1.0], dtype=torch.float16), "r": torch.ones(9)}
    b = {"p": torch.tensor([[0.0, 0.0], [4.0, 0.0]]), "q": torch.tensor([1.0], dtype=torch.float16), "r": torch.zeros(9)}
    assert l2_distance(a, b, ["p", "q"]) == l2_distance(b, a, ["p", "q"]) == 5.0
    assert l2_distance(a, b, []) == 0.0
