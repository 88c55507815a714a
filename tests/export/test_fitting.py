"""What fits is chosen: whole weights first, then what val says; and the smallest size is told where nothing fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lptool
from lptool.checkpoints.reading import file_sha256, load_ticket
from lptool.checkpoints.writing import DENSE, Form, forms_from_whole
from lptool.errors import OutputError
from lptool.evaluation.setting import SettingOptions
from lptool.export.conversion import convert
from lptool.export.fitting import best_on_val, fitting_form
from lptool.scoring.score import Score
from tests.helpers.fragile import fragile

SAYS = SettingOptions(device="cpu")
PACKED = Form(packed=True)


@pytest.fixture(scope="module")
def sizes(tickets: list[Path]) -> dict[str, int]:
    ticket = load_ticket(tickets[3])
    return {str(form): form.size(ticket) for form in forms_from_whole(DENSE)}


def test_sizes_are_those_of_the_files(tickets: list[Path], tmp_path: Path, sizes: dict[str, int]) -> None:
    for number, form in enumerate(forms_from_whole(DENSE)):
        form.save(load_ticket(tickets[3]), tmp_path / f"{number}.safetensors")
        assert (tmp_path / f"{number}.safetensors").stat().st_size == sizes[str(form)]
    assert sizes["packed, int8"] < sizes["packed, fp16"] < sizes["packed"] < sizes["dense"]


@pytest.mark.parametrize(
    ("bound", "form", "reason"),
    [
        ("dense", "dense", "weights to the bit"),
        ("packed", "packed", "weights to the bit"),
        ("packed, int8", "packed, int8", "the only form that fits"),
    ],
)
def test_the_least_shortened_form_that_fits_is_written(
    tickets: list[Path], tmp_path: Path, sizes: dict[str, int], bound: str, form: str, reason: str
) -> None:
    made = convert(tickets[3], tmp_path / "a.safetensors", DENSE, SAYS, max_size=sizes[bound])
    assert made.fitting is not None
    assert (str(made.fitting.form), made.fitting.reason) == (form, reason)
    assert made.bytes == (tmp_path / "a.safetensors").stat().st_size <= sizes[bound]
    smaller = convert(tickets[3], tmp_path / "b.safetensors", DENSE, SAYS, max_size=sizes["dense"] - 1)
    assert smaller.kind == "packed"


def test_val_chooses_among_shorter_types(tickets: list[Path], tmp_path: Path, sizes: dict[str, int]) -> None:
    """int8 is hopeless in this file, fp16 and bf16 are not."""
    file = fragile(tickets[3], tmp_path / "fragile.safetensors")
    bound = PACKED.size(load_ticket(file)) - 1
    chosen = fitting_form(file, file_sha256(file), load_ticket(file), tmp_path / "a", DENSE, bound, SAYS)
    assert chosen.form.values in ("fp16", "bf16")
    assert chosen.reason == "the best on val of those that fit"
    scores = {form: Score(right, 0.1, 10) for form, right in zip(forms_from_whole(PACKED), (3, 7, 8, 8), strict=True)}
    assert best_on_val(scores).values == "bf16"


def test_a_type_that_cannot_hold_a_weight_is_passed_over(tickets: list[Path], tmp_path: Path) -> None:
    ticket = load_ticket(tickets[3])
    name = next(iter(ticket.mask))
    large = {**ticket.state, name: ticket.state[name] * 1e7}
    lptool.save_ticket(replace(ticket, state=large), tmp_path / "large.safetensors")
    bound = PACKED.size(load_ticket(tmp_path / "large.safetensors")) - 1
    made = convert(tmp_path / "large.safetensors", tmp_path / "a.safetensors", DENSE, SAYS, max_size=bound)
    assert made.fitting is not None
    assert made.fitting.form.values in ("bf16", "int8")


def test_what_is_asked_for_already_is_not_chosen(tickets: list[Path], tmp_path: Path, sizes: dict[str, int]) -> None:
    packed = convert(tickets[3], tmp_path / "a.safetensors", PACKED, SAYS, max_size=10**9)
    short = convert(tickets[3], tmp_path / "b.safetensors", Form(packed=True, values="int8"), SAYS, max_size=10**9)
    assert (packed.bytes, short.bytes) == (sizes["packed"], sizes["packed, int8"])
    with pytest.raises(OutputError, match=rf"the smallest, packed, bf16, has {sizes['packed, bf16']:,}: allow so many"):
        convert(tickets[3], tmp_path / "c.safetensors", Form(packed=True, values="bf16"), SAYS, max_size=10_000)


def test_what_fits_in_no_form_is_refused_with_the_smallest_size(
    tickets: list[Path], tmp_path: Path, sizes: dict[str, int]
) -> None:
    least = sizes["packed, int8"]
    (tmp_path / "a.safetensors").write_text("mine")
    with pytest.raises(OutputError, match=rf"no form of it has {least - 1:,} bytes or less; .*int8, has {least:,}: "):
        convert(tickets[3], tmp_path / "a.safetensors", DENSE, SAYS, max_size=least - 1, overwrite=True)
    assert (tmp_path / "a.safetensors").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_where_val_is_not_known_the_least_shortened_is_taken(tickets: list[Path], tmp_path: Path) -> None:
    save_file(load_file(tickets[3]), tmp_path / "silent.safetensors")
    whole = convert(tmp_path / "silent.safetensors", tmp_path / "whole.safetensors", PACKED, SAYS)
    made = convert(tmp_path / "silent.safetensors", tmp_path / "a.safetensors", DENSE, SAYS, max_size=whole.bytes - 1)
    assert made.fitting is not None
    assert (made.fitting.form.values, made.fitting.reason) == ("fp16", "the least shortened that fits")
    assert "accuracy before and after is not known" in made.warnings[-1]


def test_a_loss_above_the_bound_is_refused_whatever_chose_the_form(tickets: list[Path], tmp_path: Path) -> None:
    file, ticket = fragile(tickets[3], tmp_path / "fragile.safetensors"), load_ticket(tickets[3])
    most = Form(packed=True, values="int8").size(ticket) + 1000
    with pytest.raises(OutputError, match="and --max-drop allows 1"):
        convert(file, tmp_path / "a.safetensors", DENSE, SAYS, max_size=most, max_drop=1)
    with pytest.raises(OutputError, match=r"--max-size chooses the form of a \.safetensors"):
        convert(file, tmp_path / "a.pt", DENSE, SAYS, max_size=most)
    assert [p.name for p in tmp_path.iterdir()] == ["fragile.safetensors"]


def test_a_file_that_grew_is_not_written(tickets: list[Path], tmp_path: Path, sizes: dict[str, int]) -> None:
    """The form knows its bound, so whoever writes cannot pass it."""
    with pytest.raises(
        OutputError, match=rf"it would have {sizes['packed']:,} bytes, expected {sizes['packed'] - 1:,}"
    ):
        Form(packed=True, most=sizes["packed"] - 1).save(load_ticket(tickets[3]), tmp_path / "a.safetensors")
    huge = replace(load_ticket(tickets[3]), state={"w": torch.full((64,), 1e30)}, mask={"w": torch.ones(64) == 1})
    with pytest.raises(OutputError, match=r"a\.safetensors: not written: w: 1e\+30 is too large for F16"):
        Form(packed=True, values="fp16", most=10**6).save(huge, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
