"""Tickets: what a header says and what it must not, summaries counted by hand, other names for the same tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from lptool.checkpoints.names import Names
from lptool.checkpoints.summary import Summary
from lptool.checkpoints.ticket import Ticket


def bools(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def test_renaming_keeps_every_tensor_and_says_what_it_was_called() -> None:
    state = {"a": torch.ones(4), "b": torch.ones(2), "norm": torch.ones(3)}
    names = {"a": "conv.weight", "b": "conv.bias"}
    ticket = Ticket(state, {"a": bools(1, 0, 0, 0)}, own_names={"a": "module.a"})
    renamed = ticket.renamed(Names(names))
    assert {name: id(t) for name, t in renamed.state.items()} == {names[n]: id(state[n]) for n in names}
    assert list(renamed.mask) == ["conv.weight"]
    assert renamed.extras == {"norm": state["norm"]}
    assert renamed.own_names == {"conv.weight": "module.a", "conv.bias": "b", "norm": "norm"}
    summary = Summary.of(ticket).renamed(Names(names))
    assert (list(summary.tensors), summary.prunable) == (["conv.weight", "conv.bias"], ("conv.weight",))


def test_renaming_twice_keeps_the_extras_and_their_names() -> None:
    ticket = Ticket({"a": torch.ones(1), "x": torch.ones(2)}, {}, own_names={"x": "module.x"})
    twice = ticket.renamed(Names({"a": "b"})).renamed(Names({"b": "c"}))
    assert set(twice.state) == {"c"}
    assert set(twice.extras) == {"x"}
    assert twice.own_names["x"] == "module.x"
