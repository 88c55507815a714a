"""What level 0 starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from lptool.checkpoints.reading import file_sha256
from lptool.errors import ArchError, CheckpointError, TrainError
from lptool.networks.building import build_model
from lptool.training.options import TrainOptions
from lptool.training.start import initial_model
from tests.helpers.training import NETWORKS

SHAPE = (1, 8, 8)


@pytest.fixture
def options(tmp_path: Path) -> TrainOptions:
    (tmp_path / "networks.py").write_text(NETWORKS)
    return TrainOptions(arch=f"{tmp_path}/networks.py:net", dataset="random", epochs=1, rewind_epoch=0)


def saved(path: Path, model: nn.Module, **more: Any) -> str:
    torch.save({"state_dict": {f"module.{name}": t for name, t in model.state_dict().items()}, **more}, path)
    return str(path)


def test_it_is_the_seeds_random_network(options: TrainOptions) -> None:
    before = torch.get_rng_state()
    models = [initial_model(replace(options, seed=seed), 4, SHAPE)[0] for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    a, b, c = (model.state_dict()["0.weight"] for model in models)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_it_has_the_weights_of_a_file_of_any_program(options: TrainOptions, tmp_path: Path) -> None:
    trained = build_model(options.arch, 4, 1)
    file = saved(tmp_path / "trained.pth", trained, epoch=3)
    model, origin = initial_model(replace(options, init_checkpoint=file), 4, SHAPE)
    expected = trained.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())
    assert origin == {"init_sha256": file_sha256(file), "init_fresh": []}


def test_a_head_for_other_classes_starts_afresh(options: TrainOptions, tmp_path: Path) -> None:
    trained = build_model(options.arch, 7, 1)
    file = saved(tmp_path / "trained.pth", trained)
    plain, _ = initial_model(options, 4, SHAPE)
    model, origin = initial_model(replace(options, init_checkpoint=file), 4, SHAPE)
    assert origin["init_fresh"] == ["8.weight", "8.bias"]
    for name, tensor in model.state_dict().items():
        expected = plain if name in origin["init_fresh"] else trained
        assert torch.equal(tensor, expected.state_dict()[name]), name


@pytest.mark.parametrize(("num_classes", "in_chans", "arch"), [(4, 3, "net"), (4, 1, "linear")])
def test_a_file_that_does_not_fit_is_refused_by_name(
    num_classes: int, in_chans: int, arch: str, options: TrainOptions, tmp_path: Path
) -> None:
    other = build_model(options.arch.replace(":net", f":{arch}"), num_classes, in_chans)
    file = saved(tmp_path / "other.pth", other)
    with pytest.raises(ArchError, match=r"other\.pth: does not fit architecture"):
        initial_model(replace(options, init_checkpoint=file), 4, SHAPE)


def test_a_file_that_is_none_is_refused(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pth: cannot be read"):
        initial_model(replace(options, init_checkpoint=str(tmp_path / "none.pth")), 4, SHAPE)


def test_pretrained_weights_are_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network: that timm is asked for them, for these classes and channels."""
    asked: list[dict[str, Any]] = []
    make = timm.create_model

    def create_model(name: str, *, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        asked.append({"name": name, "pretrained": pretrained, **kwargs})
        return make(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", create_model)
    options = TrainOptions(arch="resnet10t", epochs=1, rewind_epoch=0, pretrained=True)
    model, _ = initial_model(options, 5, (3, 32, 32))
    assert asked == [{"name": "resnet10t", "pretrained": True, "num_classes": 5, "in_chans": 3}]
    assert model.get_classifier().out_features == 5  # type: ignore[operator]


@pytest.mark.parametrize("arch", ["module:net", "file.py:net"])
def test_a_network_of_ones_own_has_no_pretrained_weights(arch: str) -> None:
    with pytest.raises(TrainError, match=f"pretrained: expected a timm architecture, found {arch}"):
        initial_model(TrainOptions(arch=arch, epochs=1, rewind_epoch=0, pretrained=True), 4, SHAPE)


def test_ours_have_none_either() -> None:
    options = TrainOptions(arch="resnet8_cifar", epochs=1, rewind_epoch=0, pretrained=True)
    with pytest.raises(ArchError, match="resnet8_cifar has no pretrained weights"):
        initial_model(options, 4, SHAPE)
