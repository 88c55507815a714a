"""Safetensors files: what the library reads is read alike, and every odd header is refused in one line."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lptool.checkpoints.reading import load_ticket, open_checkpoint
from lptool.checkpoints.safetensors_file import COMPUTED, SafetensorsFile
from lptool.errors import CheckpointError


def write(path: Path, header: object, content: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + content)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_tensors_are_those_of_the_library(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kept = list(COMPUTED)
    tensors = {
        f"{dtype} {shape}": (torch.randn(shape) * 9).abs().to(dtype) for dtype in kept for shape in ((), (0, 2), (3, 5))
    }
    save_file({"ß": torch.ones(1), **tensors}, tmp_path / "a", {"format": "pt", "ä": "\n"})
    found = SafetensorsFile(tmp_path / "a")
    expected = load_file(tmp_path / "a")
    assert found.header == {"format": "pt", "ä": "\n"}
    with safe_open(tmp_path / "a", "pt") as library:
        assert list(found) == list(library.keys())  # the order in which ties between weights are broken
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {found[name].dtype for name in found} == set(kept)
    with pytest.raises(KeyError):
        found["no such"]


HEADERS: dict[str, tuple[object, bytes]] = {
    "no object": ([1], b""),
    "a number": (b"3", b""),
    "no JSON": (b"{", b""),
    "not UTF-8": (b'{"\xff": {}}', b""),
    "half a character": (b'{"\\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', b"\0" * 8),
    "half a character in the metadata": ({"__metadata__": {"a": "\ud800"}, "w": entry()}, b"\0" * 8),
    "deep": (b'{"a":' + b"[" * 100_000, b""),
    "twice the same": (b'{"w": {"dtype":"F32","shape":[],"data_offsets":[0,4]}, "w": {}}', b"\0" * 4),
    "no entry": ({"w": None}, b""),
    "a list as entry": ({"w": [1]}, b""),
    "empty entry": ({"w": {}}, b""),
    "a number as dtype": ({"w": entry(dtype=3)}, b"\0" * 8),
    "a list as dtype": ({"w": entry(dtype=["F32"])}, b"\0" * 8),
    "unknown dtype": ({"w": entry(dtype="F99")}, b"\0" * 8),
    "float8": ({"w": entry(dtype="F8_E4M3", offsets=(0, 2))}, b"\0" * 2),
    "uint16": ({"w": entry(dtype="U16", offsets=(0, 4))}, b"\0" * 4),
    "uint64": ({"w": entry(dtype="U64", offsets=(0, 16))}, b"\0" * 16),
    "shape as text": ({"w": entry(shape="2")}, b"\0" * 8),
    "no shape": ({"w": entry(shape=None)}, b"\0" * 8),
    "negative side": ({"w": entry(shape=[-2])}, b"\0" * 8),
    "half a side": ({"w": entry(shape=[2.0])}, b"\0" * 8),
    "true side": ({"w": entry(shape=[True, 2])}, b"\0" * 8),
    "an infinite side": (b'{"w": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 8]}}', b"\0" * 8),
    "a side of 6,000 digits": (
        b'{"w": {"dtype": "F32", "shape": [' + b"9" * 6000 + b'], "data_offsets": [0, 8]}}',
        b"",
    ),
    "huge": ({"w": entry(shape=[2**70], offsets=(0, 2**72))}, b"\0" * 8),
    "65 dimensions": ({"w": entry(shape=[1] * 64 + [2])}, b"\0" * 8),
    "huge and empty": ({"w": entry(shape=[0, 2**62, 2**62], offsets=(0, 0))}, b""),
    "one offset": ({"w": entry(offsets=[8])}, b"\0" * 8),
    "offsets the other way": ({"w": entry(offsets=[8, 0])}, b"\0" * 8),
    "negative offset": ({"w": entry(offsets=[-8, 0])}, b"\0" * 8),
    "other bytes": ({"w": entry(offsets=(0, 4))}, b"\0" * 4),
    "beyond the file": ({"w": entry()}, b"\0" * 4),
    "bytes left": ({"w": entry()}, b"\0" * 9),
    "a hole": ({"w": entry(), "v": entry(offsets=(16, 24))}, b"\0" * 24),
    "an overlap": ({"w": entry(), "v": entry(offsets=(4, 12))}, b"\0" * 12),
    "the same place": ({"w": entry(), "v": entry()}, b"\0" * 8),
    "no tensor": ({}, b""),
    "metadata that are no texts": ({"__metadata__": {"a": 1}, "w": entry()}, b"\0" * 8),
    "metadata that are a list": ({"__metadata__": ["a"], "w": entry()}, b"\0" * 8),
}


@pytest.mark.parametrize("name", HEADERS)
def test_odd_headers_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"^\S*odd\.safetensors: ") as error:
        open_checkpoint(write(tmp_path / "odd.safetensors", *HEADERS[name]))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1, 100_000_001])
def test_odd_lengths_are_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        open_checkpoint(write(tmp_path / "odd.safetensors", {"w": entry()}, b"\0" * 8, length))


def test_types_that_cannot_be_computed_with_are_named(tmp_path: Path) -> None:
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64):
        save_file({"a": torch.ones(2), "conv.scale": torch.ones(2).to(dtype)}, tmp_path / "a.safetensors")
        with pytest.raises(CheckpointError, match=r"a\.safetensors: conv\.scale is [FU]\w+, which cannot be computed"):
            load_ticket(tmp_path / "a.safetensors")


def read_or_refused(file: Path) -> dict[str, torch.Tensor] | str:
    try:
        return dict(SafetensorsFile(file).items())
    except CheckpointError as error:
        return str(error)


def test_any_change_of_a_byte_is_read_as_the_library_does_or_refused(tmp_path: Path) -> None:
    """Never more than the library takes, and the same numbers."""
    torch.manual_seed(0)
    save_file({"conv.weight": torch.randn(3, 4), "bias": torch.arange(3)}, tmp_path / "a.safetensors", {"format": "pt"})
    whole = (tmp_path / "a.safetensors").read_bytes()
    draw = random.Random(0)
    for _ in range(300):
        content = bytearray(whole)
        content[draw.randrange(len(content) // 2)] = draw.choice(b'0123456789[]{}",:FIU_\xff\x00 ')
        (tmp_path / "b.safetensors").write_bytes(content)
        found = read_or_refused(tmp_path / "b.safetensors")
        if isinstance(found, str):
            assert found.isprintable()
            continue
        try:
            expected = load_file(tmp_path / "b.safetensors")
        except SafetensorError as error:
            pytest.fail(f"{bytes(content)!r}: the library refuses it: {error}")
        assert found.keys() == expected.keys()
        assert all(str(found[name].tolist()) == str(expected[name].tolist()) for name in found)
