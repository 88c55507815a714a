"""The presets carry the paper's numbers."""

import subprocess
import sys

import pytest

from lptool.errors import TrainError
from lptool.training.options import TrainOptions
from lptool.training.presets import PRESETS, preset


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
    papers = {name: p for name, p in PRESETS.items() if name.startswith("paper-cifar")}
    for options in (TrainOptions(), *(p.options for p in papers.values())):
        assert {name: getattr(options, name) for name in paper} == paper
    assert {p.levels for p in papers.values()} == {18}
    told = {(p.options.dataset, p.options.arch) for p in papers.values()}
    assert told == {(d, a) for d in ("cifar10", "cifar100") for a in ("resnet18_cifar", "vgg16_bn_cifar")}


def test_quickstart_makes_six_tickets_of_the_embedded_data_set() -> None:
    quick = preset("quickstart")
    assert quick.options.dataset == "digits"
    assert quick.levels + 1 == 6


def test_imagenet_is_trained_as_the_literature_does() -> None:
    """Frankle et al. 2020, table A1: lr 0.4 after five epochs of warm-up, divided by 10 at 30, 60 and 80 of 90."""
    found = {name: p for name, p in PRESETS.items() if name.startswith("paper-imagenet")}
    assert {p.options.arch for p in found.values()} == {"resnet18", "resnet34", "resnet50"}
    for p in found.values():
        o = p.options
        assert (o.epochs, o.batch_size, o.lr, o.warmup, o.milestones) == (90, 1024, 0.4, 5, (30, 60, 80))
        assert (o.rewind_epoch, o.rate, p.levels) == (5, 0.2, 8)
        assert (o.augment, o.image_size) == ("resized-crop", 224)


def test_unknown_preset_suggests_the_closest() -> None:
    with pytest.raises(TrainError, match=r"unknown preset 'quikstart'; known: .*Did you mean 'quickstart'\?"):
        preset("quikstart")


def test_presets_do_not_wait_for_torch() -> None:
    code = "import sys, lptool.training.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
