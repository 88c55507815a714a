"""Which files folders and globs stand for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lptool.checkpoints.finding import checkpoint_file, find_checkpoints
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
