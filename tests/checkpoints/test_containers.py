"""Damaged, hostile and strange files: one clear error each, no code run, nothing blown up."""

import io
import json
import os
import pickle
import random
import resource
import signal
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lptool.checkpoints.containers import open_file
from lptool.checkpoints.files import OpenedFile
from lptool.checkpoints.reading import load_ticket, open_checkpoint
from lptool.checkpoints.safetensors_file import SafetensorsFile
from lptool.checkpoints.writing import save_packed
from lptool.errors import CheckpointError
from tests.checkpoints.test_dialects import WRITERS, Writer, masks, write_prune

STATE = {"conv.weight": torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "conv.bias": torch.tensor([0.0, 1.0])}


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "state_dict_ema", "net", "network"])
def test_state_dicts_are_found_bare_or_nested(tmp_path: Path, key: str | None) -> None:
    beside = {"epoch": 3, "best": np.float64(0.5), "history": np.arange(3.0), "optimizer": {"state": {}, "x": [1]}}
    torch.save(STATE if key is None else {key: STATE, **beside}, tmp_path / "a")
    tensors = open_file(tmp_path / "a").tensors
    assert all(torch.equal(tensors[name], tensor) for name, tensor in STATE.items())


def test_the_formats_before_zip_are_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert open_file(tmp_path / "a.pth").tensors.keys() == STATE.keys()


def test_of_two_state_dicts_the_trained_one_is_taken_and_said(tmp_path: Path) -> None:
    torch.save({"state_dict_ema": {"w": torch.zeros(1)}, "state_dict": STATE}, tmp_path / "a")
    contents = open_file(tmp_path / "a")
    assert contents.tensors.keys() == STATE.keys()
    assert contents.notes == ("weights taken from `state_dict`; state_dict_ema left aside",)


def test_numpy_1_scalars_are_read(tmp_path: Path) -> None:
    """Numpy 1 wrote the module `numpy.core.multiarray`; the name in the pickle is changed to what it was then."""
    buffer = io.BytesIO()
    torch.save({"state_dict": STATE, "best_sa": np.float64(91.0)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(tmp_path / "a.pth", "w") as new:
        for record in old.infolist():
            content = old.read(record)
            if record.filename.endswith("data.pkl"):
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            new.writestr(record.filename, content)
    assert open_file(tmp_path / "a.pth").tensors.keys() == STATE.keys()


class Payload:
    """Makes a folder when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_code_does_not_run(tmp_path: Path) -> None:
    hostile = {"state_dict": STATE, "extra": Payload(tmp_path / "ran")}
    torch.save(hostile, tmp_path / "zip.pth")
    torch.save(hostile, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(hostile, protocol=2))
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    for name in ("zip.pth", "old.pth"):
        assert open_file(tmp_path / name).tensors.keys() == STATE.keys()
    with pytest.raises(CheckpointError, match=r"module.pth: needs torch.nn.modules.*torch.save\(model.state_dict\(\)"):
        open_file(tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match=r"plain.pkl"):
        open_file(tmp_path / "plain.pkl")
    assert not (tmp_path / "ran").exists()


def index(folder: Path, weight_map: object) -> Path:
    file = folder / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": weight_map}))
    return file


def test_shards_stay_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file(STATE, tmp_path / "secret.safetensors")
    save_file(STATE, tmp_path / "in" / "a.safetensors")
    for outside in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "..", ""):
        with pytest.raises(CheckpointError, match="points outside its folder"):
            open_file(index(tmp_path / "in", {"conv.bias": outside}))
    for weight_map, message in [
        ({"conv.bias": "gone.safetensors"}, "gone.safetensors: cannot be read"),
        ({"nothing": "a.safetensors"}, "names nothing, which its shard lacks"),
        ({}, "expected a `weight_map`"),
        ([1], "expected a `weight_map`"),
        ({"conv.bias": 3}, "expected a `weight_map`"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            open_file(index(tmp_path / "in", weight_map))
    (tmp_path / "in" / "model.safetensors.index.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        open_file(tmp_path / "in" / "model.safetensors.index.json")


def test_a_packed_file_is_told_by_its_header(tmp_path: Path) -> None:
    write_packed(tmp_path, tiny(), masks(tiny())).rename(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "tiny"}')
    contents = open_file(tmp_path / "model.safetensors")
    assert contents.format == "safetensors, packed"
    assert {"0.weight", "0.weight.mask", "3.bias"} <= set(contents.tensors)
    assert contents.header.keys() == {"format", "lptool", "lptool_packed"}
    assert contents.config == {"architecture": "tiny"}


def test_packed_shards_are_refused(tmp_path: Path) -> None:
    file = write_packed(tmp_path, tiny(), masks(tiny()))
    with pytest.raises(CheckpointError, match=r"its shard packed\.safetensors is packed, which only whole checkpoints"):
        open_file(index(tmp_path, {"3.bias": file.name}))


def test_asking_for_a_name_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(STATE, tmp_path / "a")
    tensors = SafetensorsFile(tmp_path / "a")
    monkeypatch.setattr(OpenedFile, "tensor", lambda *_: pytest.fail("is read"))
    assert "conv.weight" in tensors
    assert "weight" not in tensors


def test_sizes_beyond_the_file_are_refused_before_any_allocation(tmp_path: Path) -> None:
    huge = {"w": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(huge).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 64)
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{" + b"\0" * 64)
    with zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", b"\0" * (64 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("a.safetensors", "b.safetensors", "c.pth"):
        with pytest.raises(CheckpointError, match=name):
            open_file(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB


def test_a_zip_that_is_not_torchs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(CheckpointError, match="a zip file that torch"):
        open_file(tmp_path / "a.pth")


def test_headers(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a", {"format": "pt"})
    assert SafetensorsFile(tmp_path / "a").header == {"format": "pt"}
    save_file(STATE, tmp_path / "b")
    assert SafetensorsFile(tmp_path / "b").header == {}


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))


def flip_bits(content: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def flip_early_bits(content: bytearray, rng: random.Random) -> bytes:
    content[rng.randrange(min(400, len(content)))] ^= 1 << rng.randrange(8)
    return bytes(content)


def truncate(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content[: rng.randrange(len(content))])


def swap_blocks(content: bytearray, rng: random.Random) -> bytes:
    size = rng.choice([4, 16, 64])
    i, j = (rng.randrange(max(1, len(content) - size)) for _ in range(2))
    content[i : i + size], content[j : j + size] = content[j : j + size], content[i : i + size]
    return bytes(content)


def edit_text(content: bytearray, rng: random.Random) -> bytes:
    """Change a number or a name that stands as text in the file: shapes, offsets, sizes, tensor names."""
    old = rng.choice([b"weight", b"F32", b"shape", b"0", b"1", b"2", b"[", b"}", b"mask", b"data", b"float"])
    new = rng.choice([b"weights", b"F64", b"-1", b"9999999999", b"", b"null", b'"', b"bias"])
    return bytes(content).replace(old, new, rng.choice([1, 1, 3]))


def write_packed(folder: Path, model: nn.Module, mask: dict[str, torch.Tensor]) -> Path:
    source = write_prune(folder, model, mask)
    save_packed(load_ticket(source), folder / "packed.safetensors")
    source.unlink()
    return folder / "packed.safetensors"


CASES = int(os.environ.get("LPTOOL_FUZZ_CASES", "60"))
MUTATIONS = [flip_bits, flip_early_bits, truncate, swap_blocks, edit_text]


def refusal(file: Path) -> str | None:
    """The clear error that reading a file gives, None where it reads."""
    try:
        open_checkpoint(file).summary  # noqa: B018
    except CheckpointError as error:
        return str(error)
    return None


@pytest.mark.parametrize("write", [*WRITERS, write_packed])
def test_fuzz(tmp_path: Path, write: Writer) -> None:
    """Damaged files of all kinds, 720 in all: success or one clear error, no traceback, hang or blow-up."""
    model = tiny()
    file = write(tmp_path, model, masks(model))
    assert refusal(file) is None
    originals = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = random.Random(write.__name__)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("hangs"))
    for _ in range(CASES):
        victim = rng.choice(sorted(originals))
        victim.write_bytes(rng.choice(MUTATIONS)(bytearray(originals[victim]), rng))
        signal.alarm(20)
        message = refusal(file)
        signal.alarm(0)
        assert message is None or (str(tmp_path) in message and len(message.splitlines()) == 1)
        victim.write_bytes(originals[victim])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
