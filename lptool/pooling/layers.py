"""The layers of a network that can be fitted one by one, and what goes into and comes out of each.

A layer is compared after the normalisation that follows it, where the scale of its weights has no more effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from lptool.errors import first_ten
from lptool.networks.running import blank_images
from lptool.scoring.batchnorm import hooked, in_eval_mode
from lptool.scoring.weights import parts_of

LARGEST = 8192  # inputs of a layer: the products of them take 0.5 GB, several times


@dataclass(frozen=True)
class Layer:
    """A prunable layer that can be fitted: its module, and the normalisation that alone takes its output."""

    name: str
    norm: str | None

    @property
    def weight(self) -> str:
        """Name of the tensor that is fitted."""
        return f"{self.name}.weight"


@dataclass(frozen=True)
class _Call:
    """One module at work. Tensors are kept as long as calls are compared, so that no identity is used twice.

    Attributes:
        given, made: a tensor, or whatever else the module takes and gives; None where it takes nothing by position.
        given_version, made_version: change with every change in place, such as that of `relu_`.
    """

    name: str
    given: object
    made: object
    given_version: int
    made_version: int


def fittable_layers(
    model: nn.Module, prunable: Sequence[str], shape: Sequence[int], device: torch.device
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """The layers that `reconstruct` can fit, for images [C, H, W], and a note of those that it has to leave."""
    layers, left = find_layers(model, prunable, blank_images(shape, device))
    return tuple(layers), tuple(note_of(left, len(prunable)))


def find_layers(model: nn.Module, prunable: Iterable[str], images: Tensor) -> tuple[list[Layer], list[str]]:
    """The layers that can be fitted, in the order in which they run, and the prunable tensors that are none of theirs.

    Left out are layers that run twice or never, that share their weight, that are not given a row for each image (such
    as the windows of some transformers), that have more inputs than `LARGEST`, and modules that compute something of
    their own around the weight (such as timm's standardised convolutions). Classes of a program's own that compute what
    torch's do, as those that keep a mask, are none of these: see `_computes_as_torch`.

    Args:
        model: left in the mode it came in. prunable: names of tensors.
        images: float [B, C, H, W], two are enough, on the model's device.
    """
    prunable = list(prunable)
    calls = _calls(model, images)
    times = Counter(call.name for call in calls)
    owners = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    parts = parts_of(model)
    masks: dict[str, list[Tensor]] = {call.name: [] for call in calls}  # that a module keeps itself
    for name in parts.mask_names:
        masks.setdefault(name.rpartition(".")[0], []).append(parts.tensors[name])

    def alone(call: _Call) -> bool:
        module = model.get_submodule(call.name)
        rows = [len(x) if isinstance(x, Tensor) and x.dim() > 1 else None for x in (call.given, call.made)]
        if rows != [len(images)] * 2 or (kind := _kind(module)) is None or _matrix(module) > LARGEST**2:
            return False
        once = times[call.name] == 1 and owners[id(module.weight)] == 1
        return once and (_is_plain(module, kind) or _computes_as_torch(module, kind, call.given, masks[call.name]))

    def norm_after(call: _Call) -> str | None:
        takers = [taker for taker in calls if taker.given is call.made]
        if len(takers) != 1 or times[takers[0].name] != 1 or takers[0].given_version != call.made_version:
            return None
        norm, module = (model.get_submodule(name) for name in (takers[0].name, call.name))
        return takers[0].name if _normalises(norm, call, module) else None

    wanted = {name.removesuffix(".weight") for name in prunable if name.endswith(".weight")}
    layers = [Layer(call.name, norm_after(call)) for call in calls if call.name in wanted and alone(call)]
    fitted = {layer.weight for layer in layers}
    return layers, [name for name in prunable if name not in fitted]


_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


def _normalises(norm: nn.Module, call: _Call, module: nn.Module) -> bool:
    """Whether it normalises the channels of a layer, which of the outputs of a convolution stand second."""
    second = isinstance(module, nn.Conv2d) or (isinstance(call.made, Tensor) and call.made.dim() == 2)
    if isinstance(norm, nn.LayerNorm):  # torch's own takes the last dimensions
        plain = type(norm).forward is nn.LayerNorm.forward
        return len(norm.normalized_shape) == 1 and plain != isinstance(module, nn.Conv2d)
    return second and (isinstance(norm, nn.GroupNorm) or (isinstance(norm, _BatchNorm) and norm.track_running_stats))


def _calls(model: nn.Module, images: Tensor) -> list[_Call]:
    """Every call of a module without children, or of a norm (timm's have an activation inside), in one forward pass."""
    single = {
        module: name
        for name, module in model.named_modules()
        if isinstance(module, _NORMS) or not any(module.children())
        if not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks
    }
    calls: list[_Call] = []

    def note(name: str, _: nn.Module, arguments: tuple[object, ...], made: object) -> None:
        given = arguments[0] if arguments else None
        calls.append(_Call(name, given, made, _version(given), _version(made)))

    # Not in inference mode, where tensors have no version.
    with hooked({module: partial(note, name) for module, name in single.items()}), in_eval_mode(model), torch.no_grad():
        model(images)
    return calls


def _version(x: object) -> int:
    return x._version if isinstance(x, Tensor) and not x.is_inference() else 0


def _matrix(module: nn.Module) -> int:
    """How many products of two inputs a fit of this layer has in memory."""
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    return groups * module.weight[0].numel() ** 2  # type: ignore[index]


def note_of(left: Sequence[str], count: int) -> list[str]:
    """What a user is told of the tensors that are left out, of so many; nothing where there is none."""
    return [
        f"reconstruct cannot fit {len(left)} of {count} prunable tensors, which stay as they are: "
        f"{first_ten(left, ', ')}; it fits convolutions and linear layers that compute what torch's do, run once for "
        f"each image, share no weight and have at most {LARGEST:,} inputs"
    ][: len(left)]


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch that it is of, where that can be fitted and the weight is its own."""
    kind = next((kind for kind in (nn.Conv2d, nn.Linear) if isinstance(module, kind)), None)
    changed = module._forward_hooks or module._forward_pre_hooks or is_parametrized(module)
    return None if changed or module._parameters.get("weight") is None else kind


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether its class is torch's in all that it computes."""
    own = [name for name in ("forward", "_conv_forward") if getattr(type(module), name, 0) != getattr(kind, name, 0)]
    return not own and "forward" not in vars(module)  # one of the instance, as some programs set it


_SCALES = (1.0, 100.0)  # of inputs that a module is tried on: one that clips them shows at the second


def _computes_as_torch(module: nn.Module, kind: type[nn.Module], given: object, masks: Sequence[Tensor]) -> bool:
    """Whether a class of another program's computes what torch's does, as far as trying shows; it is left as it was.

    It is given random weights and inputs, of the shape that it was given. Its own masks keep all meanwhile: in a search
    they keep what is not 0, see `put_weights`. One that has other tensors may do anything by them.
    """
    own = {id(t) for t in (*module.parameters(), *module.buffers())}
    known = [module._parameters["weight"], module._parameters.get("bias"), *masks]
    tensors = [tensor for tensor in known if tensor is not None]
    if not isinstance(given, Tensor) or own != set(map(id, tensors)):
        return False
    draw = torch.Generator().manual_seed(0)
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        with torch.no_grad():
            for tensor in tensors:
                random = torch.randn(tensor.shape, generator=draw).to(tensor)
                tensor.copy_(torch.ones_like(tensor) if any(tensor is mask for mask in masks) else random)
            tried = (torch.randn(given.shape, generator=draw).mul_(scale).to(given) for scale in _SCALES)
            return all(_alike(module(x), _by_torch(module, kind, x)) for x in tried)
    except Exception:  # a user's own code may raise anything
        return False
    finally:
        with torch.no_grad():
            for tensor, old in zip(tensors, before, strict=True):
                tensor.copy_(old)


def _by_torch(module: Any, kind: type[nn.Module], x: Tensor) -> Tensor:
    if kind is nn.Linear:
        return F.linear(x, module.weight, module.bias)
    made: Tensor = nn.Conv2d._conv_forward(module, x, module.weight, module.bias)
    return made


def _alike(found: object, expected: Tensor) -> bool:
    """But for rounding, which depends on the type."""
    if not isinstance(found, Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    allowed: float = torch.finfo(found.dtype).eps ** 0.5 * float(expected.abs().max())
    return float((found - expected).abs().max()) <= allowed


def side_by_side(module: nn.Module, x: Tensor) -> Tensor:
    """What goes into or comes out of a layer, [B, positions, channels]; a position is a pixel or a token.

    A convolution has [B, C, H, W], a linear layer [B, …, C].
    """
    return x.flatten(2).transpose(1, 2) if isinstance(module, nn.Conv2d) else x.reshape(len(x), -1, x.shape[-1])


def outputs_at(module: nn.Module, made: Tensor, places: Tensor) -> Tensor:
    """Outputs [B, places, O] at some positions of each image."""
    return side_by_side(module, made)[:, places]


def inputs_at(module: nn.Module, given: Tensor, places: Tensor) -> Tensor:
    """What outputs at some positions are made of: [groups, B·places, inputs of a group], ordered as the weights."""
    if isinstance(module, nn.Linear):
        return outputs_at(module, given, places).flatten(0, 1)[None]
    assert isinstance(module, nn.Conv2d)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(given, module._reversed_padding_repeated_twice, mode=mode)
    (tall, wide), (down, right), (dy, dx) = module.kernel_size, module.stride, module.dilation
    width = (padded.shape[3] - dx * (wide - 1) - 1) // right + 1
    rows = (places // width * down)[:, None] + dy * torch.arange(tall, device=given.device)
    columns = (places % width * right)[:, None] + dx * torch.arange(wide, device=given.device)
    patches = padded[:, :, rows[:, :, None], columns[:, None, :]]  # [B, C, places, tall, wide]
    grouped: Tensor = patches.unflatten(1, (module.groups, -1)).permute(1, 0, 3, 2, 4, 5)
    return grouped.flatten(3).flatten(1, 2)


def normalised_at(module: nn.Module, norm: nn.Module | None, made: Tensor, places: Tensor) -> Tensor:
    """Outputs [B, places, O] after their normalisation, before any activation that is part of it; float32."""
    if isinstance(norm, nn.GroupNorm):  # the only one that has to see all positions
        whole = F.group_norm(made.float(), norm.num_groups, _float(norm.weight), _float(norm.bias), norm.eps)
        return outputs_at(module, whole, places)
    found = outputs_at(module, made, places).float()
    if isinstance(norm, nn.LayerNorm):
        return F.layer_norm(found, list(norm.normalized_shape), _float(norm.weight), _float(norm.bias), norm.eps)
    if isinstance(norm, _BatchNorm):
        mean, variance, scale, shift = map(_float, (norm.running_mean, norm.running_var, norm.weight, norm.bias))
        return F.batch_norm(found.flatten(0, 1), mean, variance, scale, shift, eps=norm.eps).view_as(found)
    return found


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


def before_norm(module: nn.Module, norm: nn.Module | None, made: Tensor, places: Tensor, wanted: Tensor) -> Tensor:
    """What a layer has to give, for its normalisation to give `wanted` [B, places, O].

    GroupNorm and LayerNorm take mean and variance from each image itself; they are taken to stay those of `made`, the
    layer's present output. What follows BatchNorm or nothing is wanted as it is: see `lptool.pooling.reconstruction`.
    """
    if not isinstance(norm, nn.GroupNorm | nn.LayerNorm):
        return wanted
    made = made.float()
    present = outputs_at(module, made, places)
    scale = torch.ones_like(present[0, 0]) if norm.weight is None else norm.weight.float()
    now = normalised_at(module, norm, made, places)
    # At fixed mean and deviation, what goes in and what comes out differ by a line of slope scale / deviation.
    deviation = _deviation(module, norm, made, places)
    usable = scale.abs() > 1e-6
    return torch.where(usable, present + (wanted - now) * deviation / torch.where(usable, scale, 1), present)


def _deviation(module: nn.Module, norm: nn.GroupNorm | nn.LayerNorm, made: Tensor, places: Tensor) -> Tensor:
    """The standard deviation that each output [B, places, O] is divided by."""
    if isinstance(norm, nn.GroupNorm):
        groups = made.unflatten(1, (norm.num_groups, -1)).flatten(2)
        spread = (groups.var(2, unbiased=False) + norm.eps).sqrt()  # [B, groups]
        each: Tensor = spread.repeat_interleave(made.shape[1] // norm.num_groups, 1)
        return each[:, None]
    spread = outputs_at(module, made, places).var(-1, unbiased=False, keepdim=True)
    return (spread + norm.eps).sqrt()
