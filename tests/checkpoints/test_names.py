"""What a file calls the tensors of a network, also those that it lacks."""

from __future__ import annotations

import torch

from lptool.checkpoints.names import Names


def test_names_that_the_file_lacks_are_made_as_the_file_makes_its_own() -> None:
    names = Names(
        {"tail.weight": "head.weight"},
        copies={"tail.weight": "head.weight"},
        mask_names={"head.mask": ("head.weight", torch.bool)},
        plain={"head.weight": "head.weight"},
    )
    found = names.in_file({"tail.weight": "module.tail.weight"})
    assert found == {
        "head.weight": "module.head.weight",
        "tail.weight": "module.tail.weight",
        "head.mask": "module.head.mask",
    }


def test_a_mask_stands_beside_its_weight_whatever_lies_between() -> None:
    names = Names({"conv.weight": "conv.weight"}, mask_names={"conv.mask": ("conv.weight", torch.float32)})
    assert names.in_file({"conv.weight": "conv._orig_mod.weight"})["conv.mask"] == "conv._orig_mod.mask"


def test_wrappers_of_the_network_are_no_part_of_the_file() -> None:
    names = Names({"w": "module.w"}, {"module.v": "module.w"}, plain={"module.w": "w", "module.v": "v"})
    assert names.in_file({}) == {"module.w": "w", "module.v": "v"}
