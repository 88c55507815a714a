"""Of which network a file is, and that one loaded."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.utils import CheckpointSaver
from torch import nn
from torch.nn.modules import module as registering

import lptool
from lptool.checkpoints.masks import magnitude_prune
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.reading import summarise_file
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.errors import ArchError
from lptool.networks.architecture import architecture_of, guess_arch, load_model
from lptool.networks.building import build_model, prunable_weights
from lptool.networks.matching import fit_names
from lptool.scoring.weights import put_weights
from tests.helpers.commands import lptool as lptool_command


def test_names_and_shapes_of_the_tensors_tell_the_architecture() -> None:
    state = build_model("vgg16_bn_cifar", num_classes=7, in_chans=1).state_dict()
    name, kwargs, evidence = guess_arch({n: tuple(t.shape) for n, t in state.items()}, "a.pt")
    assert (name, kwargs) == ("vgg16_bn_cifar", {"num_classes": 7, "in_chans": 1})
    assert evidence.startswith(f"all {len(state)} tensors")


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
    source = "from torch import nn\ndef takes_nothing():\n    return nn.Linear(4, 4)\n"
    (tmp_path / "net.py").write_text(source)
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


# What other programs note, and what is named


def timm_checkpoint(folder: Path, arch: str, **kwargs: int) -> Path:
    """As timm's own training script saves it."""
    model = timm.create_model(arch, **kwargs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    saver = CheckpointSaver(model, optimizer, args=argparse.Namespace(model=arch), checkpoint_dir=str(folder))
    saver.save_checkpoint(0, 0.5)
    return folder / "last.pth.tar"


def test_the_arch_in_a_checkpoint_of_timms_is_taken_and_told(tmp_path: Path) -> None:
    file = timm_checkpoint(tmp_path, "resnet10t", num_classes=3, in_chans=1)
    summary = summarise_file(file)
    name, kwargs, lines = architecture_of(summary.metadata, summary.shapes, summary.file, None, {})
    assert (name, kwargs) == ("resnet10t", {"num_classes": 3, "in_chans": 1})
    assert lines == [
        f"{file}: notes that it is resnet10t; taken for one, because all {len(summary.tensors)} tensors have its names "
        "and shapes"
    ]
    assert load_model(file)(torch.zeros(1, 1, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("arch", ["resnet20_cifar", "nothing.py:Net", "os:getcwd", "resnet", 5, None])
def test_an_arch_that_timm_does_not_know_or_that_does_not_fit_is_passed_over(tmp_path: Path, arch: object) -> None:
    model = build_model("resnet8_cifar", 3, 1)
    torch.save({"arch": arch, "state_dict": model.state_dict()}, tmp_path / "a.pth")
    summary = summarise_file(tmp_path / "a.pth")
    name, _, (line,) = architecture_of(summary.metadata, summary.shapes, summary.file, None, {})
    assert name == "resnet8_cifar"
    assert "does not say its architecture; guessed resnet8_cifar" in line


def test_arguments_that_are_named_go_over_those_of_the_file(tmp_path: Path) -> None:
    metadata = Metadata(arch="resnet8_cifar", arch_kwargs={"num_classes": 4, "in_chans": 1, "stem_stride": 2})
    model = build_model("resnet8_cifar", **metadata.arch_kwargs).eval()
    save_ticket(Ticket(model.state_dict(), {}, metadata), tmp_path / "a.safetensors")
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(load_model(tmp_path / "a.safetensors")(x), model(x))
    other = load_model(tmp_path / "a.safetensors", arch_kwargs={"stem_stride": 1})
    assert not torch.equal(other(x), model(x))


def test_arguments_named_in_training_go_with_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--dataset", "digits", "--levels", 1, "--epochs", 1, "--rewind-epoch", 0, "--device", "cpu"]
    named = ["--arch", "resnet8_cifar", "--arch-kwargs", "stem_stride=2"]
    trained = lptool_command("train", "-o", "run", *named, *short)
    assert trained.exit_code == 0, trained.output
    expected = {"num_classes": 10, "in_chans": 1, "stem_stride": 2}
    assert lptool.load_ticket("run/level_01.safetensors").metadata.arch_kwargs == expected
    other = lptool_command("train", "-o", "run", *named[:2], *short)
    assert "arch_kwargs: {'stem_stride': 2} there, None now" in other.stderr
    for command in (
        ["pool", "run", "-o", "folder", "--method", "average"],
        ["evaluate", "run/level_01.safetensors", "folder"],
        ["convert", "folder", "packed.safetensors", "--packed"],
    ):
        result = lptool_command(*command)
        assert result.exit_code == 0, result.output
    x = torch.randn(2, 1, 8, 8)
    of_timm = timm.create_model("local-dir:folder", pretrained=True).eval()(x)
    assert torch.equal(lptool.load_model("packed.safetensors")(x), of_timm)
    assert not torch.equal(lptool.load_model("packed.safetensors", arch_kwargs={"stem_stride": 1})(x), of_timm)
    unknown = lptool_command("evaluate", "folder", "--arch-kwargs", "stem_strid=1")
    assert unknown.exit_code == 1
    assert "unexpected keyword argument 'stem_strid'" in unknown.stderr


# What a header may ask for


@pytest.mark.parametrize(
    ("arch", "kwargs"),
    [
        ("resnet8_cifar", {"num_classes": 20_000_000, "in_chans": 1}),
        ("vit_tiny_patch16_224", {"depth": 1_000_000}),
        ("vit_tiny_patch16_224", {"depth": 10**12}),
        ("vit_tiny_patch16_224", {"embed_dim": 60_000}),
        ("vit_tiny_patch16_224", {"mlp_ratio": 1e300}),
        ("vit_tiny_patch16_224", {"img_size": [1, [1, 10**9]]}),
        ("resnet18", {"layers": [50_000] * 4}),
        ("resnet18", {"layers": [1] * 20_000}),
        ("convnext_tiny", {"depths": [50_000] * 4}),
    ],
)
def test_a_header_cannot_ask_for_more_than_its_file_can_be(
    tmp_path: Path, arch: str, kwargs: dict[str, object]
) -> None:
    ticket = pruned_ticket("resnet8_cifar", num_classes=4, in_chans=1)
    save_ticket(replace(ticket, metadata=Metadata(arch=arch, arch_kwargs=kwargs)), tmp_path / "a.safetensors")
    started = time.process_time()
    for use in (load_model, lambda path: lptool.as_timm_config(lptool.load_ticket(path))):
        with pytest.raises(
            ArchError, match=r"a\.safetensors: architecture .* check its header|cannot be built"
        ) as caught:
            use(tmp_path / "a.safetensors")
        assert len(str(caught.value)) < 500
    assert time.process_time() - started < 10
    assert not registering._global_parameter_registration_hooks


def test_a_file_of_no_known_family_member_is_told_soon() -> None:
    started = time.process_time()
    with pytest.raises(ArchError, match="none known has its tensors"):
        guess_arch({"layer1.0.conv1.weight": (8, 8, 3, 3)}, "a.pt")
    assert time.process_time() - started < 10


def test_many_tensors_take_a_time_in_proportion(tmp_path: Path) -> None:
    """Ten times the tensors, and far from a hundred times the work."""

    def seconds(count: int) -> float:
        model = nn.Sequential(*(nn.BatchNorm1d(1) for _ in range(count)))
        shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        started = time.process_time()
        names = fit_names(model, shapes, "mine", "a.pt")
        put_weights(model, Ticket(model.state_dict(), {}).renamed(names).state)
        return time.process_time() - started

    seconds(10)
    assert seconds(2000) < 40 * seconds(200) + 0.5
