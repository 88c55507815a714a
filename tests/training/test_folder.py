"""What a rerun finds: the same tensors, the same place, and a journal without a word too many."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.errors import LeftBehind, LptoolError, OutputError, TrainError
from lptool.training.folder import _NUMBERS, Progress, RunFolder

RECORD = dict.fromkeys(_NUMBERS, 0)


def test_progress_survives_to_the_bit(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    state = {"a.weight": torch.randn(3, 2), "bn.num_batches_tracked": torch.tensor(9)}
    before = Progress(4, state, {"a.weight|exp_avg": torch.randn(3, 2)}, dict(state), 17)
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
    for level in (0, 1, 12):
        strange = RunFolder(tmp_path / f"other{level}")
        strange.path.mkdir()
        strange.level(level).touch()
        with pytest.raises(TrainError, match=rf"no run is known; .*level_{level:02d}.safetensors"):
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
        folder.append({**RECORD, "level": level, "epoch": epoch})
    with open(folder.journal, "a") as file:
        file.write('{"level": 1, "ep')  # cut off by a kill
    folder.forget_after(1, 1)
    records = [json.loads(line) for line in folder.journal.read_text().splitlines()]
    assert [(r["level"], r["epoch"]) for r in records] == [(0, 0), (0, 1), (1, 0)]


def test_a_state_of_other_tensors_is_refused_by_name(tmp_path: Path) -> None:
    folder, network = RunFolder(tmp_path), {"a": torch.ones(2), "b": torch.ones(3)}
    folder.check_progress(Progress(0, {"b": torch.zeros(3), "a": torch.zeros(2)}), network)
    for odd in ({"a": torch.ones(2)}, {**network, "b": torch.ones(3).double()}, {**network, "b": torch.ones(4)}):
        with pytest.raises(TrainError, match="goes on from has b otherwise than the network"):
            folder.check_progress(Progress(0, odd), network)


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


def ticket_of(level: int, *, kept: int = 2, **options: object) -> Ticket:
    mask = {"w": torch.arange(4).reshape(2, 2) < kept}
    return Ticket({"w": mask["w"].float()}, mask, Metadata(level=level, train=options, dataset={"name": "digits"}))


def test_a_ticket_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    """Such as one that was copied into the folder while the run was cut off."""
    folder, options = RunFolder(tmp_path), {"lr": 0.1, "seed": 0, "data name": "digits", "processes": None}
    folder.claim(options, [0.5])
    for ticket, told in (
        (ticket_of(1, lr=0.1, seed=0), None),
        (ticket_of(1, lr=0.1, seed=3), "seed: 3 there, 0 now"),
        (ticket_of(1), "lr: None there, 0.1 now; seed: None there"),
        (ticket_of(2, lr=0.1, seed=0), "ticket of level 2"),
        (ticket_of(1, kept=1, lr=0.1, seed=0), "sparsity: 0.7500 there, 0.5 now"),
        (
            replace(ticket_of(1), metadata=Metadata("pooled", level=1, train={"lr": 0.1, "seed": 0})),
            "pooled of level 1",
        ),
    ):
        save_ticket(ticket, folder.level(1))
        if told is None:
            folder.claim(options, [0.5])
        else:
            with pytest.raises(TrainError, match=f"level_01.safetensors: is no ticket of this run .*{told}"):
                folder.check(options, [0.5])


def test_only_what_a_kill_left_of_its_own_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim({"lr": 0.1})
    kept = [
        ".notes.safetensors.bak",
        ".train.jsonl.swp",
        ".resume/.rewind.safetensors.old",
        ".level_01.safetensors.tmp",
    ]
    for name in kept:
        (tmp_path / name).write_text("precious")
    gone = [".level_01.safetensors.01234567", ".train.jsonl.01234567", ".resume/.epoch.safetensors.89abcdef"]
    for name in gone:
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
        (tmp_path / name / "new").write_text("half")
    folder.claim({"lr": 0.1})
    assert [(tmp_path / name).read_text() for name in kept] == ["precious"] * 4
    assert not any((tmp_path / name).exists() for name in gone)


def test_one_command_at_a_time_trains_into_a_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with (
        folder.alone(),
        pytest.raises(OutputError, match="run: another command is training into it"),
        RunFolder(tmp_path / "run").alone(),
    ):
        pass
    with folder.alone():
        pass


ODD_LINES = [b"\xff\xfe", b"[1]", b"null", b"{}", b'{"level": "0"}', b"[" * 9999, b"", b'{"level": NaN, "epoch": "x"}']


@pytest.mark.parametrize("line", ODD_LINES)
def test_an_odd_line_of_the_journal_is_named(tmp_path: Path, line: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.append(RECORD)
    with open(folder.journal, "ab") as file:
        file.write(line + b"\n")
    with pytest.raises(TrainError, match=r"train\.jsonl: a line is damaged \(line 2: .*\); move the file away"):
        folder.records()


@pytest.mark.parametrize("text", [b"\xff", b"[]", b"null", b"7", b"[" * 9999, b'{"sparsities": 5}', b""])
def test_odd_options_are_one_clear_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / ".resume").mkdir()
    (tmp_path / ".resume" / "options.json").write_bytes(text)
    with pytest.raises(TrainError, match=r"options\.json: damaged"):
        RunFolder(tmp_path).check({"lr": 0.1})


@pytest.mark.parametrize(
    "state",
    [{}, {"w": torch.ones(3)}, {"w": torch.ones(2, dtype=torch.float16)}, {"w": torch.ones(2), "v": torch.ones(1)}],
)
def test_tensors_of_another_network_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    folder, like = RunFolder(tmp_path), {"w": torch.ones(2)}
    for progress in (
        Progress(1, state),
        Progress(1, like, {}, state or {"x": torch.ones(1)}),
    ):
        with pytest.raises(TrainError, match=r"what it goes on from has .*otherwise than the network"):
            folder.check_progress(progress, like)
    folder.check_progress(Progress(1, like, {"w|m": torch.ones(2)}, like), like)


def test_a_journal_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "train.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match=r"train\.jsonl: is a link"):
        RunFolder(tmp_path).claim({"lr": 0.1})
    assert (tmp_path / "precious").read_text() == "precious"


def test_at_the_second_try_a_finished_run_is_called_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.save_progress(0, Progress(1, {"x": torch.ones(1)}))
    unlink, tries = Path.unlink, []

    def fail_once(file: Path, **given: bool) -> None:
        tries.append(file)
        if len(tries) == 1:
            raise OSError(5, "Input/output error")
        unlink(file, **given)

    monkeypatch.setattr(Path, "unlink", fail_once)
    folder.finish()
    assert not folder.unfinished


def test_what_cannot_be_dropped_at_the_end_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.warns(LeftBehind, match=r"epoch\.safetensors: cannot be removed \(Input/output error\)"):
        RunFolder(tmp_path).finish()
