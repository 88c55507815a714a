"""The network of a file, with its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lptool.checkpoints.masks import State
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.ticket import Ticket
from lptool.errors import said_by
from lptool.networks.building import build_model
from lptool.networks.matching import arch_in_header, fit_names, guess_arch


def load_model(path: str | Path, device: str | torch.device = "cpu", arch: str | None = None) -> nn.Module:
    """The network of a ticket or pooled model, with its weights, in eval mode.

    Args:
        path: a checkpoint, dense or packed, or a folder with one.
        device: where to put it.
        arch: for a file that does not say its architecture, or says code of your own, which is run only where you
            name it.

    Raises:
        ArchError: the architecture is unknown or does not fit the file.
        CheckpointError: the file cannot be read.

    >>> import lptool
    >>> from lptool.checkpoints.metadata import Metadata
    >>> model = build_model("resnet8_cifar", num_classes=10, in_chans=1)
    >>> metadata = Metadata(arch="resnet8_cifar", arch_kwargs={"num_classes": 10, "in_chans": 1})
    >>> lptool.save_ticket(lptool.Ticket(model.state_dict(), {}, metadata), "level_00.safetensors")
    >>> lptool.load_model("level_00.safetensors")(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    ticket = load_ticket(path)
    name, kwargs = arch or arch_in_header(ticket.metadata, str(path)), ticket.metadata.arch_kwargs
    if name is None:
        name, kwargs, _ = guess_arch(ticket.shapes, str(path))
    with said_by(None if arch else str(path)):
        model = build_model(name, **kwargs)
    model.load_state_dict(fitted_state(model, ticket, name))
    return model.to(device).eval()


def fitted_state(model: nn.Module, ticket: Ticket, arch: str) -> State:
    """The weights of a ticket under the names of a network of the architecture `arch`. Raises ArchError."""
    return ticket.renamed(fit_names(model, ticket.shapes, arch, ticket.file)).state
