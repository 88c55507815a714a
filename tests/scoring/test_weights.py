"""The tensors of a network: each once, and put back as `load_state_dict` would."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lptool.checkpoints.ticket import Ticket
from lptool.scoring.weights import names_of, parts_of, put_weights, weights_of


class Tied(nn.Module):
    """A weight under two names, a block that is there twice, and masks of two kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4, 6)
        self.head.weight = self.embed.weight
        block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.blocks = nn.ModuleList([block, block])
        self.blocks[0][0].register_buffer("mask", torch.ones(4, 4))
        self.head.register_buffer("bias_mask", torch.ones(6, dtype=torch.bool))
        self.register_buffer("attn_mask", torch.ones(2))  # no mask of any weight


def shuffled(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Other values for every tensor that is not a mask, alike under all its names."""
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    for tensor in (*other.parameters(), *other.buffers()):
        if tensor.is_floating_point() and not bool((tensor == 1).all() and tensor.dim() == 2):
            tensor.data.normal_()
    return other.state_dict()


def test_each_tensor_has_one_name_and_masks_are_none() -> None:
    model = Tied()
    state = weights_of(model)
    assert "head.weight" not in state
    assert "embed.weight" in state
    assert not [name for name in state if name.startswith("blocks.1")]
    assert not {"blocks.0.0.mask", "head.bias_mask"} & state.keys()
    assert "attn_mask" in state
    assert sum(t.numel() for n, t in state.items() if n in dict(model.named_parameters())) == sum(
        p.numel() for p in model.parameters()
    )
    assert parts_of(model).mask_names["head.bias_mask"] == "head.bias"


def test_what_was_taken_out_can_be_put_into_another() -> None:
    model, expected = Tied(), shuffled(Tied())
    other = Tied()
    other.load_state_dict(expected)
    put_weights(model, weights_of(other), {})
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_ticket_under_the_names_of_a_network_holds_what_strict_loading_needs() -> None:
    model = Tied()
    state = {name: t.clone() for name, t in weights_of(model).items()}
    mask = {"blocks.0.0.weight": torch.eye(4) == 1}
    tensors = Ticket(state, mask).renamed(names_of(model)).tensors()
    assert {name: t.dtype for name, t in tensors.items()} == {n: t.dtype for n, t in model.state_dict().items()}
    other = Tied()
    other.load_state_dict(tensors)
    assert torch.equal(other.blocks[1][0].weight, torch.eye(4) * state["blocks.0.0.weight"])
    assert torch.equal(other.blocks[1][0].mask, torch.eye(4))
    assert bool(other.head.bias_mask.all())


@pytest.mark.parametrize("known", [False, True])
def test_masks_of_a_network_are_those_of_the_state(known: bool) -> None:
    model = Tied()
    state = {name: t.clone() for name, t in weights_of(model).items()}
    state["blocks.0.0.weight"] = torch.eye(4)
    state["head.bias"] = torch.tensor([0.0, 1, 1, 1, 1, 1])
    put_weights(model, state, {"blocks.0.0.weight": torch.ones(4, 4) == 1} if known else None)
    assert model.blocks[0][0].mask.tolist() == (torch.ones(4, 4) if known else torch.eye(4)).tolist()
    assert model.head.bias_mask.tolist() == [known, True, True, True, True, True]


class Counting(nn.Linear):
    """Keeps something that is no tensor in its state dict, and asks for it."""

    calls = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


def test_what_is_no_tensor_stays_as_it_is() -> None:
    model = Counting(2, 2)
    model.calls = 3
    put_weights(model, {"weight": torch.eye(2), "bias": torch.ones(2)})
    assert torch.equal(model.weight, torch.eye(2))
    assert model.calls == 3
    assert weights_of(model).keys() == {"weight", "bias"}


def test_a_count_of_batches_may_be_absent() -> None:
    model = nn.BatchNorm1d(2)
    state = {name: t + 1 for name, t in model.state_dict().items() if name != "num_batches_tracked"}
    put_weights(model, state)
    assert torch.equal(model.running_mean, torch.ones(2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, "Missing key"),
        ({"other": torch.ones(2)}, "Unexpected key"),
        ({"bias": torch.ones(1)}, "size mismatch"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_as_torch_does(change: dict[str, Tensor | None], message: str) -> None:
    model = nn.Linear(2, 2)
    state = {name: t for name, t in {**model.state_dict(), **change}.items() if t is not None}
    with pytest.raises(RuntimeError, match=message):
        put_weights(model, state)


def test_of_copies_that_differ_the_last_counts_as_for_torch() -> None:
    model, expected = Tied(), Tied()
    state = {
        "head.weight": torch.ones(6, 4),
        **{n: t.clone() for n, t in model.state_dict().items() if n != "head.weight"},
    }
    put_weights(model, state)
    expected.load_state_dict(state)
    assert torch.equal(model.embed.weight, expected.embed.weight)


def test_a_hook_after_loading_is_called() -> None:
    model, called = nn.Linear(2, 2), list[object]()
    model.register_load_state_dict_post_hook(lambda module, keys: called.append(module))
    put_weights(model, model.state_dict())
    assert called == [model]
