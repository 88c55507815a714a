"""What `lptool train` makes of what it is told."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from lptool.cli import main
from lptool.cli.train_options import chosen
from lptool.errors import TrainError
from lptool.training.options import TrainOptions
from lptool.training.presets import PAPER_LEVELS, PRESETS
from tests.helpers.commands import lptool, refused

NOT_OPTIONS = {
    "out",
    "preset",
    "levels",
    "sparsities",
    "sparsity",
    "data_dir",
    "device",
    "threads",
    "replicates",
    "dry_run",
    "log",
}


def test_every_option_of_training_can_be_given() -> None:
    names = {parameter.name for parameter in main.commands["train"].params}
    assert names - NOT_OPTIONS == {field.name for field in fields(TrainOptions)}


def test_what_is_told_goes_over_the_preset_and_that_over_the_defaults() -> None:
    options, levels = chosen("quickstart", None, {"epochs": 20, "lr": None, "nesterov": None})
    assert (options.epochs, options.lr, options.arch, levels) == (20, 0.1, "resnet8_cifar", 5)
    assert chosen(None, None, {}) == (TrainOptions(), PAPER_LEVELS)
    assert chosen("quickstart", (0.5,), {})[1] == (0.5,)


def test_a_rewind_point_and_milestones_fit_the_epochs_asked_for() -> None:
    assert chosen(None, None, {"epochs": 8})[0].rewind_epoch == 1  # 9 of 182 epochs
    shorter = chosen("paper-imagenet-resnet18", None, {"epochs": 45})[0]
    assert shorter.milestones == (15, 30, 40)
    for epochs, fitting in ((2, (1,)), (1, None)):
        few = {"epochs": epochs, "rewind_epoch": 0, "warmup": 0}
        assert chosen("paper-imagenet-resnet18", None, few)[0].milestones == fitting
    named = chosen("paper-imagenet-resnet18", None, {"epochs": 45, "milestones": (20,)})[0]
    assert named.milestones == (20,)


@pytest.mark.parametrize("name", [None, *PRESETS])
@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 500])
def test_every_preset_can_be_trained_for_any_number_of_epochs(name: str | None, epochs: int) -> None:
    """`TrainOptions` refuses points of training that do not fit its epochs."""
    base, options = chosen(name, None, {})[0], chosen(name, None, {"epochs": epochs})[0]
    assert isinstance(options.rewind_epoch, int)
    assert isinstance(base.rewind_epoch, int)
    nearest = base.rewind_epoch * epochs / base.epochs
    assert abs(options.rewind_epoch - nearest) <= 0.5 or options.rewind_epoch == min(1, epochs - 1)
    assert options.warmup == pytest.approx(base.warmup * epochs / base.epochs)


def test_a_rewind_point_that_is_told_or_in_steps_stays() -> None:
    assert chosen("quickstart", None, {"epochs": 30, "rewind_epoch": 3})[0].rewind_epoch == 3
    assert chosen("quickstart", None, {"epochs": 2, "rewind": "init"})[0].rewind_epoch == 0
    with pytest.raises(TrainError, match="rewind_epoch: expected from 0 to epochs − 1 = 1, found 3"):
        chosen("quickstart", None, {"epochs": 2, "rewind_epoch": 3})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--levels", 3, "--sparsity", 0.5],
            "and --sparsity all say how far to prune; give one",
        ),
        (["--sparsities", "0.5,0.7", "--sparsity", 0.5], "give one"),
        (["--rewind", "init", "--rewind-epoch", "0"], "--rewind init does not use --rewind-epoch; leave it out"),
        (["--schedule", "cosine", "--milestones", "3"], "--schedule cosine does not use --milestones; leave it out"),
        (["--optimizer", "adamw", "--momentum", 0.9], "--optimizer adamw does not use --momentum; leave it out"),
        (["--augment", "resized-crop", "--crop-padding", 4], "--augment resized-crop does not use --crop-padding"),
        (["--sparsities", "0.5", "--rate", 0.5], "--sparsities does not use --rate; leave it out"),
        (["--milestones", "1.5"], "expected whole epochs, found '1.5'"),
        (["--optimizer", "adam"], "'adam' is not one of 'sgd', 'adamw'. Did you mean 'adamw'?"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(
    arguments: list[object], message: str, tmp_path: Path
) -> None:
    result = lptool("train", "-o", tmp_path / "run", "--preset", "quickstart", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sparsity", 1], "--sparsity: expected a number in (0, 1), found 1.0"),
        (["--sparsities", "0.5,0.4"], "--sparsities: expected growing numbers in (0, 1), found [0.5, 0.4]"),
        (["--rewind-epoch", "soon"], "--rewind-epoch: expected epochs (3 or 3ep) or steps (500it), found 'soon'"),
        (["--rewind-epoch", "99999it"], "--rewind-epoch: expected a step from 0 to"),
        (["--label-smoothing", 1], "--label-smoothing: expected in [0, 1), found 1.0"),
        (
            ["--pretrained", "--init-checkpoint", "a.pt"],
            "--pretrained and --init-checkpoint: both say where level 0 starts",
        ),
        (["--init-checkpoint", "a.pt"], "a.pt: cannot be read"),
        (["--seed", 2**32 - 1, "--replicates", 2], "--seed: expected from 0 to 2^32"),
        (["--pretrained"], "resnet8_cifar has no pretrained weights"),
    ],
)
def test_values_out_of_range_are_one_clear_line(arguments: list[object], message: str, tmp_path: Path) -> None:
    result = lptool("train", "-o", tmp_path / "run", "--preset", "quickstart", "--device", "cpu", *arguments)
    assert message in refused(result)
    assert not list(tmp_path.iterdir())
