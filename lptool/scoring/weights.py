"""The tensors of a network, each once, whatever it is called: taken out of it, and put into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lptool.checkpoints.dialects import layout_of
from lptool.checkpoints.masks import Mask, State
from lptool.checkpoints.names import Names

COUNTER = "num_batches_tracked"  # of a normalising layer; torch loads files of before there was one


@dataclass(frozen=True)
class Parts:
    """The state dict of a network: which of its names mean one tensor, and which are masks that it keeps itself.

    Attributes:
        tensors: name → the tensor itself, of everything in the state dict that is one.
        first: name → the first name of the same tensor; of all but the masks.
        mask_names: name of a mask → the first name of its weight.
        others: what modules keep in it beside tensors.
    """

    tensors: dict[str, Tensor]
    first: dict[str, str]
    mask_names: dict[str, str]
    others: dict[str, object]

    @property
    def copies(self) -> dict[str, str]:
        """Further names of tensors that layers share → the first."""
        return {name: first for name, first in self.first.items() if name != first}


def parts_of(model: nn.Module) -> Parts:
    """Take the state dict of a network apart."""
    state = model.state_dict(keep_vars=True)  # the tensors themselves, by which shared ones are known
    tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    others = {name: value for name, value in state.items() if name not in tensors}
    weight_of = {
        entry.mask: entry.weight
        for entry in layout_of(tensors).values()
        if entry.mask is not None and tensors[entry.mask].shape == tensors[entry.weight].shape
    }
    names: dict[int, str] = {}
    first = {name: names.setdefault(id(t), name) for name, t in tensors.items() if name not in weight_of}
    return Parts(tensors, first, {mask: first[weight] for mask, weight in weight_of.items()}, others)


def names_of(model: nn.Module) -> Names:
    """The names of a network for a state that has them already."""
    parts = parts_of(model)
    own = {first: first for first in parts.first.values()}
    return Names(
        own, parts.copies, {mask: (weight, parts.tensors[mask].dtype) for mask, weight in parts.mask_names.items()}
    )


def weights_of(model: nn.Module) -> State:
    """The tensors of a network under their first names, without masks that it keeps itself; not cloned."""
    parts = parts_of(model)
    return {name: parts.tensors[name].detach() for name, first in parts.first.items() if name == first}


def put_weights(model: nn.Module, state: Mapping[str, Tensor], mask: Mask | None = None) -> None:
    """Load a state into a network, as `load_state_dict` does with `strict`.

    The state needs each tensor under its first name alone. A mask that the network keeps itself is set to that of its
    weight in `mask`, to ones for a weight that has none there; without `mask` all that is not 0 is kept.

    Raises:
        RuntimeError: torch's own, where a tensor is missing, foreign, or of another shape.
    """
    parts = parts_of(model)
    whole = dict(state)
    for name, first in parts.copies.items():
        if name not in whole and first in whole:
            whole[name] = whole[first]
    for name, weight in parts.mask_names.items():
        if name not in whole and weight in whole:
            whole[name] = whole[weight] != 0 if mask is None else mask.get(weight, torch.ones_like(whole[weight]))
    if _fits(model, parts, whole):
        with torch.no_grad():
            for name, tensor in parts.tensors.items():  # as torch, in the network's order
                tensor.copy_(whole.get(name, tensor))
    else:
        model.load_state_dict({**parts.others, **whole})


def _fits(model: nn.Module, parts: Parts, state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors can be copied one by one: `load_state_dict` takes a time that grows with their square."""
    own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    return (
        not parts.others
        and not any(module._load_state_dict_post_hooks for module in model.modules())
        and all(own.get(name) is tensor for name, tensor in parts.tensors.items())
        and all(name in state or name.endswith(COUNTER) for name in parts.tensors)
        and all(name in parts.tensors and parts.tensors[name].shape == t.shape for name, t in state.items())
    )
