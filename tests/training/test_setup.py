"""A run before it is trained: what is checked, and where each step stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lptool.data.images import InMemory
from lptool.errors import TrainError
from lptool.ranks import ALONE, Ranks
from lptool.training.options import Levels, TrainOptions
from lptool.training.setup import UNWATCHED, Run, Watch, Where, open_run, over_processes
from tests.helpers.training import DATA, NETWORKS

EPOCHS, BATCH = 3, 36  # 96 images: three batches of 32


def opened(folder: Path, levels: Levels = 2, ranks: Ranks = ALONE, **changes: Any) -> Run:
    (folder / "networks.py").write_text(NETWORKS)
    plain = TrainOptions(
        arch=f"{folder}/networks.py:net", dataset="random", epochs=EPOCHS, rewind_epoch=1, batch_size=BATCH
    )
    options = replace(plain, **changes)
    return open_run(options, levels, folder / "out", None, torch.device("cpu"), DATA, ranks, UNWATCHED)


def test_batches_are_even_and_hold_every_place_once(tmp_path: Path) -> None:
    run = opened(tmp_path, batch_size=20)
    sizes = [len(batch) for batch in run.batches]
    assert len(sizes) == run.steps_per_epoch == 5
    assert max(sizes) - min(sizes) <= 1
    assert torch.equal(torch.cat(run.batches), torch.arange(96))


@pytest.mark.parametrize(("rewind", "step"), [(1, 3), ("4it", 4), (0, 0)])
def test_every_step_of_the_run_has_its_place(rewind: int | str, step: int, tmp_path: Path) -> None:
    run = opened(tmp_path, rewind_epoch=rewind)
    assert run.rewind_step == step
    later = EPOCHS * 3 - step
    total, count = EPOCHS * 3 + 2 * later, 0
    for level in range(3):
        for epoch in range(step // 3 if level else 0, EPOCHS):
            for done in range(run.first_step(level, epoch) + 1, 4):
                count += 1
                assert run.where(level, epoch, done) == Where(level, epoch, 32 * done, 96, count, total)
    assert count == total


def test_only_the_epoch_rewound_into_begins_in_its_middle(tmp_path: Path) -> None:
    run = opened(tmp_path, rewind_epoch="4it")
    assert [run.first_step(level, 1) for level in range(3)] == [0, 1, 1]
    assert [run.first_step(1, epoch) for epoch in (0, 2)] == [0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewind_epoch": "9it"}, "rewind_epoch: expected a step from 0 to 8"),
        ({"arch": "linear"}, "has no weights that --prune conv may touch"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    if "arch" in changes:
        changes = {"arch": f"{tmp_path}/networks.py:linear"}
    with pytest.raises(TrainError, match=message):
        opened(tmp_path, **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("levels", [(0.5, 0.4), ()])
def test_sparsities_are_checked(levels: Levels, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="sparsities: expected growing numbers"):
        opened(tmp_path, levels)


def test_every_process_needs_images_of_every_batch(tmp_path: Path) -> None:
    assert opened(tmp_path, ranks=Ranks(0, 32)).ranks.count == 32
    for changes in ({"sync_bn": True}, {"sync_bn": False}):
        with pytest.raises(TrainError, match="batches of 32 images are too small for 33 processes"):
            opened(tmp_path, ranks=Ranks(0, 33), **changes)
    with pytest.raises(TrainError, match="batches of 32 images are too small for 17 processes"):
        opened(tmp_path, ranks=Ranks(0, 17), sync_bn=False)


def test_compiled_networks_share_their_weights(tmp_path: Path) -> None:
    run = over_processes(opened(tmp_path, compile=True))
    assert run.network is not run.model
    assert [id(p) for p in run.network.parameters()] == [id(p) for p in run.model.parameters()]
    assert over_processes(opened(tmp_path)).network is not None


@pytest.mark.parametrize(
    ("val", "train", "fraction", "expected"),
    [
        (200, 300, 0.4, None),
        (
            199,
            1801,
            0.1,
            "val has 199 images, so that one of them is 0.5 points; take a larger --val-fraction (at least",
        ),
        (40, 1400, 0.03, "is 2.5 points; take a larger --val-fraction (at least 0.14 for 200 of 1,440)"),
        (24, 96, 0.2, "is 4.2 points; take a larger --val-fraction, such as 0.5, or more images"),
        (24, 2000, None, "is 4.2 points; put more images into the val part of the data set"),
    ],
)
def test_a_val_in_which_one_image_is_more_than_half_a_point_is_told(
    val: int, train: int, fraction: float | None, expected: str | None, tmp_path: Path
) -> None:
    def images(count: int) -> InMemory:
        return InMemory(torch.zeros(count, 1, 8, 8, dtype=torch.uint8), torch.arange(count) % 2)

    data = replace(DATA, train=images(train), val=images(val), split={"fraction": fraction, "seed": 0, "hash": "a"})
    (tmp_path / "networks.py").write_text(NETWORKS)
    notes: list[str] = []
    options = TrainOptions(arch=f"{tmp_path}/networks.py:net", dataset="random", epochs=2, rewind_epoch=1)
    open_run(options, 1, tmp_path / "out", None, torch.device("cpu"), data, ALONE, Watch(on_note=notes.append))
    assert (notes == []) if expected is None else (expected in notes[0])
