"""Val decides, test is reported; nothing of either where the images cannot be had."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import lptool
from lptool.checkpoints.reading import file_sha256, load_ticket
from lptool.errors import CheckpointError, DataError, OutputError
from lptool.evaluation.setting import SettingOptions
from lptool.export.accuracy import Change, Gauge, Scores, needing_val
from lptool.scoring.score import Score

SAYS = SettingOptions(device="cpu")
OUT = Path("a.safetensors")


def change(before: int | None, after: int, test: int = 5) -> Change:
    val = [None if right is None else Score(right, 0.1, 200) for right in (before, None if before is None else after)]
    return Change(Scores(val[0], Score(5, 0.1, 10)), Scores(val[1], Score(test, 0.1, 10)))


def test_a_loss_is_in_points_of_val_and_refused_above_the_bound() -> None:
    lost = change(180, 177)
    assert lost.drop == 1.5
    lost.check(1.5, OUT)
    lost.check(None, OUT)
    with pytest.raises(OutputError, match=r"^a\.safetensors: not written, because accuracy on val falls by 1\.50 poi"):
        lost.check(1.4, OUT)
    change(180, 190).check(0, OUT)


def test_what_test_loses_refuses_nothing() -> None:
    change(180, 180, test=0).check(0, OUT)


def test_without_val_nothing_is_known() -> None:
    assert change(None, 0).drop is None


def opened(file: Path, options: SettingOptions, *, with_val: bool) -> Gauge:
    return Gauge.opened(file, options, file_sha256(file), with_val=with_val)


def test_a_file_that_was_changed_since_the_ticket_was_read_is_refused(tickets: list[Path], tmp_path: Path) -> None:
    shutil.copy(tickets[3], tmp_path / "a.safetensors")
    then = file_sha256(tmp_path / "a.safetensors")
    shutil.copy(tickets[2], tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors: .*changed"):
        Gauge.opened(tmp_path / "a.safetensors", SAYS, then, with_val=False)


def test_scores_are_those_of_evaluation(tickets: list[Path]) -> None:
    gauge = opened(tickets[3], SAYS, with_val=True)
    found = gauge.change(load_ticket(tickets[2]))
    was, now = (file.test.score for file in lptool.evaluate_files([tickets[3], tickets[2]]).files)
    assert (found.before.test, found.after.test) == (was, now)
    assert found.before.val is not None
    assert found.before.val.n == len(gauge.plan.data.val)
    assert opened(tickets[3], SAYS, with_val=False).scores().val is None


def test_val_of_a_file_that_says_nothing_is_warned_of(tickets: list[Path], tmp_path: Path) -> None:
    save_file(load_file(tickets[3]), tmp_path / "silent.safetensors")
    named = replace(SAYS, dataset="digits")
    gauge = opened(tmp_path / "silent.safetensors", named, with_val=True)
    assert "does not say which images it was trained on" in gauge.notes[0]
    assert opened(tmp_path / "silent.safetensors", named, with_val=False).notes == ()
    assert opened(tickets[3], SAYS, with_val=True).notes == ()
    ticket = load_ticket(tickets[3])
    split = ticket.metadata.dataset["split"] | {"seed": 7}
    metadata = replace(ticket.metadata, dataset={**ticket.metadata.dataset, "split": split})
    lptool.save_ticket(replace(ticket, metadata=metadata), tmp_path / "other.safetensors")
    other = opened(tmp_path / "other.safetensors", SAYS, with_val=True)
    assert "was trained on another split" in other.notes[0]


def test_who_needs_val_says_what_for() -> None:
    said = r"^--max-drop compares accuracy on val, which cannot be had: gone$"
    with pytest.raises(DataError, match=said), needing_val(1.0):
        raise DataError("gone")
    with pytest.raises(DataError, match=r"^gone$"), needing_val(None):
        raise DataError("gone")
