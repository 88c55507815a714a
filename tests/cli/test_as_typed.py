"""The three lines as people type them, in an empty folder; and each with a wrong neighbour.

The lines themselves go through bash and a process of their own each. What is refused is asked of the same command in
this process.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lptool.checkpoints.header import VERDICTS
from lptool.checkpoints.reading import file_sha256, load_ticket
from lptool.cli import main
from lptool.cli.train import RunToMake
from lptool.cli.train_first import _at_terminal
from lptool.training.folder import Progress, RunFolder
from lptool.training.presets import PRESETS
from tests.helpers import processes
from tests.helpers.commands import lptool, refused, refused_last, refused_usage
from tests.helpers.pages import THREE_LINES
from tests.helpers.processes import Child, begin

HOW_TO_MAKE = "`lptool train` makes tickets, and so does this command with --train"
NOTE = (
    "trains the preset quickstart (digits, half a minute on two CPU cores) into ckpts; the paper's is --preset "
    "paper-cifar10-resnet18"
)


def quickly(*words: str) -> None:
    """What `lptool` does, but that the quickstart has a few epochs: what a command says does not depend on them."""
    preset = PRESETS["quickstart"]
    PRESETS["quickstart"] = replace(preset, options=replace(preset.options, epochs=FEW_EPOCHS, rewind_epoch=1))
    processes.lptool(*words)


def typed(line: str, folder: Path, said: Path) -> Child:
    """A line as bash takes it: the words that it makes in the folder, to `lptool` in a process of its own there."""
    noting = f"lptool() {{ printf '%s\\0' \"$@\"; }}\n{line}"
    words = subprocess.run(["bash", "-c", noting], cwd=folder, capture_output=True, text=True, check=True).stdout
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        child = begin(said, quickly, *words.split("\0")[:-1])
        child.end()
    return child


@pytest.fixture(scope="module")
def first_day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Child]]:
    """An empty folder in which the three lines were typed in their order, and what each of them said."""
    folder, said = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("said")
    return folder, [typed(line, folder, said / str(number)) for number, line in enumerate(THREE_LINES)]


@pytest.fixture
def here(tmp_path: Path, tickets: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: `ckpts` holds the tickets of a run."""
    shutil.copytree(tickets[0].parent, tmp_path / "ckpts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


FEW_EPOCHS = 3
QUICK = ["--method", "uniform", "--calibration-size", 64, "--device", "cpu"]


def globbed() -> list[Path]:
    """What bash makes of `ckpts/*.safetensors`."""
    return sorted(Path("ckpts").glob("*.safetensors"))


def test_the_three_lines(first_day: tuple[Path, list[Child]]) -> None:
    folder, (trained, pooled, inspected) = first_day
    done = [trained, pooled, inspected]
    assert [child.end() for child in done] == [0, 0, 0], [child.stderr for child in done]
    assert trained.stderr.splitlines()[0] == NOTE
    assert trained.stdout.startswith(f"{PRESETS['quickstart'].levels + 1} tickets in ckpts; ")
    assert trained.stdout.endswith("next: lptool pool ckpts/*.safetensors\n")
    assert sorted(p.name for p in folder.iterdir()) == [
        "ckpts",
        "pooled.safetensors",
        "pooled.safetensors.search.jsonl",
    ]
    assert load_ticket(folder / "pooled.safetensors").metadata.kind == "pooled"
    assert "on 359 test images" in pooled.stdout
    assert any(word in pooled.stdout for word in VERDICTS)
    assert "wrote pooled.safetensors" in pooled.stdout
    for words in ("6 tickets, densest first (ckpts)", "level_05.safetensors", "pooled.safetensors", "pooled by auto"):
        assert words in inspected.stdout


def test_the_same_line_again_gives_the_same(first_day: tuple[Path, list[Child]], tmp_path: Path) -> None:
    folder, (_, pooled, _) = first_day
    before = {path.name: file_sha256(path) for path in folder.rglob("*.safetensors")}
    trained, again = (typed(line, folder, tmp_path / str(number)) for number, line in enumerate(THREE_LINES[:2]))
    assert (trained.end(), again.end(), again.stdout) == (0, 0, pooled.stdout)
    assert {path.name: file_sha256(path) for path in folder.rglob("*.safetensors")} == before


# A wrong neighbour of `lptool train`


def test_train_beside_a_file_called_ckpts(empty: Path) -> None:
    Path("ckpts").write_text("precious")
    assert refused_last(lptool("train")) == (
        "Error: ckpts: is a file, expected a folder; move it away, or choose another (lptool train -o DIR)"
    )
    assert Path("ckpts").read_text() == "precious"


def test_train_where_nothing_may_be_written(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(folders: object) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lptool.training.folder.try_writing", denied)  # root may write everywhere
    expected = "Error: ckpts: cannot be written (Permission denied); choose another folder (lptool train -o DIR)"
    assert refused_last(lptool("train")) == expected
    assert list(empty.iterdir()) == []


def test_train_beside_another_run(here: Path) -> None:
    said = refused_last(lptool("train", "--epochs", 7))
    assert said.startswith("Error: ckpts: holds a run with other options (")
    assert re.search(r"epochs: \d+ there, 7 now", said)
    assert said.endswith("; choose another folder (lptool train -o DIR)")


def test_what_says_what_is_trained_takes_the_place_of_the_quickstart(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(run: RunToMake, ranks: object, threads: int | None) -> dict[str, object]:
        options = run.options
        found = [str(run.folder), options.arch, options.dataset, options.epochs]
        return {"found": found, "disk": {"to_write_bytes": 0, "free_bytes": 0}}

    monkeypatch.setattr(RunToMake, "plan", plan)  # the true one would download CIFAR-10

    def planned(*arguments: object) -> tuple[list[object], str]:
        result = lptool("train", *arguments, "--dry-run")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["found"], result.stderr

    assert planned() == (["ckpts", "resnet8_cifar", "digits", 15], NOTE + "\n")
    assert planned("--epochs", 20) == (["ckpts", "resnet8_cifar", "digits", 20], NOTE + "\n")
    assert planned("--preset", "quickstart") == (["ckpts", "resnet8_cifar", "digits", 15], "")
    assert planned("--dataset", "digits") == (["ckpts", "resnet18_cifar", "digits", 182], "")
    assert planned("-o", "runs") == (["runs", "resnet18_cifar", "cifar10", 182], "")
    assert planned("--arch", "resnet8_cifar") == (["ckpts", "resnet8_cifar", "cifar10", 182], "")
    assert planned("--data-dir", "there") == (["ckpts", "resnet18_cifar", "cifar10", 182], "")


# Wrong neighbours of `lptool pool ckpts/*.safetensors`


def test_pool_without_tickets_names_the_command_that_makes_them(empty: Path) -> None:
    assert refused(lptool("pool", "ckpts/*.safetensors")) == (
        f"ckpts/*.safetensors: no checkpoint in it; expected files such as level_00.safetensors; {HOW_TO_MAKE}"
    )
    missing = refused(lptool("pool", "ckpts"))
    assert missing == f"ckpts: cannot be read (No such file or directory); check the name; {HOW_TO_MAKE}"
    expected = f"name the checkpoints to pool, as in `lptool pool ckpts/*.safetensors`; {HOW_TO_MAKE}"
    assert refused_usage(lptool("pool")) == expected
    file = "level_00.safetensors: cannot be read (No such file or directory); check the name"
    assert refused(lptool("pool", "level_00.safetensors")) == file
    assert list(empty.iterdir()) == []


def test_pool_beside_a_file_called_ckpts(empty: Path) -> None:
    Path("ckpts").write_text("precious")
    assert refused(lptool("pool", "ckpts")) == (
        "ckpts: not a checkpoint; expected a safetensors file or a PyTorch state dict"
    )


def test_pool_beside_a_stale_model_of_another_search(here: Path) -> None:
    assert lptool("pool", *globbed(), *QUICK).exit_code == 0
    before = Path("pooled.safetensors").read_bytes()
    said = refused(lptool("pool", *globbed(), *QUICK, "--seed", 1))
    assert said == "pooled.safetensors: exists; choose another output or add --overwrite"
    assert Path("pooled.safetensors").read_bytes() == before
    assert lptool("pool", *globbed(), *QUICK).exit_code == 0  # of this search: the same again
    assert Path("pooled.safetensors").read_bytes() == before
    assert lptool("pool", *globbed(), *QUICK, "--seed", 1, "--overwrite").exit_code == 0
    assert Path("pooled.safetensors").read_bytes() != before
    Path("pooled.safetensors").write_text("precious")
    assert "exists; choose another output or add --overwrite" in refused(lptool("pool", *globbed(), *QUICK))


def test_pool_among_tickets_a_pooled_model_is_left_out(here: Path) -> None:
    plain = json.loads(lptool("pool", *globbed(), *QUICK, "--json").stdout)
    model = Path(shutil.move("pooled.safetensors", "ckpts/pooled.safetensors"))
    Path("pooled.safetensors.search.jsonl").unlink()
    line = f"Warning: {model} is a pooled model and no ticket; left out (to pool one too, name it alone)\n"
    for named in (globbed(), ["ckpts"], ["ckpts/*.safetensors"]):
        result = lptool("pool", *named, *QUICK, "--json", "--overwrite")
        assert result.stderr.startswith(line)
        assert json.loads(result.stdout)["sha256"] == plain["sha256"]
    into_itself = lptool("pool", *globbed(), *QUICK, "-o", model, "--overwrite", "--json")
    assert json.loads(into_itself.stdout)["sha256"] == plain["sha256"]
    alone = lptool(
        "pool", "ckpts", Path(shutil.copy(model, "mine.safetensors")), "--dry-run", *QUICK, "-o", "a.safetensors"
    )
    assert "mine.safetensors" in json.loads(alone.stdout)["pool"]
    Path("model").mkdir()
    shutil.copy(model, "model/model.safetensors")
    folder = lptool("pool", "ckpts", "model", "--dry-run", *QUICK, "-o", "a.safetensors")
    assert "model/model.safetensors" in json.loads(folder.stdout)["pool"]
    target = lptool("pool", *globbed(), "--target", model, "--dry-run", *QUICK, "-o", "a.safetensors")
    assert json.loads(target.stdout)["targets"][0]["file"] == str(model)
    assert "a pool needs at least two tickets, found 1" in refused(lptool("pool", model, "-o", "a.safetensors"))


def test_pool_all_targets_into_a_folder(here: Path) -> None:
    document = json.loads(lptool("pool", *globbed(), *QUICK, "--target", "all", "--json").stdout)
    names = [f"pooled/level_{level:02d}.safetensors" for level in range(4)]
    assert [one["output"] for one in document["targets"]] == names
    shown = json.loads(lptool("inspect", "--json").stdout)
    assert [one["file"] for one in shown["tickets"]] == [f"ckpts/level_{level:02d}.safetensors" for level in range(4)]
    assert [one["file"] for one in shown["pooled"]] == names
    assert shown["pool"]["aligned"]


def test_pool_while_the_run_is_unfinished(here: Path) -> None:
    RunFolder(Path("ckpts")).save_progress(3, Progress(1))
    for level in (2, 3):
        Path(f"ckpts/level_0{level}.safetensors").unlink()
    result = lptool("pool", *globbed(), *QUICK)
    assert result.exit_code == 0
    line = "ckpts: its run is not finished; the same `lptool train` goes on"
    assert result.stderr.startswith(f"Warning: {line}, and gives sparser tickets\n")
    Path("ckpts/level_01.safetensors").unlink()
    Path("pooled.safetensors").unlink()
    assert refused(lptool("pool", *globbed(), *QUICK)) == f"{line}, and a pool needs at least two tickets"


def test_files_that_are_named_are_pooled_whatever_the_run_lacks(here: Path) -> None:
    RunFolder(Path("ckpts")).save_progress(3, Progress(1))
    result = lptool("pool", *globbed(), "--train", *QUICK, "--dry-run")
    assert "tickets found; nothing is trained" in result.stderr
    assert len(json.loads(result.stdout)["pool"]) == 4
    plan = json.loads(lptool("pool", "ckpts", "--train", "--preset", "quickstart", *QUICK, "--dry-run").stdout)
    assert plan["train"]["folder"] == "ckpts"  # a folder stands for its run


def test_pool_with_train_makes_the_tickets_where_it_looks_for_them(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "quickstart", tiny())
    plan = json.loads(lptool("pool", "ckpts/*.safetensors", "--train", "--dry-run").stdout)["train"]
    assert (plan["folder"], plan["arch"], plan["levels"]) == ("ckpts", "resnet8_cifar", 1)
    result = lptool("pool", "ckpts/*.safetensors", "--train", *QUICK)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(NOTE)
    assert [path.name for path in globbed()] == ["level_00.safetensors", "level_01.safetensors"]
    again = lptool("pool", "--train", *QUICK)
    assert again.exit_code == 0, again.output
    assert "tickets found; nothing is trained" in again.stderr
    no_folder = "*/*.safetensors: no single folder to train in; name one"
    assert refused(lptool("pool", "nothing*/*.safetensors", "--train")) == f"nothing{no_folder}"


def test_a_person_is_asked_whether_to_train(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quickstart", tiny())
    monkeypatch.setattr("lptool.cli.train_first._at_terminal", lambda: True)

    def answer(text: str, *arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["pool", *map(str, arguments)], input=text)
        return result.exit_code, result.output

    question = "no tickets there; train the quickstart (digits, half a minute on two CPU cores) into ckpts now?"
    code, said = answer("n\n", "ckpts/*.safetensors")
    assert (code, question in said, HOW_TO_MAKE in said) == (1, True, True)
    code, said = answer("\n")
    assert (code, question in said, HOW_TO_MAKE in said) == (2, True, True)
    with monkeypatch.context() as patch:

        def interrupt(*arguments: object, **settings: object) -> bool:
            raise click.Abort  # what `confirm` makes of Ctrl-C

        patch.setattr(click, "confirm", interrupt)
        assert answer("", "ckpts")[0] == 130
    assert question not in answer("y\n", "typo.safetensors")[1]
    for silent in (["--json"], ["--dry-run"], ["--dataset", "digits"]):
        assert question not in answer("y\n", "ckpts", *silent)[1]
    assert list(empty.iterdir()) == []
    code, said = answer("y\n", "ckpts/*.safetensors", *QUICK)
    assert (code, "wrote pooled.safetensors" in said) == (0, True), said
    assert len(globbed()) == 2
    assert question not in answer("y\n", "ckpts/*.safetensors", *QUICK)[1]


def test_only_one_process_at_a_real_terminal_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _at_terminal()  # pytest gives no terminal
    master, slave = pty.openpty()
    with open(slave, "r+b", buffering=0) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        assert _at_terminal()
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert not _at_terminal()
        monkeypatch.undo()
    os.close(master)


def tiny() -> object:
    """The quickstart, shorter."""
    from dataclasses import replace

    quick = PRESETS["quickstart"]
    return replace(quick, options=replace(quick.options, epochs=2, rewind_epoch=1), levels=1)


# Wrong neighbours of `lptool inspect`


def test_inspect_where_nothing_lies_says_what_it_looked_for(empty: Path) -> None:
    expected = (
        "nothing to show here: looked for tickets in ckpts/, and for pooled*.safetensors and pooled/; `lptool train` "
        "makes tickets, or name the files"
    )
    assert refused(lptool("inspect")) == expected
    Path("ckpts").write_text("a file")
    assert refused(lptool("inspect")) == expected
    Path("ckpts").unlink()
    Path("ckpts").mkdir()
    RunFolder(Path("ckpts")).append({"level": 0})
    assert refused(lptool("inspect")) == expected


def test_inspect_shows_what_lies_here(here: Path) -> None:
    assert lptool("inspect").stdout.count("one file") == 0
    assert lptool("pool", *globbed(), *QUICK).exit_code == 0
    document = json.loads(lptool("inspect", "--json").stdout)
    assert [one["level"] for one in document["tickets"]] == [0, 1, 2, 3]
    assert [(one["file"], one["kind"]) for one in document["pooled"]] == [("pooled.safetensors", "pooled")]
    shutil.rmtree("ckpts")
    shown = lptool("inspect").stdout
    assert "pooled by uniform" in shown
    assert "tickets, densest first" not in shown
    assert json.loads(lptool("inspect", "--json").stdout)["tickets"] == []
    Path("pooled.safetensors").write_bytes(b"\x08")
    assert refused(lptool("inspect")).startswith("pooled.safetensors: not a whole safetensors file")
