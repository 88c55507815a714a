"""Which tickets `lptool pool` takes: those that are there, or a run that has to be made first."""

from pathlib import Path

import click
import pytest
import torch

from lptool.cli.train import RunToMake
from lptool.cli.train_first import found_tickets, run_document, run_to_make
from lptool.errors import CheckpointError
from lptool.pooling.setup import PoolOptions
from lptool.training.folder import Progress, RunFolder

OPTIONS = PoolOptions(dataset="digits")


def made(given: list[Path], out: Path) -> RunToMake | None:
    return run_to_make(given, out, "quickstart", 2, 7, OPTIONS)


def test_a_run_is_made_beside_the_output_or_where_it_is_asked_for(tmp_path: Path) -> None:
    for given, folder in (([], tmp_path / "a_tickets"), ([tmp_path / "runs"], tmp_path / "runs")):
        run = made(given, tmp_path / "a.safetensors")
        assert run is not None
        assert (run.folder, run.levels, run.options.seed, run.options.dataset) == (folder, 2, 7, "digits")
        assert run_document(run)["train"]["folder"] == str(folder)


def test_tickets_that_are_there_are_taken(tickets: list[Path]) -> None:
    assert made([tickets[0]], Path("a.safetensors")) is None
    assert found_tickets([tickets[0].parent], None, "sparsest") == (tickets, [])


def test_a_run_that_was_cut_off_is_made(tickets: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    RunFolder(folder).save_progress(1, Progress(0, {"weight": torch.zeros(1)}))
    (folder / tickets[0].name).write_bytes(tickets[0].read_bytes())
    assert made([folder], tmp_path / "a.safetensors") is not None


def test_there_have_to_be_tickets(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match=r"name the checkpoints to pool, as in .*`lptool train` makes tickets"):
        found_tickets([], None, "sparsest")
    for nothing in (tmp_path, tmp_path / "runs", tmp_path / "*.safetensors"):
        with pytest.raises(CheckpointError, match="; `lptool train` makes tickets, and so does this command with"):
            found_tickets([nothing], None, "sparsest")
    with pytest.raises(CheckpointError, match=r"a\.pt: cannot be read .*; check the name$"):
        found_tickets([tmp_path / "a.pt"], None, "sparsest")


def test_what_is_said_of_augmentation_shapes_the_run(tmp_path: Path) -> None:
    options = PoolOptions(dataset="digits", crop_padding=2, flip="alternate")
    run = run_to_make([], tmp_path / "a.safetensors", "quickstart", 2, 7, options)
    assert run is not None
    assert (run.options.augment, run.options.crop_padding, run.options.flip) == ("crop", 2, "alternate")
    with pytest.raises(click.UsageError, match="--augment resized-crop does not use --crop-padding; leave it out"):
        run_to_make([], tmp_path / "a.safetensors", "paper-imagenet-resnet18", 2, 7, options)
