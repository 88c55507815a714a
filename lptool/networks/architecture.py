"""Which architecture a file is of: as named, as the file says, else guessed; and that one with its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.names import Names
from lptool.checkpoints.reading import load_ticket
from lptool.errors import ArchError, one_line, said_by
from lptool.networks.building import LOOSE, TIGHT, Limits, Shapes, build_for, timm
from lptool.networks.cifar import OWN_ARCHS
from lptool.networks.matching import fit_names, fitted_ticket
from lptool.networks.pretrained import describe_network
from lptool.provenance import arch_name
from lptool.scoring.weights import put_weights


def architecture_of(
    metadata: Metadata, shapes: Shapes, file: str, named: str | None, given: Mapping[str, Any]
) -> tuple[str, dict[str, Any], list[str]]:
    """Name, arguments, and a line where the file's header does not say them.

    Args:
        metadata: of the file. shapes: plain name → shape, of its tensors. file: for messages.
        named: by the user; None where they did not. given: arguments, likewise, over those of the file.

    Raises:
        ArchError: no architecture known has these tensors, or it is code that the user did not name.
    """
    if named:
        # Arguments in a header are those of the architecture in it, and of no other.
        return named, {**(metadata.arch_kwargs if _same(named, metadata) else {}), **given}, []
    arch = arch_in_header(metadata, file)
    if arch:
        return arch, {**metadata.arch_kwargs, **given}, []
    kwargs, hint = {**classes_and_channels(shapes), **given}, metadata.hint
    if hint and timm.is_model(hint) and _fits(hint, kwargs, shapes, file):
        evidence = f"all {len(shapes)} tensors have its names and shapes"
        return hint, kwargs, [f"{file}: notes that it is {hint}; taken for one, because {evidence}"]
    arch, kwargs, evidence = guess_arch(shapes, file, given)
    return arch, kwargs, [f"{file}: does not say its architecture; guessed {arch}, because {evidence}"]


def _same(named: str, metadata: Metadata) -> bool:
    """Whether a header says the architecture that is named, in whatever folder its file lies."""
    return arch_name(named) == arch_name(metadata.arch or "")


def arch_in_header(metadata: Metadata, file: str) -> str | None:
    """The architecture that a header says; None where it says none.

    Raises:
        ArchError: it says `module:callable` or `file.py:callable`. Whoever wrote the file chose that; code is run only
            where the user names it.
    """
    arch = metadata.arch
    if arch is not None and ":" in arch:
        raise ArchError(
            f"{file}: says that its architecture is the code {arch!r}, which is run only if you name it: "
            f"--arch {one_line(arch)}"
        )
    return arch


# How the families of timm name one of their first weights, and the names to try for a file that has it.
_FAMILIES = {
    "layer1.0.conv1.weight": ("resnet*", "resnext*", "wide_resnet*", "seresnet*", "ecaresnet*", "res2net*"),
    "features.0.weight": ("vgg*",),
    "features.denseblock1.denselayer1.conv1.weight": ("densenet*",),
    "conv_stem.weight": ("efficientnet*", "mobilenet*", "mnasnet*", "tf_efficientnet*", "fbnet*"),
    "blocks.0.attn.qkv.weight": ("vit_*", "deit*"),
    "stages.0.blocks.0.conv_dw.weight": ("convnext*",),
    "stages.0.0.conv_dw.weight": ("convnext*", "mobilenetv4*"),
}


def guess_arch(shapes: Shapes, file: str, given: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any], str]:
    """An architecture whose tensors have exactly these names and shapes.

    Our own networks are tried first, then the timm families that name their weights in this way, short names first. The
    first that fits is taken. Another one may have the same tensors and compute something else, so callers warn of it.

    Args:
        shapes: plain name → shape.
        file: for the message.
        given: arguments besides.

    Returns:
        The name, its arguments, `num_classes` and `in_chans` as the tensors have them, and the evidence in words.

    Raises:
        ArchError: none fits.
    """
    kwargs = {**classes_and_channels(shapes), **(given or {})}
    ends = {name[place:] for name in shapes for place in _starts(name)}  # a file's names may have a prefix
    patterns = [p for marker, found in _FAMILIES.items() if marker in ends for p in found]
    names = sorted({name for p in patterns for name in timm.list_models(p)}, key=lambda n: (len(n), n))
    candidates = [*OWN_ARCHS, *(name for name in names if name not in OWN_ARCHS)]
    arch = next((name for name in candidates if _fits(name, kwargs, shapes, file)), None)
    if arch is None:
        raise ArchError(
            f"{file}: does not say its architecture, and none known has its tensors; name it with --arch (a timm name, "
            "module:callable or file.py:callable)"
        )
    return arch, kwargs, f"all {len(shapes)} tensors have its names and shapes"


def _starts(name: str) -> list[int]:
    """Where the first three words of a name begin."""
    return [0, *(found.end() for found in re.finditer(r"\.", name))][:3]


def check_fit(arch: str, kwargs: Mapping[str, Any], shapes: Shapes, file: str, limits: Limits = LOOSE) -> Names:
    """As `fit_names`, of an architecture. Raises ArchError where it lacks a tensor, or has it in another shape."""
    # Names and shapes alone: many candidates are tried, and none needs memory for its weights.
    with torch.device("meta"):
        return fit_names(build_for(arch, kwargs, shapes, limits), shapes, arch, file)


def _fits(arch: str, kwargs: Mapping[str, Any], shapes: Shapes, file: str) -> bool:
    try:
        check_fit(arch, kwargs, shapes, file, TIGHT)
    except ArchError:
        return False
    return True


def classes_and_channels(shapes: Shapes) -> dict[str, int]:
    """`num_classes` and `in_chans`: rows of the last linear layer's weight, inputs of the first convolution's."""
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    weights = [shape for name, shape in matrices.items() if name.endswith("weight")]  # and no confusion matrix
    classes = [10, *(shape[0] for shape in weights or matrices.values())][-1]
    channels = next((shape[1] for shape in shapes.values() if len(shape) == 4), 3)
    return {"num_classes": classes, "in_chans": channels}


def load_model(
    path: str | Path,
    device: str | torch.device = "cpu",
    arch: str | None = None,
    arch_kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The network of a ticket or pooled model, with its weights, in eval mode.

    Args:
        path: a checkpoint, dense or packed, or a folder with one.
        device: where to put it.
        arch: for a file that does not say its architecture, or says code of your own, which is run only where you
            name it.
        arch_kwargs: arguments of the architecture, over those that the file says.

    Raises:
        ArchError: the architecture is unknown or does not fit the file.
        CheckpointError: the file cannot be read.

    >>> import lptool
    >>> from lptool.checkpoints.metadata import Metadata
    >>> model = lptool.networks.building.build_model("resnet8_cifar", num_classes=10, in_chans=1)
    >>> metadata = Metadata(arch="resnet8_cifar", arch_kwargs={"num_classes": 10, "in_chans": 1})
    >>> lptool.save_ticket(lptool.Ticket(model.state_dict(), {}, metadata), "level_00.safetensors")
    >>> lptool.load_model("level_00.safetensors")(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    ticket = load_ticket(path)
    name, kwargs, _ = architecture_of(ticket.metadata, ticket.shapes, str(path), arch, arch_kwargs or {})
    if arch and not _same(arch, ticket.metadata):  # of which the file says nothing
        kwargs = {**classes_and_channels(ticket.shapes), **kwargs}
    with said_by(None if arch else str(path)):
        model = build_for(name, kwargs, ticket.shapes)
    fitted = fitted_ticket(model, ticket, name)
    put_weights(model, fitted.state, fitted.mask)
    describe_network(model, replace(fitted, metadata=replace(ticket.metadata, arch=name, arch_kwargs=kwargs)))
    return model.to(device).eval()
