"""`lptool convert` as a person or a script meets it."""

import json
from pathlib import Path

from tests.helpers.commands import assert_clear_error, lptool
from tests.helpers.fragile import fragile


def test_a_file_is_packed_and_told_of(tickets: list[Path], tmp_path: Path) -> None:
    result = lptool("convert", tickets[3], tmp_path / "a.safetensors", "--packed", "--values", "bf16")
    assert result.exit_code == 0, result.output
    told = result.stdout.splitlines()
    assert told[0].startswith(f"wrote {tmp_path / 'a.safetensors'} (packed, ")
    assert [line.partition(":")[0] for line in told[1:]] == ["bytes", "accuracy on test", "load it"]


def test_a_loss_above_the_bound_is_one_line(tickets: list[Path], tmp_path: Path) -> None:
    file = fragile(tickets[3], tmp_path / "fragile.safetensors")
    words = ("convert", file, tmp_path / "a.safetensors", "--packed", "--values", "int8", "--max-drop")
    assert_clear_error(lptool(*words, "2"), "--max-drop allows 2")
    assert [p.name for p in tmp_path.iterdir()] == ["fragile.safetensors"]
    told = lptool(*words, "100").stdout.splitlines()
    assert [line.partition(":")[0] for line in told[1:4]] == ["bytes", "accuracy on val", "accuracy on test"]


def test_json_is_all_there_is_on_stdout(tickets: list[Path], tmp_path: Path) -> None:
    document = json.loads(lptool("convert", tickets[3], tmp_path / "model", "--json").stdout)
    assert (document["kind"], document["output"]) == ("folder", str(tmp_path / "model"))
    assert "lptool" in (tmp_path / "model" / "README.md").read_text()


def test_usage(tickets: list[Path], tmp_path: Path) -> None:
    alone = lptool("convert", tickets[3], tmp_path / "a.safetensors", "--values", "bf16")
    assert (alone.exit_code, "add --packed" in alone.stderr) == (2, True)
    for bound in ("nan", "-1", "101", "x"):
        odd = lptool(
            "convert", tickets[3], tmp_path / "a.safetensors", "--packed", "--values", "int8", "--max-drop", bound
        )
        assert (odd.exit_code, "--max-drop" in odd.stderr) == (2, True)
    idle = lptool("convert", tickets[3], tmp_path / "a.safetensors", "--max-drop", "1")
    assert (idle.exit_code, "add --values, --int8 or --max-size" in idle.stderr) == (2, True)
    assert_clear_error(lptool("convert", tmp_path / "none", tmp_path / "a.safetensors"), "cannot be read")
    assert not list(tmp_path.iterdir())
