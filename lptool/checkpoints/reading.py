"""Checkpoints of any program as tickets: plain names, masked weights, one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lptool.checkpoints.apart import source_of, with_masks_apart
from lptool.checkpoints.containers import PACKED, Contents, open_file
from lptool.checkpoints.dialects import Entry, Layout, layout_of, read_mask, unwrapped
from lptool.checkpoints.files import OpenedFile, changed, reading
from lptool.checkpoints.finding import checkpoint_file, find_checkpoints
from lptool.checkpoints.header import whole_number
from lptool.checkpoints.masks import State
from lptool.checkpoints.metadata import Metadata, check_arguments
from lptool.checkpoints.nested import USUAL, Keys
from lptool.checkpoints.packed import PackedTensors
from lptool.checkpoints.pool import Pool
from lptool.checkpoints.summary import Summary, Tally, digest_of, digest_of_tensor
from lptool.checkpoints.ticket import Ticket
from lptool.errors import CheckpointError, first_ten, one_line


@dataclass(frozen=True)
class Checkpoint:
    """An opened file, read tensor by tensor under the plain names of the network.

    Attributes:
        own_names: plain name → name that the file's own program gives the (unpruned) tensor.
        prunable: names of the tensors with a mask.
        mask_source: `mask tensors`, `packed`, `masks` (a dictionary of them), `mask.pth`, `metadata` (zeros of the
            tensors named there), `zeros` or `none`.
        keys: where the user says that weights and masks lie.
    """

    path: Path
    contents: Contents
    metadata: Metadata
    layout: Layout
    own_names: dict[str, str]
    prunable: tuple[str, ...]
    mask_source: str
    keys: Keys = USUAL

    @cached_property
    def _pruned(self) -> frozenset[str]:
        return frozenset(self.prunable)

    def pair(self, name: str) -> tuple[Tensor, Tensor | None]:
        """A tensor of the network, pruned weights exactly 0, and its mask, bool; None where this file prunes none."""
        entry = self.layout[name]
        weight = self.contents.tensors[entry.weight]
        if _is_packed(self.contents, entry):
            return weight, self.contents.tensors[f"{entry.weight}.mask"]
        if name not in self._pruned:
            return weight, None
        if entry.mask is None:
            return weight, weight != 0  # no mask in the file: its zeros are one
        mask = read_mask(self.contents.tensors, entry, tuple(weight.shape), str(self.path))
        return torch.where(mask, weight, torch.zeros_like(weight)), mask

    def tensor(self, name: str) -> Tensor:
        """A tensor of the network; pruned weights are exactly 0."""
        return self.pair(name)[0]

    def mask(self, name: str) -> Tensor:
        """The mask of a tensor, bool; all kept where this file does not prune it."""
        weight, mask = self.pair(name)
        return torch.ones_like(weight, dtype=torch.bool) if mask is None else mask

    def ticket(self) -> Ticket:
        """The whole ticket, in memory."""
        pairs = {name: self.pair(name) for name in self.layout}
        state = {name: weight for name, (weight, _) in pairs.items()}
        mask = {name: found for name, (_, found) in pairs.items() if found is not None}
        return Ticket(state, mask, self.metadata, str(self.path), self.own_names)

    @property
    def summary(self) -> Summary:
        """What ordering and alignment need to know; reads each tensor once and keeps none."""
        tallies = {name: Tally.of(*self.pair(name)) for name in self.layout}
        return Summary(
            file=str(self.path),
            format=self.contents.format,
            metadata=self.metadata,
            tensors=tallies,
            prunable=self.prunable,
            mask_source=self.mask_source,
            sha256=self.contents.files[0].sha256(),
            weights=digest_of({name: tally.digest for name, tally in tallies.items()}),
            notes=self.contents.notes,
            files=tuple(str(file.path) for file in self.contents.files),
            stamps=self.contents.stamps,
            keys=self.keys,
        )


def open_checkpoint(path: str | Path, keys: Keys = USUAL) -> Checkpoint:
    """Open a checkpoint of any program that this module knows, by its content.

    The mask is, in this order: mask tensors in the file (`torch.nn.utils.prune`, TurboPrune, `X.mask`), a dictionary of
    masks in it, or one beside it (OpenLTH's `mask.pth`); the zeros of the tensors that our own header calls prunable;
    the zeros of the tensors of two or more dimensions that have any.

    Raises:
        CheckpointError: the file is missing, damaged, would have to execute code, or holds no state dict.
    """
    with reading(path):
        return _open_checkpoint(Path(path), keys)


def reopened(summary: Summary, zeros: Sequence[str] | None = None) -> Checkpoint:
    """The checkpoint of a summary again. Raises CheckpointError where its files are no longer those that were read.

    Args:
        zeros: names of the tensors that are prunable by their zeros, in a file without masks; None looks for them.
    """
    for file, stamp in zip(summary.files, summary.stamps, strict=False):
        OpenedFile(file).check(stamp)  # before all else: what was cut off is told as that, and not as damaged
    with reading(summary.file):
        checkpoint = _open_checkpoint(Path(summary.file), summary.keys, zeros)
    if checkpoint.contents.stamps != summary.stamps:
        raise changed(summary.file)
    return checkpoint


def _open_checkpoint(path: Path, keys: Keys, zeros: Sequence[str] | None = None) -> Checkpoint:
    contents, layout = with_masks_apart(path, open_file(path, keys), keys)
    metadata = _metadata_in(contents, path)
    plain = unwrapped(layout)
    layout = {name: layout[own] for name, own in plain.items()}
    prunable, source = _prunable(path, contents, layout, metadata, plain, zeros)
    for name in prunable:
        if not _is_packed(contents, layout[name]) and not _is_float(contents, layout[name]):
            raise CheckpointError(f"{path}: {name} has a mask but is not a floating-point tensor")
    return Checkpoint(path, contents, metadata, layout, plain, prunable, source, keys)


def _is_packed(contents: Contents, entry: Entry) -> bool:
    """Whether the file packs a tensor: its weights and mask are then sound as they come, and unpacking takes time."""
    return isinstance(contents.tensors, PackedTensors) and entry.weight in contents.tensors.layout


def metadata_of(path: Path) -> Metadata:
    """What a file says of itself; of safetensors only the header is read. Raises CheckpointError."""
    return _metadata_in(open_file(path), path)


def _metadata_in(contents: Contents, path: Path) -> Metadata:
    if "lptool" in contents.header:
        return Metadata.from_json(contents.header["lptool"], str(path))
    arch, arguments = contents.config.get("architecture"), contents.config.get("model_args")
    if not isinstance(arch, str):
        hint = contents.config.get("arch")
        return Metadata(hint=hint if isinstance(hint, str) else None)
    classes = contents.config.get("num_classes")
    kwargs = {} if whole_number(classes) is None else {"num_classes": classes}
    check_arguments(arguments, str(path))
    arguments = arguments if isinstance(arguments, dict) else {}
    return Metadata(arch=arch, arch_kwargs={**kwargs, **arguments}, timm_config=_of_weights(contents.config))


def _of_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's `config.json` says of the weights; the names of the classes stand above that, or within."""
    said = config.get("pretrained_cfg")
    said = said if isinstance(said, dict) else dict(config)  # older files have one object alone
    return {**said, "label_names": config.get("label_names", said.get("label_names"))}


def _prunable(
    path: Path,
    contents: Contents,
    layout: Layout,
    metadata: Metadata,
    own_names: Mapping[str, str],
    zeros: Sequence[str] | None,
) -> tuple[tuple[str, ...], str]:
    """Names of the tensors with a mask, and where the mask comes from."""
    # Our own header knows better: a network may keep masks where nothing is to be pruned.
    wanted = set(metadata.prunable or own_names.values())
    masked = tuple(n for n, entry in layout.items() if entry.mask and wanted & {n, own_names[n], entry.weight})
    if masked:
        if contents.format == PACKED:
            return masked, "packed"
        return masked, source_of([layout[name].mask or "" for name in masked])
    if metadata.prunable:
        # The header has the names of the file, from before the prefixes of wrappers were taken off.
        prunable, own = frozenset(metadata.prunable), frozenset(own_names.values())
        absent = [one_line(name) for name in metadata.prunable if name not in own]
        if absent:
            raise CheckpointError(f"{path}: the header calls {first_ten(absent, ', ')} prunable, but the file lacks it")
        return tuple(name for name, own_name in own_names.items() if own_name in prunable), "metadata"
    if zeros is None:
        floats = [(name, entry.weight) for name, entry in layout.items() if _is_float(contents, entry)]
        zeros = [name for name, weight in floats if _has_zeros(contents.tensors[weight])]
    return tuple(zeros), "zeros" if zeros else "none"


def _is_float(contents: Contents, entry: Entry) -> bool:
    return contents.tensors.dtype_of(entry.weight).is_floating_point


def _has_zeros(tensor: Tensor) -> bool:
    # A bias or a BatchNorm vector may be 0 without being pruned, as it is when training begins.
    return tensor.dim() >= 2 and bool((tensor == 0).any())


def load_ticket(path: str | Path, keys: Keys = USUAL) -> Ticket:
    """Read one checkpoint of any program, or the only one of a folder.

    Args:
        path: safetensors (dense, packed or sharded), or a PyTorch state dict, bare or nested; told apart by content.
        keys: where a PyTorch file has weights and masks, if lptool does not find them.

    Returns:
        The ticket: weights under the network's plain names, pruned ones exactly 0, and the mask. Where the mask comes
        from see `open_checkpoint`.

    Raises:
        CheckpointError: the file is missing, damaged, would have to execute code, or holds no state dict.

    >>> import lptool
    >>> torch.save({"conv.weight": torch.tensor([[1.5, 0.0], [0.0, 2.0]])}, "ticket.pt")
    >>> lptool.load_ticket("ticket.pt").mask
    {'conv.weight': tensor([[ True, False],
            [False,  True]])}
    """
    return open_checkpoint(checkpoint_file(path), keys).ticket()


def load_state_dict(path: str | Path) -> State:
    """The tensors of any checkpoint, dense or packed, or of a folder with one: dense, under its own program's names.

    Raises:
        CheckpointError: as `load_ticket`.

    >>> import lptool
    >>> torch.save({"state_dict": {"module.w": torch.ones(2), "module.b": torch.zeros(1)}, "epoch": 9}, "ticket.pt")
    >>> lptool.load_state_dict("ticket.pt")
    {'module.w': tensor([1., 1.]), 'module.b': tensor([0.])}
    """
    return load_ticket(path).tensors()


def summarise_file(path: str | Path, keys: Keys = USUAL) -> Summary:
    """Read one checkpoint tensor by tensor, and keep only its summary."""
    return open_checkpoint(path, keys).summary


def weights_in_file(ticket: Ticket) -> str:
    """The `weights` of the summary of the file that a ticket makes."""
    tensors = ticket.tensors()
    layout = layout_of(tensors)
    plain = unwrapped(layout)
    return digest_of({name: digest_of_tensor(tensors[layout[own].weight]) for name, own in plain.items()})


def load_pool(paths: str | Path | Sequence[str | Path], keys: Keys = USUAL) -> Pool:
    """The pool of the checkpoints at `paths`, ordered and aligned; weights are loaded when asked for.

    Args:
        paths: of two files or more, in any order, or of a folder that holds them: as `find_checkpoints`.
        keys: where PyTorch files have weights and masks, if lptool does not find them.

    Returns:
        The tickets by level where every file says one, else densest first.

    Raises:
        CheckpointError: a file cannot be read.
        PoolError: the tickets do not fit together; lists every mismatch.

    >>> import lptool
    >>> torch.save({"w": torch.tensor([[3.0, 0.0]])}, "sparse.pt")
    >>> torch.save({"w": torch.tensor([[1.0, 2.0]])}, "dense.pt")
    >>> pool = lptool.load_pool(["sparse.pt", "dense.pt"])
    >>> [(ticket.file, pool.density(place)) for place, ticket in enumerate(pool)]
    [('dense.pt', 1.0), ('sparse.pt', 0.5)]
    """
    summaries = [summarise_file(path, keys) for path in find_checkpoints(paths)]
    prunable = {summary.file: summary.prunable for summary in summaries}  # under the file's names, also for a network
    return Pool(summaries, lambda summary: reopened(summary, prunable[summary.file]).ticket())


def file_sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    return OpenedFile(path).sha256()
