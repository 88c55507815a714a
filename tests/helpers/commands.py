"""Runs the commands in this process, and reads how they fail, for the tests of the command line."""

from click.testing import CliRunner, Result

from lptool.cli import main

FAST = ["--method", "greedy", "--alphas", "0.5", "--calibration-size", "64", "--device", "cpu"]


def lptool(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def assert_clear_error(result: Result, message: str) -> None:
    """One line on stderr, exit 1, no traceback."""
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def refused(result: Result, code: int = 1) -> str:
    """The message of an expected failure: `Error: …` on stderr, nothing on stdout, no traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: "), result.stderr
    return result.stderr.removeprefix("Error: ").rstrip("\n")


def refused_usage(result: Result) -> str:
    """The message of wrong usage, after the line of usage."""
    assert result.exit_code == 2, result.output
    return result.stderr.rstrip().splitlines()[-1].removeprefix("Error: ")


def refused_last(result: Result) -> str:
    """The error of a command that warned before it."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    return result.stderr.rstrip().splitlines()[-1]
