"""Headers of any program: what is sound comes through, the rest is None or empty, and nothing raises."""

import json
import math
from typing import Any

import pytest

from lptool.export.header import (
    arch_name,
    are_numbers,
    base_name,
    data_name,
    dicts_in,
    is_number,
    one_line,
    score_in,
    utf8,
)

ODD: list[Any] = [None, True, "x", [], {}, [[]], {"a": 1}, math.nan, math.inf, json.loads("1" * 400), -1, 1.5]


def test_a_sound_score_comes_through() -> None:
    score = {"accuracy": 0.5, "nll": None, "n": 10}
    assert score_in({"test": {"pooled": score}}, "test", "pooled") is score


@pytest.mark.parametrize("odd", ODD)
def test_other_scores_are_none(odd: Any) -> None:
    assert score_in({"test": odd}, "test", "pooled") is None
    assert score_in({"test": {"pooled": odd}}, "test", "pooled") is None
    assert score_in({"test": {"pooled": {"accuracy": odd, "n": 3}}}, "test", "pooled") is None
    assert score_in({"test": {"pooled": {"accuracy": 0.5, "n": odd}}}, "test", "pooled") is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("digits", "digits"),
        ("folder:/home/me/photos/", "folder:photos"),
        ("npz:C:\\data\\some.npz", "npz:some.npz"),
        ("wds//srv/shards", "wds/shards"),
        ("hfds/user/set", "hfds/user/set"),
        ("torch/mnist", "torch/mnist"),
        ("/srv/images", "images"),
        (3, ""),
        ("two\nlines", "two lines"),
    ],
)
def test_data_is_named_without_its_folder(name: Any, shown: str) -> None:
    assert data_name({"name": name}) == shown


def test_architectures_are_named_without_their_folder() -> None:
    assert arch_name("/home/me/net.py:make") == "net.py:make"
    assert arch_name("package.nets:make") == "package.nets:make"
    assert arch_name("resnet18") == "resnet18"
    assert arch_name(None) == ""


def test_text_can_always_be_written() -> None:
    odd = "a\ud800b\x00c\x1b[0m\x85é→"
    assert utf8(odd).encode()
    assert utf8(odd).isprintable()
    assert utf8("a\n\tb") == "a\n\tb"
    assert one_line(" a\n\r\tb ") == "a b"
    assert base_name("a\\b/c/") == "c"


def test_numbers() -> None:
    assert [value for value in ODD if is_number(value)] == [-1, 1.5]
    assert are_numbers([1, 2.5])
    assert not any(are_numbers(value) for value in ([], "12", [1, "2"], {1: 2}, None))
    assert dicts_in([{"a": 1}, 3]) == [{"a": 1}]
    assert dicts_in({"a": 1}) == []
