"""Whether a file fits a network, whatever names that has for its tensors."""

from __future__ import annotations

import pytest
from torch import nn

from lptool.errors import ArchError
from lptool.networks.matching import fit_names

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
