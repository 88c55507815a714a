"""Tickets: what a header says and what it must not, summaries counted by hand, other names for the same tensors."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lptool.errors import CheckpointError
from lptool.tickets import FORMAT_VERSION, Metadata, Summary, Tally, Ticket, l2_distance

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
    "text",
    ["", "{", "null", "3", "[]", '"text"', "{}", '{"version": 1}', "[" * 100_000, "9" * 5000, '{"format": "pt"}'],
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
    with pytest.raises(CheckpointError, match=r"^f: the `lptool` metadata in its header"):
        Metadata.from_json(json.dumps(document(**changes)), "f")


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99, "2", None])
def test_another_version_is_refused_and_named(version: object) -> None:
    with pytest.raises(CheckpointError, match=f"f: written in format {version}, expected {FORMAT_VERSION}"):
        Metadata.from_json(json.dumps(document(version=version)), "f")


def test_a_summary_counts_by_hand() -> None:
    state = {"a": torch.tensor([1.0, 0.0, 0.0, 0.0]), "b": torch.ones(2), "c": torch.tensor(3)}
    found = Summary.of(Ticket(state, {"a": bools(1, 0, 0, 0)}, file="f"))
    assert {name: tally.shape for name, tally in found.tensors.items()} == {"a": (4,), "b": (2,), "c": ()}
    assert {name: tally.kept for name, tally in found.tensors.items()} == {"a": 1, "b": None, "c": None}
    assert (found.file, found.prunable) == ("f", ("a",))
    assert (found.size(), found.kept(), found.density()) == (4, 1, 0.25)
    assert (found.size(["a", "b"]), found.kept(["a", "b"]), found.density(["a", "b"])) == (6, 3, 0.5)
    assert found.density([]) == Summary.of(Ticket(state, {})).density() == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_tally_sees_a_value_that_is_not_finite(dtype: torch.dtype, value: float) -> None:
    assert not Tally.of(torch.tensor([1.0, value], dtype=dtype), None).finite
    assert Tally.of(torch.tensor([1.0, 0.0], dtype=dtype), None).finite


def test_equal_weights_have_equal_digests_whatever_the_file_and_the_order() -> None:
    state = {"a": torch.ones(2, 2), "n": torch.tensor(3)}
    same = {"n": torch.tensor(3), "a": torch.ones(2, 2)}
    assert Summary.of(Ticket(state, {}, file="x")).weights == Summary.of(Ticket(same, {}, file="y")).weights


@pytest.mark.parametrize(
    "other",
    [{"a": torch.tensor([1.0, 2.5])}, {"a": torch.tensor([1.0, 2.0]).double()}, {"b": torch.tensor([1.0, 2.0])}],
    ids=["value", "dtype", "name"],
)
def test_other_weights_have_other_digests(other: dict[str, Tensor]) -> None:
    state = {"a": torch.tensor([1.0, 2.0])}
    assert Summary.of(Ticket(state, {})).weights != Summary.of(Ticket(other, {})).weights


def test_renaming_keeps_every_tensor_and_says_what_it_was_called() -> None:
    state = {"a": torch.ones(4), "b": torch.ones(2), "norm": torch.ones(3)}
    names = {"a": "conv.weight", "b": "conv.bias"}
    ticket = Ticket(state, {"a": bools(1, 0, 0, 0)}, own_names={"a": "module.a"})
    renamed = ticket.renamed(names)
    assert {name: id(t) for name, t in renamed.state.items()} == {names[n]: id(state[n]) for n in names}
    assert list(renamed.mask) == ["conv.weight"]
    assert renamed.extras == {"norm": state["norm"]}
    assert renamed.own_names == {"conv.weight": "module.a", "conv.bias": "b", "norm": "norm"}
    summary = Summary.of(ticket).renamed(names)
    assert (list(summary.tensors), summary.prunable) == (["conv.weight", "conv.bias"], ("conv.weight",))


def test_l2_distance_by_hand() -> None:
    a = [torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([1.0], dtype=torch.float16)]
    b = [torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([1.0], dtype=torch.float16)]
    assert l2_distance(zip(a, b, strict=True)) == l2_distance(zip(b, a, strict=True)) == 5.0
    assert l2_distance([]) == 0.0


def test_renaming_twice_keeps_the_extras_and_their_names() -> None:
    ticket = Ticket({"a": torch.ones(1), "x": torch.ones(2)}, {}, own_names={"x": "module.x"})
    twice = ticket.renamed({"a": "b"}).renamed({"b": "c"})
    assert set(twice.state) == {"c"}
    assert set(twice.extras) == {"x"}
    assert twice.own_names["x"] == "module.x"


def test_equal_values_in_another_shape_are_other_weights() -> None:
    digests = {Summary.of(Ticket({"w": tensor}, {})).weights for tensor in (torch.ones(4), torch.ones(2, 2))}
    assert len(digests) == 2


@pytest.mark.parametrize("name", ["pretrained", "pretrained_cfg", "checkpoint_path"])
def test_arguments_that_would_load_something_are_refused(name: str) -> None:
    text = Metadata(arch="resnet18", arch_kwargs={name: True}).to_json(0.0)
    with pytest.raises(CheckpointError, match=f"a.safetensors: wants its architecture built with {name}"):
        Metadata.from_json(text, "a.safetensors")
