"""Writing tickets, never half-written: one safetensors file, dense with exact zeros or packed, or one for `prune`."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from lptool.checkpoints.masks import State, sparsity
from lptool.checkpoints.packed import LAYOUT_KEY, PackedTensors, PackError, pack
from lptool.checkpoints.places import write_atomically
from lptool.checkpoints.reading import weights_in_file
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.torch_file import HEADER_RECORD
from lptool.errors import OutputError, first_ten

# Types to keep the weights of a packed file in, by the name that an option gives them.
VALUES = {"bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}


def save_ticket(ticket: Ticket, path: str | Path, *, replace: bool = True) -> None:
    """Write a ticket as one `.safetensors` that timm and plain safetensors load without lptool.

    The tensors are the state's and the extras, pruned weights exactly 0, under the names that the ticket's own program
    gives them; the header holds `format` = `pt` and the `lptool` document. The file appears whole or not at all.

    Args:
        replace: a file that is there.

    Raises:
        OutputError: the file cannot be written or must not be replaced, or a weight is not finite.

    >>> import lptool
    >>> ticket = lptool.Ticket({"w": torch.tensor([[3.0, 0.0]])}, {"w": torch.tensor([[True, False]])})
    >>> lptool.save_ticket(ticket, "level_01.safetensors")
    >>> lptool.load_ticket("level_01.safetensors").state
    {'w': tensor([[3., 0.]])}
    """
    check_finite(ticket, path)
    write_tensors(ticket.tensors(), _header(ticket), path, replace=replace)


def save_packed(ticket: Ticket, path: str | Path, values: str | None = None, *, replace: bool = True) -> None:
    """Write a ticket as one small `.safetensors` with kept weights and their positions alone: see `packed`.

    Args:
        values: `bf16`, `fp16` or `int8` keeps packed weights in that type; None keeps them to the bit.
        replace: a file that is there.

    Raises:
        OutputError: the file cannot be written or must not be replaced, or a weight is not finite or does not fit the
            type.

    >>> import lptool, os
    >>> weights = torch.zeros(100, 100)
    >>> weights[0] = 1.0
    >>> ticket = lptool.Ticket({"w": weights}, {"w": weights != 0})
    >>> lptool.save_ticket(ticket, "dense.safetensors")
    >>> lptool.save_packed(ticket, "packed.safetensors")
    >>> os.path.getsize("packed.safetensors") < os.path.getsize("dense.safetensors") / 10
    True
    """
    check_finite(ticket, path)
    try:
        write_tensors(*_packed(ticket, values), path, replace=replace)
    except PackError as error:
        raise OutputError(f"{path}: not written: {error}") from error


def save_prune_keys(ticket: Ticket, path: str | Path, *, replace: bool = True) -> None:
    """Write a ticket as a state dict with `X_orig` and `X_mask` in place of every masked tensor `X`.

    The names are those that the ticket's own program gives, pruned weights are exactly 0 in `X_orig` too, and `X_mask`
    holds 0 and 1 in the type of the weight. So a network on whose modules `prune.identity` was called loads it with
    `strict`. What the header of a safetensors file says stands in a record beside the pickle. The file appears whole or
    not at all.

    Args:
        replace: a file that is there.

    Raises:
        OutputError: the file cannot be written or must not be replaced.
    """
    check_finite(ticket, path)
    tensors = plain_tensors(_prune_tensors(ticket))

    # In memory: zipfile begins anew, without the tensors, where it cannot read the file that it is to add to.
    made = io.BytesIO()
    torch.save(tensors, made)
    with zipfile.ZipFile(made, "a") as archive:  # a record of its own, which torch.load passes over
        record = zipfile.ZipInfo(f"archive/{HEADER_RECORD}")  # of no date, so that the bytes are always the same
        archive.writestr(record, _header(ticket)["lptool"])
    write_atomically(path, lambda draft: draft.write_bytes(made.getbuffer()), replace=replace)


@dataclass(frozen=True)
class Form:
    """How a ticket is written: dense, or packed with its weights to the bit or in a shorter type (see `VALUES`).

    Attributes:
        most: how many bytes the file may have; None for any number.
    """

    packed: bool = False
    values: str | None = None
    most: int | None = None

    def save(self, ticket: Ticket, path: str | Path, *, replace: bool = True) -> None:
        """Write a ticket in this form. Raises OutputError."""
        if self.most is not None:
            _check_size(self.most, self.size, ticket, path)
        if self.packed:
            save_packed(ticket, path, self.values, replace=replace)
        else:
            save_ticket(ticket, path, replace=replace)

    def size(self, ticket: Ticket) -> int:
        """The bytes of the file that a ticket makes. Writes none. Raises PackError where it cannot be packed."""
        if self.packed:
            return len(_as_file(*_packed(ticket, self.values)))
        return len(_as_file(ticket.tensors(), _header(ticket)))

    def __str__(self) -> str:
        """As a person reads it.

        >>> str(Form(packed=True, values="int8"))
        'packed, int8'
        """
        return ", ".join(["packed" if self.packed else "dense", *([self.values] if self.values else [])])

    def as_read(self, ticket: Ticket) -> Ticket:
        """A ticket with the weights that will be read from the file. Raises PackError."""
        if not self.values:
            return ticket
        tensors, header = _packed(ticket, self.values)
        read = PackedTensors.of(tensors, header[LAYOUT_KEY], ticket.file)
        shortened = {name: read[ticket.own_names.get(name, name)] for name in ticket.state}
        return dataclasses.replace(ticket, state=shortened)

    def weights(self, ticket: Ticket) -> str:
        """The digest, by `digest`, of the weights as they will be read from the file. Raises PackError."""
        return self.digest(weights_in_file(self.as_read(ticket)))

    def digest(self, weights: str) -> str:
        """Of the digest of what was read from a file and, where that was shortened, of the type."""
        return hashlib.sha256(f"{weights} {self.values}".encode()).hexdigest() if self.values else weights


DENSE = Form()


@dataclass(frozen=True)
class Sizes:
    """Bytes of the files that a ticket makes."""

    dense: int
    packed: int


def _check_size(most: int, size: Callable[[Ticket], int], ticket: Ticket, path: str | Path) -> None:
    """Refuse a file of more bytes than `most`. Raises OutputError."""
    try:
        found = size(ticket)
    except PackError as error:
        raise OutputError(f"{path}: not written: {error}") from error
    if found > most:
        raise OutputError(f"{path}: not written, because it would have {found:,} bytes, expected {most:,} at most")


def forms_from_whole(form: Form) -> list[Form]:
    """The forms that a file may be given, from the least shortened: all, or those that go with what `form` says.

    fp16 comes before bf16, which takes as many bytes, because it keeps three more bits of each weight.

    >>> [str(each) for each in forms_from_whole(Form(packed=True))]
    ['packed', 'packed, fp16', 'packed, bf16', 'packed, int8']
    """
    if form.values:
        return [form]
    packed = [Form(True, values, form.most) for values in (None, "fp16", "bf16", "int8")]
    return packed if form.packed else [form, *packed]


def sizes_of(ticket: Ticket) -> Sizes:
    """What the files would weigh. Writes none. Raises PackError where a packed one cannot be."""
    return Sizes(DENSE.size(ticket), Form(packed=True).size(ticket))


def _packed(ticket: Ticket, values: str | None) -> tuple[State, dict[str, str]]:
    mask = {name: kept.cpu() for name, kept in ticket.mask_in_file().items()}
    tensors, layout = pack(plain_tensors(ticket.tensors()), mask, VALUES[values] if values else None)
    return tensors, {**_header(ticket), LAYOUT_KEY: layout}


def _prune_tensors(ticket: Ticket) -> State:
    """All tensors of a ticket under its own program's names, in their order, a mask after its weight."""
    masks, tensors = ticket.mask_in_file(), ticket.tensors()
    found: State = {}
    for name, tensor in tensors.items():
        # A network that has such a mask of its own has its names already.
        if name in masks and f"{name.removesuffix('_orig')}_mask" not in tensors:
            found |= {f"{name}_orig": tensor, f"{name}_mask": masks[name].to(tensor.dtype)}
        else:
            found[name] = tensor
    return found


def _header(ticket: Ticket) -> dict[str, str]:
    return {"format": "pt", "lptool": ticket.metadata.to_json(sparsity(ticket.mask))}


def check_finite(ticket: Ticket, path: str | Path) -> None:
    """Refuse, before anything is written, a ticket with NaN or infinite values. Raises OutputError."""
    broken = [n for n, t in ticket.state.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if broken:
        of = f" of {ticket.file}" if ticket.file != Ticket.file else ""
        raise OutputError(f"{path}: not written, because {first_ten(broken, ', ')}{of} holds NaN or infinite values")


def plain_tensors(tensors: Mapping[str, Tensor]) -> State:
    """On the CPU; cloned, because safetensors refuses tensors that share memory; contiguous, as it refuses strides."""
    return {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}


def write_tensors(
    tensors: Mapping[str, Tensor], header: Mapping[str, str], path: str | Path, *, replace: bool = True
) -> None:
    """Write a safetensors file whole or not at all. Raises OutputError."""
    plain = plain_tensors(tensors)

    def write(temporary: Path) -> None:
        save_file(plain, temporary, dict(header))
        with open(temporary, "r+b") as stream:
            _sort_metadata(stream)

    write_atomically(path, write, replace=replace)


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
    stream.write(text.ljust(length))  # spaces may follow a header, and so no tensor moves
