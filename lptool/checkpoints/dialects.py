"""How other programs name weights and masks. Each dialect is a row of `_MASKS`, or a small function of a file's names.

A layout says for each tensor of the network, under its plain name, which tensor of the file holds the weight and
which the mask.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lptool.checkpoints.stored import StoredTensor, as_tensor
from lptool.errors import CheckpointError

# What follows the common part of a mask's name, and of its weight's; of several that fit, the last counts.
_MASKS = (
    ("_mask", "_orig"),  # torch.nn.utils.prune and the published Lottery Pools code; the weight is the product
    ("_mask", ""),  # a mask named after its tensor
    (".mask", ""),  # likewise
    (".mask", ".weight"),  # TurboPrune: the module's buffer `mask` beside its `weight`
    (".parametrizations.weight.0.mask", ".parametrizations.weight.original"),  # a parametrization that keeps its mask
)
# torch.ao.pruning before squash_mask(), whose masks lie in the state of the sparsifier.
_PARAMETRIZED = re.compile(r"\.parametrizations\.(\w+)\.original$")
# Prefixes that wrappers put before every name: DDP and DataParallel, torch.compile, Lightning and other trainers.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
# Wrappers of a part of a network, which no module is called by itself: torch.compile, activation checkpointing, FSDP.
_INNER = re.compile(r"(?<![^.])(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")


@dataclass(frozen=True)
class Entry:
    """Where one tensor of the network lies in the file: names of its weight and, where there is one, its mask."""

    weight: str
    mask: str | None = None


Layout = dict[str, Entry]


def layout_of(names: Collection[str]) -> Layout:
    """The layout of a file, from its names alone, in the order of the file."""
    masks = {
        name: f"{base}{weight}"
        for suffix, weight in _MASKS
        for name in names
        if name.endswith(suffix) and f"{(base := name.removesuffix(suffix))}{weight}" in names
    }
    of_weight = {weight: mask for mask, weight in masks.items()}
    layout = {}
    for name in names:
        if name not in masks:
            layout[_unpruned(name) if name in of_weight else name] = Entry(name, of_weight.get(name))
    return layout


def _unpruned(weight: str) -> str:
    """The name of a weight that has a mask, as it is without pruning."""
    return _PARAMETRIZED.sub(r".\1", weight).removesuffix("_orig")


def with_masks(layout: Layout, masks: Collection[str], prefix: str) -> Layout:
    """With masks by weight name, added to the tensors under `prefix`, for the weights that have none beside them."""
    maskless = {name for name in masks if layout[name].mask is None}
    return {
        _unpruned(name) if name in maskless else name: Entry(entry.weight, f"{prefix}{name}")
        if name in maskless
        else entry
        for name, entry in layout.items()
    }


def unwrapped(names: Collection[str]) -> dict[str, str]:
    """Name without the prefixes of wrappers → name as given.

    A prefix, or several one after the other, is taken off where most names have it and no two names become equal. Names
    without it, such as the weights of a Lightning module's loss, stay as they are. Wrappers within a name go too.
    """
    plain = {_INNER.sub("", name): name for name in names}
    if len(plain) < len(names):
        plain = {name: name for name in names}
    while True:
        for prefix in _WRAPPERS:
            stripped = {short.removeprefix(prefix): full for short, full in plain.items()}
            bearing = sum(short.startswith(prefix) for short in plain)
            if 2 * bearing > len(plain) and len(stripped) == len(plain) and "" not in stripped:
                plain = stripped  # and from the first prefix on again: wrappers come in any order
                break
        else:
            return plain


def masks_by_weight(found: Any, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, StoredTensor], list[str]]:
    """The masks of weights, and the names of those that belong to none.

    Args:
        found: masks by the name of the weight or its module, perhaps with `mask` at its end, in one another as the
            modules are; or a list in the order of the weights.
        shapes: name → shape of all that may have a mask.
    """
    if isinstance(found, list | tuple):
        return _in_order(found, shapes), []
    given = {name: mask for name, value in _flat(found) if (mask := as_tensor(value)) is not None}
    masks, strange = {}, []
    for name, own in unwrapped(given).items():
        weight = next((weight for weight in _weights_of(name) if weight in shapes), None)
        if weight is None:
            strange.append(own)
        else:
            masks[weight] = given[own]
    return masks, strange


def _flat(found: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in found.items() if isinstance(found, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _weights_of(name: str) -> Iterator[str]:
    """What a mask of this name may be the mask of."""
    for base in (name, re.sub(r"[._]mask$", "", name)):
        module, _, weight = base.rpartition(".")
        yield from (base, f"{base}.weight", f"{module}.parametrizations.{weight}.original")


def _in_order(found: Sequence[Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, StoredTensor]:
    """Masks in the order of the weights, where there is one for each and all have their shapes; else none."""
    masks = [as_tensor(value) for value in found]
    matrices = [name for name, shape in shapes.items() if len(shape) > 1]
    named = [name for name in shapes if name.endswith("weight")]  # with those of BatchNorm
    for names in (matrices, named, list(shapes)):
        pairs = list(zip(names, masks, strict=False))
        if len(names) == len(masks) and all(m is not None and m.shape == shapes[n] for n, m in pairs):
            return {name: mask for name, mask in pairs if mask is not None}
    return {}


def read_mask(tensors: Mapping[str, Tensor], entry: Entry, shape: tuple[int, ...], file: str) -> Tensor:
    """The mask of an entry as bool. Raises CheckpointError where it has another shape or values but 0 and 1."""
    assert entry.mask is not None
    mask = tensors[entry.mask]
    if tuple(mask.shape) != shape:
        raise CheckpointError(
            f"{file}: mask {entry.mask} is {list(mask.shape)}, expected {list(shape)} as {entry.weight} is"
        )
    if mask.dtype != torch.bool:
        strange = mask[(mask != 0) & (mask != 1)]
        if strange.numel():
            raise CheckpointError(
                f"{file}: mask {entry.mask} has {strange.numel()} values other than 0 and 1, such as "
                f"{strange.flatten()[0].item():g}; is it a score and not a mask?"
            )
    return mask != 0
