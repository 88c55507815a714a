"""Tickets: what a header says and what it must not, summaries counted by hand, other names for the same tensors."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lptool.checkpoints.metadata import FORMAT_VERSION, Metadata
from lptool.errors import CheckpointError

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


@pytest.mark.parametrize("name", ["pretrained", "pretrained_cfg", "checkpoint_path"])
def test_arguments_that_would_load_something_are_refused(name: str) -> None:
    text = Metadata(arch="resnet18", arch_kwargs={name: True}).to_json(0.0)
    with pytest.raises(CheckpointError, match=f"a.safetensors: wants its architecture built with {name}"):
        Metadata.from_json(text, "a.safetensors")


@pytest.mark.parametrize(
    ("side", "shape", "expected"),
    [
        (32, [3, 32, 32], 32),
        (32, None, 32),
        (32, [3, 64, 64], None),  # the two cannot both be so: the images of the data set decide
        (None, [3, 32, 32], None),
        (0, None, None),
        ("32", [3, 32, 32], None),
    ],
)
def test_the_side_of_resized_images_agrees_with_their_shape(side: Any, shape: Any, expected: int | None) -> None:
    assert replace(FULL, dataset={"image_shape": shape}, train={"image_size": side}).image_size == expected


def test_unknown_keys_are_carried_along() -> None:
    later = {part: {"of a later version": [1, {"a": None}]} for part in ("dataset", "train", "trace", "scores")}
    text = json.dumps(document(**later), sort_keys=True)
    assert Metadata.from_json(text, "f").to_json(0.5) == text


def test_a_document_too_deep_to_be_written_again_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(60):
        deep = [deep]
    with pytest.raises(CheckpointError, match=r"f: the `lptool` metadata in its header is damaged.*in one another"):
        Metadata.from_json(json.dumps(document(train={"a": deep})), "f")
