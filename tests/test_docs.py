"""What the documentation says, done: its code is run as a reader would copy it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lptool.containers import open_file
from lptool.export import save_packed
from lptool.packed import LAYOUT_KEY, LAYOUT_VERSION, encode_gaps
from lptool.tickets import Metadata, Ticket

FORMAT = (Path(__file__).parent.parent / "docs" / "format.md").read_text()


def block(language: str) -> str:
    """The only code block of a language in the page on files."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", FORMAT, re.MULTILINE | re.DOTALL)
    return str(found)


def write(file: Path, values: str | None, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    densities = {"few": 0.002, "half": 0.5, "all": 1.0}
    mask = {name: torch.rand(40, 3, 5, 5, generator=generator) < density for name, density in densities.items()}
    state = {n: torch.where(kept, torch.randn(kept.shape, generator=generator), 0.0) for n, kept in mask.items()}
    state["few"][mask["few"]] = -0.0
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    others = {"n": torch.tensor(7), "bias": torch.ones(3), "seen": torch.tensor([True, False])}
    save_packed(Ticket({**state, **others}, mask, Metadata(prunable=tuple(mask))), file, values)


def as_read(tensor: Tensor) -> bytes:
    """The bytes that numpy has of a tensor."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().tobytes()


@pytest.mark.parametrize("values", [None, "bf16", "fp16"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_reader_of_the_page_reads_what_we_read(tmp_path: Path, values: str | None, dtype: torch.dtype) -> None:
    write(tmp_path / "a.safetensors", values, dtype)
    code: dict[str, Any] = {}
    exec(block("python"), code)
    found = code["read_packed"](tmp_path / "a.safetensors")
    expected = {n: t for n, t in open_file(tmp_path / "a.safetensors").tensors.items() if not n.endswith(".mask")}
    assert found.keys() == expected.keys()
    assert all(found[name].shape == tuple(tensor.shape) for name, tensor in expected.items())
    assert all(found[name].tobytes() == as_read(tensor) for name, tensor in expected.items())
    assert not {"torch", "lptool"} & code.keys()


def test_the_layout_of_the_page_is_the_one_written(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", None, torch.float32)
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        written = json.loads(file.metadata()[LAYOUT_KEY])
    shown = json.loads(block("json"))
    assert f"`{LAYOUT_KEY}`" in FORMAT
    assert shown["version"] == written["version"] == LAYOUT_VERSION
    keys = {entry["positions"]: set(entry) for entry in shown["tensors"].values()}
    assert {entry["positions"]: set(entry) for entry in written["tensors"].values()} == keys
    assert set(keys) == {"gaps", "bitmask"} | {"zeros"}


def test_the_worked_example_of_gaps() -> None:
    rows = re.findall(r"^\| (\d+) \| \d+ \| (?:number (\d+)|–) \| (\d+) \|$", FORMAT, re.MULTILINE)
    kept = torch.zeros(600, dtype=torch.bool)
    kept[[int(number) for _, number, _ in rows if number]] = True
    assert encode_gaps(kept).tolist() == [int(byte) for byte, _, _ in rows]
    covered = [sum(int(byte) + bool(number) for byte, number, _ in rows[: i + 1]) for i in range(len(rows))]
    assert [int(total) for _, _, total in rows] == covered
    assert f"with {600 - covered[-1]} pruned weights left" in FORMAT
