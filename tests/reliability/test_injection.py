"""A sample of the faults at calls to the file system; and that the harness sees every call and every harm."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.processes import begin
from tests.reliability import injection
from tests.reliability.faults import FAULTS, Faults, install
from tests.reliability.material import make_material, warm_up
from tests.reliability.verdicts import Undisturbed, half_written

JOBS = ("train, more levels", "pool", "pool, folder, overwrite", "convert, folder, overwrite")
EVENTS = 2  # of each job


def sample(seed: int, place: Path) -> None:
    """A few events of some jobs, in a process of its own; writes what failed."""
    warm_up()
    material, draw = make_material(place / "material"), random.Random(seed)
    found = []
    for job in JOBS:
        for task in draw.sample(list(injection.tasks_of(job, material)), EVENTS):
            found += [(str(task), problems) for problems in injection.problems_of(task, material)]
    (place / "found.json").write_text(json.dumps(found))


def test_nothing_is_half_written_whatever_fails(tmp_path: Path) -> None:
    child = begin(tmp_path / "child", sample, 0, tmp_path)
    assert child.end() == 0, child.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert not found, "python -m tests.reliability.injection …\n" + "\n".join(map(": ".join, found))


def noted(place: Path, what: str) -> None:
    """Everything that Python code does with files is an event."""
    (place / "in").mkdir()
    faults = Faults(str(place / "in"))
    install(faults)
    DEEDS[what](place / "in")
    faults.held = True
    (place / "seen.json").write_text(json.dumps(faults.seen))


def _tensors(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    save_file({"a": torch.ones(3)}, folder / "a.safetensors")
    load_file(folder / "a.safetensors")


def _append(folder: Path) -> None:
    for name in "ab":
        with open(folder / name, "a") as file:
            file.write("x")


DEEDS: dict[str, Callable[[Path], object]] = {
    "create write": lambda folder: (folder / "a").write_text("x"),
    "create write open read": lambda folder: (folder / "a").write_bytes(b"x") and (folder / "a").read_bytes(),
    "mkdir rename rmdir": lambda folder: (folder / "a").mkdir() or (folder / "a").rename(folder / "b").rmdir(),
    "create unlink": lambda folder: (folder / "a").touch() or (folder / "a").unlink(),
    "create chmod": lambda folder: (folder / "a").touch() or (folder / "a").chmod(0o600),
    "create write create write": _append,
    "link list": lambda folder: (folder / "a").symlink_to("b") or list(folder.iterdir()),
    "create write open": _tensors,
}


@pytest.mark.parametrize("what", DEEDS)
def test_every_call_is_an_event(what: str, tmp_path: Path) -> None:
    child = begin(tmp_path / "child", noted, tmp_path, what)
    assert child.end() == 0, child.stderr
    seen = [kind for kind, _ in json.loads((tmp_path / "seen.json").read_text())]
    in_order = iter(seen)
    assert all(kind in in_order for kind in what.split()), seen
    assert set(what.split()) <= {kind for kinds in FAULTS.values() for kind in kinds}


OLD, NEW = b"old", b"new and longer"


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"in": b"in", "a": OLD}, None),
        ({"in": b"in", "a": NEW, "b": NEW}, None),
        ({"in": b"in", "a": OLD, "a.search.jsonl": b"one\ntw"}, None),
        ({"in": b"in"}, "a is gone from its place"),
        ({"in": b"in", "a": b"new and"}, "a is neither as it was nor new"),
        ({"in": b"changed", "a": OLD}, "in is neither as it was nor new"),
        ({"in": b"in", "a": OLD, "b": b"new"}, "b is half-written"),
    ],
)
def test_harm_is_noticed(found: dict[str, bytes], problem: str | None) -> None:
    after = {"in": b"in", "a": NEW, "b": NEW, "a.search.jsonl": b"one\ntwo\n"}
    normal = Undisturbed({"in": b"in", "a": OLD}, after, frozenset(), [])
    assert half_written(normal, found) == ([problem] if problem else [])
