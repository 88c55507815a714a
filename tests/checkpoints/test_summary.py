"""Tickets: what a header says and what it must not, summaries counted by hand, other names for the same tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lptool.checkpoints.summary import Summary, Tally, l2_distance
from lptool.checkpoints.ticket import Ticket


def bools(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


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


def test_l2_distance_by_hand() -> None:
    a = [torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([1.0], dtype=torch.float16)]
    b = [torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([1.0], dtype=torch.float16)]
    assert l2_distance(zip(a, b, strict=True)) == l2_distance(zip(b, a, strict=True)) == 5.0
    assert l2_distance([]) == 0.0


def test_equal_values_in_another_shape_are_other_weights() -> None:
    digests = {Summary.of(Ticket({"w": tensor}, {})).weights for tensor in (torch.ones(4), torch.ones(2, 2))}
    assert len(digests) == 2
