"""`lptool train` trains, tells, resumes, and refuses in one clear line."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import torch
from click.core import ParameterSource
from PIL import Image

from lptool.checkpoints.masks import sparsity
from lptool.checkpoints.reading import file_sha256, load_ticket
from lptool.cli import main
from lptool.cli.train import RunToMake, _next
from lptool.cli.train_options import chosen
from lptool.training.job import train_tickets
from lptool.training.options import TrainOptions
from tests.helpers.commands import FAST, lptool, refused

SHORT = ["--preset", "quickstart", "--epochs", 2, "--rewind-epoch", 1, "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tickets of three seeds' first; not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    result = lptool("train", "-o", folder, *SHORT, "--sparsities", "0.5,0.75")
    assert result.exit_code == 0, result.output
    (folder / "said").write_text(result.stdout)
    return folder


def test_it_ends_with_a_table_and_what_to_do_next(run: Path) -> None:
    lines = (run / "said").read_text().splitlines()
    assert lines[0] == f"3 tickets in {run}; accuracy at the last epoch"
    for level, shown in enumerate(("0.00 %", "50.00 %", "75.00 %")):
        (row,) = [line for line in lines if f"level_0{level}.safetensors" in line]
        assert shown in row
    assert lines[-1] == f"next: lptool pool {run} -o pooled.safetensors"


@pytest.mark.parametrize("out", ["my runs/a b", "it's", "a;b", "$HOME", "a*"])
def test_what_to_do_next_can_be_pasted_into_a_shell(out: str) -> None:
    options = TrainOptions(arch="my nets/net.py:make")
    with click.Context(main.commands["train"]) as context:
        context.set_parameter_source("out", ParameterSource.COMMANDLINE)
        line = _next(RunToMake(options, 1, Path(out), None, "cpu"))
    assert shlex.split(line) == ["lptool", "pool", out, "-o", "pooled.safetensors", "--arch", "my nets/net.py:make"]


def test_of_several_runs_each_is_pooled_into_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = lptool("train", *SHORT, "--epochs", 1, "--rewind-epoch", 0, "--levels", 1, "--replicates", 2)
    nexts = [line for line in done.stdout.splitlines() if line.startswith("next: ")]
    assert nexts == [f"next: lptool pool ckpts/seed_{n} -o pooled_seed_{n}.safetensors" for n in (0, 1)]


def test_the_next_command_names_the_data_that_a_header_alone_does_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is run as it was printed; and odd files are told before it."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for number in range(40):
            path = tmp_path / "my photos" / part / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(path)
    (path.parent / "notes.txt").touch()
    shape = ["--arch", "resnet8_cifar", "--epochs", 1, "--rewind-epoch", 0, "--levels", 1, "--batch-size", 16]
    done = lptool("train", "-o", "run", "--dataset", "folder:my photos", *shape, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "Warning: folder:my photos: files that are no pictures of a class are left out: 1 (1 .txt)" in done.stderr
    line = done.stdout.splitlines()[-1]
    assert line == "next: lptool pool run -o pooled.safetensors --dataset 'folder:my photos'"
    pooled = lptool(*shlex.split(line)[2:], *FAST)
    assert pooled.exit_code == 0, pooled.output
    assert "only if you name it: --dataset 'folder:my photos'" in refused(lptool("evaluate", "pooled.safetensors"))


def test_sparsities_are_reached_exactly(run: Path) -> None:
    masks = [load_ticket(file).mask for file in sorted(run.glob("*.safetensors"))]
    assert [round(sparsity(mask), 5) for mask in masks] == [0, 0.5, 0.75]


def test_other_sparsities_in_the_same_folder_are_refused(run: Path) -> None:
    before = {file.name: file_sha256(file) for file in run.glob("*.safetensors")}
    result = lptool("train", "-o", run, *SHORT, "--sparsities", "0.6,0.75")
    message = "other options (sparsities: [0.5, 0.75] there, [0.6, 0.75] now); choose another folder"
    assert message in refused(result)
    assert {file.name: file_sha256(file) for file in run.glob("*.safetensors")} == before


def test_other_options_in_the_same_folder_are_refused_by_name(run: Path) -> None:
    result = lptool("train", "-o", run, *SHORT, "--sparsities", "0.5,0.75", "--lr", 0.05, "--optimizer", "adamw")
    message = "other options (optimizer: sgd there, adamw now; lr: 0.1 there, 0.05 now); choose another folder"
    assert message in refused(result)


def test_a_target_sparsity_is_reached_in_equal_steps(tmp_path: Path) -> None:
    few = [*SHORT, "--epochs", 1, "--rewind-epoch", 0]
    result = lptool("train", "-o", tmp_path, *few, "--sparsity", 0.7, "--rate", 0.5)
    assert result.exit_code == 0, result.output
    masks = [load_ticket(file).mask for file in sorted(tmp_path.glob("*.safetensors"))]
    assert [round(sparsity(mask), 4) for mask in masks] == [0, round(1 - 0.3**0.5, 4), 0.7]
    said = "rate 0.452 instead of 0.5, so that the 2 prunings up to 70.00 % take the same share each\n"
    assert said in result.stderr
    again = lptool("train", "-o", tmp_path, *few, "--sparsity", 0.7, "--rate", 0.5)
    assert (again.exit_code, "instead of" in again.stderr) == (0, False)


def test_a_run_that_was_planned_otherwise_goes_on_as_it_was(tmp_path: Path) -> None:
    """As before equal steps: by the rate as long as that goes, and the rest."""
    few = [*SHORT, "--epochs", 1, "--rewind-epoch", 0, "--rate", 0.5]
    options = chosen("quickstart", None, {"epochs": 1, "rewind_epoch": 0, "rate": 0.5})[0]
    train_tickets(options, (0.5, 0.7), tmp_path, device="cpu")
    result = lptool("train", "-o", tmp_path, *few, "--sparsity", 0.85)
    assert result.exit_code == 0, result.output
    masks = [load_ticket(file).mask for file in sorted(tmp_path.glob("*.safetensors"))]
    assert [round(sparsity(mask), 4) for mask in masks] == [0, 0.5, 0.7, 0.85]


def test_replicates_are_runs_of_seeds_in_a_row(tmp_path: Path, run: Path) -> None:
    result = lptool("train", "-o", tmp_path, *SHORT, "--sparsities", "0.5,0.75", "--seed", 0, "--replicates", 2)
    assert result.exit_code == 0, result.output
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["seed_0", "seed_1"]
    assert [load_ticket(tmp_path / f"seed_{n}/level_00.safetensors").metadata.train["seed"] for n in (0, 1)] == [0, 1]
    for level in range(3):
        name = f"level_0{level}.safetensors"
        assert file_sha256(tmp_path / "seed_0" / name) == file_sha256(run / name)
        assert file_sha256(tmp_path / "seed_1" / name) != file_sha256(run / name)
    assert result.stdout.count("next: lptool pool") == 2


def test_a_run_starts_from_a_ticket(tmp_path: Path, run: Path) -> None:
    """With a rate too small to move a weight, level 0 ends as it began."""
    start = run / "level_02.safetensors"
    still = ["--lr", 1e-30, "--weight-decay", 0, "--levels", 1, "--init-checkpoint", start]
    result = lptool("train", "-o", tmp_path, *SHORT, *still)
    assert result.exit_code == 0, result.output
    ticket, expected = load_ticket(tmp_path / "level_00.safetensors"), load_ticket(start)
    torch.testing.assert_close(ticket.state["conv1.weight"], expected.state["conv1.weight"], rtol=0, atol=1e-20)
    assert ticket.metadata.train["init_checkpoint"] == str(start)
    assert ticket.metadata.train["init_sha256"] == file_sha256(start)


def test_every_record_is_a_line_of_json(run: Path) -> None:
    records = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert [(r["level"], r["epoch"]) for r in records] == [(0, 0), (0, 1), (1, 1), (2, 1)]
    assert {"sparsity", "lr", "train_loss", "train_accuracy", "val_accuracy", "val_nll", "seconds"} <= records[0].keys()


def test_errors_of_train_and_inspect(tmp_path: Path) -> None:
    assert "unknown preset 'quick'" in refused(lptool("train", "-o", tmp_path / "r", "--preset", "quick"))
    assert "--rate: expected in (0, 1), found 2.0" in refused(lptool("train", "-o", tmp_path / "r", "--rate", 2))
    assert "cannot be read" in refused(lptool("inspect", tmp_path / "none.safetensors"))
    assert "no checkpoint in it" in refused(lptool("inspect", tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_long_run_says_once_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from lptool.training.setup import Where

    now = iter(range(0, 10_000, 2))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(now)))
    outlook = importlib.import_module("lptool.cli.train")._outlook()
    said = [outlook(Where(0, 0, 1, 1, step, 3600)) for step in range(5, 40, 10)]
    assert [bool(line) for line in said] == [False, True, False, False]
    assert said[1] == "about 12 min to go for all levels, at the rate of the first steps"


def test_the_rate_is_of_this_epoch_since_its_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lptool.training.options import TrainOptions
    from lptool.training.setup import Where

    train, clock = importlib.import_module("lptool.cli.train"), [0.0]
    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    with train._bars(TrainOptions(), 1, lambda record: None, shown=True) as watch:
        for epoch, seconds in ((0, 1.0), (1, 4.0)):  # the second is four times as slow
            for step in range(1, 11):
                clock[0] += seconds
                watch.on_step(Where(0, epoch, 100 * step, 1000, 10 * epoch + step, 40))
    assert "epoch 2/182 25 images/s" in capsys.readouterr().err


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path: Path, run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    result = lptool("train", "-o", run, *SHORT, "--sparsities", "0.5,0.75,0.9", "--dry-run")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [(round(row["sparsity"], 3), row["done"]) for row in told["levels"]] == [
        *((0, True), (0.5, True), (0.75, True)),
        (0.9, False),
    ]
    assert (told["folder"], told["options"]["epochs"], told["costs"]["steps"]) == (str(run), 2, 2 * 6 + 3 * 6)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    result = lptool("train", "-o", tmp_path / "r", *SHORT, "--levels", 1, "--replicates", 2, "--dry-run")
    folders = [one["folder"] for one in json.loads(result.stdout)["runs"]]
    assert folders == [str(tmp_path / "r" / f"seed_{n}") for n in (0, 1)]
    assert "other options (lr: 0.1 there, 0.5 now)" in refused(
        lptool("train", "-o", run, *SHORT, "--sparsities", "0.5,0.75", "--lr", 0.5, "--dry-run")
    )
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_warns_of_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lptool.training.plan._free_bytes", lambda folder: 1000)
    result = lptool("train", "-o", tmp_path / "r", *SHORT, "--levels", 1, "--dry-run")
    assert result.exit_code == 0
    needed = json.loads(result.stdout)["disk"]["to_write_bytes"]
    assert result.stderr == f"Warning: {tmp_path}/r: the run writes {needed:,} bytes, and 1,000 are free there\n"
