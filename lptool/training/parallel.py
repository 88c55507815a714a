"""One network on several processes, such that their steps are those of one process with the whole batch.

DistributedDataParallel sums the gradients; BatchNorm takes its statistics over the images of all processes. What is
left between one process and many is the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from lptool.device import import_timm, local_ranks
from lptool.errors import RankError, SetupError, TrainError
from lptool.ranks import PATIENCE, Ranks


def spread(model: nn.Module, device: torch.device, ranks: Ranks, *, sync_bn: bool) -> tuple[nn.Module, nn.Module]:
    """The network to keep, and the one to call in training; both the model itself for one process.

    They share their weights. Every process has to call this.

    Args:
        model: on `device`; to be left alone afterwards, as its BatchNorm layers may have been replaced.
        sync_bn: whether BatchNorm in training sees the images of all processes.
    """
    if ranks.count == 1:
        return model, model
    group = distributed.new_group(backend="nccl", timeout=PATIENCE) if device.type == "cuda" else None
    if sync_bn:
        model = with_synced_bn(model, device, group)
    called = DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        process_group=group,
        static_graph=True,  # and so parameters without a gradient are no error
    )
    return model, called


def check_processes(model: nn.Module, device: torch.device, ranks: Ranks, *, sync_bn: bool) -> None:
    """Refuse what several processes cannot train together.

    Raises:
        SetupError: a device that they cannot share.
        TrainError: a kind of BatchNorm that cannot be synchronised.
    """
    if ranks.count == 1:
        return
    if device.type not in ("cpu", "cuda"):
        raise SetupError(f"device {device.type} trains in one process, found {ranks.count}; try --device cpu")
    if device.type == "cuda" and local_ranks() > torch.cuda.device_count():
        gpus = torch.cuda.device_count()
        raise SetupError(f"each process needs a GPU of its own: found {local_ranks()} for {gpus} GPUs; start fewer")
    for name, module in model.named_modules() if sync_bn else ():
        if isinstance(module, _BatchNorm) and type(module) not in _synced_kinds():
            kind = type(module).__name__
            raise TrainError(f"{name}: a {kind} cannot see the images of all processes; try --no-sync-bn")


def _synced_kinds() -> tuple[type[nn.Module], ...]:
    return (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, import_timm().layers.BatchNormAct2d)


def with_synced_bn(model: nn.Module, device: torch.device, group: Any = None) -> nn.Module:
    """The model with BatchNorm over all processes, under the same names; on the CPU the same object."""
    if device.type == "cuda":
        return import_timm().layers.convert_sync_batchnorm(model, group)  # type: ignore[no-any-return]
    for module in model.modules():  # torch's own refuses the CPU
        kind = type(module)  # a new class for the same object: names, weights and hooks stay as they are
        if kind in _synced_kinds():
            module.__class__ = type(f"Synced{kind.__name__}", (_SyncedOnHost, kind), {})
    return model


def share_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Give every process the buffers of the first, such as BatchNorm statistics of its own images."""
    for buffer in model.buffers() if ranks.count > 1 else ():
        plain = buffer.cpu()  # the processes talk through gloo, also where they have GPUs
        distributed.broadcast(plain, 0)
        buffer.copy_(plain)


@contextmanager
def noticing_peers(ranks: Ranks) -> Iterator[None]:
    """Turn what torch raises where another process has gone, at whatever point, into RankError."""
    words = ("Connection closed", "Connection reset", "Broken pipe", "gloo", "NCCL")
    try:
        yield
    except RuntimeError as error:
        if ranks.count > 1 and (isinstance(error, distributed.DistError) or any(text in str(error) for text in words)):
            raise RankError("another process of this run has ended; the same command goes on") from error
        raise


class _SyncedOnHost(_BatchNorm):
    """Synchronised BatchNorm for the CPU: mean first, then the squared distances from it, as one pass cancels."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dims = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        wide = x.float()
        count = _Total.apply(torch.tensor([float(x.numel() // x.shape[1])]))
        mean = _Total.apply(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        var = _Total.apply(centred.square().sum(dims)) / count
        self._track(mean.detach(), var.detach() * count / (count - 1))  # unbiased, as torch's BatchNorm keeps it
        # The variance of the images themselves: what is kept for evaluation alone is unbiased.
        normal: Tensor = centred * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        for after in ("drop", "act"):  # of timm's BatchNormAct2d
            normal = getattr(self, after)(normal) if hasattr(self, after) else normal
        return normal.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var, share)


class _Total(torch.autograd.Function):
    """The sum over all processes. Each process's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient[0].contiguous())
