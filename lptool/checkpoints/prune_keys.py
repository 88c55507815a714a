"""Tickets for those who go on pruning with `torch.nn.utils.prune`: each mask beside its weight, in one `.pt`."""

from __future__ import annotations

from pathlib import Path

import torch

from lptool.checkpoints.masks import State
from lptool.checkpoints.places import write_atomically
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import check_finite, plain_tensors


def save_prune_keys(ticket: Ticket, path: str | Path) -> None:
    """Write a ticket as a state dict with `X_orig` and `X_mask` in place of every masked tensor `X`.

    The names are those that the ticket's own program gives, pruned weights are exactly 0 in `X_orig` too, and `X_mask`
    holds 0 and 1 in the type of the weight. So a network on whose modules `prune.identity` was called loads it with
    `strict`. The file appears whole or not at all; an existing one is replaced.

    Raises:
        OutputError: the file cannot be written.
    """
    check_finite(ticket, path)
    tensors = plain_tensors(_prune_tensors(ticket))

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # given a path, torch would put the temporary name into the file
            torch.save(tensors, file)

    write_atomically(path, write)


def _prune_tensors(ticket: Ticket) -> State:
    """All tensors of a ticket under its own program's names, in their order, a mask after its weight."""
    masks = {ticket.own_names.get(name, name): kept for name, kept in ticket.mask.items()}
    tensors: State = {}
    for name, tensor in ticket.tensors().items():
        if name in masks:
            tensors |= {f"{name}_orig": tensor, f"{name}_mask": masks[name].to(tensor.dtype)}
        else:
            tensors[name] = tensor
    return tensors
