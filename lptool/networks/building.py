"""Networks by name: timm's, ours, and a user's own callable."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lptool.device import import_timm
from lptool.errors import ArchError, first_line, near_miss
from lptool.scoring.batchnorm import in_eval_mode

timm = import_timm()


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
        model = _call(build, _accepted(build, wanted), optional=tuple(named))
    except Exception as error:  # a user's own code may raise anything
        raise ArchError(f"architecture {arch!r} cannot be built with {wanted}: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ArchError(f"architecture {arch!r} gives a {type(model).__name__}, expected a torch.nn.Module")
    return model


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


def _accepted(build: Callable[..., nn.Module], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the signature takes; all of them where it takes `**kwargs`."""
    parameters = inspect.signature(build).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(wanted)
    return {name: value for name, value in wanted.items() if name in parameters}


def check_forward(model: nn.Module, image_shape: tuple[int, int, int], num_classes: int, arch: str) -> int:
    """Try the network, on the CPU, on two black images; gives the number of its logits.

    Raises:
        ArchError: it cannot take them, or has fewer logits than there are classes.
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
