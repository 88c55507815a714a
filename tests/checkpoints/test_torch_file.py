"""Checkpoints of PyTorch's: what lies beside the weights does no harm, and what cannot be read says what to do."""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lptool.checkpoints.containers import open_file
from lptool.checkpoints.files import OpenedFile
from lptool.checkpoints.reading import load_ticket, open_checkpoint
from lptool.checkpoints.torch_file import read_torch
from lptool.errors import CheckpointError
from tests.checkpoints.test_stored import FORMATS, Save

STATE = {"conv.weight": torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "conv.bias": torch.tensor([0.0, 1.0])}


class Payload:
    """Makes a folder when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.target),)


BESIDE: dict[str, Any] = {
    "optimizer class": torch.optim.SGD,
    "optimizer": torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1, momentum=0.9),
    "optimizer state": torch.optim.Adam([nn.Parameter(torch.ones(2))]).state_dict(),
    "loss": nn.CrossEntropyLoss(),
    "version": torch.__version__,
    "history": collections.defaultdict(list, {"loss": [0.1]}),
    "times": collections.deque([datetime.datetime(2024, 1, 1), datetime.timedelta(1)]),
    "sets": [{1}, frozenset([2]), range(3), slice(1, 2), 1j],
    "options": argparse.Namespace(out=Path("/x"), device=torch.device("cpu"), dtype=torch.float16),
    "numpy": [np.float64(0.5), np.arange(3), np.array(["a"], dtype=object), np.dtype("f4")],
    "random": torch.get_rng_state(),
    "size": torch.Size([1]),
    "nested": {1: {(2, 3): {None: torch.ones(1)}}},
}


@pytest.mark.parametrize("save", FORMATS)
@pytest.mark.parametrize("name", [*BESIDE, "all"])
def test_what_lies_beside_the_weights_does_no_harm(tmp_path: Path, save: Save, name: str) -> None:
    beside = BESIDE if name == "all" else {name: BESIDE[name]}
    for content in ({**beside, "state_dict": STATE}, {"model": {"state_dict": STATE, **beside}, **beside}):
        save(content, tmp_path / "a.pt")
        found = load_ticket(tmp_path / "a.pt").state
        assert found.keys() == STATE.keys()
        assert all(torch.equal(found[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("save", FORMATS)
def test_nothing_of_a_file_runs(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "beside.py").write_text("import os\nos.mkdir('ran')\nclass Own(dict): pass\n")
    own = types.ModuleType("beside")
    own.Own = type("Own", (dict,), {"__module__": "beside"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "beside", own)
    save({"state_dict": STATE, "extra": Payload(tmp_path / "ran"), "own": own.Own(a=1)}, tmp_path / "a.pt")  # type: ignore[attr-defined]
    monkeypatch.delitem(sys.modules, "beside")
    assert load_ticket(tmp_path / "a.pt").state.keys() == STATE.keys()
    assert "beside" not in sys.modules
    assert not (tmp_path / "ran").exists()


def an_absent_class() -> Any:
    """An object of a class with a huge state, as a whole network is, whose module nobody has."""
    cls = type("Net", (), {"__module__": "no_such_place"})
    module = types.ModuleType("no_such_place")
    module.Net = cls  # type: ignore[attr-defined]
    sys.modules["no_such_place"] = module  # for who writes; a test takes it away
    return cls()


@pytest.mark.parametrize("save", FORMATS)
def test_what_stands_in_the_way_to_the_weights_is_named_in_a_short_line(
    tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"epoch": 3, "model": nn.Linear(2, 2)}, "torch.nn.modules.linear.Linear"),
        ({"state_dict": an_absent_class(), "args": argparse.Namespace()}, "no_such_place.Net"),
        ({"state_dict": Payload(tmp_path / "ran")}, "posix.mkdir"),
        (collections.Counter({"a": 1}), "collections.Counter"),
    ]
    for content, name in wanted:
        save(content, tmp_path / f"{name}.pt")
    monkeypatch.delitem(sys.modules, "no_such_place")
    for _, name in wanted:
        file = tmp_path / f"{name}.pt"
        with pytest.raises(CheckpointError) as error:
            load_ticket(file)
        assert str(error.value) == (
            f"{file}: needs {name} to load, which could execute code; in the program that wrote it, and only if "
            f"you trust who made the file, save the weights alone: model = torch.load({file.name!r}, "
            "weights_only=False); torch.save(model.state_dict(), 'weights.pth')"
        )


def test_the_lines_that_convert_a_whole_module_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(2, 2), "a.pt")
    with pytest.raises(CheckpointError, match="save the weights alone: ") as error:
        load_ticket("a.pt")
    exec(str(error.value).partition("alone: ")[2], {"torch": torch})
    assert load_ticket("weights.pth").state.keys() == {"weight", "bias"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "a.pt")
    with pytest.raises(CheckpointError, match=r"^a\.pt: a TorchScript archive, which needs its own code") as error:
        load_ticket("a.pt")
    exec(str(error.value).partition("alone: ")[2], {"torch": torch})
    assert load_ticket("weights.pth").state.keys() == {"weight", "bias"}


def test_containers_that_hold_themselves_and_deep_ones_end(tmp_path: Path) -> None:
    itself: dict[str, Any] = {"epoch": 1}
    itself["model"] = itself["state_dict"] = itself
    longer: dict[str, Any] = {"model": {"net": {}}}
    longer["model"]["net"]["model"] = longer
    deep: dict[str, Any] = {"w": 1}
    for _ in range(300):
        deep = {"model": deep}
    for content in (itself, longer, deep, [itself]):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=r"a\.pt: no state dict in it; expected tensors by name"):
            load_ticket(tmp_path / "a.pt")
    itself["net"] = STATE
    torch.save(itself, tmp_path / "a.pt")
    assert load_ticket(tmp_path / "a.pt").state.keys() == STATE.keys()


def test_very_deep_pickles_end(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    deep = b"\x80\x02" + b"}U\x05model" * 100_000 + b"}" + b"s" * 100_000 + b"."
    rewritten(tmp_path / "a.pt", lambda name, content: deep if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointError, match="no state dict in it"):
        load_ticket(tmp_path / "a.pt")


def rewritten(file: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> None:
    """The same zip file with other records; None leaves one out."""
    with zipfile.ZipFile(file) as old:
        records = {record.filename: change(record.filename, old.read(record)) for record in old.infolist()}
    with zipfile.ZipFile(file, "w", compression) as new:
        for name, content in records.items():
            if content is not None:
                new.writestr(name, content)


ZIPS: dict[str, tuple[Callable[[str, bytes], bytes | None], int, str]] = {
    "lacks the storages": (lambda n, c: None if "/data/" in n else c, zipfile.ZIP_STORED, "not a whole PyTorch"),
    "short storages": (lambda n, c: c[:-4] if "/data/" in n else c, zipfile.ZIP_STORED, "reaches beyond its bytes"),
    "lacks the pickle": (lambda n, c: None if "data.pkl" in n else c, zipfile.ZIP_STORED, "a zip file that torch.save"),
    "another byte order": (lambda n, c: b"big" if "byteorder" in n else c, zipfile.ZIP_STORED, "another byte order"),
    "no pickle": (lambda n, c: b"{}" if "data.pkl" in n else c, zipfile.ZIP_STORED, "not a whole PyTorch checkpoint"),
    "a bomb": (
        lambda n, c: b"\0" * (64 << 20) if "/data/" in n else c,
        zipfile.ZIP_DEFLATED,
        "its records claim more bytes than the file has",
    ),
    "compressed": (lambda n, c: os.urandom(1 << 12) + c, zipfile.ZIP_BZIP2, "is compressed or encrypted"),
}


@pytest.mark.parametrize("name", ZIPS)
def test_odd_zip_files(tmp_path: Path, name: str) -> None:
    change, compression, message = ZIPS[name]
    torch.save(STATE, tmp_path / "a.pt")
    rewritten(tmp_path / "a.pt", change, compression)
    with pytest.raises(CheckpointError, match=rf"a\.pt: .*{message}") as error:
        load_ticket(tmp_path / "a.pt")
    assert str(error.value).isprintable()


def test_pickles_that_torch_did_not_write(tmp_path: Path) -> None:
    for content in (STATE, [1, 2], 0x1950A86A20F9469CFC6C):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(CheckpointError, match=r"a\.pkl: (a pickle that torch\.save did not write|not a whole)"):
            open_checkpoint(tmp_path / "a.pkl")


def test_names_without_a_spelling_are_refused(tmp_path: Path) -> None:
    torch.save({"a\ud800": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: not a whole PyTorch checkpoint .*surrogates not allowed"):
        open_file(tmp_path / "a.pt")


def test_an_optimizer_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor anything else beside the weights: only the state dict's own bytes are."""
    torch.save({"state_dict": STATE, "optimizer": {"momentum": torch.ones(1 << 20)}}, tmp_path / "a.pt")
    content, _ = read_torch(tmp_path / "a.pt")
    content["optimizer"]["momentum"].read()
    read: list[int] = []
    whole = OpenedFile.tensor
    monkeypatch.setattr(OpenedFile, "tensor", lambda file, at, count: (read.append(count), whole(file, at, count))[1])
    load_ticket(tmp_path / "a.pt")
    assert sum(read) < 1 << 16
