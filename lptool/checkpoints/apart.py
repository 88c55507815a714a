"""Masks that a program keeps apart from its weights: in a dictionary or list of the file, or in a file beside it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lptool.checkpoints.containers import Contents, Joined
from lptool.checkpoints.dialects import Layout, layout_of, masks_by_weight, unwrapped, with_masks
from lptool.checkpoints.files import OpenedFile
from lptool.checkpoints.finding import MASK_FILE
from lptool.checkpoints.nested import HELP, Keys
from lptool.checkpoints.stored import StoredTensor
from lptool.checkpoints.torch_file import read_torch, tensors_of
from lptool.errors import CheckpointError, first_ten, one_line

_BESIDE, _WITHIN = f"{MASK_FILE}:", "masks:"  # what the names of such masks begin with
_OPEN_LTH = re.compile(r"model_ep\d+_it\d+\.pth")


def with_masks_apart(path: Path, contents: Contents, keys: Keys) -> tuple[Contents, Layout]:
    """The layout of a file, with masks that it keeps apart from its weights, and those in a file beside it."""
    layout = layout_of(contents.tensors.keys())
    if contents.masks is not None:
        contents, layout = _with_masks_within(path, contents, layout, contents.masks, named=keys.mask is not None)
    beside = path.with_name(MASK_FILE)
    if contents.format == "torch" and path.name != MASK_FILE and beside.is_file() and keys.mask is None:
        contents, layout = _with_masks_beside(path, contents, layout, beside)
    return contents, layout


def _with_masks_within(
    path: Path, contents: Contents, layout: Layout, found: tuple[str, Any], *, named: bool
) -> tuple[Contents, Layout]:
    """With masks of a dictionary or list; what fits no weight is left aside with a note, unless the user named it."""
    place, value = one_line(found[0]), found[1]
    masks, strange = masks_by_weight(value, _shapes_by_plain_name(contents, layout))
    if masks and not strange:
        return _adding(contents, layout, masks, _WITHIN, contents.files[0])
    if masks or named:
        lacking = (
            f"has masks for {one_line(first_ten(strange, ', '))}, which are no weights of it" if strange else "no masks"
        )
        raise CheckpointError(f"{path}: {lacking} at `{place}`; say where with --mask-key, {HELP}")
    note = f"what lies at `{place}` fits no weights, and is not used as masks"
    return replace(contents, notes=(*contents.notes, note)), layout


def _with_masks_beside(path: Path, contents: Contents, layout: Layout, beside: Path) -> tuple[Contents, Layout]:
    """With OpenLTH's `mask.pth`. Beside another program's file one of another network is left aside with a note."""
    try:
        masks, file = read_torch(beside)
        if not isinstance(masks, dict) or not masks or not all(isinstance(m, StoredTensor) for m in masks.values()):
            raise CheckpointError(f"{beside}: expected masks by weight name, as OpenLTH writes them")
        by_weight, absent = masks_by_weight(masks, _shapes_by_plain_name(contents, layout))
        if absent:
            raise CheckpointError(f"{beside}: has masks for {first_ten(absent, ', ')}, which {path.name} lacks")
    except CheckpointError as error:
        if _OPEN_LTH.fullmatch(path.name):
            raise
        return replace(contents, notes=(*contents.notes, f"{error.text}; not used")), layout
    contents, layout = _adding(contents, layout, by_weight, _BESIDE, file)
    return replace(contents, files=(*contents.files, file)), layout


def _shapes_by_plain_name(contents: Contents, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Of all that may have a mask."""
    tensors = contents.tensors
    weights = {plain: layout[own].weight for plain, own in unwrapped(layout).items()}
    return {n: tensors.shape_of(weight) for n, weight in weights.items() if tensors.dtype_of(weight).is_floating_point}


def _adding(
    contents: Contents, layout: Layout, masks: Mapping[str, StoredTensor], prefix: str, file: OpenedFile
) -> tuple[Contents, Layout]:
    """With masks by plain weight name, that lie in `file`, among the tensors."""
    own_names = unwrapped(layout)
    own = {own_names[name]: mask for name, mask in masks.items()}
    added = tensors_of({f"{prefix}{name}": mask for name, mask in own.items()}, file)
    tensors = Joined({name: found for found in (contents.tensors, added) for name in found})
    return replace(contents, tensors=tensors), with_masks(layout, own, prefix)


def source_of(masks: Collection[str]) -> str:
    """Where masks of these names lie: `masks`, `mask.pth`, or `mask tensors` among the weights."""
    sources = {next((part for part in (_BESIDE, _WITHIN) if name.startswith(part)), "mask tensors:") for name in masks}
    return sources.pop().removesuffix(":") if len(sources) == 1 else "mask tensors"
