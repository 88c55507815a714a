"""What a rerun finds: the same tensors, the same place, and a journal without a word too many."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lptool.errors import LptoolError, TrainError
from lptool.training.folder import Progress, RunFolder


def test_progress_survives_to_the_bit(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    state = {"a.weight": torch.randn(3, 2), "bn.num_batches_tracked": torch.tensor(9)}
    before = Progress(4, state, {"a.weight": torch.randn(3, 2)}, {"a.weight": torch.ones(3, 2)}, 17)
    folder.save_progress(2, before)
    after = folder.load_progress(2)
    assert after is not None
    assert (after.epoch, after.best_correct) == (4, 17)
    for group in ("model", "optimizer", "best"):
        mine, theirs = getattr(before, group), getattr(after, group)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(theirs[name], tensor) for name, tensor in mine.items())
    assert folder.load_progress(1) is None
    assert folder.unfinished
    folder.finish()
    assert not folder.unfinished
    assert folder.load_progress(2) is None


def test_only_tickets_and_journal_are_visible(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim({"lr": 0.1})
    folder.save_rewind({"a": torch.ones(1)})
    folder.save_progress(0, Progress(1))
    folder.append({"level": 0, "epoch": 0})
    assert [p.name for p in tmp_path.glob("*") if not p.name.startswith(".")] == ["train.jsonl"]


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim({"lr": 0.1, "seed": 0})
    folder.claim({"lr": 0.1, "seed": 0})
    with pytest.raises(TrainError, match=r"other options \(seed: 0 there, 1 now\)"):
        folder.claim({"lr": 0.1, "seed": 1})
    strange = RunFolder(tmp_path / "other")
    strange.path.mkdir()
    strange.level(0).touch()
    with pytest.raises(TrainError, match="tickets of which no run is known"):
        strange.claim({"lr": 0.1})


def test_a_folder_of_a_version_with_other_options_goes_on_with_those_that_are_left(tmp_path: Path) -> None:
    """An option that is gone shaped nothing that the others do not say."""
    folder = RunFolder(tmp_path)
    folder.claim({"lr": 0.1, "recipe": "paper"})
    assert folder.check({"lr": 0.1}) == {"lr": 0.1, "recipe": "paper", "sparsities": None}
    folder.claim({"lr": 0.1})
    with pytest.raises(TrainError, match=r"other options \(lr: 0\.1 there, 0\.2 now\)"):
        folder.claim({"lr": 0.2})


def test_sparsities_may_grow_and_are_remembered(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for sparsities in ([0.5], [0.5, 0.9], [0.5], [0.5, 0.9]):
        folder.claim({"lr": 0.1}, sparsities)
    for other in (None, [0.6], [0.5, 0.8], [0.5, 0.8, 0.9]):
        with pytest.raises(TrainError, match=r"sparsities: \[0\.5, 0\.9\] there"):
            folder.claim({"lr": 0.1}, other)


def test_threads_are_remembered_as_the_run_was_begun(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.threads is None
    for sparsities, threads in (([0.5], 2), ([0.5], 3), ([0.5, 0.9], 4)):  # the last makes it longer
        folder.claim({"lr": 0.1}, sparsities, threads)
        assert folder.threads == 2


@pytest.mark.parametrize("begun", ['{"lr": 0.1}', '{"threads": "2"}', '{"threads": 0}', '{"threads": true}', "[]", "{"])
def test_a_folder_that_says_no_threads_has_none(tmp_path: Path, begun: str) -> None:
    """As those of before; what is damaged is told by others."""
    (tmp_path / ".resume").mkdir()
    (tmp_path / ".resume" / "options.json").write_text(begun)
    assert RunFolder(tmp_path).threads is None


def test_a_damaged_line_of_the_journal_is_said(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append({"level": 0, "epoch": 0})
    folder.journal.write_text('{"level": 0, {}\n')
    with pytest.raises(TrainError, match=r"train\.jsonl: a line is damaged"):
        folder.records()


def test_a_lost_rewind_point_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="missing, and later levels rewind to it"):
        RunFolder(tmp_path).load_rewind()


def test_the_journal_forgets_what_will_be_trained_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.forget_after(0, 0)  # nothing there yet
    for level, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):
        folder.append({"level": level, "epoch": epoch})
    with open(folder.journal, "a") as file:
        file.write('{"level": 1, "ep')  # cut off by a kill
    folder.forget_after(1, 1)
    records = [json.loads(line) for line in folder.journal.read_text().splitlines()]
    assert [(r["level"], r["epoch"]) for r in records] == [(0, 0), (0, 1), (1, 0)]


def test_a_state_of_other_tensors_is_refused_by_name(tmp_path: Path) -> None:
    folder, network = RunFolder(tmp_path), {"a": torch.ones(2), "b": torch.ones(3)}
    folder.check_state({"b": torch.zeros(3), "a": torch.zeros(2)}, network)
    for odd in ({"a": torch.ones(2)}, {**network, "b": torch.ones(3).double()}, {**network, "b": torch.ones(4)}):
        with pytest.raises(TrainError, match="goes on from has b otherwise than the network"):
            folder.check_state(odd, network)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 9999, '{"level": 1, "epoch": "x", "best_correct": 0}', "\xff"])
def test_an_odd_record_of_an_epoch_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / ".resume").mkdir()
    file = tmp_path / ".resume" / "epoch.safetensors"
    for group, header in (("model", text), ("__class__", '{"level": 1, "epoch": 1, "best_correct": 0}')):
        save_file({f"{group}/w": torch.ones(2)}, file, {"lptool-resume": header})
        with pytest.raises(LptoolError, match=r"epoch\.safetensors: not a whole record of an epoch") as error:
            RunFolder(tmp_path).load_progress(1)
        assert str(error.value).isprintable()


def test_a_damaged_folder_is_one_clear_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim({"lr": 0.1})
    folder.save_rewind({"a": torch.ones(9)})
    for file, read in (
        ("rewind.safetensors", lambda: folder.load_rewind()),
        ("options.json", lambda: folder.claim({})),
    ):
        path = tmp_path / ".resume" / file
        path.write_bytes(path.read_bytes()[:7])
        with pytest.raises(LptoolError, match=file):
            read()
