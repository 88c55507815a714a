"""Writing tickets: one safetensors file, dense with exact zeros or packed, never half-written."""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from lptool.errors import LptoolError, OutputError, first_ten
from lptool.masks import State, sparsity
from lptool.packed import LAYOUT_KEY, PackError, pack
from lptool.tickets import Ticket

# Types to keep the weights of a packed file in, by the name that an option gives them.
VALUES = {"bf16": torch.bfloat16, "fp16": torch.float16}

_Found = TypeVar("_Found")


def save_ticket(ticket: Ticket, path: str | Path) -> None:
    """Write a ticket as one `.safetensors` that timm and plain safetensors load without lptool.

    The tensors are the state's and the extras, pruned weights exactly 0, under the names that the ticket's own program
    gives them; the header holds `format` = `pt` and the `lptool` document. The file appears whole or not at all; an
    existing one is replaced.

    Raises:
        OutputError: the file cannot be written.
    """
    check_finite(ticket, path)
    write_tensors(ticket.tensors(), _header(ticket), path)


def save_packed(ticket: Ticket, path: str | Path, values: str | None = None) -> None:
    """Write a ticket as one small `.safetensors` with kept weights and their positions alone: see `lptool.packed`.

    Args:
        values: `bf16` or `fp16` keeps packed weights in that type; None keeps them to the bit.

    Raises:
        OutputError: the file cannot be written, or a weight does not fit the type.
    """
    check_finite(ticket, path)
    try:
        write_tensors(*_packed(ticket, values), path)
    except PackError as error:
        raise OutputError(f"{path}: not written: {error}") from error


@dataclass(frozen=True)
class Form:
    """How a ticket is written: dense, or packed with its weights to the bit or in a shorter type (see `VALUES`)."""

    packed: bool = False
    values: str | None = None

    def save(self, ticket: Ticket, path: str | Path) -> None:
        """Write a ticket in this form. Raises OutputError."""
        if self.packed:
            save_packed(ticket, path, self.values)
        else:
            save_ticket(ticket, path)


DENSE = Form()


@dataclass(frozen=True)
class Sizes:
    """Bytes of the files that a ticket makes: dense, packed, and the dense one through gzip."""

    dense: int
    packed: int
    gzip: int


def sizes_of(ticket: Ticket) -> Sizes:
    """What the files would weigh. Writes none. Raises PackError where a packed one cannot be."""
    dense = _as_file(ticket.tensors(), _header(ticket))
    compressed = gzip.compress(dense, compresslevel=6)
    return Sizes(len(dense), len(_as_file(*_packed(ticket, None))), len(compressed))


def _packed(ticket: Ticket, values: str | None) -> tuple[State, dict[str, str]]:
    mask = {ticket.own_names.get(name, name): kept.cpu() for name, kept in ticket.mask.items()}
    tensors, layout = pack(plain_tensors(ticket.tensors()), mask, VALUES[values] if values else None)
    return tensors, {**_header(ticket), LAYOUT_KEY: layout}


def _header(ticket: Ticket) -> dict[str, str]:
    return {"format": "pt", "lptool": ticket.metadata.to_json(sparsity(ticket.mask))}


def check_finite(ticket: Ticket, path: str | Path) -> None:
    """Refuse, before anything is written, a ticket with NaN or infinite values. Raises OutputError."""
    broken = [n for n, t in ticket.state.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if broken:
        raise OutputError(f"{path}: not written, because {first_ten(broken, ', ')} holds NaN or infinite values")


def plain_tensors(tensors: Mapping[str, Tensor]) -> State:
    """On the CPU; cloned, because safetensors refuses tensors that share memory; contiguous, as it refuses strides."""
    return {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}


def write_tensors(tensors: Mapping[str, Tensor], header: Mapping[str, str], path: str | Path) -> None:
    """Write a safetensors file whole or not at all. Raises OutputError."""
    plain = plain_tensors(tensors)

    def write(temporary: Path) -> None:
        save_file(plain, temporary, dict(header))
        with open(temporary, "r+b") as stream:
            _sort_metadata(stream)

    write_atomically(path, write)


def _as_file(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """What `write_tensors` would write."""
    stream = io.BytesIO(save(plain_tensors(tensors), dict(header)))
    _sort_metadata(stream)
    return stream.getvalue()


def _sort_metadata(stream: IO[bytes]) -> None:
    """Put a safetensors header's metadata in order of its keys: the library writes them in a random one."""
    length = int.from_bytes(stream.read(8), "little")
    document = json.loads(stream.read(length))
    document["__metadata__"] = dict(sorted(document["__metadata__"].items()))
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    stream.seek(8)
    stream.write(text.ljust(length))


def write_atomically(path: str | Path, write: Callable[[Path], _Found]) -> _Found:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it.

    Returns:
        What `write` does.

    Raises:
        OutputError: the file cannot be written.
        LptoolError: that `write` raises, as it is; then nothing appears.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        temporary = Path(name)
        found = write(temporary)
        temporary.chmod(0o666 & ~umask())  # mkstemp's are private; a result is an ordinary file
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        return found
    except LptoolError:
        raise
    except Exception as error:  # safetensors has an error type of its own for a full disk
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{path}: cannot be written ({reason}); choose another place or free some space") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def umask() -> int:
    """Permissions that this process takes from what it makes."""
    current = os.umask(0)
    os.umask(current)
    return current


def check_output(
    path: str | Path, inputs: Iterable[str | Path], *, overwrite: bool, suffix: str = ".safetensors"
) -> None:
    """Refuse, before any work, an output that is an input, exists, or cannot be written. Raises OutputError."""
    path = Path(path)
    if path.suffix != suffix:
        raise OutputError(f"{path}: expected a name that ends in {suffix}, which is what is written")
    try:
        if any(path.resolve() == Path(given).resolve() for given in inputs):
            raise OutputError(f"{path}: is also an input; choose another output")
        if os.path.lexists(path) and not overwrite:
            raise OutputError(f"{path}: exists; choose another output or add --overwrite")
        nearest = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir():
            raise IsADirectoryError
        tempfile.TemporaryFile(dir=nearest).close()  # asking is surer than reading permission bits
    except OSError as error:
        raise OutputError(f"{path}: cannot be written; choose a file in a folder that you may write to") from error
