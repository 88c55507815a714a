"""Whether a network fits a file, which one a file is of, and that one with its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

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

    Names are compared without the prefixes of wrappers on either side, and without a prefix that one side alone has.
    Small tensors of a module that the network lacks, such as the mean and standard deviation of a normalising layer,
    and what a loss or a metric keeps, are left out; they are the file's own. Counters of BatchNorm may be missing, as
    torch makes them anew.

    Args:
        model: the network.
        shapes: plain name → shape, of the file.
        arch: its name, for the message. file: likewise.

    Raises:
        ArchError: lists what differs, ten at most.
    """
    state = model.state_dict()
    own = unwrapped(state)
    names = _paired(own, shapes)
    found, foreign = set(names.values()), [name for name in shapes if name not in names]
    missing = [plain for plain, full in own.items() if full not in found and not full.endswith(_COUNTER)]
    problems = [f"{name}: missing in the file" for name in missing]
    carried = _carried({name: shapes[name] for name in foreign}, {name.partition(".")[0] for name in names})
    problems += [f"{name}: unexpected in the file" for name in foreign if name not in carried]
    problems += [
        f"{name}: expected {list(state[full].shape)}, found {list(shapes[name])}"
        for name, full in names.items()
        if tuple(state[full].shape) != shapes[name]
    ]
    if problems:
        count = f"{len(problems)} tensor{'s' * (len(problems) > 1)}"
        masked = any(".parametrizations." in name for name in foreign)
        hint = "\n(parametrizations by torch.ao.pruning: call sparsifier.squash_mask() before saving)" * masked
        raise ArchError(
            f"{file}: does not fit architecture {arch!r} ({count}); name the right one with --arch:\n  "
            + first_ten(problems)
            + hint
        )
    return names


_COUNTER = "num_batches_tracked"


def _paired(own: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Name in the file → the network's: without wrappers or a prefix where all pair then, else as they are."""
    wanted = {full for full in own.values() if not full.endswith(_COUNTER)}
    as_they_are = {name: own[name] for name in shapes if name in own}
    inner = {_without_module(plain): full for plain, full in own.items()}
    theirs = {_without_module(name): name for name in shapes}
    if wanted <= set(as_they_are.values()) or len(inner) < len(own) or len(theirs) < len(shapes):  # two become one
        return as_they_are
    for mine, other in _prefixes(list(inner), list(theirs)):
        short = {plain.removeprefix(mine): name for plain, name in theirs.items() if plain.startswith(mine)}
        pairs = {name: inner[other + plain] for plain, name in short.items() if other + plain in inner}
        if wanted <= set(pairs.values()):
            return pairs
    return as_they_are


def _without_module(name: str) -> str:
    """Without the wrapper of a part of the network: DataParallel calls what it wraps `module`."""
    return ".".join(part for part in name.split(".") if part != "module")


def _prefixes(own: Sequence[str], theirs: Sequence[str]) -> list[tuple[str, str]]:
    """What the file's names, or else the network's, may have before the others': by the network's first weight."""
    first = own[0] if own else ""
    longer = [name.removesuffix(first) for name in theirs if name.endswith(f".{first}")]
    shorter = [first.removesuffix(name) for name in theirs if first.endswith(f".{name}")]
    return [("", ""), *((prefix, "") for prefix in longer[:_TRIED]), *(("", prefix) for prefix in shorter[:_TRIED])]


_TRIED = 5  # prefixes; more than one or two are there only by chance
# What trainers keep beside a network, by a word of the module's name or by the last word of the tensors'.
_BESIDE = re.compile(r"(.*_)?(criterion|loss|losses|metrics?|acc|accuracy|ema)(_.*|\d*)")
_COUNTED = {"tp", "fp", "tn", "fn", "confmat", "correct", "total", "n_averaged", "preds", "target"}


def _carried(foreign: Mapping[str, tuple[int, ...]], modules: set[str]) -> set[str]:
    """Of the tensors that a network lacks, those that cannot be weights of one of its layers, and so may be left out.

    Such tensors belong to a module that the network lacks altogether. They are all small, as the mean and standard
    deviation of a normalising layer are, or a single vector, as the class weights of a loss are, or are called what
    trainers call losses, metrics and their counts.
    """
    inside: dict[str, list[str]] = {}
    for name in foreign:
        inside.setdefault(name.partition(".")[0], []).append(name)
    found: set[str] = set()
    for module, names in inside.items():
        small = all(math.prod(foreign[name]) <= 16 for name in names)
        vector = len(names) == 1 and len(foreign[names[0]]) == 1
        beside = _BESIDE.fullmatch(module) or all(name.rpartition(".")[2] in _COUNTED for name in names)
        if module not in modules and (small or vector or beside):
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
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    weights = [shape for name, shape in matrices.items() if name.endswith("weight")]  # and no confusion matrix
    classes = [10, *(shape[0] for shape in weights or matrices.values())][-1]
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
