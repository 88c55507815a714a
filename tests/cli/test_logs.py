"""`--log`: what a command reports on the way, in the files of TensorBoard and the calls of W&B."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from torch.distributed.run import get_args_parser

from lptool.checkpoints.reading import file_sha256
from lptool.cli import main
from lptool.cli.logs import log_to
from lptool.cli.train import RunToMake
from lptool.errors import SetupError
from lptool.pooling.journal import journal_of
from lptool.ranks import Ranks
from lptool.training.options import TrainOptions
from tests.helpers.commands import FAST, lptool, refused

TRAIN = ["train", "--preset", "quickstart", "--epochs", 3, "--rewind-epoch", 1, "--device", "cpu"]


class Run:
    """A run of W&B as far as lptool calls it: `fails` is the step whose record it does not take."""

    def __init__(self, settings: dict[str, Any], fails: int | None) -> None:
        self.settings, self.fails, self.id = settings, fails, settings["id"] or "new"
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = False

    def log(self, numbers: dict[str, float], step: int) -> None:
        if step == self.fails:
            raise ConnectionError("the network is down")
        self.logged.append((step, numbers))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.finished = True


class Wandb(ModuleType):
    """Stands for the package: every run that was begun."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.runs: list[Run] = []
        self.refuses: Exception | None = None
        self.fails: int | None = None

    def init(self, **settings: Any) -> Run:
        if self.refuses:
            raise self.refuses
        self.runs.append(Run(settings, self.fails))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    found = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", found)
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def write(kind: str, place: Path, steps: range, *, resumed: bool = False) -> None:
    with log_to(kind, place, resumed=resumed, config={"lr": 0.1}) as log:
        for step in steps:
            log({"step": step, "loss": 1 / (step + 1), "name": "text", "flag": True, "none": None})


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one pruning and its log; not to be written to."""
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = lptool(*TRAIN, "-o", folder, "--levels", 1, "--log", "tensorboard")
    assert result.exit_code == 0, result.output
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


# Of `train`


def test_each_record_of_training_is_in_the_log_at_a_step_of_its_own(logged: Path) -> None:
    """Level 1 rewinds to epoch 1, and a level has three epochs."""
    found, expected = scalars(logged), records(logged)
    assert set(found) == set(expected[0])
    for name, points in found.items():
        assert [step for step, _ in points] == [0, 1, 2, 4, 5]
        assert [value for _, value in points] == pytest.approx([record[name] for record in expected])


def test_a_run_that_goes_on_goes_on_in_its_log(logged: Path, tmp_path: Path) -> None:
    shutil.copytree(logged, tmp_path / "run")
    result = lptool(*TRAIN, "-o", tmp_path / "run", "--levels", 2, "--log", "tensorboard")
    assert result.exit_code == 0, result.output
    found = scalars(tmp_path / "run")["val_accuracy"]
    assert [step for step, _ in found] == [0, 1, 2, 4, 5, 7, 8]
    assert [value for _, value in found] == pytest.approx([r["val_accuracy"] for r in records(tmp_path / "run")])


def test_a_log_changes_no_ticket_and_a_command_without_one_writes_none(logged: Path, tmp_path: Path) -> None:
    result = lptool(*TRAIN, "-o", tmp_path / "plain", "--levels", 1)
    assert result.exit_code == 0, result.output
    both = [{file.name: file_sha256(file) for file in run.glob("level_*")} for run in (logged, tmp_path / "plain")]
    assert both[0] == both[1] != {}
    assert {file.name for file in logged.iterdir()} - {file.name for file in (tmp_path / "plain").iterdir()} == {
        file.name for file in logged.glob("events.out.tfevents.*")
    }


def test_a_refused_command_leaves_no_log(logged: Path, tmp_path: Path) -> None:
    shutil.copytree(logged, tmp_path / "run")
    before = sorted((tmp_path / "run").iterdir())
    refused(lptool(*TRAIN, "-o", tmp_path / "run", "--levels", 1, "--lr", 0.5, "--log", "tensorboard"))
    assert sorted((tmp_path / "run").iterdir()) == before


def test_wandb_gets_the_records_and_the_options(tmp_path: Path, wandb: Wandb) -> None:
    result = lptool(*TRAIN, "-o", tmp_path / "run", "--levels", 1, "--log", "wandb")
    assert result.exit_code == 0, result.output
    (run,) = wandb.runs
    assert [step for step, _ in run.logged] == [0, 1, 2, 4, 5]
    assert [numbers for _, numbers in run.logged] == records(tmp_path / "run")
    assert (run.settings["name"], run.settings["resume"], run.finished) == ("run", None, True)
    assert (run.settings["config"]["arch"], run.settings["config"]["epochs"]) == ("resnet8_cifar", 3)


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_missing_package_is_told_before_anything_is_done(
    kind: str, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)  # as importlib notes what is not there
    message = refused(lptool(*TRAIN, "-o", tmp_path / "run", "--log", kind, *more))
    assert message == f"--log {kind} needs {kind}: pip install 'lptool[{kind}]'"
    assert not (tmp_path / "run").exists()


def test_wandb_without_a_key_is_one_clear_line(tmp_path: Path, wandb: Wandb) -> None:
    wandb.refuses = ValueError("No API key configured.")
    result = lptool(*TRAIN, "-o", tmp_path / "run", "--levels", 1, "--log", "wandb")
    assert refused(result) == (
        "--log wandb: cannot be opened (No API key configured.); run `wandb login`, or set WANDB_MODE=offline, "
        "or leave it out"
    )
    assert not (tmp_path / "run" / "train.jsonl").exists()  # told before the first epoch, and not after it


# Of `pool`


def pooled(run: Path, output: Path, kind: str, *more: object) -> dict[str, Any]:
    """What pooling says, and the scores in its journal beside that."""
    result = lptool("pool", run, "-o", output, *FAST, "--log", kind, "--json", *more)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    return {**document, "journal": journal_of(output).read_text().splitlines()[1:]}


def test_each_score_of_a_search_and_the_final_ones_are_in_the_log(logged: Path, tmp_path: Path) -> None:
    said = pooled(logged, tmp_path / "a.safetensors", "tensorboard")
    found, lines = scalars(tmp_path / "a.safetensors.log"), list(map(json.loads, said["journal"]))
    for name, key in (("search/val_nll", "nll"), ("search/val_images", "n")):
        assert [value for _, value in found[name]] == pytest.approx([line[key] for line in lines])
    assert [value for _, value in found["search/val_accuracy"]] == pytest.approx(
        [line["correct"] / line["n"] for line in lines]
    )
    alphas = {step: line["alpha"] for step, line in enumerate(lines, start=1) if line["alpha"] is not None}
    assert dict(found["search/alpha"]) == pytest.approx(alphas)
    assert alphas
    last = len(lines) + 1
    assert found["final/pooled/test_accuracy"] == [(last, pytest.approx(said["test"]["pooled"]["accuracy"]))]
    assert found["final/ticket/val_nll"] == [(last, pytest.approx(said["val"]["ticket"]["nll"]))]


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_search_that_goes_on_is_logged_once_and_its_bytes_stay(
    kind: str, logged: Path, tmp_path: Path, wandb: Wandb
) -> None:
    """Cut off after its first scores, as the journal and the log of an interrupted command are."""
    output, state = tmp_path / "a.safetensors", tmp_path / "a.safetensors.log" / ".wandb.json"
    first = pooled(logged, output, kind)
    before = file_sha256(output)
    journal_of(output).write_text("".join(journal_of(output).read_text().splitlines(keepends=True)[:3]))
    if kind == "wandb":
        state.write_text(json.dumps({"id": "new", "step": 2}))
        wandb.runs[0].logged = wandb.runs[0].logged[:2]
    assert len(pooled(logged, output, kind)["journal"]) == len(first["journal"])
    assert file_sha256(output) == before
    steps = list(range(1, len(first["journal"]) + 2))
    if kind == "wandb":
        assert [step for run in wandb.runs for step, _ in run.logged] == steps
        assert wandb.runs[1].settings["resume"] == "allow"
    else:
        found = scalars(tmp_path / "a.safetensors.log")
        assert [step for step, _ in found["search/val_nll"]] == steps[:-1]
        assert [step for step, _ in found["final/pooled/val_nll"]] == steps[-1:]


def test_each_target_has_a_log_and_a_folder_has_its_beside_it(logged: Path, tmp_path: Path, wandb: Wandb) -> None:
    lptool("pool", logged, "-o", tmp_path / "all", *FAST, "--target", "all", "--log", "wandb")
    result = lptool("pool", logged, "-o", tmp_path / "model", *FAST, "--log", "wandb", "--license", "mit")
    assert result.exit_code == 0, result.output
    names = [run.settings["name"] for run in wandb.runs]
    assert names == ["level_00.safetensors", "level_01.safetensors", "model"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "model", "model.log", "model.search.jsonl"]
    assert "license: mit\n" in (tmp_path / "model" / "README.md").read_text()


# Of any command


def test_what_is_logged_again_is_shown_once(tmp_path: Path) -> None:
    """As of an epoch that was logged and then cut off."""
    pytest.importorskip("tensorboard")
    write("tensorboard", tmp_path, range(5))
    write("tensorboard", tmp_path, range(3, 7), resumed=True)
    assert scalars(tmp_path) == {"loss": [(step, pytest.approx(1 / (step + 1))) for step in range(7)]}


def test_a_run_of_wandb_goes_on_after_its_last_step(tmp_path: Path, wandb: Wandb) -> None:
    write("wandb", tmp_path, range(5))
    write("wandb", tmp_path, range(3, 7), resumed=True)
    first, second = wandb.runs
    assert [step for step, _ in (*first.logged, *second.logged)] == list(range(7))
    assert (second.settings["id"], second.settings["resume"]) == (first.id, "allow")


def test_work_that_begins_anew_is_another_run_of_wandb(tmp_path: Path, wandb: Wandb) -> None:
    write("wandb", tmp_path, range(5))
    write("wandb", tmp_path, range(5))
    assert wandb.runs[1].settings["id"] is None
    assert wandb.runs[1].logged == wandb.runs[0].logged


@pytest.mark.parametrize("state", ["", "{", "[]", '{"id": "a"}', '{"id": "a", "step": null}'])
def test_a_damaged_state_begins_another_run_of_wandb(state: str, tmp_path: Path, wandb: Wandb) -> None:
    (tmp_path / ".wandb.json").write_text(state)
    write("wandb", tmp_path, range(2), resumed=True)
    assert wandb.runs[0].settings["id"] is None
    assert len(wandb.runs[0].logged) == 2


def test_the_environment_says_where_wandb_writes(tmp_path: Path, wandb: Wandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_DIR", "elsewhere")
    write("wandb", tmp_path / "place", range(1))
    settings = wandb.runs[0].settings
    assert (settings["project"], settings["dir"], settings["name"]) == ("mine", "elsewhere", "place")


def test_a_log_that_fails_on_the_way_is_told_once_and_the_work_goes_on(
    tmp_path: Path, wandb: Wandb, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.fails = 2
    write("wandb", tmp_path, range(5))
    assert [step for step, _ in wandb.runs[0].logged] == [0, 1]
    told = "--log wandb: not written any more (the network is down); the command goes on without it"
    assert capsys.readouterr().err == f"Warning: {told}\n"


def test_a_record_of_a_step_alone_opens_the_log(tmp_path: Path, wandb: Wandb) -> None:
    with log_to("wandb", tmp_path, resumed=False, config={}) as log:
        assert wandb.runs == []
        log({"step": 0})
        assert [run.logged for run in wandb.runs] == [[]]


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").touch()
    with (
        pytest.raises(SetupError, match=r"--log tensorboard: cannot be opened \(.*\); see whether .*file is writable"),
        log_to("tensorboard", tmp_path / "file", resumed=False, config={}) as log,
    ):
        log({"step": 0})


def test_another_word_is_wrong_usage(tmp_path: Path) -> None:
    result = lptool(*TRAIN, "-o", tmp_path, "--log", "tensorbord")
    assert result.exit_code == 2
    assert "Did you mean 'tensorboard'?" in result.stderr


def test_without_a_log_nothing_is_called(tmp_path: Path) -> None:
    with log_to(None, tmp_path / "place", resumed=False, config={}) as log:
        log({"step": 0, "loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_the_first_process_alone_logs(tmp_path: Path, wandb: Wandb) -> None:
    run = RunToMake(TrainOptions(), 1, tmp_path, None, "cpu", log="wandb")
    for rank in range(2):
        with run._log(Ranks(rank, 2)) as log:
            log({"step": 0, "loss": 1.0})
    assert [run.logged for run in wandb.runs] == [[(0, {"loss": 1.0})]]


@pytest.mark.parametrize("command", ["train", "pool"])
def test_every_option_has_a_name_that_torchrun_leaves_to_us(command: str) -> None:
    """It refuses what could be the beginning of several of its own, also behind the name of the program."""
    theirs = [name for name in get_args_parser()._option_string_actions if name.startswith("--")]
    options = [parameter for parameter in main.commands[command].params if isinstance(parameter, click.Option)]
    taken = [
        option.name for option in options if all(any(own.startswith(name) for own in theirs) for name in option.opts)
    ]
    assert taken == []
