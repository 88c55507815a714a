"""Files as they were opened, and tensors that are read from them when asked for.

What is read later is compared with what was opened: a search that reads its tickets again and again must not mix two
states of a file, and nothing is mapped into memory, because a file that is cut off would then end the process.
"""

from __future__ import annotations

import hashlib
import io
import math
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lptool.checkpoints.regular import CHANGED, Stamp, open_regular
from lptool.device import free_memory
from lptool.errors import CheckpointError, LptoolError, first_line, one_line

_ALWAYS_THERE = 16 << 20  # bytes that are taken without a look at what is free, which reads a dozen system files
_CHUNK = 1 << 20
_MOST_DIMENSIONS = 64  # of a tensor: torch computes with no more


class OpenedFile:
    """A regular file, open for reading. What is read is of the file as it was opened, or a CheckpointError.

    Who reads does so within `reading`, as the system may refuse at any time.
    """

    def __init__(self, path: str | Path) -> None:
        """Open it. Raises CheckpointError where it cannot be read, or is none."""
        self.path = Path(path)
        with reading(path):
            self._stream = open_regular(path)
            weakref.finalize(self, self._stream.close)
            self.stamp = Stamp.of(self._stream)

    def content(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on."""
        return self.tensor(offset, count).numpy().tobytes()

    def tensor(self, offset: int, count: int) -> Tensor:
        """The same as uint8 [count]."""
        if offset < 0 or count < 0 or offset + count > self.stamp.size:
            raise CheckpointError(f"{self.path}: ends before byte {offset + count}; copy or export it again")
        check_memory(count, str(self.path))
        found = torch.empty(count, dtype=torch.uint8)
        self._stream.seek(offset)
        left = memoryview(found.numpy().data)
        while left and (taken := self._stream.readinto(left)):  # some systems give at most 2 GiB at a time
            left = left[taken:]
        self.check(self.stamp)
        return found

    @contextmanager
    def stream(self) -> Iterator[IO[bytes]]:
        """All of it, from the beginning."""
        self._stream.seek(0)
        buffered = io.BufferedReader(self._stream)
        try:
            yield buffered
        finally:
            buffered.detach()  # which would close the file
        self.check(self.stamp)

    def sha256(self) -> str:
        """Hex digest of all its bytes."""
        digest = hashlib.sha256()
        with reading(self.path), self.stream() as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def check(self, expected: Stamp) -> None:
        """Raises CheckpointError where the file is not, or no longer, in this state."""
        if Stamp.of(self._stream) != expected:
            raise changed(self.path)


def content_of(path: Path) -> bytes:
    """All of a small file. Raises OSError, also where it is no regular one."""
    with open_regular(path) as file:
        return file.read()


def changed(file: str | Path) -> CheckpointError:
    """The refusal of a file that is no longer what it was when it was read first."""
    return CheckpointError(f"{file}: {CHANGED}")


@contextmanager
def reading(file: str | Path, kind: str = "checkpoint") -> Iterator[None]:
    """The boundary of all that reads a file: whatever a library raises on its content becomes a CheckpointError."""
    try:
        yield
    except LptoolError:
        raise
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error}); check the name") from error
    except Exception as error:
        raise CheckpointError(
            f"{file}: not a whole {kind} ({one_line(first_line(error))}); copy or export it again"
        ) from error


def check_memory(wanted: int, what: str) -> None:
    """Raises CheckpointError, before anything is allocated, where so many bytes are more than there are."""
    if wanted > _ALWAYS_THERE and wanted > (free := free_memory()) > 0:
        raise CheckpointError(
            f"{what}: would take {wanted / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free; is it damaged?"
        )


def is_shape(sides: Any) -> bool:
    """Whether torch can make a tensor of it: up to 64 dimensions, and strides of 63 bits, even where a side is 0."""
    listed = isinstance(sides, list | tuple) and len(sides) <= _MOST_DIMENSIONS
    sound = listed and all(type(side) is int and side >= 0 for side in sides)
    return sound and math.prod(max(1, side) for side in sides) < 1 << 63


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, each read only when asked for. A subclass says the names, in order, and reads one."""

    names: Collection[str]

    def dtype_of(self, name: str) -> torch.dtype:
        """The type of one; a subclass that knows it without reading says so."""
        return self[name].dtype

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of one; likewise."""
        return tuple(self[name].shape)

    def __contains__(self, name: object) -> bool:  # a Mapping's own would read the tensor
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
