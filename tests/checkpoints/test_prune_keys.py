"""Files for `torch.nn.utils.prune`: loaded with strict where it was called, and read back as the ticket they are of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lptool.checkpoints.masks import magnitude_prune
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.prune_keys import save_prune_keys
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.errors import OutputError
from lptool.networks.building import build_model, prunable_weights
from lptool.networks.loading import load_model


def ticket(prune_what: str = "conv") -> Ticket:
    torch.manual_seed(0)
    model = build_model("resnet8_cifar", num_classes=10)
    prunable = prunable_weights(model, prune_what)
    state, mask = magnitude_prune(model.state_dict(), prunable, 9_000)
    metadata = Metadata(arch="resnet8_cifar", arch_kwargs={"num_classes": 10}, prunable=prunable)
    return Ticket(state, mask, metadata)


def going_on(path: Path) -> nn.Module:
    """What a person writes who goes on pruning: a network, its modules under prune, and the file."""
    tensors = torch.load(path, weights_only=True)
    model = build_model("resnet8_cifar", num_classes=10)
    for name, module in model.named_modules():
        if f"{name}.weight_orig" in tensors:
            prune.identity(module, "weight")
    model.load_state_dict(tensors, strict=True)
    return model.eval()


@pytest.mark.parametrize("prune_what", ["conv", "all"])
def test_a_network_under_prune_loads_it_and_computes_what_the_dense_one_does(tmp_path: Path, prune_what: str) -> None:
    before = ticket(prune_what)
    save_prune_keys(before, tmp_path / "a.pt")
    save_ticket(before, tmp_path / "a.safetensors")
    model = going_on(tmp_path / "a.pt")
    for name, kept in before.mask.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        assert module.weight_mask.dtype == module.weight_orig.dtype
        assert torch.equal(module.weight_mask.bool(), kept)
        assert not module.weight_orig[~kept].any()
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(images), load_model(tmp_path / "a.safetensors")(images))


def test_pruning_goes_on_from_its_mask(tmp_path: Path) -> None:
    """A further round takes its share of the kept weights, not of all."""
    save_prune_keys(ticket(), tmp_path / "a.pt")
    model = going_on(tmp_path / "a.pt")
    before = model.conv1.weight_mask.clone()
    prune.l1_unstructured(model.conv1, "weight", amount=0.5)
    assert model.conv1.weight_mask.sum() == before.sum() - round(int(before.sum()) * 0.5)
    assert not model.conv1.weight_mask[before == 0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_it_reads_back_bit_for_bit_kept_zeros_included(tmp_path: Path, dtype: torch.dtype) -> None:
    weight = torch.tensor([[1.0, 0.0, -2.0], [0.0, 3.0, -0.0]], dtype=dtype)
    kept = torch.tensor([[True, True, True], [False, False, True]])
    state = {"fc.weight": weight, "fc.bias": torch.ones(2, dtype=dtype), "bn.num_batches_tracked": torch.tensor(7)}
    save_prune_keys(Ticket(state, {"fc.weight": kept}), tmp_path / "a.pt")
    after = load_ticket(tmp_path / "a.pt")
    assert list(after.mask) == ["fc.weight"]
    assert torch.equal(after.mask["fc.weight"], kept)
    for name, tensor in {**state, "fc.weight": torch.where(kept, weight, 0)}.items():
        assert after.state[name].dtype == tensor.dtype
        assert torch.equal(after.state[name], tensor)
        assert torch.equal(after.state[name].signbit(), tensor.signbit())


def test_the_names_are_those_of_the_tickets_own_program(tmp_path: Path) -> None:
    own = {"fc.weight": "module.fc.weight", "fc.bias": "module.fc.bias"}
    state, mask = {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}, {"fc.weight": torch.eye(2) == 1}
    save_prune_keys(Ticket(state, mask, own_names=own, extras={"norm.mean": torch.zeros(3)}), tmp_path / "a.pt")
    assert list(torch.load(tmp_path / "a.pt", weights_only=True)) == [
        "module.fc.weight_orig",
        "module.fc.weight_mask",
        "module.fc.bias",
        "norm.mean",
    ]


def test_views_take_no_more_room_than_they_show_and_same_ticket_gives_same_bytes(tmp_path: Path) -> None:
    view = torch.zeros(1_000_000)[:10]
    for name in ("a", "b"):
        save_prune_keys(Ticket({"w": view}, {"w": view == 0}), tmp_path / name)
    assert (tmp_path / "a").stat().st_size < 10_000
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.pt: not written, because w holds NaN"):
        save_prune_keys(Ticket({"w": torch.tensor([[float("nan")]])}, {}), tmp_path / "a.pt")
    assert os.listdir(tmp_path) == []
