"""The network that level 0 starts from: random, pretrained, or with the weights of a file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lptool.checkpoints.dialects import unwrapped
from lptool.checkpoints.finding import checkpoint_file
from lptool.checkpoints.reading import file_sha256, load_ticket
from lptool.errors import TrainError
from lptool.networks.building import build_model
from lptool.networks.matching import fit_names
from lptool.scoring.batchnorm import in_eval_mode
from lptool.scoring.weights import put_weights, weights_of
from lptool.training.options import TrainOptions


def initial_model(
    options: TrainOptions, num_classes: int, shape: tuple[int, int, int]
) -> tuple[nn.Module, dict[str, Any]]:
    """The network on the CPU, and what to remember of a file that its weights come from.

    Args:
        num_classes, shape: of the data; shape is [C, H, W].

    Raises:
        ArchError: no such architecture, or it fits neither the images nor the file.
        CheckpointError: the file cannot be read.
        TrainError: pretrained weights of an architecture that is not timm's.
    """
    pretrained = {"pretrained": True} if options.pretrained else {}
    if options.pretrained and ":" in options.arch:
        raise TrainError(f"expected a timm architecture, found {options.arch}; use --init-checkpoint", "pretrained")
    with torch.random.fork_rng(devices=[]):  # the same weights on every device and process, whatever ran before
        torch.manual_seed(options.seed)
        model = build_model(options.arch, **kwargs_of(options, num_classes, shape[0]), **pretrained)
        _make_weights(model, shape)
    if options.init_checkpoint is None:
        return model, {}
    file = checkpoint_file(options.init_checkpoint)
    fresh = _take_weights(model, options.arch, file, num_classes)
    return model, {"init_sha256": file_sha256(file), "init_fresh": fresh}


def kwargs_of(options: TrainOptions, num_classes: int, in_chans: int) -> dict[str, Any]:
    """What the network is built with, beside pretrained weights."""
    return {"num_classes": num_classes, "in_chans": in_chans, **options.arch_kwargs}


def _make_weights(model: nn.Module, shape: tuple[int, int, int]) -> None:
    """Let lazy modules see an image, which they make their weights by."""
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        with torch.no_grad(), in_eval_mode(model), suppress(Exception):  # why it cannot, the trial says
            model(torch.zeros(2, *shape))


def _take_weights(model: nn.Module, arch: str, file: Path, num_classes: int) -> list[str]:
    """Load the weights of a file; gives the names of the tensors of a head for other classes, left as they were."""
    ticket = load_ticket(file)
    own = weights_of(model)
    ours = {short: tuple(own[name].shape) for short, name in unwrapped(own).items()}
    theirs = ticket.shapes
    head = {name: ours[name] for name in theirs if name in ours and _is_head(ours[name], theirs[name], num_classes)}
    # Checked as if its head were ours: a head of other classes is left out below, and no reason to refuse the file.
    names = fit_names(model, theirs | head, arch, str(file))
    weights = ticket.renamed(names).state
    fresh = [names.of[name] for name in head]
    put_weights(model, own | {name: t for name, t in weights.items() if name not in fresh})
    return fresh


def _is_head(ours: tuple[int, ...], theirs: tuple[int, ...], num_classes: int) -> bool:
    """Whether two tensors differ in nothing but that ours has a row for each of our classes."""
    return ours != theirs and len(ours) == len(theirs) and ours[0] == num_classes and ours[1:] == theirs[1:]
