"""What CONTRIBUTING.md shows is true: its changes are made in a copy of the package, and run there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import lptool
from tests.helpers.processes import begin, run_in
from tests.test_structure import ROOMS

GUIDE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
CHANGES = re.findall(r"^```diff\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)

PROGRAM = """
import json
import torch
from click.testing import CliRunner
from lptool import load_ticket
from lptool.cli import main

def run(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout

assert "nearest: the mean with the nearest neighbour" in " ".join(run("pool", "--help").split())
small = ["--arch", "resnet8_cifar", "--levels", 1, "--epochs", 1, "--device", "cpu", "--precision", "fp32"]
run("train", "-o", "run", "--dataset", "stripes", *small)
document = json.loads(run("pool", "run", "-o", "a.safetensors", "--method", "nearest", "--device", "cpu", "--json"))
assert document["method"] == "nearest", document

ticket = load_ticket("run/level_01.safetensors")
apart = {f"masks.{name}": mask for name, mask in ticket.mask.items()}
everywhere = {name: tensor + 1 if name in ticket.mask else tensor for name, tensor in ticket.state.items()}
torch.save(everywhere | apart, "other.pt")
other = load_ticket("other.pt")
assert other.mask.keys() == ticket.mask.keys()
assert all(torch.equal(other.mask[name], mask) for name, mask in ticket.mask.items())
"""


def apply(change: str, root: Path) -> None:
    """Make a change whose places are found by their lines, not by their numbers."""
    for part in re.split(r"^--- ", change, flags=re.MULTILINE)[1:]:
        name, *hunks = re.split(r"\n@@", part.rstrip())
        content = (root / name).read_text()
        for hunk in hunks:
            lines = hunk.splitlines()[1:]
            before, after = ("\n".join(line[1:] for line in lines if line[:1] != gone) + "\n" for gone in "+-")
            assert content.count(before) == 1, (name, before)
            content = content.replace(before, after)
        (root / name).write_text(content)


def test_a_method_a_dialect_and_a_data_set_are_added_in_twenty_lines_each(tmp_path: Path) -> None:
    shutil.copytree(Path(lptool.__file__).parent, tmp_path / "lptool", ignore=shutil.ignore_patterns("__pycache__"))
    assert len(CHANGES) == 3
    for change in CHANGES:
        assert len(re.findall(r"^[+-](?!--)", change, re.MULTILINE)) <= 20
        apply(change, tmp_path)
    child = begin(tmp_path / "child", run_in, tmp_path, PROGRAM)
    assert child.end() == 0, child.stderr


def test_the_rooms_stand_in_the_order_of_the_house() -> None:
    rows = re.findall(r"^\| `([a-z]+)/` \|", GUIDE, re.MULTILINE)
    assert rows == [room for room in ROOMS if room not in ("ground", "report.html")]
