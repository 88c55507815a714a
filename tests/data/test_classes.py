"""The same numbers mean the same classes, or nothing is computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lptool.checkpoints.header import DataSet, typed
from lptool.data.classes import check_named, count_of_labels, named_in_order, names_known
from lptool.errors import DataError


def like(*names: str, count: int | None = None) -> DataSet:
    return typed(DataSet, {"class_names": list(names), "num_classes": count})


def test_the_networks_order_decides_and_is_said_where_it_differs() -> None:
    assert named_in_order("x", ["a", "b"], None) == (("a", "b"), [])
    assert named_in_order("x", ["a", "b"], like("a", "b")) == (("a", "b"), [])
    names, [note] = named_in_order("x", ["a", "b"], like("b", "c", "a"))
    assert names == ("b", "c", "a")
    assert note == "x: has 2 of the 3 classes that the network tells apart; matched by name"


def test_a_class_that_the_network_does_not_know_is_refused() -> None:
    with pytest.raises(
        DataError, match="x: has classes that the network was not trained on: d; it knows instead: b, c"
    ):
        named_in_order("x", ["a", "d"], like("a", "b", "c"))


def test_without_names_the_count_is_compared() -> None:
    assert named_in_order("x", ["a", "b"], like(count=2)) == (("a", "b"), [])
    with pytest.raises(DataError, match="x: has 2 classes, expected 3"):
        named_in_order("x", ["a", "b"], like(count=3))
    assert names_known(like("a", "a", count=2)) == ()
    check_named(("a", "b"), 2, "x")
    check_named((), 3, "x")
    with pytest.raises(DataError, match="x: has 2 classes, but the network tells 3 apart"):
        check_named(("a", "b"), 3, "x")


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("label", [-1, -100, 3, 2**62])
def test_a_label_that_is_no_class_is_refused_in_every_part(part: str, label: int) -> None:
    sound = {name: np.array([0, 1, 2]) for name in ("train", "val", "test")}
    assert count_of_labels("x", sound, None) == 3
    odd = {**sound, part: np.array([0, label])}
    known = None if part != "train" or label < 0 or label > 10 else 3
    with pytest.raises(DataError, match=f"x: {part} has the class {label}, expected 0 to "):
        count_of_labels("x", odd, known)


def test_labels_from_one_are_refused_unless_the_network_is_known_to_have_them() -> None:
    with pytest.raises(DataError, match="x: labels go from 1 to 3, expected from 0; subtract 1"):
        count_of_labels("x", {"train": np.array([1, 2, 3])}, None)
    assert count_of_labels("x", {"train": np.array([1, 2, 3])}, 4) == 4
    with pytest.raises(DataError, match="train has the class 3, expected 0 to 2 as the network was trained on"):
        count_of_labels("x", {"train": np.array([1, 2, 3])}, 3)


def test_fewer_numbered_classes_than_the_network_tells_apart_are_sound() -> None:
    assert count_of_labels("x", {"train": np.array([0, 1])}, 10) == 10
    assert named_in_order("x", ["a"], replace(like("a", "b"), num_classes=7))[0] == ("a", "b")
