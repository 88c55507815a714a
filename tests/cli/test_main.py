"""The commands as a person or a script meets them: one run of them all, usage, help."""

import subprocess
import sys
from pathlib import Path

import pytest

from lptool import __version__
from lptool.cli import main
from tests.helpers.commands import FAST, lptool, refused_usage


def test_train_pool_inspect(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out.safetensors"
    trained = lptool("train", "-o", run, "--preset", "quickstart", "--levels", 2, "--epochs", 4, "--device", "cpu")
    assert trained.exit_code == 0, trained.output
    assert trained.stdout.startswith("3 tickets in ")
    pooled = lptool("pool", run, "-o", out, *FAST)
    assert pooled.exit_code == 0, pooled.output
    assert f"wrote {out}" in pooled.stdout
    inspected = lptool("inspect", out, run)
    assert inspected.exit_code == 0, inspected.output
    assert "4 tickets" in inspected.stdout


@pytest.mark.parametrize(
    "arguments",
    [["pool"], ["pool", "-o", "a"], ["pool", "x", "-o", "a", "--alphas", "2"], ["inspect"], ["train"], ["nothing"]],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    result = lptool(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_a_command_of_nearly_that_name_is_suggested() -> None:
    assert refused_usage(lptool("pol")) == "No such command 'pol'. Did you mean 'pool'?"
    assert "'--method'" in refused_usage(lptool("pool", "--metod", "x"))


def test_every_command_and_option_has_help() -> None:
    for command in main.commands.values():
        assert command.help
        for option in command.params:
            assert option.param_type_name == "argument" or getattr(option, "help", None) or option.name == "method"


def test_the_module_runs() -> None:
    shown = subprocess.run([sys.executable, "-m", "lptool", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(f"lptool {__version__}, torch ")
