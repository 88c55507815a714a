"""BatchNorm recalibration: mixed weights need statistics of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, zip_longest

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lptool.device import in_float64
from lptool.errors import DataError
from lptool.ranks import Ranks

_GATHERED = 16  # batches of each rank at once: 7 MB for a ResNet-50


def bn_layers(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that keep running statistics, in module order."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


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
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.fill_(batches)
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
    layers = bn_layers(model)
    with torch.inference_mode(), _averaging(model, layers):
        for batch in chain([first], batches):
            for layer in layers:
                layer.reset_running_stats()
            try:
                (forward or model)(batch)
            except ValueError as error:  # what torch raises where a batch has no variance
                if "more than 1 value per channel" not in str(error):
                    raise
                raise DataError(
                    "BatchNorm recalibration needs more than one image in a batch; take larger ones"
                ) from error
            take(batch, in_float64(torch.cat(_statistics(model))))


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
    own = _statistics(model)
    for mine, given in zip(own, statistics.split([len(part) for part in own]), strict=True):
        mine.copy_(given)


def _statistics(model: nn.Module) -> list[Tensor]:
    """Running mean and variance of every BatchNorm layer, in order."""
    found = [part for layer in bn_layers(model) for part in (layer.running_mean, layer.running_var)]
    return [part for part in found if part is not None]


@contextmanager
def _averaging(model: nn.Module, layers: list[_BatchNorm]) -> Iterator[None]:
    """All modules in eval mode but `layers`, which take the mean over all that they see."""
    momenta = [layer.momentum for layer in layers]
    with on_batch_statistics(model):
        for layer in layers:
            layer.momentum = None  # one that a network uses twice sees two things in a batch, which count the same
        try:
            yield
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


@contextmanager
def on_batch_statistics(model: nn.Module) -> Iterator[None]:
    """All modules in eval mode but the BatchNorm layers with running statistics, which see each batch's own."""
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
