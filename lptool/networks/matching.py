"""Whether a network fits a file, which one a file is of, and that one with its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lptool.checkpoints.dialects import unwrapped
from lptool.checkpoints.masks import State
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.ticket import Ticket
from lptool.errors import ArchError, first_ten, one_line, said_by
from lptool.networks.building import build_model, timm
from lptool.networks.cifar import OWN_ARCHS


def fit_names(model: nn.Module, shapes: Mapping[str, tuple[int, ...]], arch: str, file: str) -> dict[str, str]:
    """The network's name for each plain name of a file.

    Names are compared without the prefixes of wrappers on either side. Small tensors of a module that the network
    lacks, such as the mean and standard deviation of a normalising layer, are left out; they are the file's own.

    Args:
        model: the network.
        shapes: plain name → shape, of the file.
        arch: its name, for the message. file: likewise.

    Raises:
        ArchError: lists what differs, ten at most.
    """
    state = model.state_dict()
    own = unwrapped(state)
    problems = [f"{name}: missing in the file" for name in own if name not in shapes]
    foreign = [name for name in shapes if name not in own]
    carried = _carried({name: shapes[name] for name in foreign}, {name.partition(".")[0] for name in own})
    problems += [f"{name}: unexpected in the file" for name in foreign if name not in carried]
    problems += [
        f"{name}: expected {list(state[own[name]].shape)}, found {list(shape)}"
        for name, shape in shapes.items()
        if name in own and not is_lazy(state[own[name]]) and tuple(state[own[name]].shape) != shape
    ]
    if problems:
        count = f"{len(problems)} tensor{'s' * (len(problems) > 1)}"
        raise ArchError(
            f"{file}: does not fit architecture {arch!r} ({count}); name the right one with --arch:\n  "
            + first_ten(problems)
        )
    return {name: own[name] for name in shapes if name in own}


def _carried(foreign: Mapping[str, tuple[int, ...]], modules: set[str]) -> set[str]:
    """Of the tensors that a network lacks, those that cannot be weights of one of its layers, and so may be left out.

    Such tensors belong to a module that the network lacks altogether. They are all small, as the mean and standard
    deviation of a normalising layer are, or a single vector, as the class weights of a loss are.
    """
    found: set[str] = set()
    for module in {name.partition(".")[0] for name in foreign} - modules:
        names = [name for name in foreign if name.partition(".")[0] == module]
        small = all(math.prod(foreign[name]) <= 16 for name in names)
        if small or (len(names) == 1 and len(foreign[names[0]]) == 1):
            found.update(names)
    return found


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


def guess_arch(shapes: Mapping[str, tuple[int, ...]], file: str) -> tuple[str, dict[str, int], str]:
    """An architecture whose tensors have exactly these names and shapes.

    Our own networks are tried first, then the timm families that name their weights in this way, short names first. The
    first that fits is taken. Another one may have the same tensors and compute something else, so callers warn of it.

    Args:
        shapes: plain name → shape.
        file: for the message.

    Returns:
        The name, `num_classes` and `in_chans` as the tensors have them, and the evidence in words.

    Raises:
        ArchError: none fits.
    """
    kwargs = classes_and_channels(shapes)
    patterns = [p for marker, found in _FAMILIES.items() if marker in shapes for p in found]
    names = sorted({name for p in patterns for name in timm.list_models(p)}, key=lambda n: (len(n), n))
    candidates = [*OWN_ARCHS, *(name for name in names if name not in OWN_ARCHS)]
    arch = next((name for name in candidates if _fits(name, kwargs, shapes, file)), None)
    if arch is None:
        raise ArchError(
            f"{file}: does not say its architecture, and none known has its tensors; name it with --arch (a timm name, "
            "module:callable or file.py:callable)"
        )
    return arch, kwargs, f"all {len(shapes)} tensors have its names and shapes"


def check_fit(arch: str, kwargs: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], file: str) -> None:
    """Refuse an architecture that lacks a tensor, or has it in another shape. Raises ArchError."""
    # Names and shapes alone: many candidates are tried, and none needs memory for its weights.
    with torch.device("meta"):
        fit_names(build_model(arch, **kwargs), shapes, arch, file)


def _fits(arch: str, kwargs: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], file: str) -> bool:
    try:
        check_fit(arch, kwargs, shapes, file)
    except ArchError:
        return False
    return True


def classes_and_channels(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """`num_classes` and `in_chans`: rows of the last linear layer's weight, inputs of the first convolution's."""
    classes = next((shape[0] for shape in list(shapes.values())[::-1] if len(shape) == 2), 10)
    channels = next((shape[1] for shape in shapes.values() if len(shape) == 4), 3)
    return {"num_classes": classes, "in_chans": channels}


def load_model(path: str | Path, device: str | torch.device = "cpu", arch: str | None = None) -> nn.Module:
    """The network of a ticket or pooled model, with its weights, in eval mode.

    Args:
        path: a checkpoint, dense or packed, or a folder with one.
        device: where to put it.
        arch: for a file that does not say its architecture, or says code of your own, which is run only where you
            name it.

    Raises:
        ArchError: the architecture is unknown or does not fit the file.
        CheckpointError: the file cannot be read.

    >>> import lptool
    >>> from lptool.checkpoints.metadata import Metadata
    >>> model = build_model("resnet8_cifar", num_classes=10, in_chans=1)
    >>> metadata = Metadata(arch="resnet8_cifar", arch_kwargs={"num_classes": 10, "in_chans": 1})
    >>> lptool.save_ticket(lptool.Ticket(model.state_dict(), {}, metadata), "level_00.safetensors")
    >>> lptool.load_model("level_00.safetensors")(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    ticket = load_ticket(path)
    name, kwargs = arch or arch_in_header(ticket.metadata, str(path)), ticket.metadata.arch_kwargs
    if name is None:
        name, kwargs, _ = guess_arch(ticket.shapes, str(path))
    with said_by(None if arch else str(path)):
        model = build_model(name, **kwargs)
    model.load_state_dict(fitted_state(model, ticket, name))
    return model.to(device).eval()


def fitted_state(model: nn.Module, ticket: Ticket, arch: str) -> State:
    """The weights of a ticket under the names of a network of the architecture `arch`. Raises ArchError."""
    return ticket.renamed(fit_names(model, ticket.shapes, arch, ticket.file)).state
