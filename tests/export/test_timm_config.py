"""`config.json` against timm itself: what it loads, and how it prepares images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.errors import ArchError
from lptool.export.timm_config import as_timm_config, for_timm, is_timm
from lptool.networks.architecture import load_model
from lptool.networks.building import build_model

NETWORKS = [
    ("resnet8_cifar", 10, 1),
    ("resnet8_cifar", 10, 3),
    ("resnet18_cifar", 4, 3),
    ("vgg16_bn_cifar", 10, 1),
    ("resnet18", 7, 1),
]


def ticket_of(arch: str, num_classes: int, in_chans: int, side: int = 24) -> Ticket:
    kwargs = {"num_classes": num_classes, "in_chans": in_chans}
    state = {name: t.clone() for name, t in build_model(arch, **kwargs).state_dict().items()}
    name = next(name for name, t in state.items() if t.dim() == 4)
    mask = {name: torch.rand(state[name].shape) < 0.5}
    shape = [in_chans, side, side]
    data = {
        "name": "some",
        "image_shape": shape,
        "mean": [0.31, 0.32, 0.33][:in_chans],
        "std": [0.21, 0.22, 0.23][:in_chans],
    }
    return Ticket(state, mask, Metadata(arch=arch, arch_kwargs=kwargs, prunable=(name,), dataset=data))


def folder_of(ticket: Ticket, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    save_ticket(ticket, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(as_timm_config(ticket)))
    return folder


def logits(model: Any, images: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.eval()(images)
    return found


@pytest.mark.parametrize(("arch", "num_classes", "in_chans"), NETWORKS)
def test_timm_loads_the_folder_to_the_same_logits(arch: str, num_classes: int, in_chans: int, tmp_path: Path) -> None:
    ticket = ticket_of(arch, num_classes, in_chans)
    folder = folder_of(ticket, tmp_path)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    images = torch.randn(2, in_chans, 24, 24)
    found = logits(model, images)
    assert found.shape == (2, num_classes)
    assert torch.equal(found, logits(load_model(folder / "model.safetensors"), images))
    data = ticket.metadata.dataset
    assert list(model.pretrained_cfg["mean"]) == data["mean"]
    resolved = resolve_model_data_config(model)
    for key, expected in (("mean", data["mean"]), ("std", data["std"]), ("input_size", data["image_shape"])):
        assert list(resolved[key]) == expected
        assert list(resolve_model_data_config(model, use_test_size=True)[key]) == expected
    assert (resolved["crop_pct"], resolved["crop_mode"], resolved["interpolation"]) == (1.0, "center", "bilinear")


# An older timm neither writes nor adapts to what a checkpoint was built with.
knows_model_args = pytest.mark.skipif(
    tuple(map(int, timm.__version__.split(".")[:3])) < (1, 0, 31), reason="needs timm 1.0.31"
)


@knows_model_args
def test_timm_still_fits_another_head_and_other_channels(tmp_path: Path) -> None:
    ticket = ticket_of("resnet8_cifar", 10, 1)
    folder = folder_of(ticket, tmp_path)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3, in_chans=3)
    assert model.fc.weight.shape == (3, 64)
    assert torch.equal(model.layer1[0].conv1.weight, ticket.state["layer1.0.conv1.weight"])
    assert model.conv1.weight.shape[1] == 3


@knows_model_args
def test_the_config_is_what_timm_would_write(tmp_path: Path) -> None:
    """Of the same model, but for what timm adds for information."""
    ticket = ticket_of("resnet18", 7, 1)
    model = timm.create_model(f"local-dir:{folder_of(ticket, tmp_path)}", pretrained=True)
    timm.models.save_for_hf(model, str(tmp_path / "timm"), safe_serialization=True)
    theirs, ours = json.loads((tmp_path / "timm" / "config.json").read_text()), as_timm_config(ticket)
    for key in ("architecture", "num_classes", "num_features"):
        assert ours[key] == theirs[key]
    assert ours["model_args"].items() <= theirs["model_args"].items()
    assert {key: theirs["pretrained_cfg"][key] for key in ours["pretrained_cfg"]} == ours["pretrained_cfg"]
    assert set(theirs) - set(ours) <= {"global_pool"}


def test_it_names_no_other_weights_and_no_licence() -> None:
    config = as_timm_config(ticket_of("resnet18.a1_in1k", 7, 3))
    assert config["architecture"] == "resnet18"
    assert config["pretrained_cfg"]["custom_load"] is False
    foreign = {"url", "file", "hf_hub_id", "source", "tag", "license", "label_offset", "test_input_size"}
    assert not foreign & set(config["pretrained_cfg"])
    assert "a1_in1k" not in json.dumps(config)


def test_without_data_timm_keeps_its_own(tmp_path: Path) -> None:
    ticket = ticket_of("test_resnet", 7, 3)
    bare = replace(ticket, metadata=replace(ticket.metadata, dataset={}))
    own = timm.create_model("test_resnet").pretrained_cfg
    config = as_timm_config(bare)["pretrained_cfg"]
    for key in ("mean", "std", "input_size", "crop_pct", "interpolation"):
        assert config[key] == (list(own[key]) if isinstance(own[key], tuple) else own[key])
    assert timm.create_model(f"local-dir:{folder_of(bare, tmp_path)}", pretrained=True).num_classes == 7


@pytest.mark.parametrize("arch", ["nets:make", "/some/where/net.py:make", "a_name_of_nobody"])
def test_an_architecture_that_timm_lacks_is_not_built(arch: str) -> None:
    data = {"name": "some", "num_classes": 4, "image_shape": [1, 8, 8], "mean": [0.5], "std": [0.3]}
    ticket = Ticket({}, {}, Metadata(arch=arch, arch_kwargs={"width": 3}, dataset=data))
    config = as_timm_config(ticket)
    assert not is_timm(arch)
    assert (config["architecture"], config["num_classes"], config["model_args"]) == (arch, 4, {"width": 3})
    assert config["pretrained_cfg"]["mean"] == [0.5]
    assert for_timm(ticket) is ticket
    assert as_timm_config(Ticket({}, {}, Metadata(arch=arch))) == {"architecture": arch, "pretrained_cfg": {}}


def test_is_timm() -> None:
    assert is_timm("resnet18")
    assert is_timm("resnet8_cifar")
    assert is_timm("resnet18.a1_in1k")
    assert not is_timm(None)


@pytest.mark.parametrize("what", [as_timm_config, for_timm])
def test_a_ticket_without_an_architecture_is_refused(what: Any) -> None:
    with pytest.raises(ArchError, match="does not say its architecture; name it with --arch"):
        what(Ticket({"w": torch.zeros(2)}, {}))


def test_other_programs_names_become_timms(tmp_path: Path) -> None:
    """As Lightning would have written it, with a module that normalises."""
    plain = ticket_of("resnet8_cifar", 10, 1)
    prefixed = {f"model.{name}": t for name, t in plain.state.items()} | {"normalise.mean": torch.zeros(1)}
    torch.save({"state_dict": prefixed}, tmp_path / "a.ckpt")
    found = load_ticket(tmp_path / "a.ckpt")
    mask = {name: found.state[name] != 0 for name in plain.mask}
    ticket = for_timm(replace(found, mask=mask, metadata=plain.metadata))
    assert set(ticket.state) == set(plain.state)
    assert ticket.metadata.prunable == tuple(plain.mask)
    folder = folder_of(ticket, tmp_path / "folder")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(model.fc.weight, plain.state["fc.weight"])
    assert load_ticket(folder).mask.keys() == plain.mask.keys()


def test_weights_that_do_not_fit_are_refused() -> None:
    ticket = ticket_of("resnet8_cifar", 10, 1)
    with pytest.raises(ArchError, match="does not fit architecture 'resnet20_cifar'"):
        for_timm(replace(ticket, metadata=replace(ticket.metadata, arch="resnet20_cifar")))


@pytest.mark.parametrize("names", [None, ["a"], ["a", "b", "c", 4], "abcd"])
def test_names_of_classes_that_do_not_fit_are_left_out(names: Any) -> None:
    ticket = ticket_of("resnet8_cifar", 4, 3)
    ticket.metadata.dataset["class_names"] = names
    assert "label_names" not in as_timm_config(ticket)


def test_names_of_classes_come_in_the_order_of_the_logits(tmp_path: Path) -> None:
    ticket = ticket_of("resnet8_cifar", 4, 3)
    ticket.metadata.dataset["class_names"] = ["d", "a", "c", "b"]
    model: Any = timm.create_model(f"local-dir:{folder_of(ticket, tmp_path / 'm')}", pretrained=True)
    assert list(model.pretrained_cfg["label_names"]) == ["d", "a", "c", "b"]
