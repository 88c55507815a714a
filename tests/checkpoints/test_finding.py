"""Which files folders and globs stand for."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lptool.checkpoints.finding import checkpoint_file, find_checkpoints, find_tickets
from lptool.checkpoints.reading import load_pool, load_ticket
from lptool.errors import CheckpointError

STATE = {"conv.weight": torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "conv.bias": torch.tensor([0.0, 1.0])}


def test_a_folder_stands_for_its_only_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "in" / "model.safetensors"
    file.parent.mkdir()
    with pytest.raises(CheckpointError, match="in: no checkpoint in it"):
        checkpoint_file(file.parent)
    save_file(STATE, file)
    (file.parent / "config.json").write_text('{"architecture": "resnet8_cifar"}')
    assert checkpoint_file(file) == checkpoint_file(file.parent) == checkpoint_file(str(tmp_path)) == file
    assert load_ticket(file.parent).metadata.arch == "resnet8_cifar"
    for name in ("a.pth", "b.pth"):
        torch.save(STATE, tmp_path / name)
    with pytest.raises(CheckpointError, match=r": holds 2 checkpoints, expected one; name the file") as error:
        load_ticket(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_name_that_is_not_there_is_left_for_the_reader_to_refuse(tmp_path: Path) -> None:
    assert checkpoint_file(tmp_path / "none") == tmp_path / "none"


def test_folders_and_globs_expand_in_natural_order(tmp_path: Path) -> None:
    for name in ("level_9.pth", "level_10.pth", "level_2.safetensors", "train.jsonl", ".hidden.pth"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    expected = ["level_2.safetensors", "level_9.pth", "level_10.pth"]
    assert [p.name for p in find_checkpoints([tmp_path])] == expected
    assert [p.name for p in find_checkpoints([tmp_path / "*.pth"])] == expected[1:]
    assert find_checkpoints([tmp_path / "train.jsonl"]) == [tmp_path / "train.jsonl"]
    with pytest.raises(CheckpointError, match="No such file"):
        find_checkpoints([tmp_path / "named.pth"])
    for nothing in (tmp_path / "empty", tmp_path / "*.bin"):
        with pytest.raises(CheckpointError, match="no checkpoint in it"):
            find_checkpoints([nothing])


def test_one_path_needs_no_list(tickets: list[Path]) -> None:
    """Neither as text: a string is a sequence of letters, too."""
    folder = tickets[0].parent
    assert find_checkpoints(folder) == find_checkpoints(str(folder)) == find_checkpoints([folder]) == tickets
    assert [Path(summary.file) for summary in load_pool(str(folder)).summaries] == tickets


# What programs leave in a folder → which of them are tickets, and what is said of the others.
PROGRAMS: dict[str, tuple[list[str], list[str], str]] = {
    "OpenLTH with rewinding steps": (
        [
            f"level_{level}/main/{name}"
            for level in ("pretrain", 0, 1)
            for name in ("model_ep0_it0.pth", "model_ep2_it0.pth")
        ]
        + ["level_0/main/mask.pth", "level_1/main/mask.pth"],
        ["level_0/main/model_ep2_it0.pth", "level_1/main/model_ep2_it0.pth"],
        "1 of starting or rewind weights (level_pretrain/), 2 of other states of the same training (model_ep0_it0.pth)",
    ),
    "TurboPrune": (
        ["model_init.pt", "model_level_0.pt", "model_level_1.pt", "model_rewind.pt", "optimizer_init.pt"],
        ["model_level_0.pt", "model_level_1.pt"],
        "2 of starting or rewind weights (model_init.pt, model_rewind.pt), 1 of training states (optimizer_init.pt)",
    ),
    "timm": (
        [
            "checkpoint-8.pth.tar",
            "checkpoint-9.pth.tar",
            "last.pth.tar",
            "model_best.pth.tar",
            "recovery-9-500.pth.tar",
        ],
        ["model_best.pth.tar"],
        "4 of other states of the same training (checkpoint-8.pth.tar, checkpoint-9.pth.tar, last.pth.tar, …)",
    ),
    "Lightning": (["epoch=3-step=99.ckpt", "last.ckpt"], ["last.ckpt"], "1 of other states of the same training"),
    "Hugging Face's trainer": (
        [
            f"checkpoint-{n}/{name}"
            for n in (500, 1000)
            for name in ("model.safetensors", "optimizer.pt", "rng_state.pth")
        ],
        ["checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors"],
        "4 of training states (optimizer.pt, rng_state.pth)",
    ),
    "Synaptic-Flow": (
        ["model.pt", "optimizer.pt", "scheduler.pt"],
        ["model.pt"],
        "2 of training states (optimizer.pt, scheduler.pt)",
    ),
    "best and last of each level": (
        [f"level_{n}_{state}.pt" for n in (0, 1) for state in ("best", "last", "ema")] + ["best.pt", "rewind.pt"],
        ["level_0_best.pt", "level_1_best.pt"],
        "5 of other states of the same training",
    ),
    "epochs alone": (["checkpoint_8.pt", "checkpoint_9.pt"], ["checkpoint_8.pt", "checkpoint_9.pt"], ""),
    "names of a person": (["dense.pt", "final.pt"], ["dense.pt", "final.pt"], ""),
    "a word that all have": (["imp_rewind_0.pt", "imp_rewind_1.pt"], ["imp_rewind_0.pt", "imp_rewind_1.pt"], ""),
    "a folder's own words": (
        ["mask-study/0.pt", "mask-study/1.pt", "init.pt"],
        ["mask-study/0.pt", "mask-study/1.pt"],
        "1 of starting",
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_no_ticket_is_left_out_and_told_in_one_line(tmp_path: Path, program: str) -> None:
    files, tickets, said = PROGRAMS[program]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, lines = find_tickets(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found] == tickets
    assert len(lines) == bool(said)
    assert said in "".join(lines)


def test_a_folder_without_a_ticket_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "mask.pth").touch()
    (tmp_path / "level_0").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint in it"):
        find_checkpoints(tmp_path)


def test_links_in_circles_end_and_no_folder_comes_twice(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        for other in "abcdefgh":
            (tmp_path / name / other).symlink_to(tmp_path / other)
        (tmp_path / name / "up").symlink_to(tmp_path)
    (tmp_path / "h" / "ticket").mkdir()
    (tmp_path / "h" / "ticket" / "0.pt").touch()
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert [path.name for path in find_checkpoints(tmp_path)] == ["0.pt"]
    with pytest.raises(CheckpointError, match="self: cannot be read"):
        find_checkpoints(tmp_path / "self")


@pytest.mark.parametrize("place", ["in", "in/below/a.pt", "top"])
def test_a_folder_that_may_not_be_read_is_one_line(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the system's refusal is pretended: for a folder, within one, and below it."""
    (tmp_path / "top" / "in").mkdir(parents=True)
    (tmp_path / "in").symlink_to(tmp_path / "top" / "in")

    def refusing(path: Path, *arguments: object, **more: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    if "/" in place:
        monkeypatch.setattr(Path, "stat", refusing)
    monkeypatch.setattr(Path, "iterdir", refusing)
    with pytest.raises(CheckpointError, match=r"cannot be read \(Permission denied\)"):
        find_checkpoints(tmp_path / place)
