"""Pickles of all protocols are read, and none runs, imports or makes anything of its own."""

from __future__ import annotations

import argparse
import builtins
import collections
import copyreg
import datetime
import enum
import io
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from lptool.checkpoints.pickles import Inert, Stateful, unpickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(content: bytes, known: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    return unpickle(io.BytesIO(content), known or {}, lambda said: Inert("outside", made=True))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_are_what_pickle_makes_of_them(protocol: int) -> None:
    """The library itself is the oracle: numbers, texts, bytes and containers, shared ones too."""
    shared = [1, "ä\n'\"\u2028", b"\x00\xff" if protocol > 2 else None]
    numbers = [0, -1, 255, 256, 65536, -(2**31), 2**40, 10**300, 0.1, -1e308, float("inf"), True, False, None]
    value = {"a": shared, "b": (shared, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), 3: numbers, None: {}, 2.5: [[]]}
    content = pickle.dumps(value, protocol)
    found = read(content)
    assert found == pickle.loads(content)
    assert found["b"][0] is found["a"]


class Marked:
    """Says so when anything of it runs."""

    ran: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.content = 1

    def __setstate__(self, state: object) -> None:
        self.ran.append("setstate")

    def __new__(cls, *arguments: object) -> Marked:
        cls.ran.append("new")
        return super().__new__(cls)


class Reduced:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


class Items(dict[str, int]):
    def __setitem__(self, key: str, value: int) -> None:
        Marked.ran.append("setitem")
        super().__setitem__(key, value)


class Grown(list[int]):
    def append(self, value: int) -> None:
        Marked.ran.append("append")

    def extend(self, values: object) -> None:
        Marked.ran.append("extend")


class Colour(enum.Enum):
    RED = 1


def ran(*arguments: object) -> None:
    Marked.ran.append("function")


# What checkpoints hold beside tensors, and what an attacker would put there.
OBJECTS = {
    "a class": torch.optim.SGD,
    "a function": ran,
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "Counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2]),
    "set": {1, 2},
    "frozenset": frozenset([1]),
    "range": range(3),
    "slice": slice(1, 2),
    "complex": 1j,
    "path": Path("/tmp"),
    "datetime": datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
    "timedelta": datetime.timedelta(1),
    "Namespace": argparse.Namespace(lr=0.1),
    "TorchVersion": torch.__version__,
    "numpy scalar": np.float64(0.5),
    "numpy array": np.arange(3.0),
    "numpy generator": np.random.default_rng(0),
    "Fraction": Fraction(1, 3),
    "enum": Colour.RED,
    "object": Marked(),
    "dict subclass": Items(a=1),
    "list subclass": Grown([1]),
    "device": torch.device("cpu"),
    "os.system": Reduced(os.system, "touch ran"),
    "eval": Reduced(eval, "open('ran', 'w')"),
    "exec": Reduced(exec, "open('ran', 'w')"),
    "import": Reduced(builtins.__import__, "beside"),
    "getattr": Reduced(getattr, Marked, "ran"),
    "our own reader": Reduced(unpickle, b"", {}, ran),
    "torch.load": Reduced(torch.load, "ran"),
    "a rebuild with odd arguments": Reduced(torch._utils._rebuild_tensor_v2, "ran", -1, (2**70,), None, True, ran),
}


@pytest.mark.parametrize("protocol", [1, 2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("name", OBJECTS)
def test_all_else_is_inert(name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("open('ran', 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    if protocol < 2 and name == "numpy generator":
        pytest.skip("numpy pickles it from protocol 2 on")
    content = pickle.dumps([1, OBJECTS[name], {"after": OBJECTS[name]}], protocol)
    Marked.ran.clear()
    one, found, after = read(content)
    assert one == 1
    assert isinstance(found, Inert)
    assert str(found) in str(after["after"])
    assert Marked.ran == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside.py"]


HOSTILE = {
    "a class that is not there": b"cno_such_module\nNo.Such\n)\x81.",
    "a module beside the file": b"cbeside\nClass\n)R.",
    "INST": b"(ibeside\nClass\n.",
    "OBJ": b"(cbeside\nClass\no.",
    "attributes for a class": b"cbuiltins\ndict\n}U\x03getK\x01sb.",
    "a call of a result": b"cbuiltins\ngetattr\n)R)R.",
    "copyreg's extensions": b"\x82\x01.",
    "a persistent id as text": b"Pos.system\n.",
    "a method by a dotted name": b"\x80\x04\x8c\x08builtins\x8c\x0bdict.update\x93)R.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_tricks_are_inert(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(copyreg._inverted_registry, 1, ("os", "system"))  # type: ignore[attr-defined]
    monkeypatch.setitem(copyreg._extension_cache, 1, os.system)  # type: ignore[attr-defined]
    assert isinstance(read(HOSTILE[name]), Inert)
    assert "beside" not in sys.modules


def nested(depth: int) -> bytes:
    return b"\x80\x04" + b"]" * depth + b"a" * (depth - 1) + b"."


def doubled(times: int) -> bytes:
    """A list of two of a list of two of …: 2^times in all."""
    return b"\x80\x02]q\x00" + b"".join(b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(times)) + b"."


def test_deep_and_shared_containers_cost_nothing() -> None:
    assert isinstance(read(nested(200_000)), list)
    assert isinstance(read(doubled(100)), list)
    deep_tuple = b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s."  # as a key, its hash would end the process
    assert read(deep_tuple) == {}


DAMAGED = {
    "nothing": b"",
    "no end": b"\x80\x02]",
    "an empty stack": b"\x80\x02.",
    "more than was put down": b"\x80\x02K\x01\x86.",
    "no mark": b"\x80\x02K\x01t.",
    "no such memo": b"\x80\x02h\x07.",
    "an unknown instruction": b"\x80\x02\xff.",
    "bytes that are not there": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "a key without a value": b"\x80\x02}(K\x01u.",
    "a buffer outside": b"\x80\x05\x97.",
    "a name that is a list": b"\x80\x04]]\x93.",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_an_error_of_a_few_kinds(name: str) -> None:
    with pytest.raises((ValueError, IndexError, KeyError, TypeError)):
        read(DAMAGED[name])


def test_a_huge_memo_is_no_huge_list() -> None:
    assert read(b"\x80\x02K\x01r\xff\xff\xff\x7f.") == 1


class Kept(Stateful):
    state: object = None

    def set_state(self, state: object) -> None:
        self.state = state


def test_known_functions_are_ours_and_get_the_arguments() -> None:
    content = pickle.dumps([Reduced(os.mkdir, "a", 2), collections.OrderedDict(b=1)], 2)
    known = {"posix.mkdir": lambda *arguments: arguments, "nt.mkdir": lambda *arguments: arguments}
    made, ordered = read(content, {**known, "collections.OrderedDict": dict})
    assert made == ("a", 2)
    assert ordered == {"b": 1}
    odd = read(pickle.dumps(Reduced(os.mkdir, "a"), 2), {"posix.mkdir": lambda: 1})
    assert isinstance(odd, Inert)
    (kept,) = read(b"\x80\x02]cours\nKept\n)RK\x07ba.", {"ours.Kept": Kept})
    assert kept.state == 7
