"""The packed layout: bit-exact both ways, small, and refused where its parts do not agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lptool.checkpoints.containers import open_file
from lptool.checkpoints.packed import (
    LAYOUT_KEY,
    PackedTensors,
    PackError,
    pack,
)
from lptool.checkpoints.positions import encode_bitmask
from lptool.checkpoints.reading import load_ticket, summarise_file
from lptool.errors import CheckpointError

DENSITIES = [0.0, 0.003, 0.1, 0.5, 0.97, 1.0]


def random_mask(shape: tuple[int, ...], density: float, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def bits(tensor: Tensor) -> list[int]:
    return tensor.flatten().view(torch.uint8).tolist()


def sparse(
    density: float, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (30, 20)
) -> tuple[Tensor, Tensor]:
    kept = random_mask(shape, density)
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return torch.where(kept, weights, 0.0).to(dtype), kept


def test_a_tensor_is_packed_only_where_that_saves_bytes() -> None:
    tensors, kept = zip(*(sparse(density) for density in (0.05, 0.5, 0.99)), strict=True)
    names = ("few", "half", "most")
    packed, layout = pack(dict(zip(names, tensors, strict=True)), dict(zip(names, kept, strict=True)))
    assert set(packed) == {"few.values", "few.gaps", "half.values", "half.bitmask", "most"}
    assert {n: e["positions"] for n, e in json.loads(layout)["tensors"].items()} == {
        "few": "gaps",
        "half": "bitmask",
        "most": "zeros",
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", [(30, 20), (4, 3, 3, 3), (1,), (), (0, 3)])
def test_weights_come_back_bit_for_bit(dtype: torch.dtype, density: float, shape: tuple[int, ...]) -> None:
    weights, kept = sparse(density, dtype, shape)
    packed, layout = pack({"w": weights, "n": torch.tensor(7)}, {"w": kept})
    back = PackedTensors.of(packed, layout, "a")
    assert (list(back), len(back)) == (["n", "w", "w.mask"], 3)
    assert (back["w"].dtype, back["w"].shape) == (dtype, weights.shape)
    assert bits(back["w"]) == bits(weights)
    assert torch.equal(back["w.mask"], kept)
    assert back["n"] is packed["n"]
    assert sum(t.nbytes for t in packed.values()) - 8 <= weights.nbytes


def test_kept_zeros_and_their_signs_are_no_pruned_weights() -> None:
    """They have to be packed even where that takes more bytes, as a tensor's own zeros cannot tell them."""
    weights = torch.tensor([[-0.0, 0.0], [2.0, 0.0]])
    kept = torch.tensor([[True, True], [True, False]])
    packed, layout = pack({"w": weights}, {"w": kept})
    back = PackedTensors.of(packed, layout, "a")
    assert bits(back["w"]) == bits(weights)
    assert torch.equal(back["w.mask"], kept)
    full, _ = pack({"w": weights}, {"w": torch.ones(2, 2, dtype=torch.bool)})
    assert full["w.bitmask"].tolist() == [0b1111]


def test_nan_is_kept_to_the_bit() -> None:
    """Who writes a file refuses NaN; who asks for its size need not."""
    weights, kept = torch.tensor([float("nan"), 0, 0, 0]), torch.tensor([True, False, False, False])
    packed, layout = pack({"w": weights}, {"w": kept})
    assert bits(PackedTensors.of(packed, layout, "a")["w"]) == bits(weights)


@pytest.mark.parametrize("values", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_smaller_values_are_rounded_as_torch_rounds(values: torch.dtype, density: float) -> None:
    weights, kept = sparse(density)
    packed, layout = pack({"w": weights}, {"w": kept}, values)
    assert packed["w.values"].dtype == values
    back = PackedTensors.of(packed, layout, "a")["w"]
    assert back.dtype == torch.float32
    assert torch.equal(back, weights.to(values).float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", [(30, 20), (8, 3, 5, 5), (1, 64), (64,), (1,), (), (0, 3)])
def test_int8_keeps_exactly_the_kept_weights(dtype: torch.dtype, density: float, shape: tuple[int, ...]) -> None:
    weights, kept = sparse(density, dtype, shape)
    packed, layout = pack({"w": weights}, {"w": kept}, torch.int8)
    back = PackedTensors.of(packed, layout, "a")
    assert torch.equal(back["w.mask"], kept)
    assert torch.equal(back["w"] != 0, weights != 0)  # as a dense file made of it has the mask
    assert (back["w"].dtype, back["w"].shape) == (dtype, weights.shape)
    if weights.numel():
        exact = weights.double().view(shape[0] if len(shape) > 1 else 1, -1)
        step = exact.abs().amax(1, keepdim=True) / 127
        error = (back["w"].double().view_as(exact) - exact).abs()
        rounding = torch.finfo(dtype).eps * exact.abs()
        assert bool((error <= torch.where(exact.abs() < step / 2, step, step / 2) * 1.00001 + rounding).all())
    exact_ones, _ = pack({"w": weights}, {"w": kept})
    assert sum(t.nbytes for t in packed.values()) <= sum(t.nbytes for t in exact_ones.values())


def test_int8_is_a_layout_that_readers_of_version_1_refuse() -> None:
    weights, kept = sparse(0.5)
    packed, layout = pack({"w": weights}, {"w": kept}, torch.int8)
    assert {name: t.dtype for name, t in packed.items()} == {
        "w.values": torch.int8,
        "w.scales": torch.float32,
        "w.bitmask": torch.uint8,
    }
    assert (packed["w.scales"].shape, json.loads(layout)["version"]) == ((30,), 2)
    few, some = sparse(0.002)  # a scale for each channel would take more than it saves
    packed, layout = pack({"w": few}, {"w": some}, torch.int8)
    assert (packed["w.values"].dtype, json.loads(layout)["version"]) == (torch.float32, 1)


def test_a_weight_that_int8_cannot_hold_is_refused() -> None:
    weights = torch.full((2, 40), torch.inf)
    with pytest.raises(PackError, match="w: inf is too large for int8"):
        pack({"w": weights}, {"w": weights != 0}, torch.int8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_no_smaller_than_their_own_type_stay_as_they_are(dtype: torch.dtype) -> None:
    weights, kept = sparse(0.3, dtype)
    packed, layout = pack({"w": weights}, {"w": kept}, torch.bfloat16)
    assert bits(PackedTensors.of(packed, layout, "a")["w"]) == bits(weights)


def test_weights_that_do_not_fit_are_refused() -> None:
    weights = torch.tensor([1.0, 70_000.0, 0, 0])
    with pytest.raises(PackError, match="w: 70000 is too large for F16"):
        pack({"w": weights}, {"w": weights != 0}, torch.float16)


@pytest.mark.parametrize("other", ["w.values", "w.bitmask", "w.mask", "w.scales"])
def test_names_that_are_taken_are_refused(other: str) -> None:
    weights, kept = sparse(0.5)
    with pytest.raises(PackError, match=rf"{other} is the name of a tensor and of a packed part"):
        pack({"w": weights, other: torch.ones(1)}, {"w": kept}, torch.int8)


def test_only_what_there_is_can_be_asked_for() -> None:
    weights, kept = sparse(0.5)
    back = PackedTensors.of(*pack({"w": weights}, {"w": kept}), "a")
    for name in ("w.values", "w.bitmask", "v", "v.mask"):
        assert name not in back
        with pytest.raises(KeyError):
            back[name]
    assert "w" in back


class Unread(dict[str, Tensor]):
    """Tensors that must not be read."""

    def __getitem__(self, name: str) -> Tensor:
        raise AssertionError(f"{name} is read")


def test_names_alone_unpack_nothing() -> None:
    weights, kept = sparse(0.5)
    packed, layout = pack({"w": weights, "b": torch.ones(2)}, {"w": kept})
    back = PackedTensors.of(Unread(packed), layout, "a")
    assert set(back) == {"b", "w", "w.mask"}
    assert "w.mask" in back.keys()  # noqa: SIM118 (the view asks the mapping, whose default would read)


# Damaged files. Each change is made to a sound file of two packed tensors and one that is not packed.

Change = Callable[[dict[str, Tensor], dict[str, Any]], object]


def damaged(file: Path, change: Change, values: torch.dtype | None = None) -> Path:
    few, half = sparse(0.02), sparse(0.5)
    tensors = {"few": few[0], "half": half[0], "b": torch.ones(2)}
    packed, layout = pack(tensors, {"few": few[1], "half": half[1]}, values)
    document = json.loads(layout)
    change(packed, document)
    save_file(packed, file, {LAYOUT_KEY: json.dumps(document)})
    return file


def test_the_undamaged_file_is_read(tmp_path: Path) -> None:
    assert set(load_ticket(damaged(tmp_path / "a", lambda *_: None)).mask) == {"few", "half"}


def entry(name: str, **changes: object) -> Change:
    return lambda _, layout: layout["tensors"][name].update(changes)


def part(name: str, change: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors, _: tensors.update({name: change(tensors[name])})


def more(values: Tensor) -> Tensor:
    return torch.cat([values, values[:1]])


def flipped_bit(bitmask: Tensor) -> Tensor:
    return torch.cat([bitmask[:1] ^ 1, bitmask[1:]])


def integers(tensors: dict[str, Tensor], layout: dict[str, Any]) -> None:
    tensors["n"] = torch.ones(2, dtype=torch.int)
    layout["tensors"]["n"] = {"positions": "zeros"}


SHAPES: list[tuple[Change, str]] = [
    (entry("half", shape=[30, 21]), r"half cannot.*shape \[30, 21\], but a bitmask of 75 bytes, expected 79 for 630"),
    (entry("half", shape=[30, 19]), r"half cannot.*bitmask of 75 bytes, expected 72"),
    (entry("half", shape=[593]), r"half cannot.*shape \[593\], but a bitmask with bits set after its last weight"),
    (entry("half", shape=[10**12]), r"half cannot.*for 1000000000000 weights"),
    (entry("half", shape=[2**62]), r"half cannot.*for 4611686018427387904 weights"),
    (entry("few", shape=[30, 40]), r"few cannot.*gaps that lead over \d+ weights, expected 1200"),
    (entry("few", shape=[3]), r"few cannot.*gaps that lead over \d+ weights, expected 3"),
    (entry("few", shape=[10**12]), r"few cannot.*expected 1000000000000"),
    (entry("few", shape=[0, 10**12]), r"few cannot.*expected 0"),
]
ENTRIES: list[tuple[Change, str]] = [
    (entry("few", shape=[0, 10**12, 10**12]), "damaged .*few has shape"),
    (entry("few", shape=[10**400]), "damaged .*few has shape"),
    (entry("few", shape=[1] * 65), "damaged .*few has shape"),
    (entry("few", shape=[-30, -20]), r"damaged .*few has shape \[-30, -20\]"),
    (entry("few", shape=[30.0, 20.0]), r"damaged .*few has shape \[30.0, 20.0\]"),
    (entry("few", shape=[True]), "damaged .*few has shape"),
    (entry("few", shape=600), "damaged .*few has shape 600"),
    (entry("few", dtype="I64"), "damaged .*few has dtype 'I64', expected F32"),
    (entry("few", dtype=[]), "damaged .*unhashable"),
    (entry("few", positions="runs"), "damaged .*few has positions 'runs', expected bitmask, gaps or zeros"),
    (entry("few", positions={}), "damaged .*unhashable"),
    (entry("few", positions="bitmask"), "its layout names few.bitmask, which it lacks"),
    (entry("half", positions="zeros"), "its layout names half, which it lacks"),
    (lambda tensors, _: tensors.pop("few.values"), "its layout names few.values, which it lacks"),
    (lambda tensors, _: tensors.pop("half.bitmask"), "its layout names half.bitmask, which it lacks"),
    (lambda _, layout: layout["tensors"]["few"].pop("shape"), "damaged .KeyError: 'shape'"),
    (lambda _, layout: layout["tensors"].update(few=[1]), "damaged .TypeError"),
    (lambda _, layout: layout.update(tensors=["few"]), "damaged .AttributeError"),
    (lambda _, layout: layout.pop("version"), "damaged .KeyError: 'version'"),
    (lambda _, layout: layout.update(version=3), "packed in layout version 3, expected 1 or 2; upgrade lptool"),
    (lambda _, layout: layout.update(version="a\nb"), r"packed in layout version 'a\\nb', expected 1"),
]
PARTS: list[tuple[Change, str]] = [
    (part("half.values", more), r"half cannot.*bitmask of \d+ kept weights, but \d+ values"),
    (part("half.bitmask", flipped_bit), r"half cannot.*bitmask of \d+ kept weights, but \d+ values"),
    (part("few.values", lambda t: t[1:]), r"few cannot.*gaps of \d+ kept weights, but \d+ values"),
    (part("few.gaps", more), r"few cannot.*(gaps that lead over|gaps of)"),
    (part("half.bitmask", lambda t: t[1:]), "half cannot.*a bitmask of 74 bytes, expected 75"),
    (part("few.values", lambda t: t.int()), "few cannot.*its values are int32.*expected a row of F32"),
    (part("few.values", lambda t: t.double()), "few cannot.*its values are float64.*expected a row of F32 or smaller"),
    (part("few.values", lambda t: t[None]), r"few cannot.*its values are float32 \[1, \d+\]"),
    (part("half.bitmask", lambda t: t.view(3, 25)), r"half cannot.*its bitmask are uint8 \[3, 25\], expected a row"),
    (part("half.bitmask", lambda t: t.bool()), r"half cannot.*its bitmask are bool"),
    (part("few.gaps", lambda t: t.int()), "few cannot.*its gaps are int32"),
    (integers, r"n cannot.*it is int32 \[2\], expected floats"),
]


@pytest.mark.parametrize(("change", "message"), [*SHAPES, *ENTRIES, *PARTS])
@pytest.mark.parametrize("read", [load_ticket, summarise_file])
def test_damage_is_told_in_one_line(
    tmp_path: Path, read: Callable[[Path], object], change: Change, message: str
) -> None:
    file = damaged(tmp_path / "a.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as error:
        read(file)
    assert str(error.value).startswith(f"{file}: ")
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 400 + len(str(file))


SCALED: list[tuple[Change, str]] = [
    (part("half.scales", lambda t: t[1:]), r"half cannot.*its scales are float32 \[29\], expected float32 \[30\]"),
    (part("half.scales", lambda t: t.double()), r"half cannot.*its scales are float64 \[30\], expected float32"),
    (part("half.scales", lambda t: t[:, None]), r"half cannot.*its scales are float32 \[30, 1\]"),
    (part("half.scales", lambda t: -t), "half cannot.*a scale of it is negative or not finite"),
    (part("half.scales", lambda t: t / 0), "half cannot.*a scale of it is negative or not finite"),
    (part("half.values", lambda t: t.float()), "half cannot.*its values are float32.*expected a row of int8"),
    (part("half.values", lambda t: t[1:]), r"half cannot.*bitmask of \d+ kept weights, but \d+ values"),
    (entry("half", values="I4"), "damaged .*half has values 'I4', expected I8"),
    (entry("half", values=[]), r"damaged .*half has values \[\], expected I8"),
    (entry("half", shape=[600]), r"half cannot.*its scales are float32 \[30\], expected float32 \[1\]"),
    (lambda tensors, _: tensors.pop("half.scales"), "its layout names half.scales, which it lacks"),
    (lambda _, layout: layout["tensors"]["half"].pop("values"), "half cannot.*its values are int8"),
]


@pytest.mark.parametrize(("change", "message"), SCALED)
@pytest.mark.parametrize("read", [load_ticket, summarise_file])
def test_damage_to_int8_is_told_in_one_line(
    tmp_path: Path, read: Callable[[Path], object], change: Change, message: str
) -> None:
    file = damaged(tmp_path / "a.safetensors", change, torch.int8)
    with pytest.raises(CheckpointError, match=message) as error:
        read(file)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("layout", ["", "{", "[]", "3", "null", '"x"', '{"version": 1}', "[" * 100_000, "9" * 5_000])
def test_layouts_that_are_none(layout: str) -> None:
    with pytest.raises(CheckpointError, match=f"a: the `{LAYOUT_KEY}` layout in its header is damaged") as error:
        PackedTensors.of({}, layout, "a")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("end", [1, 100, 1_000])
def test_truncated_files_are_refused(tmp_path: Path, end: int) -> None:
    file = damaged(tmp_path / "a", lambda *_: None)
    file.write_bytes(file.read_bytes()[:-end])
    with pytest.raises(CheckpointError, match="a: not a whole safetensors file"):
        open_file(file)


def test_the_file_is_an_ordinary_one(tmp_path: Path) -> None:
    tensors = load_file(damaged(tmp_path / "a", lambda *_: None))
    assert {name: t.dtype for name, t in tensors.items()} == {
        "b": torch.float32,
        "few.values": torch.float32,
        "few.gaps": torch.uint8,
        "half.values": torch.float32,
        "half.bitmask": torch.uint8,
    }
    assert np.array_equal(tensors["half.bitmask"].numpy(), encode_bitmask(random_mask((30, 20), 0.5)).numpy())
