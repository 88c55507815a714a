"""Writing tickets: one safetensors file, dense with exact zeros or packed, never half-written."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from lptool.errors import OutputError, first_ten
from lptool.masks import State, apply_mask, sparsity
from lptool.packed import LAYOUT_KEY, PackError, pack
from lptool.tickets import Ticket

# Types to keep the weights of a packed file in, by the name that an option gives them.
VALUES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def save_ticket(ticket: Ticket, path: str | Path) -> None:
    """Write a ticket as one `.safetensors` that timm and plain safetensors load without lptool.

    The tensors are the state's and the extras, pruned weights exactly 0, under the names that the ticket's own program
    gives them; the header holds `format` = `pt` and the `lptool` document. The file appears whole or not at all; an
    existing one is replaced.

    Raises:
        OutputError: the file cannot be written.
    """
    _check_finite(ticket, path)
    write_tensors(dense_tensors(ticket), _header(ticket), path)


def save_packed(ticket: Ticket, path: str | Path, values: str | None = None) -> None:
    """Write a ticket as one small `.safetensors` with kept weights and their positions alone: see `lptool.packed`.

    Args:
        values: `bf16` or `fp16` keeps packed weights in that type; None keeps them to the bit.

    Raises:
        OutputError: the file cannot be written, or a weight does not fit the type.
    """
    _check_finite(ticket, path)
    try:
        write_tensors(*_packed(ticket, values), path)
    except PackError as error:
        raise OutputError(f"{path}: not written: {error}") from error


@dataclass(frozen=True)
class Sizes:
    """Bytes of the files that a ticket makes: dense, packed, and the dense one through gzip."""

    dense: int
    packed: int
    gzip: int


def sizes_of(ticket: Ticket) -> Sizes:
    """What the files would weigh. Writes none. Raises OutputError as `save_packed`."""
    dense = _sorted_metadata(save(_plain(dense_tensors(ticket)), _header(ticket)))
    tensors, header = _packed(ticket, None)
    return Sizes(len(dense), len(save(_plain(tensors), header)), len(gzip.compress(dense, compresslevel=6)))


def dense_tensors(ticket: Ticket) -> State:
    """All tensors of a ticket, extras too, under its own program's names; pruned weights exactly 0."""
    tensors = {**apply_mask(ticket.state, ticket.mask), **ticket.extras}
    return {ticket.own_names.get(name, name): t for name, t in tensors.items()}


def _packed(ticket: Ticket, values: str | None) -> tuple[State, dict[str, str]]:
    mask = {ticket.own_names.get(name, name): kept.cpu() for name, kept in ticket.mask.items()}
    tensors, layout = pack(_plain(dense_tensors(ticket)), mask, VALUES[values] if values else None)
    return tensors, {**_header(ticket), LAYOUT_KEY: layout}


def _header(ticket: Ticket) -> dict[str, str]:
    return {"format": "pt", "lptool": ticket.metadata.to_json(sparsity(ticket.mask))}


def _check_finite(ticket: Ticket, path: str | Path) -> None:
    broken = [n for n, t in ticket.state.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if broken:
        raise OutputError(f"{path}: not written, because {first_ten(broken, ', ')} holds NaN or infinite values")


def _plain(tensors: Mapping[str, Tensor]) -> State:
    """On the CPU; cloned, because safetensors refuses tensors that share memory; contiguous, as it refuses strides."""
    return {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}


def write_tensors(tensors: Mapping[str, Tensor], header: Mapping[str, str], path: str | Path) -> None:
    """Write a safetensors file whole or not at all. Raises OutputError."""
    plain = _plain(tensors)

    def write(temporary: Path) -> None:
        save_file(plain, temporary, dict(header))
        _sort_metadata(temporary)

    write_atomically(path, write)


def _sort_metadata(file: Path) -> None:
    with open(file, "r+b") as stream:
        start = stream.read(8)
        start = _sorted_metadata(start + stream.read(int.from_bytes(start, "little")))
        stream.seek(0)
        stream.write(start)


def _sorted_metadata(data: bytes) -> bytes:
    """Put a safetensors header's metadata in order of its keys: the library writes them in a random one."""
    end = 8 + int.from_bytes(data[:8], "little")
    document = json.loads(data[8:end])
    document["__metadata__"] = dict(sorted(document["__metadata__"].items()))
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    return data[:8] + text.ljust(end - 8) + data[end:]


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it. Raises OutputError."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o666 & ~umask())  # mkstemp's are private; a result is an ordinary file
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
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
