"""Dotted paths to what lies in a PyTorch file, and what in one is called masks."""

from typing import Any

import pytest
import torch

from lptool.checkpoints.nested import Keys, at, masks_in
from lptool.errors import CheckpointError

CONTENT: dict[str, Any] = {"run": {"a.b": [1, {"c": 2}], "a": {"x": 3}}, "n": 4}


@pytest.mark.parametrize(
    ("path", "found"), [(None, CONTENT), ("", CONTENT), ("n", 4), ("run.a.b.0", 1), ("run.a.b.1.c", 2), ("run.a.x", 3)]
)
def test_paths(path: str | None, found: Any) -> None:
    assert at(CONTENT, path, "--state-key", "a.pt") == found


@pytest.mark.parametrize("path", ["nothing", "run.nothing", "run.a.b.7", "n.m", ".", "run..a"])
def test_a_path_to_nothing_says_what_there_is(path: str) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pt: holds nothing at --state-key .*; found n, run; see docs"):
        at(CONTENT, path, "--state-key", "a.pt")


MASKS = {"w": torch.ones(1)}


@pytest.mark.parametrize("key", ["mask", "masks", "pruning_masks", "prune_mask", "mask_dict", "weight_masks", "Masks"])
@pytest.mark.parametrize("outer", ["", "pruning", "a.b"])
def test_masks_are_found_by_usual_names(key: str, outer: str) -> None:
    content: Any = {key: MASKS}
    for name in reversed(outer.split(".") if outer else []):
        content = {name: content, "epoch": 3}
    content = {"model": {"attn.mask": torch.ones(1)}, "optimizer": {"state": {0: {}}, "param_groups": [{}]}, **content}
    assert masks_in(content, Keys(), "a.pt") == (f"{outer}.{key}".lstrip("."), MASKS)


@pytest.mark.parametrize("content", [{}, [], {"masks": {}}, {"masked": MASKS}, {"mask": torch.ones(1)}, {1: MASKS}])
def test_what_is_not_called_masks_is_none(content: Any) -> None:
    assert masks_in(content, Keys(), "a.pt") is None


def test_a_key_is_followed_whatever_its_name() -> None:
    assert masks_in({"x": {"y": MASKS}, "masks": {}}, Keys(mask="x.y"), "a.pt") == ("x.y", MASKS)


def test_what_holds_itself_ends() -> None:
    content: dict[str, Any] = {}
    content["a"] = content["b"] = content
    assert masks_in(content, Keys(), "a.pt") is None
