"""What a model costs: arithmetic and bytes, dense and counting only the weights that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lptool.checkpoints.masks import Mask
from lptool.checkpoints.packed import PackError
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import DENSE, Sizes, sizes_of
from lptool.scoring.batchnorm import in_eval_mode
from lptool.scoring.weights import parts_of

Flops = tuple[int, dict[str, int]]  # in all, and of each module without children


@dataclass(frozen=True)
class Cost:
    """Of one model.

    Attributes:
        parameters: elements that training sets. kept: those of them that are not pruned.
        flops_dense: of one image, 2 for a multiplication with its addition, in convolutions and matrix products.
        flops_kept: the same without the products with pruned weights: what hardware that skips them would do. Both are
            None where that is not known.
        bytes_dense: of its dense file, with the header. bytes_kept: of its packed file; of the dense one where it
            cannot be packed.
    """

    parameters: int
    kept: int
    flops_dense: int | None
    flops_kept: int | None
    bytes_dense: int
    bytes_kept: int


def cost_of(model: nn.Module, ticket: Ticket, flops: Flops) -> Cost:
    """The cost of a network with the tensors of a file.

    Args:
        model: on any device.
        ticket: with the network's names, tensors in the type that the file keeps them in, masks of the prunable ones.
        flops: of the network, from `count_flops`: the same for all files that go into it.
    """
    mask = ticket.mask
    shared = {name: mask[first] for name, first in parts_of(model).copies.items() if first in mask}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    pruned = sum(kept.numel() - int(kept.count_nonzero()) for kept in mask.values())
    dense, layers = flops
    sizes = _sizes(ticket)
    return Cost(
        parameters=parameters,
        kept=parameters - pruned,
        flops_dense=dense,
        flops_kept=kept_flops(dense, layers, {**mask, **shared}),
        bytes_dense=sizes.dense,
        bytes_kept=sizes.packed,
    )


def cost_of_tensors(ticket: Ticket, size: int) -> Cost:
    """The cost of tensors alone, of a network that is not known, in a file of `size` bytes, which cannot be packed."""
    parameters = sum(tensor.numel() for tensor in ticket.state.values())
    kept = parameters - sum(kept.numel() - int(kept.count_nonzero()) for kept in ticket.mask.values())
    return Cost(parameters, kept, None, None, size, size)


def _sizes(ticket: Ticket) -> Sizes:
    """Bytes of its files; one that cannot be packed is kept dense."""
    try:
        return sizes_of(ticket)
    except PackError:
        dense = DENSE.size(ticket)
        return Sizes(dense, dense)


def count_flops(model: nn.Module, image_shape: tuple[int, int, int]) -> Flops:
    """FLOPs of one image [C, H, W], as torch counts them while the network runs."""
    image = torch.zeros(1, *image_shape, device=next(model.parameters(), torch.empty(0)).device)
    with in_eval_mode(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    counts, root = counter.get_flop_counts(), type(model).__name__
    leaves = [name for name, module in model.named_modules(remove_duplicate=False) if not any(module.children())]
    # torch counts under the path from the class of the root, as in `ResNet.layer1.0.conv1`.
    layers = {name: sum(counts.get(".".join(filter(None, (root, name))), {}).values()) for name in leaves}
    return counter.get_total_flops(), layers


def kept_flops(dense: int, layers: Mapping[str, int], mask: Mask) -> int:
    """Each layer's FLOPs times the density of its weight; arithmetic without a mask in full."""
    saved = sum(
        layers.get(name.rpartition(".")[0], 0) * int((~kept).count_nonzero()) / max(1, kept.numel())
        for name, kept in mask.items()
        if name.rpartition(".")[2] == "weight"
    )
    return round(dense - saved)
