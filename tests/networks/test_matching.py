"""Whether a file fits a network, whatever names that has for its tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lptool.checkpoints.summary import Summary
from lptool.checkpoints.ticket import Ticket
from lptool.errors import ArchError
from lptool.networks.matching import differing_copies, fit_names

# Whether a file fits


def test_file_that_fits_keeps_its_names() -> None:
    shapes = {"weight": (3, 2), "bias": (3,)}
    assert fit_names(nn.Linear(2, 3), shapes, "mine", "a.pt").of == {"weight": "weight", "bias": "bias"}


def test_network_in_wrappers_is_compared_without_their_prefixes() -> None:
    wrapped = nn.ModuleDict({"module": nn.ModuleDict({"_orig_mod": nn.Linear(2, 3, bias=False)})})
    assert fit_names(wrapped, {"weight": (3, 2)}, "mine", "a.pt").of == {"weight": "module._orig_mod.weight"}


def test_small_tensors_of_a_module_that_the_network_lacks_are_left_out() -> None:
    shapes = {"weight": (3, 2), "bias": (3,), "normalize.mean": (1, 3, 1, 1), "normalize.std": (3,)}
    assert fit_names(nn.Linear(2, 3), shapes, "mine", "a.pt").of == {"weight": "weight", "bias": "bias"}


def test_every_kind_of_mismatch_is_listed() -> None:
    with pytest.raises(ArchError) as caught:
        fit_names(nn.Linear(2, 3), {"weight": (3, 5), "extra.weight": (5, 5)}, "mine", "a.pt")
    assert str(caught.value).splitlines() == [
        "a.pt: does not fit architecture 'mine' (3 tensors); name the right one with --arch:",
        "  bias: missing in the file",
        "  extra.weight: unexpected in the file",
        "  weight: expected [3, 2], found [3, 5]",
    ]


def test_ten_mismatches_are_listed_and_the_rest_counted() -> None:
    shapes = {f"extra.{i}.weight": (5, 5) for i in range(25)}
    with pytest.raises(ArchError, match=r"\(27 tensors\)") as caught:
        fit_names(nn.Linear(2, 3), shapes, "mine", "a.pt")
    listed = str(caught.value).splitlines()[1:]
    assert len(listed) == 11
    assert listed[-1] == "  … and 17 more"


# Networks with more names than tensors


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.b.weight = self.a.weight


@pytest.mark.parametrize("there", [("a.weight",), ("b.weight",), ("a.weight", "b.weight"), ("b.weight", "a.weight")])
def test_one_name_of_a_shared_tensor_is_enough_and_the_last_loaded_counts(there: tuple[str, ...]) -> None:
    names = fit_names(Tied(), dict.fromkeys(there, (2, 2)), "mine", "a.pt")
    assert list(names.of) == sorted(there)  # as torch loads them, whatever their order in the file
    assert set(names.of.values()) == {"a.weight"}
    assert names.copies == {"b.weight": "a.weight"}


def test_a_shared_tensor_without_any_of_its_names_is_missing_once() -> None:
    with pytest.raises(ArchError, match=r"\(1 tensor\).*\n  a\.weight: missing in the file$"):
        fit_names(Tied(), {}, "mine", "a.pt")


def test_masks_that_a_network_keeps_need_not_be_in_the_file() -> None:
    layer = nn.Linear(2, 3)
    layer.register_buffer("mask", torch.ones(3, 2))
    names = fit_names(nn.ModuleDict({"module": layer}), {"weight": (3, 2), "bias": (3,)}, "mine", "a.pt")
    assert names.mask_names == {"module.mask": ("module.weight", torch.float32)}
    assert names.in_file({"weight": "model.weight", "bias": "model.bias"})["module.mask"] == "model.mask"


def test_hooks_of_torchs_pruning_are_no_part_of_a_name() -> None:
    layer = prune.identity(nn.Linear(2, 3), "weight")
    names = fit_names(layer, {"weight": (3, 2), "bias": (3,)}, "mine", "a.pt")
    assert names.of == {"weight": "weight_orig", "bias": "bias"}
    assert names.mask_names == {"weight_mask": ("weight_orig", torch.float32)}


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, lambda width: nn.InstanceNorm2d(width, track_running_stats=True)])
def test_counts_of_batches_may_be_absent(kind: Callable[[int], nn.Module]) -> None:
    layer = kind(3)
    shapes = {name: tuple(t.shape) for name, t in layer.state_dict().items() if t.dim()}
    assert fit_names(layer, shapes, "mine", "a.pt").of == {name: name for name in shapes}


def test_copies_that_differ_are_told_once() -> None:
    names = fit_names(Tied(), {"a.weight": (2, 2), "b.weight": (2, 2)}, "mine", "a.pt")
    one, two = torch.eye(2), torch.ones(2, 2)
    alike, odd = (Summary.of(Ticket({"a.weight": one, "b.weight": b}, {}, file="odd")) for b in (one, two))
    assert differing_copies([alike, alike], names) == []
    (line,) = differing_copies([alike, odd, odd], names)
    assert line.startswith("odd: a.weight and b.weight are one tensor of the network and differ in the file; ")
    assert line.endswith("(and 1 more files)")
