"""What all commands do alike: Ctrl-C and the HTML page."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lptool.cli.output import clear_errors
from lptool.errors import TrainError
from tests.helpers.commands import FAST, assert_clear_error, lptool, refused


@click.command()
@click.option("--bn-recal/--no-bn-recal", "recalibrate", default=True)
@click.option("-l", "--lr", default=0.1)
@clear_errors
def command(recalibrate: bool, lr: float) -> None:
    """Fail."""
    raise TrainError("wrong", "recalibrate", "lr", "batch_size")


def test_options_in_an_error_are_spelled_as_the_command_has_them() -> None:
    message = refused(CliRunner().invoke(command, []))
    assert message == "--bn-recal and --lr and batch_size: wrong"


def test_ctrl_c_is_one_line_and_130(tmp_path: Path, tickets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lptool.pooling.job.pool_tickets", interrupt)
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors")
    assert result.exit_code == 130
    told = result.stderr.rstrip().splitlines()[-1]
    assert told.startswith("Interrupted before the first scoring for ")
    assert told.endswith(f"the scores are in {tmp_path / 'a.safetensors.search.jsonl'}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors.search.jsonl"]


def test_a_report_of_all_targets_and_one_of_evaluate(tmp_path: Path, tickets: list[Path]) -> None:
    page, out = tmp_path / "a.html", tmp_path / "a.safetensors"
    result = lptool("pool", *tickets[:2], "-o", out, "--target", "all", "--report", page, *FAST)
    assert result.exit_code == 0, result.output
    assert f"report: {page}" in result.stdout
    html = page.read_text()
    assert "level 0" in html
    assert "level 1" in html
    other = tmp_path / "e.html"
    result = lptool("evaluate", *tickets[:2], "--report", other, "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    accuracy = json.loads(result.stdout)["files"][1]["test"]["accuracy"]
    assert f"{100 * accuracy:.2f}" in other.read_text()


@pytest.mark.parametrize("command", [["pool", "-o", "x.safetensors"], ["evaluate"]])
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_scored(
    command: list[str], tmp_path: Path, tickets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *options = command
    for page, message in (
        ("a.pdf", "expected a name that ends in .html"),
        (f"{tickets[0]}/a.html", "cannot be written"),
    ):
        result = lptool(name, *tickets[:2], *options, "--report", page, "--device", "cpu")
        assert_clear_error(result, message)
    assert not list(tmp_path.iterdir())
