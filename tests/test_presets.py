"""Training options check themselves; the presets carry the paper's numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from lptool.errors import TrainError
from lptool.presets import OPTION_NAMES, PRESETS, TrainOptions, preset


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *[("rate", value) for value in (0.0, 1.0, -0.1, 1.5, float("nan"))],
        *[("epochs", value) for value in (0, -1)],
        ("prune", "linear"),
        ("keep", "first"),
        *[("batch_size", value) for value in (1, 0, -5)],
        *[("lr", value) for value in (0.0, -0.1, float("nan"))],
        ("precision", "fp16"),
        *[("val_fraction", value) for value in (0.0, 1.0, -0.5, float("nan"))],
        *[
            (name, value)
            for name, value in [
                ("momentum", -1.0),
                ("weight_decay", -1.0),
                ("crop_padding", -1),
                ("image_size", 0),
                ("lr", float("inf")),
                ("seed", 20240101123456),  # torch takes seeds below 2⁶⁴; ours multiplies by 10⁸ first
            ]
        ],
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, wrong: Any) -> None:
    with pytest.raises(TrainError, match=f"^{name}: expected .*, found {wrong}$"):
        TrainOptions(**{"epochs": 10, "rewind_epoch": 0, name: wrong})


@pytest.mark.parametrize("rewind_epoch", [-1, 10, 11])
def test_rewind_epoch_lies_within_the_schedule(rewind_epoch: int) -> None:
    with pytest.raises(TrainError, match=f"^rewind_epoch: expected from 0 to epochs − 1 = 9, found {rewind_epoch}$"):
        TrainOptions(epochs=10, rewind_epoch=rewind_epoch)


@pytest.mark.parametrize(
    "right",
    [
        {"rate": 1e-6},
        {"rate": 0.999999},
        {"epochs": 1, "rewind_epoch": 0},
        {"rewind_epoch": 181},
        {"prune": "all"},
        {"keep": "best"},
        {"batch_size": 2},
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"momentum": 0.0},
        {"weight_decay": 0.0},
        {"crop_padding": 0, "flip": False},
    ],
)
def test_the_ends_of_every_range_are_allowed(right: dict[str, Any]) -> None:
    TrainOptions(**right)


def test_defaults_and_paper_presets_are_the_paper() -> None:
    """Yin et al. 2023, section 4 and Algorithm 1."""
    paper = {
        "rate": 0.2,
        "epochs": 182,
        "rewind_epoch": 9,
        "batch_size": 128,
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "prune": "conv",
        "keep": "last",
    }
    papers = {name: p for name, p in PRESETS.items() if name.startswith("paper-")}
    for options in (TrainOptions(), *(p.options for p in papers.values())):
        assert {name: getattr(options, name) for name in paper} == paper
    assert {p.levels for p in papers.values()} == {18}
    told = {(p.options.dataset, p.options.arch) for p in papers.values()}
    assert told == {(d, a) for d in ("cifar10", "cifar100") for a in ("resnet18_cifar", "vgg16_bn_cifar")}


def test_quickstart_makes_six_tickets_of_the_embedded_data_set() -> None:
    quick = preset("quickstart")
    assert quick.options.dataset == "digits"
    assert quick.levels + 1 == 6


def test_options_survive_json() -> None:
    options = TrainOptions(rate=0.5, flip=False, seed=3)
    assert TrainOptions(**json.loads(json.dumps(options.to_json()))) == options
    assert tuple(options.to_json()) == OPTION_NAMES == tuple(f.name for f in fields(TrainOptions))


def test_every_option_is_described() -> None:
    assert TrainOptions.__doc__ is not None
    described = TrainOptions.__doc__.replace(",", ":")
    assert [name for name in OPTION_NAMES if f"{name}:" not in described] == []


def test_unknown_preset_suggests_the_closest() -> None:
    with pytest.raises(TrainError, match=r"unknown preset 'quikstart'; known: .*Did you mean 'quickstart'\?"):
        preset("quikstart")


def test_options_cannot_be_changed_in_place() -> None:
    options = TrainOptions()
    with pytest.raises(AttributeError):
        options.lr = 1.0
    assert replace(options, lr=1.0).lr == 1.0


def test_presets_do_not_wait_for_torch() -> None:
    code = "import sys, lptool.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
