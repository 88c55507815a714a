"""What files say in escape sequences reaches no terminal: every command that shows text of files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lptool.checkpoints.containers import SafetensorsFile
from tests.helpers.commands import lptool

EVIL = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202e"


def has_control(text: str) -> bool:
    return any(not c.isprintable() and c != "\n" for c in text)


@pytest.fixture
def evil(tmp_path: Path, tickets: list[Path]) -> list[Path]:
    """Tickets with escape sequences in the names of files and tensors, in method, members and data set."""
    files = []
    for level, file in enumerate(tickets):
        document = json.loads(SafetensorsFile(file).header["lptool"])
        document |= {
            "kind": "pooled" if level == 3 else "ticket",
            "trace": {"method": EVIL, "members": [{"file": EVIL}]},
        }
        document["dataset"] |= {"name": f"digits{EVIL}"}
        state = load_file(file)
        document["prunable"] = [f"x{EVIL}{name}" for name in document["prunable"]]
        state = {f"x{EVIL}{name}": tensor for name, tensor in state.items()}
        place = tmp_path / f"{level}\x1b[31m.safetensors"
        save_file(state, place, {"lptool": json.dumps(document)})
        files.append(place)
    return files


def commands(files: list[Path], out: Path) -> list[tuple[object, ...]]:
    return [
        ("inspect", *files),
        ("inspect", files[3]),
        ("inspect", out / "nothing\x1b[31m.pt"),
        ("evaluate", files[3]),
        ("evaluate", files[3], "--dataset", "digits", "--arch", "resnet8_cifar"),
        ("pool", *files, "-o", out / "a.safetensors"),
        ("pool", *files, "-o", out / "a.safetensors", "--dataset", "digits", "--arch", f"net.py:{EVIL}"),
        ("convert", files[3], out / "b.safetensors"),
        ("convert", files[3], out / "b\x1b[31m.onnx"),
    ]


@pytest.mark.parametrize("number", range(9))
def test_no_command_shows_control_characters(tmp_path: Path, evil: list[Path], number: int) -> None:
    done = lptool(*commands(evil, tmp_path)[number])
    assert not has_control(done.stdout)
    assert not has_control(done.stderr)
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_a_document_escapes_them_and_keeps_them(evil: list[Path]) -> None:
    done = lptool("inspect", *evil, "--json")
    assert not has_control(done.stdout)
    assert json.loads(done.stdout)["tickets"][3]["trace"]["method"] == EVIL


def test_keys_of_a_torch_file_in_an_error(tmp_path: Path) -> None:
    torch.save({EVIL: 3}, tmp_path / "a.pt")
    done = lptool("inspect", tmp_path / "a.pt")
    assert "no state dict" in done.stderr
    assert not has_control(done.stderr)
