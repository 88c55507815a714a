"""What `torch.save` writes, as a zip file or in the format before it: a pickle, and the bytes of its tensors.

The pickle is read by `pickles`, which runs nothing. Tensors are read when asked for, those of an optimizer never.
"""

from __future__ import annotations

import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lptool.checkpoints.files import LazyTensors, OpenedFile, check_memory, reading
from lptool.checkpoints.pickles import unpickle
from lptool.checkpoints.stored import Rebuilder, StoredTensor
from lptool.errors import CheckpointError, first_line, one_line

ZIP = b"PK\x03\x04"  # how a zip file begins
HEADER_RECORD = "lptool.json"  # beside the pickle: what lptool says of a file; torch passes over it
_KIND = "PyTorch checkpoint"
_MAGIC = 0x1950A86A20F9469CFC6C  # the first of the pickles in the format before zip
_LOCAL_HEADER = 30  # bytes before the name of a record in a zip file


def read_torch(path: Path) -> tuple[Any, OpenedFile]:
    """What a checkpoint holds: plain containers, `StoredTensor`s, and `Inert` for all else. Raises CheckpointError."""
    file = OpenedFile(path)
    with reading(path, _KIND), file.stream() as stream:
        start = stream.read(len(ZIP))
        stream.seek(0)
        return (_in_zip(file, stream) if start == ZIP else _before_zip(file, stream)), file


def header_in(file: OpenedFile) -> dict[str, str]:
    """The `lptool` document of a file that lptool wrote, as in the header of a safetensors file; else nothing.

    Raises:
        CheckpointError: it is damaged.
    """
    with reading(file.path, _KIND), file.stream() as stream:
        if stream.read(len(ZIP)) != ZIP:
            return {}
        records = _records(file, stream)
        found = next((record for name, record in records.items() if name.rpartition("/")[2] == HEADER_RECORD), None)
        return {} if found is None else {"lptool": _content(file, found).decode()}


class TorchTensors(LazyTensors):
    """The tensors of a state dict in a checkpoint of PyTorch's, each read from disk when asked for."""

    def __init__(self, names: dict[str, StoredTensor], file: OpenedFile) -> None:
        """Raises CheckpointError where one cannot be read, or all together take more memory than file and machine."""
        for name, stored in names.items():
            if stored.problem:
                raise CheckpointError(f"{file.path}: {one_line(name)} {stored.problem}")
        if (claimed := sum(stored.nbytes for stored in names.values())) > file.stamp.size:
            check_memory(claimed, f"{file.path}: its tensors")  # such as one number repeated a billion times
        self.names = self._stored = names
        self._file = file

    def dtype_of(self, name: str) -> torch.dtype:
        """As the pickle has it."""
        return self._stored[name].dtype

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Likewise."""
        return self._stored[name].shape

    def __getitem__(self, name: str) -> Tensor:
        stored = self._stored[name]
        with reading(self._file.path, _KIND):
            return stored.read()


def tensors_of(state: dict[str, Any], file: OpenedFile) -> TorchTensors:
    """The tensors of a state dict; a counter or a module's extra state may stand among them."""
    with reading(file.path, _KIND):
        "".join(state).encode()  # no half characters
    return TorchTensors({name: value for name, value in state.items() if isinstance(value, StoredTensor)}, file)


def _in_zip(file: OpenedFile, stream: IO[bytes]) -> Any:
    records = _records(file, stream)
    if any(name.endswith("/archive_format") for name in records):
        raise CheckpointError(
            f"{file.path}: a program of torch.export, which torch alone runs: "
            f"torch.export.load({file.path.name!r}).module(); name the file that it was made of"
        )
    pickles = [name for name in records if name.rpartition("/")[2] == "data.pkl"]
    if not pickles:
        raise CheckpointError(f"{file.path}: a zip file that torch.save did not write; expected a PyTorch checkpoint")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in records:
        raise CheckpointError(
            f"{file.path}: a TorchScript archive, which needs its own code to load; save its weights alone: "
            f"torch.save(torch.jit.load({file.path.name!r}).state_dict(), 'weights.pth')"
        )
    order = records.get(f"{folder}byteorder")
    if order is not None and _content(file, order) != b"little":
        raise CheckpointError(f"{file.path}: written on a machine with another byte order; save it again on this kind")
    rebuilder = Rebuilder(file, lambda key: _place(file, records[f"{folder}data/{key}"]))
    return unpickle(BytesIO(_content(file, records[pickles[0]])), rebuilder.known, rebuilder.persistent)


def _records(file: OpenedFile, stream: IO[bytes]) -> dict[str, zipfile.ZipInfo]:
    """By name. Torch stores them as they are: one that claims to be larger than the file would be a trap."""
    try:
        found = zipfile.ZipFile(stream).infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{file.path}: a damaged zip file ({first_line(error)}); copy it again") from error
    if sum(record.file_size for record in found) > file.stamp.size:
        raise CheckpointError(f"{file.path}: its records claim more bytes than the file has; copy it again")
    return {record.filename: record for record in found}


def _place(file: OpenedFile, record: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of a record begin in the file, and how many there are."""
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
        raise ValueError(f"{record.filename} is compressed or encrypted, which torch.save never does")
    header = file.content(record.header_offset, _LOCAL_HEADER)
    name, extra = struct.unpack("<HH", header[26:30])
    return record.header_offset + _LOCAL_HEADER + name + extra, record.file_size


def _content(file: OpenedFile, record: zipfile.ZipInfo) -> bytes:
    return file.content(*_place(file, record))


def _before_zip(file: OpenedFile, stream: IO[bytes]) -> Any:
    """Five pickles, then the storages that the last one lists: of each how many elements, and their bytes."""
    places: dict[str, tuple[int, int]] = {}
    rebuilder = Rebuilder(file, places.__getitem__)

    def following() -> Any:
        return unpickle(stream, rebuilder.known, rebuilder.persistent)

    if following() != _MAGIC:
        raise CheckpointError(
            f"{file.path}: a pickle that torch.save did not write; in the program that wrote it, save the weights "
            "alone: torch.save(model.state_dict(), 'weights.pth')"
        )
    following(), following()  # the version and the machine
    content, keys = following(), following()
    position = stream.tell()
    for key in keys:
        size = rebuilder.storages[key].dtype.itemsize * int.from_bytes(file.content(position, 8), "little")
        places[key] = position + 8, size
        position += 8 + size
    return content
