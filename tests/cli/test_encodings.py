"""Streams whose encoding lacks what is written: every command shows all the same, in signs that are there."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lptool.cli import main
from tests.helpers.commands import FAST
from tests.helpers.hub_folder import written

ENCODINGS = ["cp1252", "latin-1", "ascii"]
NAMES = ["train", "pool", "inspect", "evaluate", "convert", "push"]


def shown(encoding: str, *arguments: object) -> Result:
    """What a command writes; bytes that are none of the encoding fail here."""
    result = CliRunner(charset=encoding).invoke(main, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    for stream in (result.stdout_bytes, result.stderr_bytes):
        assert not re.search(r"\\u[0-9a-f]{4}", stream.decode(encoding)), stream
    return result


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_and_wrong_usage(name: str, encoding: str) -> None:
    assert shown(encoding, *name.split(), "--help").exit_code == 0
    assert shown(encoding, *name.split(), "--wröng→…").exit_code == 2


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_errors(tmp_path: Path, encoding: str) -> None:
    """A character that no likeness is known of is shown by its code."""
    lacking = tmp_path / "ö→….pt"
    spelt = {"cp1252": "ö->….pt", "latin-1": "ö->....pt", "ascii": r"\xf6->....pt"}[encoding]
    for command in (["inspect"], ["evaluate"], ["pool", "-o", tmp_path / "x.safetensors"]):
        result = shown(encoding, *command, lacking)
        assert result.exit_code == 1
        assert spelt in result.stderr


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_results(tmp_path: Path, tickets: list[Path], encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page, other = Path("a.html"), Path("b.html")
    folder = written(tmp_path / "folder")
    for command in (
        ["pool", *tickets[:2], "-o", "a.safetensors", "--report", page, *FAST],
        ["inspect", *tickets],
        ["inspect", "a.safetensors"],
        ["evaluate", *tickets[:2], "a.safetensors", "--report", other, "--device", "cpu"],
        ["convert", "a.safetensors", "b.safetensors", "--packed"],
        ["push", folder, "me/net", "--dry-run"],
        ["train", "-o", "run", "--preset", "quickstart", "--dry-run"],
    ):
        result = shown(encoding, *command)
        assert result.exit_code == 0, result.output
        assert not {*"━│┃─"} & {*result.output}
    assert "->" in shown(encoding, "evaluate", "a.safetensors", "--device", "cpu").stdout
    assert json.loads(shown(encoding, "inspect", "a.safetensors", "--json").stdout)["tickets"]
    for file in (page, other):
        html = file.read_bytes().decode("utf-8")
        assert '<meta charset="utf-8">' in html
        assert "→" in html
