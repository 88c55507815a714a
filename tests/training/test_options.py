"""How far a run prunes."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from lptool.errors import TrainError
from lptool.training.options import (
    CHOICES,
    TrainOptions,
    check_levels,
    count_of,
    listed,
    point,
    sparsities_to,
)


@pytest.mark.parametrize("sparsity", [0.1, 0.2, 0.36, 0.5, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("rate", [0.2, 0.4, 0.5])
def test_a_target_is_reached_in_as_few_equal_prunings_as_the_rate_takes(sparsity: float, rate: float) -> None:
    found = sparsities_to(sparsity, rate)
    assert found[-1] == sparsity
    assert 1 - (1 - rate) ** (len(found) - 1) < sparsity <= 1 - (1 - rate) ** len(found) + 1e-9
    shares = [1 - (1 - after) / (1 - before) for before, after in itertools.pairwise((0.0, *found))]
    assert shares == pytest.approx([shares[0]] * len(found))
    assert shares[0] <= rate + 1e-9
    check_levels(found)


def test_a_target_that_the_rate_itself_reaches_has_the_very_levels_of_the_rate() -> None:
    """To the bit: a run that was begun with them goes on."""
    found = sparsities_to(1 - 0.8**11, 0.2)
    assert found[:-1] == tuple(1 - (1 - 0.2) ** level for level in range(1, 11))


@pytest.mark.parametrize("begun", [(0.4, 0.64, 0.784, 0.8), (0.5, 0.8), (0.8,)])
def test_what_was_planned_stays_as_it_was_planned(begun: tuple[float, ...]) -> None:
    """The first is how such a run was planned before its rates were spread evenly."""
    assert sparsities_to(0.8, 0.4, begun) == begun
    further = sparsities_to(0.95, 0.4, begun)
    assert further[: len(begun)] == begun
    assert [1 - (1 - b) / (1 - a) for a, b in itertools.pairwise(further[len(begun) - 1 :])] == pytest.approx(
        [1 - 0.25 ** (1 / 3)] * 3
    )


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.5, float("nan")])
def test_a_target_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(TrainError, match=r"sparsity: expected a number in \(0, 1\)"):
        sparsities_to(sparsity, 0.2)


@pytest.mark.parametrize("levels", [(), (0.5, 0.5), (0.5, 0.4), (0.0, 0.5), (0.5, 1.0), (float("nan"),)])
def test_sparsities_that_do_not_grow_are_refused(levels: Sequence[float]) -> None:
    with pytest.raises(TrainError, match=r"sparsities: expected growing numbers in \(0, 1\)"):
        check_levels(levels)


def test_levels_are_counted() -> None:
    assert (count_of(4), count_of((0.5, 0.9))) == (4, 2)
    check_levels(4)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *[("rate", value) for value in (0.0, 1.0, -0.1, 1.5, float("nan"))],
        *[("epochs", value) for value in (0, -1)],
        *[(name, "something else") for name in CHOICES],
        *[("batch_size", value) for value in (1, 0, -5)],
        *[("lr", value) for value in (0.0, -0.1, float("nan"))],
        ("milestones", (3, 3)),
        ("milestones", (5, 3)),
        ("milestones", (0, 3)),
        ("milestones", (3, 10)),
        *[("warmup", value) for value in (-1, 11, float("nan"))],
        *[("label_smoothing", value) for value in (-0.1, 1.0, float("nan"))],
        *[("val_fraction", value) for value in (0.0, 1.0, -0.5, float("nan"))],
        *[
            (name, value)
            for name, value in [
                ("momentum", -1.0),
                ("weight_decay", -1.0),
                ("crop_padding", -1),
                ("image_size", 0),
                ("lr", float("inf")),
                ("seed", 20240101123456),  # torch takes seeds below 2⁶⁴; ours multiplies by 10⁸ first
            ]
        ],
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, wrong: Any) -> None:
    with pytest.raises(TrainError, match=f"^{name}: expected .*, found {re.escape(str(wrong))}$"):
        TrainOptions(**{"epochs": 10, "rewind_epoch": 0, name: wrong})


@pytest.mark.parametrize("rewind_epoch", [-1, 10, 11])
def test_rewind_epoch_lies_within_the_schedule(rewind_epoch: int) -> None:
    with pytest.raises(TrainError, match=f"^rewind_epoch: expected from 0 to epochs − 1 = 9, found {rewind_epoch}$"):
        TrainOptions(epochs=10, rewind_epoch=rewind_epoch)


@pytest.mark.parametrize(
    "right",
    [
        {"rate": 1e-6},
        {"rate": 0.999999},
        {"epochs": 1, "rewind_epoch": 0},
        {"rewind_epoch": 181},
        {"prune": "all"},
        {"keep": "best"},
        {"batch_size": 2},
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"momentum": 0.0},
        {"weight_decay": 0.0},
        {"crop_padding": 0, "flip": "no"},
        {"milestones": (1,), "warmup": 182, "label_smoothing": 0.0},
        {"schedule": "cosine", "optimizer": "adamw", "rewind": "lr", "scope": "layer"},
    ],
)
def test_the_ends_of_every_range_are_allowed(right: dict[str, Any]) -> None:
    TrainOptions(**right)


def test_options_survive_json() -> None:
    options = TrainOptions(rate=0.5, flip="alternate", seed=3, milestones=(30, 60), rewind_epoch="500it")
    assert TrainOptions(**json.loads(json.dumps(options.to_json()))) == options
    options = replace(options, arch_kwargs={"depth": 2})  # named only where there are some
    assert TrainOptions(**json.loads(json.dumps(options.to_json()))) == options
    assert tuple(options.to_json()) == tuple(f.name for f in fields(TrainOptions))


def test_every_option_is_described() -> None:
    assert TrainOptions.__doc__ is not None
    described = re.sub(r",|: [^\n]*?\. (?=\w+:)", ":", TrainOptions.__doc__)
    assert [name for name in TrainOptions().to_json() if f"{name}:" not in described] == []


def test_options_cannot_be_changed_in_place() -> None:
    options = TrainOptions()
    with pytest.raises(AttributeError):
        options.lr = 1.0
    assert replace(options, lr=1.0).lr == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [(3, (3, "ep")), ("3", (3, "ep")), ("3ep", (3, "ep")), ("500it", (500, "it")), ("0it", (0, "it"))],
)
def test_a_point_of_training_is_epochs_or_steps(text: int | str, expected: tuple[int, str]) -> None:
    assert point(text) == expected


@pytest.mark.parametrize("text", ["", "ep", "3 epochs", "1.5", "it500", "3epit", "3itep"])
def test_a_point_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(TrainError, match=f"expected epochs .* or steps .*, found '{text}'"):
        TrainOptions(rewind_epoch=text)


def test_epochs_are_epochs_however_they_are_written() -> None:
    assert TrainOptions(rewind_epoch="3ep") == TrainOptions(rewind_epoch="3") == TrainOptions(rewind_epoch=3)


def test_init_is_the_first_step() -> None:
    assert TrainOptions(rewind="init", rewind_epoch=5).rewind_epoch == 0
    assert TrainOptions(rewind="init", rewind_epoch=9, epochs=2).rewind_epoch == 0


def test_nesterov_needs_momentum_and_a_start_is_one() -> None:
    with pytest.raises(TrainError, match="nesterov: expected a momentum above 0"):
        TrainOptions(nesterov=True, momentum=0)
    with pytest.raises(TrainError, match="both say where level 0 starts"):
        TrainOptions(pretrained=True, init_checkpoint="a.safetensors")


def test_words_are_listed() -> None:
    assert listed(("a", "b")) == "a or b"
    assert listed(("a", "b", "c")) == "a, b or c"
