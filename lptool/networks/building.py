"""Networks by name: timm's, ours, and a user's own callable."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registering

from lptool.device import import_timm
from lptool.errors import ArchError, first_line, near_miss, one_line
from lptool.scoring.batchnorm import in_eval_mode

timm = import_timm()

Shapes = Mapping[str, tuple[int, ...]]  # of the tensors of a file

# How far a network may go beyond the file that it is built for, before it is known not to fit: a file's header says
# what is built, and whoever wrote it may ask for anything.
Limits = Mapping[str, tuple[int, int]]  # times those of the file, and so many more; modules: times its tensors
LOOSE: Limits = {"tensors": (4, 2_000), "modules": (50, 20_000), "elements": (4, 1 << 26)}
TIGHT: Limits = {"tensors": (2, 50), "modules": (10, 200), "elements": (2, 1 << 20)}  # where many are tried
_LARGEST = 1 << 16  # of a number among the arguments, unless the file has a larger side
_ARGUMENTS = 10_000


def build_for(arch: str, kwargs: Mapping[str, Any], shapes: Shapes, limits: Limits = LOOSE) -> nn.Module:
    """As `build_model`, but a network that is far larger than the file it is for is refused as soon as that is seen.

    Args:
        arch, kwargs: as a file may say them. shapes: of the tensors of that file. limits: of what is built.

    Raises:
        ArchError: likewise, or as `build_model`.
    """
    largest = max((_LARGEST, *(side for shape in shapes.values() for side in shape)))
    numbers = list(_numbers(kwargs))
    beyond = next((number for number in numbers if not abs(number) <= largest), None)
    if beyond is not None or len(numbers) > _ARGUMENTS:
        found = f"{len(numbers):,} numbers" if beyond is None else f"{beyond:g}"
        raise ArchError(
            f"architecture {arch!r} is asked for with {found} among its arguments, which no file of {len(shapes):,} "
            "tensors can need; check its header"
        )
    with _no_larger_than(shapes, limits):
        return build_model(arch, **kwargs)


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in an argument, in whatever it is packed."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(inner)


@contextmanager
def _no_larger_than(shapes: Shapes, limits: Limits) -> Iterator[None]:
    """Meanwhile what builds more tensors, modules or elements than a network for this file can have is stopped."""
    of_file = {"tensors": len(shapes), "modules": len(shapes), "elements": sum(map(math.prod, shapes.values()))}
    most = {what: of_file[what] * times + more for what, (times, more) in limits.items()}
    counts = dict.fromkeys(most, 0)

    def count(what: str, added: int) -> None:
        counts[what] += added
        if counts[what] > most[what]:
            raise ArchError(
                f"it has more than {most[what]:,} {what}, and its file {len(shapes):,} tensors; check its header"
            )

    def on_tensor(_: nn.Module, __: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            count("tensors", 1)
            count("elements", tensor.numel())

    handles = (
        registering.register_module_parameter_registration_hook(on_tensor),
        registering.register_module_buffer_registration_hook(on_tensor),
        registering.register_module_module_registration_hook(lambda *_: count("modules", 1)),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def build_model(arch: str, /, num_classes: int | None = None, in_chans: int | None = None, **kwargs: Any) -> nn.Module:
    """Build a network, with random weights from torch's global generator.

    Args:
        arch: a timm name (those of `lptool.networks` included), `module:callable` or `file.py:callable`. The
            callable is given `num_classes` and `in_chans` where its signature takes them.
        num_classes, in_chans: of the data set; None leaves the architecture's own.
        kwargs: passed on to the architecture, whatever their names.

    Raises:
        ArchError: no such architecture, or it cannot be built with these arguments.
    """
    build = _own(arch) if ":" in arch else _from_timm(arch)
    named = {"num_classes": num_classes, "in_chans": in_chans}
    wanted = {**{name: value for name, value in named.items() if value is not None}, **kwargs}
    try:
        model = _call(build, _accepted(build, wanted, tuple(named)), optional=tuple(named))
    except Exception as error:  # a user's own code may raise anything
        shown = one_line(str(wanted))[:200]
        raise ArchError(f"architecture {arch!r} cannot be built with {shown}: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ArchError(f"architecture {arch!r} gives a {type(model).__name__}, expected a torch.nn.Module")
    _make_one(model)
    return model


def _make_one(model: nn.Module) -> None:
    """Make one tensor of those that share their memory element by element.

    Such ones are loaded as one, but would be two after a move to another device or memory layout.
    """
    known: dict[object, Tensor] = {}
    for module in model.modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in tables:
            for name, tensor in tensors.items():
                if type(tensor) in (Tensor, nn.Parameter) and tensor.numel():
                    place = tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()
                    tensors[name] = known.setdefault((type(tensor), tensor.dtype, place), tensor)


def _from_timm(arch: str) -> Callable[..., nn.Module]:
    if not timm.is_model(arch):
        in_file = f" Say what to call in the file, as {arch}:Net." if arch.endswith(".py") else None
        raise ArchError(
            f"unknown architecture {arch!r}: expected a timm name, module:callable or file.py:callable."
            + (in_file or near_miss(arch, timm.list_models()))
        )
    return functools.partial(timm.create_model, arch)


def _own(arch: str) -> Callable[..., nn.Module]:
    source, _, name = arch.rpartition(":")  # at the last colon: a path on Windows has one of its own
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


def _accepted(build: Callable[..., nn.Module], wanted: Mapping[str, Any], optional: Sequence[str]) -> dict[str, Any]:
    """The arguments, without those `optional` ones that the signature does not take. Raises TypeError for others."""
    parameters = inspect.signature(build).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(wanted)
    foreign = [name for name in wanted if name not in parameters]
    for name in foreign:
        if name not in optional:
            raise TypeError(f"it takes no argument {name!r}, but {', '.join(parameters) or 'none'}")
    return {name: value for name, value in wanted.items() if name not in foreign}


def check_forward(model: nn.Module, image_shape: tuple[int, int, int], num_classes: int, arch: str) -> None:
    """Try the network, on the CPU, on two black images. Raises ArchError where it cannot take them or lacks classes."""
    try:
        with torch.inference_mode(), in_eval_mode(model):
            logits = model(torch.zeros(2, *image_shape))
    except Exception as error:  # a user's own code may raise anything
        reason = first_line(error)
        raise ArchError(f"architecture {arch!r} cannot take images of {list(image_shape)}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 2 or logits.shape[1] < num_classes:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ArchError(f"architecture {arch!r} gives {shape} for 2 images, expected logits of {num_classes} classes")


def prunable_weights(model: nn.Module, prune: str) -> tuple[str, ...]:
    """Names of the weights that pruning may touch: of convolutions (`conv`), or of linear layers too (`all`)."""
    kinds: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if prune == "all":
        kinds = (*kinds, nn.Linear)
    first = {id(tensor): name for name, tensor in model.named_parameters()}  # layers may share one
    found = [first.get(id(module.weight)) for module in model.modules() if isinstance(module, kinds)]
    return tuple(dict.fromkeys(name for name in found if name is not None))
