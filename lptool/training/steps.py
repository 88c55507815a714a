"""The inner loop of training: optimizer steps over batches, with the mask enforced after each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lptool.errors import TrainError
from lptool.scoring.score import cast_forward
from lptool.training.options import TrainOptions


def make_optimizer(model: nn.Module, options: TrainOptions, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer of the options over all parameters, in as few kernels as the device allows."""
    # On the CPU too, fused takes a third of the time of a loop over the tensors.
    how: dict[str, Any] = {"fused": True} if device.type in ("cpu", "cuda") else {"foreach": True}
    parameters = [p for p in model.parameters() if p.requires_grad]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay, **how)
    return torch.optim.SGD(
        parameters,
        lr=options.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
        **how,
    )


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers, as `PARAMETER|KIND` → tensor."""
    return {
        f"{name}|{kind}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, remembered: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave, in the memory layout of the parameters. Raises TrainError."""
    parameters = dict(model.named_parameters())
    for key, value in remembered.items():
        name, _, kind = key.rpartition("|")
        if name not in parameters:
            raise TrainError(f"what the run goes on from has {key}, which the network lacks; train into a new folder")
        parameter = parameters[name]
        scalar = torch.empty_like(value, device=parameter.device)  # such as AdamW's count of steps
        like = torch.empty_like(parameter, requires_grad=False) if value.shape == parameter.shape else scalar
        optimizer.state[parameter][kind] = like.copy_(value)


def multipliers(model: nn.Module, mask: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """What `run_steps` multiplies: name → the weight and its mask, in the weight's type, device and memory layout."""
    parameters = dict(model.named_parameters())
    return {
        name: (parameters[name], torch.empty_like(parameters[name], requires_grad=False).copy_(kept))
        for name, kept in mask.items()
    }


@dataclass(frozen=True)
class Part:
    """One process's images of a batch: float [B, C, H, W], labels int64 [B], and the size of the whole batch."""

    images: Tensor
    labels: Tensor
    whole: int


@dataclass
class Totals:
    """Sums over the images of this process, on the device, so that no step waits for it."""

    loss: Tensor
    correct: Tensor
    seen: int = 0


def run_steps(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Iterable[Part],
    rates: Iterable[float],
    pruned: Mapping[str, tuple[Tensor, Tensor]],
    *,
    compute: torch.dtype,
    label_smoothing: float,
    processes: int,
    on_step: Callable[[], None],
) -> Totals:
    """One optimizer step per batch.

    Args:
        network: in training mode afterwards.
        rates: the learning rate of each step.
        pruned: name → weight and what it is multiplied by after each step, a tensor of zeros and ones of its type.
        compute: bfloat16 runs the network under autocast.
        processes: how many share each batch; the mean of their gradients is that of the whole batch.
        on_step: called after each.
    """
    forward = cast_forward(network, compute)
    weights, kept = [w for w, _ in pruned.values()], [k for _, k in pruned.values()]
    device = next(network.parameters()).device
    totals = Totals(torch.zeros((), device=device), torch.zeros((), device=device, dtype=torch.long))
    network.train()
    for part, rate in zip(parts, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = forward(part.images).float()
        loss = F.cross_entropy(logits, part.labels, label_smoothing=label_smoothing)
        optimizer.zero_grad()
        # DistributedDataParallel takes the mean of the processes' gradients, whatever their numbers of images. So each
        # mean loss is weighted by its share of the batch, and what comes out is the gradient of the whole batch's mean.
        (loss * (len(part.labels) * processes / part.whole)).backward()
        optimizer.step()
        with torch.no_grad():
            if weights:
                torch._foreach_mul_(weights, kept)  # momentum moves pruned weights too; one kernel for all tensors
            totals.loss += loss * len(part.labels)
            totals.correct += (logits.argmax(dim=1) == part.labels).count_nonzero()
        totals.seen += len(part.labels)
        on_step()
    return totals
