"""What `load_model` says of images, beside `evaluate`: timm's own transform of the pictures gives the same logits."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import lptool
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import Form, save_ticket
from lptool.evaluation.setting import SettingOptions
from lptool.evaluation.setup import EvaluateOptions, plan_evaluation
from lptool.networks.building import build_model
from lptool.networks.pretrained import describe_network, images_said, pretrained_config
from lptool.scoring.score import predict
from tests.helpers.training import NETWORKS

FORMS = {
    "dense.safetensors": Form(),
    "packed.safetensors": Form(packed=True),
    "bf16.safetensors": Form(packed=True, values="bf16"),
    "folder": Form(),
    "prune.pt": Form(),
}
NAMES = ["flower", "sky", "temple"]


@pytest.fixture(scope="module")
def ticket(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of the pictures, whose images are of another size, mean and std than timm assumes."""
    options = lptool.TrainOptions(
        arch="test_resnet",
        dataset=f"folder:{image_folder}",
        image_size=32,
        epochs=1,
        rewind_epoch=0,
        batch_size=8,
        precision="fp32",
    )
    return lptool.train_tickets(options, 1, tmp_path_factory.mktemp("run"), device="cpu")[1]


@pytest.fixture(scope="module")
def forms(ticket: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ticket in every form."""
    folder = tmp_path_factory.mktemp("forms")
    options = SettingOptions(dataset=f"folder:{image_folder}", device="cpu")
    for name, form in FORMS.items():
        lptool.convert(ticket, folder / name, form, options)
    (folder / "holds-packed").mkdir()
    shutil.copy(folder / "packed.safetensors", folder / "holds-packed" / "a.safetensors")
    return folder


def by_timm(model: Any, pictures: Path) -> Tensor:
    """Logits of the test pictures, in their order, prepared as the page for engineers says."""
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    images = []
    for file in sorted(pictures.glob("test/*/*")):
        with Image.open(file) as picture:
            images.append(transform(picture.convert("RGB")))
    with torch.inference_mode():
        found: Tensor = model(torch.stack(images))
    return found


def by_evaluate(path: Path, options: EvaluateOptions) -> Tensor:
    """Logits of the same pictures as `evaluate` has them."""
    plan = plan_evaluation([path], options)
    (subject,) = plan.subjects
    subject.load()
    return predict(subject.network.model, subject.data.batches(plan.data.test, 256, plan.device))[0]


@pytest.mark.parametrize("form", [*FORMS, "holds-packed"])
def test_timms_transform_gives_what_evaluate_sees(form: str, forms: Path, image_folder: Path) -> None:
    model: Any = lptool.load_model(forms / form)
    path = forms / form / "a.safetensors" if form == "holds-packed" else forms / form
    path = path / "model.safetensors" if form == "folder" else path
    expected = by_evaluate(path, EvaluateOptions(dataset=f"folder:{image_folder}", device="cpu"))
    assert expected.shape == (24, 3)
    torch.testing.assert_close(by_timm(model, image_folder), expected, atol=1e-4, rtol=0)
    assert model.pretrained_cfg is model.default_cfg
    assert model.pretrained_cfg["label_names"] == NAMES
    assert model.num_classes == model.pretrained_cfg["num_classes"] == 3
    data = timm.data.resolve_model_data_config(model)
    shown = data["input_size"], data["interpolation"], data["crop_pct"], data["crop_mode"]
    assert shown == ([3, 32, 32], "bilinear", 1.0, "center")


def test_it_is_what_timm_reads_from_the_folder(forms: Path) -> None:
    loaded: Any = timm.create_model(f"local-dir:{forms / 'folder'}", pretrained=True)
    ours: Any = lptool.load_model(forms / "dense.safetensors")
    found = {key: loaded.pretrained_cfg[key] for key in ours.pretrained_cfg}
    assert json.loads(json.dumps(found)) == ours.pretrained_cfg


def test_a_network_of_ones_own_is_served_in_the_same_way(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORKS)
    arch, dataset = f"{tmp_path}/net.py:net", f"folder:{image_folder}"
    options = lptool.TrainOptions(arch=arch, dataset=dataset, image_size=24, epochs=1, rewind_epoch=0, batch_size=8)
    file = lptool.train_tickets(options, 1, tmp_path / "run", device="cpu")[1]
    model: Any = lptool.load_model(file, arch=arch)
    expected = by_evaluate(file, EvaluateOptions(arch=arch, dataset=dataset, device="cpu"))
    torch.testing.assert_close(by_timm(model, image_folder), expected, atol=1e-4, rtol=0)
    assert (model.num_classes, model.pretrained_cfg["label_names"]) == (3, NAMES)
    assert model.pretrained_cfg["architecture"] == arch


def test_a_folder_that_timm_wrote_says_it_in_its_config(tmp_path: Path) -> None:
    model: Any = timm.create_model("test_resnet", num_classes=2)
    own = {"input_size": (3, 40, 40), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.8}
    model.pretrained_cfg |= {**own, "interpolation": "nearest", "num_classes": 2, "label_names": ["b", "a"]}
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    found: Any = lptool.load_model(tmp_path)
    resolved = timm.data.resolve_model_data_config(found)
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in resolved.items()} == {
        **own,
        "interpolation": "nearest",
        "crop_mode": "center",
    }
    assert found.pretrained_cfg["label_names"] == ["b", "a"]


def test_timm_saves_what_was_loaded(forms: Path, tmp_path: Path) -> None:
    timm.models.save_for_hf(lptool.load_model(forms / "packed.safetensors"), str(tmp_path), safe_serialization=True)
    again: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert again.pretrained_cfg["label_names"] == NAMES
    assert list(again.pretrained_cfg["input_size"]) == [3, 32, 32]


def test_a_module_that_normalises_says_it_where_nothing_else_does(tmp_path: Path) -> None:
    model = build_model("resnet8_cifar", 4, 3)
    module = {"normalize.mean": torch.tensor([0.1, 0.2, 0.3]), "normalize.std": torch.tensor([0.4, 0.5, 0.6])}
    torch.save({**model.state_dict(), **module}, tmp_path / "a.pt")
    config: Any = lptool.load_model(tmp_path / "a.pt", arch="resnet8_cifar").pretrained_cfg
    assert config["mean"] == pytest.approx([0.1, 0.2, 0.3])
    assert config["std"] == pytest.approx([0.4, 0.5, 0.6])


def test_of_other_channels_nothing_is_assumed() -> None:
    own = {"input_size": (3, 64, 64), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 0.9}
    config = pretrained_config(own, 5, Metadata(arch_kwargs={"in_chans": 1}))
    assert config["input_size"] == [1, 64, 64]
    assert "mean" not in config
    assert "std" not in config
    assert pretrained_config(own, 5, Metadata())["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "image_size", "mode"),
    [
        ("npz:some/a.npz", 32, "squash"),
        ("cifar10", 32, "squash"),
        ("npz:some/a.npz", None, "center"),
        ("folder:photos", 32, "center"),
        ("wds/photos", 32, "center"),
        ("torch/mnist", 32, "center"),
    ],
)
def test_pixels_that_training_scaled_whole_are_scaled_whole(name: str, image_size: int | None, mode: str) -> None:
    data = {"name": name, "image_shape": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    assert images_said(Metadata(dataset=data, train={"image_size": image_size}))["crop_mode"] == mode


class Stubborn(nn.Module):
    """A network with properties of these names."""

    @property
    def num_classes(self) -> str:
        return "many"

    @property
    def pretrained_cfg(self) -> None:
        return None


def test_what_a_network_does_not_let_be_set_stays() -> None:
    model = Stubborn()
    describe_network(model, Ticket({}, {}, Metadata(arch="nets:Stubborn", dataset={"num_classes": 2})))
    assert (model.num_classes, model.pretrained_cfg) == ("many", None)


@pytest.mark.parametrize("odd", [{"mean": "x"}, {"mean": [None]}, {"input_size": 3}, {"label_names": [1]}, []])
def test_an_odd_config_says_nothing(odd: Any, tmp_path: Path) -> None:
    model: Any = timm.create_model("test_resnet", num_classes=2)
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    document = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**document, "pretrained_cfg": odd}))
    config: Any = lptool.load_model(tmp_path).pretrained_cfg
    assert config["input_size"] == list(model.pretrained_cfg["input_size"])
    assert config["mean"] == list(model.pretrained_cfg["mean"])


def test_the_header_of_a_ticket_goes_with_the_architecture_named(tmp_path: Path) -> None:
    """What a file says of its images holds whatever its network is called."""
    data = {"name": "digits", "num_classes": 4, "image_shape": [1, 8, 8], "mean": [0.3], "std": [0.4]}
    kwargs = {"num_classes": 4, "in_chans": 1}
    state = build_model("resnet8_cifar", **kwargs).state_dict()
    ticket = Ticket(state, {}, Metadata(arch="resnet8_cifar", arch_kwargs=kwargs, dataset=data))
    save_ticket(replace(ticket, metadata=replace(ticket.metadata, arch=None)), tmp_path / "a.safetensors")
    config: Any = lptool.load_model(tmp_path / "a.safetensors").pretrained_cfg
    assert (config["architecture"], config["mean"], config["input_size"]) == ("resnet8_cifar", [0.3], [1, 8, 8])
