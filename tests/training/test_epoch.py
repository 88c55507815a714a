"""The images of an epoch, batch by batch and process by process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor.exc import InductorError

from lptool.errors import RankError, SetupError, TrainError
from lptool.ranks import Ranks
from lptool.training.epoch import Level, _parts, epoch_generator, train_epoch
from lptool.training.setup import Run
from tests.training.test_setup import opened


def images_of(run: Run, level: int = 0, epoch: int = 0, first: int = 0) -> tuple[list[torch.Tensor], list[int]]:
    parts = list(_parts(run, level, epoch, first))
    return [part.images for part in parts], [part.whole for part in parts]


def test_every_epoch_of_every_level_draws_its_own_randomness() -> None:
    places = [(seed, level, epoch) for seed in range(3) for level in range(20) for epoch in range(5)]
    draws = []
    with torch.random.fork_rng():
        for place in places:
            draws.append((int(torch.randint(1 << 60, (), generator=epoch_generator(*place))), float(torch.rand(()))))
    assert len({own for own, _ in draws}) == len({shared for _, shared in draws}) == len(places)


def test_ranks_draw_one_order_and_dropouts_of_their_own() -> None:
    def drawn(rank: int) -> tuple[torch.Tensor, float]:
        return torch.randperm(9, generator=epoch_generator(2**32 - 1, 3, 4, rank)), float(torch.rand(()))

    with torch.random.fork_rng():
        orders, dropouts = zip(*map(drawn, range(64)), strict=True)
    assert all(torch.equal(order, orders[0]) for order in orders)
    assert len(set(dropouts)) == 64


@pytest.mark.parametrize("augment", ["crop", "resized-crop"])
@pytest.mark.parametrize("count", [2, 5])
def test_processes_see_together_what_one_sees(count: int, augment: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        alone = opened(tmp_path, augment=augment, flip="yes")
        expected, sizes = images_of(alone)
        found = [images_of(replace(alone, ranks=Ranks(rank, count))) for rank in range(count)]
    assert sizes == [32, 32, 32]
    for step, images in enumerate(expected):
        assert torch.equal(torch.cat([parts[step] for parts, _ in found]), images)
        assert {whole[step] for _, whole in found} == {32}


def test_an_epoch_that_begins_in_its_middle_sees_the_rest_of_it(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        run = opened(tmp_path)
        whole, rest = images_of(run), images_of(run, first=1)
    assert all(torch.equal(a, b) for a, b in zip(whole[0][1:], rest[0], strict=True))


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"crop_padding": 0, "flip": "no"}, True),
        ({"crop_padding": 2, "flip": "no"}, False),
        ({"crop_padding": 0, "flip": "yes"}, False),
        ({"crop_padding": 0, "flip": "auto"}, False),
        ({"crop_padding": 0, "flip": "alternate"}, False),
        ({"augment": "resized-crop", "flip": "no"}, False),
    ],
)
def test_options_say_what_is_done_to_the_images(changes: dict[str, Any], same: bool, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        run = opened(tmp_path, **changes)
        plain = opened(tmp_path, crop_padding=0, flip="no")
        found, untouched = (torch.cat(images_of(r)[0]) for r in (run, plain))
    assert torch.equal(found, untouched) is same


def test_auto_does_not_flip_digits(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        run = opened(tmp_path, crop_padding=0, flip="auto")
        digits = replace(run, data=replace(run.data, name="digits"))
        plain = opened(tmp_path, crop_padding=0, flip="no")
        assert torch.equal(torch.cat(images_of(digits)[0]), torch.cat(images_of(plain)[0]))


def test_alternate_shows_each_image_both_ways_in_two_epochs(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        run = opened(tmp_path, crop_padding=0, flip="alternate")
        plain = replace(run, options=replace(run.options, flip="no"))
        flipped = []
        for epoch in (0, 1):
            ours, still = (torch.cat(images_of(r, epoch=epoch)[0]) for r in (run, plain))
            turned = (ours != still).flatten(1).any(1)
            order = torch.randperm(96, generator=epoch_generator(run.options.seed, 0, epoch))
            flipped.append(torch.empty(96, dtype=torch.bool).scatter_(0, order, turned))
    assert torch.equal(flipped[0], ~flipped[1])


@pytest.mark.parametrize(
    ("raised", "count", "expected", "message"),
    [
        (
            RuntimeError("CUDA out of memory"),
            1,
            TrainError,
            "epoch 0: batches of 36 images do not fit in memory",
        ),
        (MemoryError(), 1, TrainError, "try a lower --batch-size"),
        (RuntimeError("[gloo] Connection closed by peer"), 2, RankError, "another process of this run has ended"),
        (RuntimeError("Connection closed by peer"), 1, RuntimeError, "Connection closed"),
        (RuntimeError("a bug"), 2, RuntimeError, "a bug"),
        (
            InductorError(RuntimeError("no compiler"), None),
            1,
            SetupError,
            "torch.compile fails here .*--no-compile",
        ),
    ],
)
def test_what_torch_raises_becomes_an_error_of_ours_where_a_user_can_act(
    raised: BaseException,
    count: int,
    expected: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_steps(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("lptool.training.epoch.run_steps", run_steps)
    run = opened(tmp_path, compile=True)
    level = Level(0, 0.0, {}, torch.optim.SGD(run.model.parameters()))
    with pytest.raises(expected, match=message):
        train_epoch(replace(run, ranks=Ranks(0, count)), level, 0)
