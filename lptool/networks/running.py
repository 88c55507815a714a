"""How any network is called: images in, logits alone out, in the memory layout that it computes fastest in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lptool.errors import ArchError, first_line
from lptool.scoring.batchnorm import in_eval_mode

CPU = torch.device("cpu")


def make_ready(model: nn.Module, device: torch.device, trial: Callable[[], object]) -> None:
    """Put a network on a device, such that it takes images in any memory layout and gives logits alone.

    Weights and images with the channels last are the fastest. Where the trial fails with them, as it does in a network
    that flattens with `view`, both stay as torch makes them.

    Args:
        trial: does once, on a few images, what the network shall do; called twice, so it leaves the network as it was.

    Raises:
        Whatever `trial` raises where nothing but the network can be to blame.
    """
    model.to(device)
    if isinstance(model, torch.jit.ScriptModule):  # takes no hooks
        trial()
        return
    model.register_forward_hook(_logits_alone)
    one_layout = model.register_forward_pre_hook(_made_contiguous)
    trial()
    one_layout.remove()
    try:
        model.to(memory_format=torch.channels_last)
        trial()
    except Exception:  # the same went well a moment ago, so it is the layout
        model.to(memory_format=torch.contiguous_format)
        model.register_forward_pre_hook(_made_contiguous)


def _made_contiguous(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.contiguous() if isinstance(each, Tensor) else each for each in given)


def _logits_alone(model: nn.Module, _: tuple[Any, ...], given: object) -> object:
    """Of several things that a network gives the logits; what holds none is left for `check_forward` to refuse.

    They are what it calls so (transformers, torchvision), or in training mode the first: others are auxiliary then.
    """
    named = given.get("logits") if isinstance(given, Mapping) else getattr(given, "logits", None)
    if isinstance(named, Tensor):
        return named
    first_counts = model.training and isinstance(given, tuple | list) and len(given) > 0
    return given[0] if first_counts else given  # type: ignore[index]


def blank_images(shape: Sequence[int], device: torch.device, count: int = 2) -> Tensor:
    """Black images [C, H, W] to try a network on, in memory as `Data` has them."""
    return torch.zeros(count, *shape, device=device).contiguous(memory_format=torch.channels_last)


def check_forward(
    model: nn.Module, image_shape: tuple[int, int, int], num_classes: int, arch: str, device: torch.device = CPU
) -> int:
    """Try the network on two black images: how many logits it gives.

    Raises:
        ArchError: it cannot take these images, or lacks classes.
    """
    try:
        with torch.no_grad(), in_eval_mode(model):
            logits = model(blank_images(image_shape, device))
    except Exception as error:  # a user's own code may raise anything
        reason = first_line(error)
        raise ArchError(f"architecture {arch!r} cannot take images of {list(image_shape)}: {reason}") from error
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise ArchError(
            f"architecture {arch!r} gives a {kind} for 2 images, expected logits of {num_classes} classes: let its "
            "forward return them alone, or under the name `logits`"
        )
    if logits.dim() != 2 or len(logits) != 2 or logits.shape[1] < num_classes:
        shape = list(logits.shape)
        raise ArchError(f"architecture {arch!r} gives {shape} for 2 images, expected logits of {num_classes} classes")
    return logits.shape[1]
