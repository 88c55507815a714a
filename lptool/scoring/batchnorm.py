"""BatchNorm recalibration: mixed weights need statistics of their own.

"BatchNorm" stands for all layers that normalise by running statistics: BatchNorm, InstanceNorm that tracks its own, and
the copies of either that other programs bring along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from lptool.device import in_float64
from lptool.errors import DataError
from lptool.ranks import Ranks

_GATHERED = 16  # batches of each rank at once: 7 MB for a ResNet-50
_STATISTICS = ("running_mean", "running_var")


def bn_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that keep running statistics and renew them in training, in module order."""
    return [module for module in model.modules() if _renews_statistics(module)]


def _renews_statistics(module: nn.Module) -> bool:
    """By what it has, not by its class; a frozen BatchNorm has statistics, but no momentum to renew them with."""
    if isinstance(module, torch.jit.ScriptModule):  # takes no hooks, which `each_batch` needs
        return False
    held = all(isinstance(module._buffers.get(name), Tensor) for name in _STATISTICS)
    return held and hasattr(module, "momentum") and bool(getattr(module, "track_running_stats", True))


def recalibrate_bn(
    model: nn.Module, images: Iterable[Tensor], forward: Callable[[Tensor], object] | None = None
) -> int:
    """Replace the running mean and variance of every BatchNorm layer by their plain average over `images`.

    Only BatchNorm layers are woken: dropout and the rest stay as they are, no weight changes, and modes and momenta
    are restored. Each batch counts the same, as in `torch.optim.swa_utils.update_bn` (Izmailov et al. 2018, section
    3.2), so pass batches of about equal size.

    Args:
        model: changed in place; a model without BatchNorm is left alone.
        images: float batches [B, C, H, W] on the model's device.
        forward: what to call on a batch, `model` itself by default (a place for autocast).

    Returns:
        How many images were seen; 0 where the model has no BatchNorm.

    Raises:
        DataError: there was no batch (the statistics are then untouched), or one without a variance.

    >>> model = nn.Sequential(nn.BatchNorm1d(1))
    >>> recalibrate_bn(model, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
    4
    >>> model[0].running_mean  # the mean of 2 and 6
    tensor([4.])
    """
    total: Tensor | None = None
    seen = batches = 0

    def add(batch: Tensor, statistics: Tensor) -> None:
        nonlocal total, seen, batches
        total = statistics if total is None else total + statistics
        seen, batches = seen + len(batch), batches + 1

    if not bn_layers(model):
        return 0
    each_batch(model, images, add, forward)
    if total is None:
        raise DataError("BatchNorm recalibration needs at least one calibration image, found none")
    set_statistics(model, total / batches)
    for layer in bn_layers(model):
        if isinstance(count := getattr(layer, "num_batches_tracked", None), Tensor):
            count.fill_(batches)
    return seen


def each_batch(
    model: nn.Module,
    images: Iterable[Tensor],
    take: Callable[[Tensor, Tensor], None],
    forward: Callable[[Tensor], object] | None = None,
) -> None:
    """Give each batch and the mean and variance that it has before every BatchNorm layer to `take`.

    The statistics are one float64 vector, of all layers in their order, on the model's device (on the CPU where that
    lacks the type). Those of the model are changed where there is a batch at all.

    Raises:
        DataError: a batch has no variance.
    """
    batches = iter(images)
    first = next(batches, None)  # before any statistic is reset
    if first is None:
        return
    # Gradients are off but inference mode is not on: some layers, such as BatchNorm of older torch, put new tensors in
    # the place of their buffers, and what inference mode makes cannot be loaded into later.
    with torch.no_grad(), _measuring(model) as measured:
        for batch in chain([first], batches):
            try:
                (forward or model)(batch)
            except ValueError as error:  # what torch raises where a batch has no variance
                if "more than 1 value per channel" not in str(error):
                    raise
                raise DataError(
                    "BatchNorm recalibration needs more than one image in a batch; take larger ones"
                ) from error
            take(batch, in_float64(measured()))


def average_in_order(mine: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """The mean of statistics of all batches, where batch k of them was rank k mod `count`'s; the same on every rank.

    They are added in the order of the batches, so the sum is that of one process, to the bit. Raises DataError where
    there is none.
    """
    total, batches = torch.zeros(()), 0
    for start in range(0, max(ranks.gather(len(mine))), _GATHERED):
        found = ranks.gather([statistics.cpu() for statistics in mine[start : start + _GATHERED]])
        for statistics in (each for row in zip_longest(*found) for each in row if each is not None):
            total, batches = total + statistics if batches else statistics, batches + 1
    if not batches:
        raise DataError("BatchNorm recalibration needs at least one calibration image, found none")
    return total / batches


def set_statistics(model: nn.Module, statistics: Tensor) -> None:
    """Put a vector as `each_batch` gives it into the BatchNorm layers."""
    own = [part for layer in bn_layers(model) for part in _statistics(layer)]
    for mine, given in zip(own, statistics.split([len(part) for part in own]), strict=True):
        mine.copy_(given)


def _statistics(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Running mean and variance of a layer, flat; its own memory."""
    mean, variance = (layer.get_buffer(name).view(-1) for name in _STATISTICS)
    return mean, variance


@contextmanager
def _measuring(model: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """All modules in eval mode but the BatchNorm layers, which take nothing but what they see.

    The block is given a function: mean and variance of what each saw since its last call, of all in one vector.
    """
    layers: list[Any] = bn_layers(model)
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
    before = {layer: (layer.momentum, torch.cat(_statistics(layer))) for layer in layers}

    def note(layer: nn.Module, _: object, made: object) -> None:
        seen[layer].append(torch.cat(_statistics(layer)) * 2)
        _forget(layer)

    def measured() -> Tensor:
        # A layer that a network uses twice sees two things in a batch, which count the same; one that it does not use
        # keeps what it has.
        found = [torch.stack(each).mean(0) if each else before[layer][1] for layer, each in seen.items()]
        for each in seen.values():
            each.clear()
        return torch.cat(found)

    with on_batch_statistics(model), hooked(dict.fromkeys(layers, note)):
        for layer in layers:
            # Half of what it has, which is 0, and half of what it sees: whichever of the two a copy's momentum is of.
            layer.momentum = 0.5
            _forget(layer)
        try:
            yield measured
        finally:
            for layer, (momentum, _) in before.items():
                layer.momentum = momentum


def _forget(layer: nn.Module) -> None:
    for part in _statistics(layer):
        part.zero_()


@contextmanager
def hooked(hooks: Mapping[nn.Module, Callable[..., None]]) -> Iterator[None]:
    """Forward hooks, as long as the block runs; nothing is compiled meanwhile, as compiled code has none of them."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def on_batch_statistics(model: nn.Module) -> Iterator[None]:
    """All modules in eval mode but the layers with running statistics, which see each batch's own."""
    with in_eval_mode(model):
        for layer in bn_layers(model):
            layer.train()
        yield


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """All modules in eval mode, then each in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
