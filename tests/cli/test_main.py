"""The commands as a person or a script meets them: one run of them all, usage, help."""

import re

import pytest

from lptool.cli import main
from tests.helpers.commands import lptool, refused_usage
from tests.helpers.pages import THREE_LINES


def test_commands_are_listed_as_they_are_used() -> None:
    shown = lptool("--help").stdout
    found = re.findall(r"^  ([a-z]+)  ", shown.partition("Commands:")[2], re.MULTILINE)
    assert found == ["train", "pool", "inspect", "evaluate", "compare", "predict", "convert", "push"]
    assert re.findall(r"^ +(lptool .*)$", shown, re.MULTILINE) == list(THREE_LINES)


@pytest.mark.parametrize(
    "arguments",
    [["pool"], ["pool", "-o", "a"], ["pool", "x", "-o", "a", "--alphas", "2"], ["train", "x"], ["nothing"]],
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
