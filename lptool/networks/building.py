"""Networks by name: timm's, ours, and a user's own callable."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as registering
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import is_parametrized

from lptool.device import import_timm
from lptool.errors import ArchError, first_line, near_miss, one_line

timm = import_timm()
_EXTRA = "_extra_state"  # torch's name for it in a state dict

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
    # What torch says of odd arguments names its own code, and no file; whether the network fits is told next.
    with warnings.catch_warnings(), _no_larger_than(shapes, limits):
        warnings.simplefilter("ignore")
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
            count("elements", 0 if is_lazy(tensor) else tensor.numel())

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
    _keep_extra_state(model)
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


def _keep_extra_state(model: nn.Module) -> None:
    """Let a network hold what its modules keep beside tensors (`get_extra_state`) to itself: files have tensors alone.

    So `state_dict` gives none of it, unless it is a tensor, and `load_state_dict` does not miss it.
    """
    plain = nn.Module.get_extra_state
    own = {f"{name}.{_EXTRA}".lstrip("."): m for name, m in model.named_modules() if type(m).get_extra_state != plain}
    if not own:
        return

    def give_tensors(_: nn.Module, state: dict[str, Any], prefix: str, *__: object) -> None:
        for name in own:
            if not isinstance(state.get(prefix + name), Tensor):
                state.pop(prefix + name, None)

    def take_tensors(_: nn.Module, state: dict[str, Any], prefix: str, *__: object) -> None:
        for name, module in own.items():
            if type(module).set_extra_state == nn.Module.set_extra_state:  # it takes none, and torch would refuse it
                state.pop(prefix + name, None)
            else:
                state.setdefault(prefix + name, module.get_extra_state())

    model.register_state_dict_post_hook(give_tensors)
    model.register_load_state_dict_pre_hook(take_tensors)


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


def prunable_weights(model: nn.Module, prune: str) -> tuple[str, ...]:
    """Names of the weights that pruning may touch: of convolutions (`conv`), or of linear layers too (`all`).

    Raises:
        ArchError: one of these layers has no weight of its own.
    """
    kinds: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if prune == "all":
        kinds = (*kinds, nn.Linear)
    first = {id(tensor): name for name, tensor in model.named_parameters()}  # layers may share one
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    weights = [module.get_parameter(_weight_of(module, name)) for name, module in layers.items()]
    return tuple(dict.fromkeys(first[id(weight)] for weight in weights))


def _weight_of(layer: nn.Module, name: str) -> str:
    """The parameter whose zeros are zeros of the layer's weight: that itself, or what spectral norm divides.

    Raises:
        ArchError: the weight is made in another way, as by weight norm, which has nothing to divide by where pruning
            leaves nothing of an output.
    """
    made_of = [*layer.get_submodule("parametrizations.weight").children()] if is_parametrized(layer, "weight") else []
    if "weight_orig" in layer._parameters and hasattr(layer, "weight_u"):
        return "weight_orig"
    if made_of and all(isinstance(each, _SpectralNorm) for each in made_of):
        return "parametrizations.weight.original"
    if made_of or "weight" not in layer._parameters:
        raise ArchError(
            f"{name}: its weight is made of other tensors (as by weight norm), and so cannot be pruned in training; "
            "build the network without, or take this off (torch.nn.utils.parametrize.remove_parametrizations, "
            "torch.nn.utils.remove_weight_norm)"
        )
    return "weight"
