"""What a network calls the tensors of a file, where it has several names for one tensor or masks of its own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Names:
    """Which tensor of a file goes where in a network.

    Layers of a network may share a tensor, which then has several names, and a network may keep masks beside its
    weights. In memory a tensor goes by its first name alone, so that it has one value and one mask. The other names,
    and the masks, are filled in where a file is written.

    Attributes:
        of: plain name in the file → the network's first name of that tensor. Of several copies of one tensor the last
            counts: the one that torch would load last.
        copies: further name in the network → the first name of the same tensor.
        mask_names: name of a mask that the network keeps → the first name of its weight, and the type of the mask.
        plain: name in the network → the plain name that it has, or would have, in the file; by default as in `of`.
    """

    of: Mapping[str, str]
    copies: Mapping[str, str] = field(default_factory=dict)
    mask_names: Mapping[str, tuple[str, torch.dtype]] = field(default_factory=dict)
    plain: Mapping[str, str] = field(default_factory=dict)

    def in_file(self, own_names: Mapping[str, str]) -> dict[str, str]:
        """What the file's own program calls each tensor of the network, also those that the file lacks.

        Args:
            own_names: plain name → name in the file, where it differs.
        """
        there = {name: plain for plain, name in self.of.items()}
        beside = {
            **{name: name for name in there},
            **self.copies,
            **{m: weight for m, (weight, _) in self.mask_names.items()},
        }
        found = {}
        for name, first in beside.items():
            known = there[first]
            plain = self.plain.get(name, there.get(name, name))
            own = own_names.get(known, known)
            found[name] = own_names.get(plain, plain) if plain in self.of else named_as(known, own, plain)
        return found


def named_as(known: str, own: str, name: str) -> str:
    """What a file that calls `known` `own` would call a tensor `name`: what stands before it is exchanged.

    >>> named_as("conv.weight", "module.conv.weight", "fc.weight"), named_as("a.weight", "a.inner.weight", "a.mask")
    ('module.fc.weight', 'a.inner.mask')
    """
    words = zip(known.split(".")[::-1], own.split(".")[::-1], strict=False)
    same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], words)))
    before, instead = (".".join([*text.split(".")[:-same], ""]) if same else text for text in (known, own))
    return instead + name.removeprefix(before) if name.startswith(before) else name
