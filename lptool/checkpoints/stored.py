"""Tensors in a pickle of PyTorch's: how each is put together from the bytes of a file, once somebody asks for it."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lptool.checkpoints.files import OpenedFile, check_memory, is_shape
from lptool.checkpoints.pickles import Inert, Stateful
from lptool.checkpoints.safetensors_file import COMPUTED, EXPECTED

_TYPES = {str(dtype): dtype for dtype in COMPUTED}
# `torch.FloatStorage` and the like, by what comes before `Storage`.
_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "QInt8": torch.qint8,
    "QUInt8": torch.quint8,
    "QInt32": torch.qint32,
    "QUInt4x2": torch.quint4x2,
    "QUInt2x4": torch.quint2x4,
    "Untyped": torch.uint8,
}
_LAYOUTS = {str(layout): layout for layout in (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)}
_PLAIN = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
# Functions that make tensors which are no rows of numbers, and what is said of these.
_STRANGE = {
    "_rebuild_qtensor": "is quantised; save it as float32 (X.dequantize())",
    "_rebuild_meta_tensor_no_storage": "is on the meta device and has no values; save it once they are loaded",
    "_rebuild_nested_tensor": "is a nested tensor, expected one of a single shape",
    "_rebuild_wrapper_subclass": "is of a tensor subclass that has no values of its own; save plain tensors",
}


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in the file.

    Attributes:
        read: the tensor itself, dense and on the CPU.
        problem: what keeps it from being read, as `is quantised; …`; empty as a rule.
    """

    read: Callable[[], Tensor]
    dtype: torch.dtype = torch.uint8
    shape: tuple[int, ...] = ()
    problem: str = ""

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Storage:
    """A row of `count` elements in the file, of which tensors are parts; `key` is its name there."""

    key: str
    dtype: torch.dtype


class Rebuilder:
    """The functions by which a pickle puts tensors together, as ours that read the same bytes.

    Attributes:
        known: them, by the name in the pickle. storages: those that the pickle spoke of, by key.
    """

    def __init__(self, file: OpenedFile, place: Callable[[str], tuple[int, int]]) -> None:
        """`place` says where the storage of a key lies in the file: its first byte, and how many there are."""
        self._file, self._place = file, place
        self.storages: dict[str, Storage] = {}
        tensors: dict[str, Callable[..., StoredTensor]] = {
            "torch._utils._rebuild_tensor": self._typed,
            "torch._utils._rebuild_tensor_v2": self._typed,
            "torch._utils._rebuild_tensor_v3": self._untyped,
            "torch._utils._rebuild_sparse_tensor": self._sparse,
            "torch._utils._rebuild_parameter": _same,
            "torch._utils._rebuild_parameter_with_state": _same,
            "torch.nn.parameter.Parameter": _same,
            "torch._utils._rebuild_device_tensor_from_cpu_tensor": _same,
            "torch._utils._rebuild_device_tensor_from_numpy": _from_array,
            "torch._utils._rebuild_xla_tensor": _from_array,
            "torch._tensor._rebuild_from_type": self._of_class,
            "torch._tensor._rebuild_from_type_v2": self._of_class,
            **{f"torch._utils.{name}": partial(_strange, problem) for name, problem in _STRANGE.items()},
        }
        self.known: Mapping[str, Callable[..., Any]] = {
            "collections.OrderedDict": dict,
            "collections.defaultdict": lambda *_: {},
            "torch.Size": tuple,
            "torch.serialization._get_layout": lambda name: name,
            "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
            "numpy.dtype": _Type,
            "_codecs.encode": lambda text, encoding: text.encode("latin-1"),
            **{name: partial(_whole, function) for name, function in tensors.items()},
        }

    def persistent(self, said: Any) -> Any:
        """What stands for a storage, of which the pickle says class, key, device and number of elements."""
        if isinstance(said, tuple) and len(said) == 4 and said[0] == "module" and isinstance(said[1], Inert):
            return said[1]  # a class of modules, with its source beside it
        if not isinstance(said, tuple) or len(said) < 5 or said[0] != "storage" or any(said[5:]):
            return Inert("something outside the pickle", made=True)
        cls, key = said[1:3]
        named = (
            re.fullmatch(r"torch\.(?:cuda\.|storage\.)?_?(\w+)Storage", cls.name) if isinstance(cls, Inert) else None
        )
        if named is None or named[1] not in _STORAGES or not isinstance(key, str):
            return Inert("a storage of an unknown kind", made=True)
        return self.storages.setdefault(key, Storage(key, _STORAGES[named[1]]))

    def _typed(
        self, storage: Storage, offset: int, size: Any, stride: Any, _: Any = 0, hooks: Any = 0, bits: Any = None
    ) -> StoredTensor:
        return self._view(storage, storage.dtype, offset, size, stride, bits)

    def _untyped(
        self, storage: Storage, offset: int, size: Any, stride: Any, _: Any, hooks: Any, dtype: Inert, bits: Any = None
    ) -> StoredTensor:
        if dtype.name not in _TYPES:
            return _strange(f"is {dtype.name.removeprefix('torch.')}, which cannot be computed with; {EXPECTED}")
        return self._view(storage, _TYPES[dtype.name], offset, size, stride, bits)

    def _view(
        self, storage: Storage, dtype: torch.dtype, offset: int, size: Any, stride: Any, bits: Any
    ) -> StoredTensor:
        """A part of a storage; `bits` say whether its numbers are to be conjugated or negated."""
        if dtype not in COMPUTED:
            return _strange(f"is {str(dtype).removeprefix('torch.')}, which cannot be computed with; {EXPECTED}")
        steps = (offset, *stride)
        if (
            not is_shape(size)
            or len(size) != len(stride)
            or not all(type(s) is int and 0 <= s < 1 << 63 for s in steps)
        ):
            raise ValueError("no shape that torch can make a tensor of")
        span = 1 + sum((side - 1) * step for side, step in zip(size, stride, strict=True)) if math.prod(size) else 0
        key, flags = storage.key, dict(bits or {})

        def read() -> Tensor:
            start, held = self._place(key)
            if (offset + span) * dtype.itemsize > held:
                raise ValueError("a tensor that reaches beyond its bytes")
            content = self._file.tensor(start + offset * dtype.itemsize, span * dtype.itemsize)
            tensor = content.view(dtype).as_strided(size, stride)
            tensor = tensor.conj().resolve_conj() if flags.get("conj") else tensor
            return -tensor if flags.get("neg") else tensor

        return StoredTensor(read, dtype, tuple(size))

    def _sparse(self, layout: str, data: Any) -> StoredTensor:
        """The dense tensor that indices and values mean."""
        *parts, size = data[:3] if layout == "torch.sparse_coo" else data
        *indices, values = parts
        if not is_shape(size) or len(indices) != (1 if layout == "torch.sparse_coo" else 2):
            raise ValueError("no sparse tensor")
        problem = next((part.problem for part in parts if part.problem), "")

        def read() -> Tensor:
            check_memory(math.prod(size) * values.dtype.itemsize, str(self._file.path))
            tensors = [part.read() for part in parts]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that compressed layouts are in beta state
                return _sparse_tensor(layout, tensors, tuple(size)).to_dense()

        return StoredTensor(read, values.dtype, tuple(size), problem)

    def _of_class(self, function: Inert, cls: Inert, arguments: Any, _: Any) -> StoredTensor:
        """A tensor with attributes, or of a class of its own."""
        made = self.known[function.name](*arguments)
        if made.problem or cls.name in _PLAIN:
            return made  # type: ignore[no-any-return]
        return _strange(f"is a {cls}, a class whose code would say what its numbers mean; save plain tensors")


def _sparse_tensor(layout: str, tensors: list[Tensor], size: tuple[int, ...]) -> Tensor:
    if layout == "torch.sparse_coo":
        indices, values = tensors
        return torch.sparse_coo_tensor(indices, values, size, check_invariants=True)
    outer, inner, values = tensors
    kind = _LAYOUTS[layout]
    return torch.sparse_compressed_tensor(outer, inner, values, size, layout=kind, check_invariants=True)


def _whole(function: Callable[..., StoredTensor], *arguments: Any) -> StoredTensor:
    """What a function makes of a pickle's arguments, which may be anything: a tensor is never lost without a word."""
    try:
        return function(*arguments)
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError):
        return _strange("is put together as no tensor is; copy or save the file again")


def _strange(problem: str, *_: Any) -> StoredTensor:
    def read() -> Tensor:
        raise ValueError(problem)

    return StoredTensor(read, problem=problem)


def _same(data: StoredTensor, *_: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise TypeError("no tensor")
    return data


class _Type(Stateful):
    """A numpy dtype of plain numbers: `f4` and its like, and the order of their bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"[biufc]\d{1,2}", code):
            raise ValueError("no type of numbers")
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        """A version, then the order."""
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(Stateful):
    """A numpy array, in which some devices' tensors are kept."""

    state: Any = None

    def set_state(self, state: Any) -> None:
        """A version, then shape, type, whether columns come first, and the bytes."""
        self.state = state


def _from_array(array: _Array, dtype: Inert, *_: Any) -> StoredTensor:
    return _numbers(array, _TYPES[dtype.name])


def _numbers(array: _Array, dtype: torch.dtype) -> StoredTensor:
    _, shape, kind, columns, content = array.state
    if not is_shape(shape) or math.prod(shape) * kind.dtype.itemsize != len(content):
        raise ValueError("no array")

    def read() -> Tensor:
        numbers = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if columns else "C")
        return torch.from_numpy(numbers.astype(kind.dtype.newbyteorder("="))).to(dtype)

    return StoredTensor(read, dtype, tuple(shape))


def as_tensor(value: Any) -> StoredTensor | None:
    """A tensor as it is, and a numpy array of numbers as one of float32, by which masks lose nothing; None for else."""
    if isinstance(value, _Array):
        return _whole(_numbers, value, torch.float32)
    return value if isinstance(value, StoredTensor) else None
