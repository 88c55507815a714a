"""Networks by name, a user's own, and whether a file fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lptool.checkpoints.masks import magnitude_prune
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.errors import ArchError
from lptool.networks.building import build_model, prunable_weights
from lptool.networks.loading import load_model

# A user's own network

OWN = """
import torch
from torch import nn

class Net(nn.Linear):
    def __init__(self, num_classes, in_chans):
        super().__init__(in_chans, num_classes)

def takes_anything(**kwargs):
    return Net(kwargs["num_classes"], kwargs["in_chans"])

def takes_nothing():
    return nn.Linear(4, 4)

def wide(num_classes, width=2):
    return nn.Linear(width, num_classes)

def no_module(): return "a string"
def fails(): raise KeyError("inside")
number = 3
"""


@pytest.fixture(params=["module", "file"])
def own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What stands before the colon in --arch."""
    name = f"own_{request.param}_networks"
    (tmp_path / f"{name}.py").write_text(OWN)
    if request.param == "file":
        return str(tmp_path / f"{name}.py")
    monkeypatch.syspath_prepend(tmp_path)
    return name


# Loading


def pruned_ticket(arch: str, **kwargs: int) -> Ticket:
    model = build_model(arch, **kwargs)
    names = prunable_weights(model, "conv")
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    state, mask = magnitude_prune(model.state_dict(), names, keep=1000)
    return Ticket(state, mask, Metadata(arch=arch, arch_kwargs=kwargs, level=1, prunable=names))


def test_load_model_gives_back_the_network_that_was_saved(tmp_path: Path) -> None:
    ticket = pruned_ticket("resnet8_cifar", num_classes=4, in_chans=1)
    save_ticket(ticket, tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")
    assert not any(module.training for module in loaded.modules())
    assert loaded.state_dict().keys() == ticket.state.keys()
    assert all(torch.equal(tensor, ticket.state[name]) for name, tensor in loaded.state_dict().items())
    original = build_model("resnet8_cifar", 4, 1)
    original.load_state_dict(ticket.state)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded(x), original.eval()(x))


def test_load_model_refuses_the_wrong_architecture(tmp_path: Path) -> None:
    save_ticket(pruned_ticket("resnet8_cifar", num_classes=4, in_chans=1), tmp_path / "a.safetensors")
    with pytest.raises(ArchError, match=r"a\.safetensors: does not fit architecture 'resnet20_cifar'"):
        load_model(tmp_path / "a.safetensors", arch="resnet20_cifar")


def test_load_model_of_a_file_without_architecture_takes_the_one_named(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(OWN)
    state = nn.Linear(4, 4).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    model = load_model(tmp_path / "a.safetensors", arch=f"{tmp_path}/net.py:takes_nothing")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_load_model_of_a_file_that_fits_nothing_known_asks_for_the_architecture(tmp_path: Path) -> None:
    save_file(nn.Linear(4, 4).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(
        ArchError,
        match=r"a\.safetensors: does not say its architecture, .*; name it with --arch \(.*file\.py:callable\)",
    ):
        load_model(tmp_path / "a.safetensors")
