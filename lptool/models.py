"""Networks by name: timm's, ours, and a user's own callable; whether they fit a file, and which one a file is of."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lptool.checkpoints import load_ticket
from lptool.device import import_timm
from lptool.dialects import unwrapped
from lptool.errors import ArchError, first_line, first_ten, near_miss
from lptool.masks import State
from lptool.networks import OWN_ARCHS
from lptool.recalibrate import in_eval_mode
from lptool.tickets import Metadata, Ticket

timm = import_timm()


def build_model(arch: str, num_classes: int | None = None, in_chans: int | None = None, **kwargs: Any) -> nn.Module:
    """Build a network, with random weights from torch's global generator.

    Args:
        arch: a timm name (those of `lptool.networks` included), `module:callable` or `file.py:callable`. The
            callable is given `num_classes` and `in_chans` where its signature takes them.
        num_classes, in_chans: of the data set; None leaves the architecture's own.
        kwargs: passed on to the architecture.

    Raises:
        ArchError: no such architecture, or it cannot be built with these arguments.
    """
    build = _own(arch) if ":" in arch else _from_timm(arch)
    named = {"num_classes": num_classes, "in_chans": in_chans}
    wanted = {**{name: value for name, value in named.items() if value is not None}, **kwargs}
    try:
        model = _call(build, _accepted(build, wanted), optional=tuple(named))
    except Exception as error:  # a user's own code may raise anything
        raise ArchError(f"architecture {arch!r} cannot be built with {wanted}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ArchError(f"architecture {arch!r} gives a {type(model).__name__}, expected a torch.nn.Module")
    return model


def _from_timm(arch: str) -> Callable[..., nn.Module]:
    if not timm.is_model(arch):
        raise ArchError(
            f"unknown architecture {arch!r}: expected a timm name, module:callable or file.py:callable."
            + (
                f" Say what to call in the file, as {arch}:Net."
                if arch.endswith(".py")
                else near_miss(arch, timm.list_models())
            )
        )
    return functools.partial(timm.create_model, arch)


def _own(arch: str) -> Callable[..., nn.Module]:
    source, _, name = arch.rpartition(":")
    is_file = source.endswith(".py")
    # as `python -m` and `python file.py` would find what the user's code imports
    beside = str(Path(source).resolve().parent) if is_file else os.getcwd()
    sys.path.insert(0, beside)
    try:
        module = _module_of_file(Path(source)) if is_file else importlib.import_module(source)
        found = getattr(module, name)
    except Exception as error:  # a user's own code may raise anything
        raise ArchError(f"architecture {arch!r}: cannot import {name!r} from {source!r} ({error})") from error
    finally:
        sys.path.remove(beside)
    if not callable(found):
        raise ArchError(f"architecture {arch!r}: {name!r} is a {type(found).__name__}, expected a class or function")
    return found  # type: ignore[no-any-return]


def _module_of_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"lptool_arch_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up there
    spec.loader.exec_module(module)
    return module


def _call(build: Callable[..., nn.Module], arguments: dict[str, Any], optional: tuple[str, ...]) -> nn.Module:
    """Build, without those of the `optional` arguments that a `**kwargs` took in but the network does not know."""
    try:
        return build(**arguments)
    except TypeError as error:
        unknown = next((name for name in optional if name in arguments and f"'{name}'" in str(error)), None)
        if unknown is None:
            raise
    return _call(build, {name: value for name, value in arguments.items() if name != unknown}, optional)


def _accepted(build: Callable[..., nn.Module], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the signature takes; all of them where it takes `**kwargs`."""
    parameters = inspect.signature(build).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(wanted)
    return {name: value for name, value in wanted.items() if name in parameters}


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
        if name in own and tuple(state[own[name]].shape) != shape
    ]
    if problems:
        count = f"{len(problems)} tensor{'s' * (len(problems) > 1)}"
        raise ArchError(
            f"{file}: does not fit architecture {arch!r} ({count}); name the right one with --arch:\n  "
            + first_ten(problems)
        )
    return {name: own[name] for name in shapes if name in own}


def _carried(foreign: Mapping[str, tuple[int, ...]], modules: set[str]) -> set[str]:
    """Of the tensors a network lacks, those that no layer can be missed for.

    They belong to a module that the network lacks altogether, and are all small, as the mean and standard deviation
    of a normalising layer are, or a single vector, as the class weights of a loss are.
    """
    found: set[str] = set()
    for module in {name.partition(".")[0] for name in foreign} - modules:
        names = [name for name in foreign if name.partition(".")[0] == module]
        small = all(math.prod(foreign[name]) <= 16 for name in names)
        if small or (len(names) == 1 and len(foreign[names[0]]) == 1):
            found.update(names)
    return found


def check_forward(model: nn.Module, image_shape: tuple[int, int, int], num_classes: int, arch: str) -> int:
    """Try the network, on the CPU, on two black images. Raises ArchError where it cannot take them or lacks classes.

    Returns:
        How many classes it tells apart.
    """
    try:
        with torch.inference_mode(), in_eval_mode(model):
            logits = model(torch.zeros(2, *image_shape))
    except Exception as error:  # a user's own code may raise anything
        reason = first_line(error)
        raise ArchError(f"architecture {arch!r} cannot take images of {list(image_shape)}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 2 or logits.shape[1] < num_classes:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ArchError(f"architecture {arch!r} gives {shape} for 2 images, expected logits of {num_classes} classes")
    return logits.shape[1]


def prunable_weights(model: nn.Module, prune: str) -> tuple[str, ...]:
    """Names of the weights that pruning may touch: of convolutions (`conv`), or of linear layers too (`all`)."""
    kinds: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if prune == "all":
        kinds = (*kinds, nn.Linear)
    return tuple(f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds))


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
    """
    ticket = load_ticket(path)
    name, kwargs = arch or told_arch(ticket.metadata, str(path)), ticket.metadata.arch_kwargs
    if name is None:
        name, kwargs, _ = guess_arch(ticket.shapes, str(path))
    model = build_model(name, **kwargs)
    model.load_state_dict(fitted_state(model, ticket, name))
    return model.to(device).eval()


def told_arch(metadata: Metadata, file: str) -> str | None:
    """The architecture that a header says; None where it says none.

    Raises:
        ArchError: it says `module:callable` or `file.py:callable`. Whoever wrote the file chose that; code is run only
            where the user names it.
    """
    arch = metadata.arch
    if arch is not None and ":" in arch:
        raise ArchError(
            f"{file}: says that its architecture is the code {arch!r}, which is run only if you name it: --arch {arch}"
        )
    return arch


def fitted_state(model: nn.Module, ticket: Ticket, arch: str) -> State:
    """The weights of a ticket under the names of a network of the architecture `arch`. Raises ArchError."""
    return ticket.renamed(fit_names(model, ticket.shapes, arch, ticket.file)).state


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
    """An architecture in which every tensor has its name and shape.

    Ours are tried first, then those of the timm families that name their weights alike, short names first. The first
    that fits is taken: others may have the same tensors and compute something else, so say what was guessed.

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
