"""What a model costs: arithmetic and bytes, dense and counting only the weights that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lptool.checkpoints.masks import Mask
from lptool.checkpoints.packed import packed_bytes
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
        bytes_dense: of all tensors. bytes_kept: of all tensors as a packed file holds them.
    """

    parameters: int
    kept: int
    flops_dense: int | None
    flops_kept: int | None
    bytes_dense: int
    bytes_kept: int


def cost_of(model: nn.Module, state: Mapping[str, Tensor], mask: Mask, flops: Flops) -> Cost:
    """The cost of a network with the tensors of a file.

    Args:
        model: on any device.
        state: name → tensor in the type that the file keeps it in.
        mask: name → bool tensor, True = kept; only the prunable tensors.
        flops: of the network, from `count_flops`: the same for all files that go into it.
    """
    shared = {name: mask[first] for name, first in parts_of(model).copies.items() if first in mask}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    pruned = sum(kept.numel() - int(kept.count_nonzero()) for kept in mask.values())
    dense, layers = flops
    return Cost(
        parameters=parameters,
        kept=parameters - pruned,
        flops_dense=dense,
        flops_kept=kept_flops(dense, layers, {**mask, **shared}),
        bytes_dense=sum(tensor.nbytes for tensor in state.values()),
        bytes_kept=kept_bytes(state, mask),
    )


def cost_of_tensors(state: Mapping[str, Tensor], mask: Mask) -> Cost:
    """The cost of tensors alone, of a network that is not known. Arguments as of `cost_of`."""
    parameters = sum(tensor.numel() for tensor in state.values())
    kept = parameters - sum(kept.numel() - int(kept.count_nonzero()) for kept in mask.values())
    dense = sum(tensor.nbytes for tensor in state.values())
    return Cost(parameters, kept, None, None, dense, kept_bytes(state, mask))


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


def kept_bytes(state: Mapping[str, Tensor], mask: Mask) -> int:
    """Prunable tensors as a packed file holds them (see `packed`), and all others as they are; no header."""
    packed = sum(packed_bytes(state[name].cpu(), kept.cpu()) for name, kept in mask.items())
    return packed + sum(tensor.nbytes for name, tensor in state.items() if name not in mask)
