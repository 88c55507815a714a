"""BatchNorm recalibration: mixed weights need statistics of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lptool.errors import DataError


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
    layers = bn_layers(model)
    seen = 0
    if not layers:
        return 0
    batches = iter(images)
    first = next(batches, None)  # before any statistic is reset
    if first is None:
        raise DataError("BatchNorm recalibration needs at least one calibration image, found none")
    with torch.inference_mode(), _averaging(model, layers):
        for batch in chain([first], batches):
            try:
                (forward or model)(batch)
            except ValueError as error:  # what torch raises where a batch has no variance
                if "more than 1 value per channel" not in str(error):
                    raise
                raise DataError(
                    "BatchNorm recalibration needs more than one image in a batch; take larger ones"
                ) from error
            seen += len(batch)
    return seen


@contextmanager
def _averaging(model: nn.Module, layers: list[_BatchNorm]) -> Iterator[None]:
    """All modules in eval mode but `layers`, which restart from nothing and take the cumulative average."""
    momenta = [layer.momentum for layer in layers]
    with on_batch_statistics(model):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # so torch takes the mean over all batches, each counting the same
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
