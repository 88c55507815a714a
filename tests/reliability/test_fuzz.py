"""A sample of the fuzz, and that the fuzz would notice what it looks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.processes import begin
from tests.reliability import fuzz
from tests.reliability.cases import material_in
from tests.reliability.families import FAMILIES
from tests.reliability.looks import looks_of

CASES = 5 * len(FAMILIES)


def sample(seed: int, cases: int, place: Path) -> None:
    """Run cases in a process of its own, and write what failed."""
    found = fuzz.findings_of(seed, [fuzz.named(number) for number in range(cases)], 1, place)
    (place / "found.json").write_text(json.dumps([vars(finding) for finding in found]))


def test_no_file_brings_a_command_down(tmp_path: Path) -> None:
    child = begin(tmp_path / "child", sample, 0, CASES, tmp_path)
    assert child.end() == 0, child.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == CASES
    failed = [f"--case {one['case']}: {one['problems']}" for one in found if one["problems"]]
    assert not failed, "\n".join(["python -m tests.reliability.fuzz …", *failed, child.stderr])
    ended = [one["status"] for one in found]
    assert ended.count(0) > CASES / 10, "nothing is read any more"
    assert ended.count(1) > CASES / 3, "nothing is odd any more"


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound files."""
    place = tmp_path_factory.mktemp("sound") / "material"
    material_in(place)
    return place


@pytest.mark.parametrize("family", ["safetensors", "packed", "metadata", "pickles", "npz", "idx", "shards", "runs"])
def test_a_case_is_the_same_each_time(family: str, tmp_path: Path, material: Path) -> None:
    cases = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        case = fuzz.made(3, f"{family}/5", tmp_path / name, material)
        cases.append((case.words, fuzz._state_of(tmp_path / name)))
    assert cases[0] == cases[1]


LINE = "Error: a.pt: not whole; copy it again\n"


@pytest.mark.parametrize(
    ("status", "stderr", "problem"),
    [
        (0, "", None),
        (1, LINE, None),
        (1, "Warning: odd\n" + LINE + "  one\n", None),
        (130, "Interrupted\n", None),
        (1, "", "0 lines of error"),
        (1, LINE * 2, "2 lines of error"),
        (1, LINE.replace("a.pt", "b.pt"), "names none of a.pt"),
        (-7, "", "exit status -7"),
        (2, "Usage: lptool\nError: no such option\n", "exit status 2"),
        (1, "Traceback (most recent call last):\nValueError: x\n", "a traceback"),
        (0, "/x/y.py:12: UserWarning: z\n", "UserWarning"),
        (1, LINE.replace("whole", "\x1b[31mwhole"), "control characters"),
        (1, LINE.replace("whole", "whole" * 500), "a line of"),
    ],
)
def test_what_a_command_must_not_say(status: int, stderr: str, problem: str | None) -> None:
    found = looks_of(status, "", stderr, ("a.pt",))
    assert any(problem in one for one in found) if problem else found == []
