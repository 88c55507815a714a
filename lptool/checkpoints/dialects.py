"""How other programs name weights and masks. Each dialect is a row of `_MASKS`, or a small function of a file's names.

A layout says for each tensor of the network, under its plain name, which tensor of the file holds the weight and
which the mask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lptool.errors import CheckpointError

# What follows the common part of a mask's name, and of its weight's; of several that fit, the last counts.
_MASKS = (
    ("_mask", "_orig"),  # torch.nn.utils.prune and the published Lottery Pools code; the weight is the product
    ("_mask", ""),  # a mask named after its tensor
    (".mask", ""),  # likewise
    (".mask", ".weight"),  # TurboPrune: the module's buffer `mask` beside its `weight`
)
# Prefixes that wrappers put before every name: DDP and DataParallel, torch.compile, Lightning and other trainers.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


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
            plain = name.removesuffix("_orig") if name in of_weight else name
            layout[plain] = Entry(name, of_weight.get(name))
    return layout


def with_mask_file(layout: Layout, masks: Collection[str], prefix: str) -> Layout:
    """OpenLTH: masks by weight name in a file of their own, whose tensors were added under `prefix`."""
    maskless = [name for name in masks if name in layout and layout[name].mask is None]
    return layout | {name: Entry(layout[name].weight, f"{prefix}{name}") for name in maskless}


def unwrapped(names: Collection[str]) -> dict[str, str]:
    """Name without the prefixes of wrappers → name as given.

    A prefix, or several one after the other, is taken off where most names have it and no two names become equal. Names
    without it, such as the weights of a Lightning module's loss, stay as they are.
    """
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
