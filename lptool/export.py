"""Writing tickets: one dense safetensors file with exact zeros, never half-written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lptool.errors import OutputError, first_ten
from lptool.masks import apply_mask, sparsity
from lptool.tickets import Ticket


def save_ticket(ticket: Ticket, path: str | Path) -> None:
    """Write a ticket as one `.safetensors` that timm and plain safetensors load without lptool.

    The tensors are the state's and the extras, pruned weights exactly 0, under the names that the ticket's own program
    gives them; the header holds `format` = `pt` and the `lptool` document. The file appears whole or not at all; an
    existing one is replaced.

    Raises:
        OutputError: the file cannot be written.
    """
    broken = [n for n, t in ticket.state.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if broken:
        raise OutputError(f"{path}: not written, because {first_ten(broken, ', ')} holds NaN or infinite values")
    header = {"format": "pt", "lptool": ticket.metadata.to_json(sparsity(ticket.mask))}
    tensors = {**apply_mask(ticket.state, ticket.mask), **ticket.extras}
    write_tensors({ticket.own_names.get(name, name): t for name, t in tensors.items()}, header, path)


def write_tensors(tensors: Mapping[str, Tensor], header: Mapping[str, str], path: str | Path) -> None:
    """Write a safetensors file whole or not at all. Raises OutputError."""
    # cloned, because save_file refuses tensors that share memory; contiguous, because it refuses strides
    plain = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}

    def write(temporary: Path) -> None:
        save_file(plain, temporary, dict(header))
        _sort_metadata(temporary)

    write_atomically(path, write)


def _sort_metadata(file: Path) -> None:
    """Put a safetensors header's metadata in order of its keys: the library writes them in a random one."""
    with open(file, "r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        document = json.loads(stream.read(length))
        document["__metadata__"] = dict(sorted(document["__metadata__"].items()))
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        stream.seek(8)
        stream.write(text.ljust(length))


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
        temporary.chmod(0o666 & ~_umask())  # mkstemp's are private; a result is an ordinary file
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:  # safetensors has an error type of its own for a full disk
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{path}: cannot be written ({reason}); choose another place or free some space") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
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
