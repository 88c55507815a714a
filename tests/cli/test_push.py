"""`lptool push` as a person or a script meets it."""

import json
from pathlib import Path

import pytest

from tests.helpers.commands import assert_clear_error, lptool
from tests.helpers.hub_folder import URL, stand_in, written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "folder")


def test_a_dry_run_sends_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch)
    document = json.loads(lptool("push", folder, "me/net", "--dry-run", "--private", "--json").stdout)
    assert calls == []
    assert {file["file"]: file["bytes"] for file in document["files"]} == {
        p.name: p.stat().st_size for p in folder.iterdir()
    }
    assert document["bytes"] == sum(file["bytes"] for file in document["files"])
    assert (document["uploaded"], document["url"], document["private"]) == (False, None, True)
    shown = lptool("push", folder, "me/net", "--dry-run").stdout
    assert "nothing sent; would go to the repository me/net, revision main" in shown
    assert "model.safetensors" in shown
    assert f"{document['bytes']:,}" in shown
    assert calls == []


def test_it_uploads_and_says_where(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch)
    result = lptool("push", folder, "me/net", "--revision", "x", "-m", "why")
    assert result.exit_code == 0
    assert f"uploaded to {URL}/tree/x" in result.stdout
    assert [name for name, _ in calls] == ["create_repo", "create_branch", "upload_folder"]
    assert calls[-1][1]["commit_message"] == "why"


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_errors_are_one_line(folder: Path, tmp_path: Path, dry_run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch)
    assert_clear_error(lptool("push", folder, "net", *dry_run), "expected user/name")
    assert_clear_error(lptool("push", tmp_path / "nothing", "me/net", *dry_run), "not a folder")
    (folder / "other").write_text("")
    assert_clear_error(lptool("push", folder, "me/net", *dry_run), "holds other")
    assert calls == []


def test_a_dry_run_warns_of_places_on_this_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch)
    (folder / "trace.json").write_text('{"output": "/home/me/out"}')
    result = lptool("push", folder, "me/net", "--dry-run", "--json")
    assert result.exit_code == 0
    assert "trace.json: names /home/me/out" in result.stderr
    assert [line for line in json.loads(result.stdout)["warnings"] if "licence" not in line] == [
        line.removeprefix("Warning: ") for line in result.stderr.splitlines() if "/home/me/out" in line
    ]
    assert_clear_error(lptool("push", folder, "me/net"), "names /home/me/out")
    assert calls == []
