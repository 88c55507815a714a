"""What all commands do alike: tables on stdout, and the HTML page."""

import io
import json
from pathlib import Path

import pytest

from lptool.cli.output import show
from lptool.report.terminal import on_terminal
from lptool.tables import Table
from tests.helpers.commands import FAST, assert_clear_error, lptool


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


def test_a_page_of_the_same_command_is_made_again_and_no_other(
    tmp_path: Path, tickets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it was killed between the page and the table."""
    page, given = tmp_path / "a.html", [*tickets[:2], "-o", tmp_path / "a.safetensors", *FAST]
    for typed in ("first", "first", "second"):
        monkeypatch.setattr("sys.argv", ["lptool", "pool", f"it's <{typed}>"])
        result = lptool("pool", *given, "--report", page)
        if typed == "second":
            assert_clear_error(result, "a.html: exists; choose another output or add --overwrite")
        else:
            assert result.exit_code == 0, result.output
    assert_clear_error(lptool("evaluate", *tickets[:2], "--report", page), "a.html: exists")


@pytest.mark.parametrize("form", [["--packed", "--values", "bf16"], ["folder"]])
def test_the_same_command_goes_on_once_the_output_is_there(
    tmp_path: Path, tickets: list[Path], form: list[str]
) -> None:
    """In forms that change weights, or that are a folder."""
    out, options = (tmp_path / "model", []) if form == ["folder"] else (tmp_path / "a.safetensors", form)
    weights = out / "model.safetensors" if form == ["folder"] else out
    given = [*tickets[:2], "-o", out, *options, *FAST]
    assert lptool("pool", *given).exit_code == 0
    before = weights.read_bytes()
    result = lptool("pool", *given, "--report", tmp_path / "a.html")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.html").exists()
    assert weights.read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


class Stdout(io.StringIO):
    """A terminal, or a pipe or file."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}])
def test_a_pipe_gets_all_and_a_terminal_what_it_has_room_for(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that is to be coloured is a pipe all the same."""
    table = Table("", ["file", "n", "more"], [["runs/" * 60 + "a.pt", "7:bug:", "[b]8"]], spare=("more",))
    for name, value in {"COLUMNS": "40", "TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    pipe, terminal = Stdout(False), Stdout(True)
    for stream in (pipe, terminal):
        monkeypatch.setattr("sys.stdout", stream)
        show(on_terminal(table))
    (row,) = [line for line in pipe.getvalue().splitlines() if "a.pt" in line]
    assert all(cell in row for cell in table.rows[0])
    assert "…/a.pt" in terminal.getvalue()
    assert "[b]8" in terminal.getvalue()
    assert "7:bug:" in terminal.getvalue()
    assert max(map(len, terminal.getvalue().splitlines())) < 300
