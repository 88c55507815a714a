"""Every tensor that torch.save can write is read as torch reads it, or refused by its name in one line."""

from __future__ import annotations

import os
import pickle
import resource
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lptool.checkpoints.containers import open_file
from lptool.checkpoints.reading import load_ticket
from lptool.errors import CheckpointError

Save = Callable[[Any, Path], None]


def in_zip(content: Any, file: Path) -> None:
    torch.save(content, file)


def before_zip(content: Any, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def with_protocol(content: Any, file: Path) -> None:
    torch.save(content, file, pickle_protocol=pickle.HIGHEST_PROTOCOL)


FORMATS = [in_zip, before_zip, with_protocol]
BASE = torch.arange(24.0).view(2, 3, 4) - 3

TENSORS: dict[str, Tensor] = {
    **{
        str(dtype): BASE.to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32)
    },
    **{str(dtype): BASE.abs().to(dtype) for dtype in (torch.int16, torch.int8, torch.uint8, torch.bool)},
    "a scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
    "parameter": nn.Parameter(BASE.clone()),
    "transposed": BASE.transpose(0, 2),
    "channels last": BASE.view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
    "a part of a longer one": BASE.flatten()[3:17:2],
    "repeated": torch.tensor([1.0, 2.0]).expand(5, 2),
    "negated": torch.complex(BASE, BASE + 1).conj().imag,
    "64 dimensions": BASE.view(*[1] * 61, 2, 3, 4),
    "with an attribute": BASE.clone(),
}
TENSORS["with an attribute"].pruned = True  # type: ignore[attr-defined]


def tensor_in(file: Path) -> Tensor:
    return open_file(file).tensors["w"]


@pytest.mark.parametrize("save", FORMATS)
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_are_those_of_torch(tmp_path: Path, name: str, save: Save) -> None:
    tensor = TENSORS[name]
    save({"w": tensor, "other": torch.ones(3)}, tmp_path / "a")
    found = tensor_in(tmp_path / "a")
    expected = torch.load(tmp_path / "a", weights_only=False)["w"].resolve_conj().resolve_neg()
    assert (found.dtype, found.shape, found.stride()) == (tensor.dtype, tensor.shape, expected.stride())
    assert torch.equal(found, tensor.resolve_conj().resolve_neg())
    assert not found.is_conj()
    assert not found.is_neg()
    assert load_ticket(tmp_path / "a").shapes["w"] == tuple(tensor.shape)


def sparse() -> dict[str, Tensor]:
    dense = torch.tensor([[0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twice = torch.sparse_coo_tensor(torch.tensor([[0, 0, 1], [1, 1, 3]]), torch.tensor([0.5, 1.5, 3.0]), (2, 4))
        return {
            "coo": dense.to_sparse(),
            "coo, not coalesced": twice,
            "csr": dense.to_sparse_csr(),
            "csc": dense.to_sparse_csc(),
            "bsr": dense.to_sparse_bsr((1, 2)),
            "bsc": dense.to_sparse_bsc((2, 1)),
        }


@pytest.mark.parametrize("save", FORMATS)
@pytest.mark.parametrize("layout", sparse())
def test_sparse_tensors_become_dense(tmp_path: Path, layout: str, save: Save) -> None:
    save({"w": sparse()[layout], "other": torch.ones(3)}, tmp_path / "a")
    ticket = load_ticket(tmp_path / "a")
    assert ticket.state["w"].tolist() == [[0, 2, 0, 0], [0, 0, 0, 3]]
    assert ticket.mask["w"].sum() == 2


class Subclass(Tensor):
    """A tensor whose code might say that its numbers mean something else."""


def quantised() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(BASE, 0.1, 0, torch.qint8)


UNREADABLE: dict[str, tuple[Callable[[], Tensor], str]] = {
    "float8": (lambda: BASE.to(torch.float8_e4m3fn), "is float8_e4m3fn, which cannot be computed with"),
    "uint16": (lambda: BASE.abs().to(torch.uint16), "is uint16, which cannot be computed with"),
    "uint32": (lambda: BASE.abs().to(torch.uint32), "is uint32, which"),
    "uint64": (lambda: BASE.abs().to(torch.uint64), "is uint64, which"),
    "complex64": (lambda: torch.complex(BASE, BASE + 1), "is complex64, which"),  # a real network would lose half of it
    "conjugated": (lambda: torch.complex(BASE, BASE + 1).conj(), "is complex64, which"),
    "complex32": (lambda: torch.zeros(2, dtype=torch.complex32), "is complex32, which"),
    "quantised": (quantised, "is quantised; save it as float32"),
    "meta": (lambda: torch.empty(3, device="meta"), "is on the meta device and has no values"),
    "subclass": (lambda: BASE.as_subclass(Subclass), "is a .*Subclass, a class whose code"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "is a nested tensor"),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning", "ignore:ComplexHalf:UserWarning")
def test_other_tensors_are_refused_by_name(tmp_path: Path, name: str) -> None:
    made, message = UNREADABLE[name]
    for content in ({"w": made(), "b": BASE}, {"state_dict": {"w": made()}}):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=rf"a\.pt: w {message}") as error:
            open_file(tmp_path / "a.pt")
        assert str(error.value).isprintable()
        torch.save({"state_dict": {"v": BASE}, "beside": content}, tmp_path / "a.pt")
        assert list(open_file(tmp_path / "a.pt").tensors) == ["v"]


class Odd:
    """What is put into a pickle as a call of one of torch's functions, with arguments of any kind."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


STORAGE = BASE.untyped_storage()
TYPED = torch.storage.TypedStorage(wrap_storage=STORAGE, dtype=torch.float32, _internal=True)
V2, V3 = torch._utils._rebuild_tensor_v2, torch._utils._rebuild_tensor_v3
ODD = {
    "beyond its bytes": Odd(V2, TYPED, 0, (25,), (1,), False, {}),
    "by its strides": Odd(V2, TYPED, 0, (2, 2), (1, 23), False, {}),
    "by its offset": Odd(V2, TYPED, 24, (1,), (1,), False, {}),
    "before its bytes": Odd(V2, TYPED, -1, (1,), (1,), False, {}),
    "negative side": Odd(V2, TYPED, 0, (-1,), (1,), False, {}),
    "negative stride": Odd(V2, TYPED, 0, (2,), (-1,), False, {}),
    "unlike strides": Odd(V2, TYPED, 0, (2, 2), (1,), False, {}),
    "a side that is text": Odd(V2, TYPED, 0, ("2",), (1,), False, {}),
    "a shape that is none": Odd(V2, TYPED, 0, None, (1,), False, {}),
    "no storage": Odd(V2, 3, 0, (2,), (1,), False, {}),
    "too few arguments": Odd(V2, TYPED),
    "no type": Odd(V3, torch.ones(9).untyped_storage(), 0, (2,), (1,), False, {}, "float32"),
    "a side of 2^70": Odd(V2, TYPED, 0, (2**70,), (1,), False, {}),
    "a stride of 2^70": Odd(V2, TYPED, 0, (2,), (2**70,), False, {}),
    "65 dimensions": Odd(V2, TYPED, 0, (1,) * 65, (1,) * 65, False, {}),
    "a parameter of nothing": Odd(torch._utils._rebuild_parameter, None, False, {}),
    "a function of theirs": Odd(torch._tensor._rebuild_from_type_v2, os.mkdir, Tensor, ("ran",), {}),
    "itself": Odd(torch._tensor._rebuild_from_type_v2, torch._tensor._rebuild_from_type_v2, Tensor, (), {}),
    "sparse, of texts": Odd(torch._utils._rebuild_sparse_tensor, torch.sparse_coo, ("a", "b", (2, 2))),
    "sparse, beyond its shape": Odd(
        torch._utils._rebuild_sparse_tensor, torch.sparse_coo, (torch.tensor([[5]]), torch.ones(1), (2,), False)
    ),
    "sparse, of no layout": Odd(torch._utils._rebuild_sparse_tensor, "strided", (BASE, BASE, BASE, (2, 2))),
    "an array of nothing": Odd(torch._utils._rebuild_device_tensor_from_numpy, None, torch.float32, "cpu", False),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_arguments_are_told_in_one_line(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": BASE, "odd": ODD[name], "v": BASE}}, "a.pt")
    with pytest.raises(CheckpointError, match=r"^a\.pt: ") as error:
        load_ticket("a.pt")
    assert str(error.value).isprintable()
    assert os.listdir() == ["a.pt"]
    torch.save({"state_dict": {"w": BASE}, "optimizer": {"state": ODD[name]}}, "a.pt")
    assert torch.equal(load_ticket("a.pt").state["w"], BASE)


def test_numbers_repeated_beyond_all_memory_are_refused_before_they_are(tmp_path: Path) -> None:
    huge = torch.ones(1).expand(1 << 20, 1 << 20)
    indices = torch.tensor([[0], [0]])
    few = torch.sparse_coo_tensor(indices, torch.ones(1), (1 << 20, 1 << 20))
    for tensor in (huge, few):
        torch.save({"w": tensor, "b": BASE}, tmp_path / "a.pt")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(
            CheckpointError, match=r"a\.pt: its tensors: would take 4,398\.0 GB of memory, and .* are free"
        ):
            load_ticket(tmp_path / "a.pt")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB


def test_tensors_of_devices_that_keep_them_as_numpy_arrays(tmp_path: Path) -> None:
    for array in (np.arange(6, dtype=np.float32).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3))):
        kept = Odd(torch._utils._rebuild_device_tensor_from_numpy, array, torch.float32, "cpu", False)
        torch.save({"w": kept, "v": BASE}, tmp_path / "a")
        assert tensor_in(tmp_path / "a").tolist() == array.tolist()


def test_tensors_that_share_bytes_are_each_whole(tmp_path: Path) -> None:
    long = torch.arange(1000.0)
    torch.save({"w": long[:10].view(2, 5), "v": long[5:8], "again": long[5:8]}, tmp_path / "a")
    tensors = open_file(tmp_path / "a").tensors
    assert torch.equal(tensors["w"], long[:10].view(2, 5))
    assert torch.equal(tensors["v"], tensors["again"])
    tensors["v"].zero_()
    assert torch.equal(tensors["v"], long[5:8])
