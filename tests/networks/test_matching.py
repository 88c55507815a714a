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


def test_where_only_the_rows_of_one_layer_differ_the_classes_are_named() -> None:
    """And in no other case: of another width, or with another layer that differs too, it is another network."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 8))
    shapes = {"0.weight": (2, 2), "0.bias": (2,), "1.weight": (10, 2), "1.bias": (10,)}
    with pytest.raises(ArchError, match=r"tells 10 classes apart, the network 8: .* --arch-kwargs num_classes=10\)$"):
        fit_names(network, shapes, "mine", "a.pt")
    for other in ({"1.weight": (10, 3)}, {"0.weight": (3, 2)}, {"1.bias": ()}, {"extra.weight": (5, 5)}):
        with pytest.raises(ArchError) as caught:
            fit_names(network, shapes | other, "mine", "a.pt")
        assert "classes apart" not in str(caught.value)


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


def small() -> nn.Module:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, bias=False)
            self.bn = nn.BatchNorm2d(4)
            self.fc = nn.Linear(4, 9, bias=False)

    return Small()


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "encoder.model.", "a.b.c."])
def test_a_prefix_that_one_side_alone_has(prefix: str) -> None:
    model = small()
    expected = {f"{prefix}{name}": name for name in shapes_of(model)}
    assert fit_names(model, {name: shapes_of(model)[own] for name, own in expected.items()}, "a", "f").of == expected
    wrapped: nn.Module = model
    for part in reversed(prefix.rstrip(".").split(".")):
        outer = nn.Module()
        outer.add_module(part, wrapped)
        wrapped = outer
    assert fit_names(wrapped, shapes_of(model), "a", "f").of == {own: name for name, own in expected.items()}


def test_dataparallel_of_a_part_on_either_side() -> None:
    part, whole = small(), small()
    part.bn = nn.DataParallel(part.bn)
    inner = {name: name.replace("bn.", "bn.module.") for name in shapes_of(whole)}
    assert fit_names(part, shapes_of(whole), "a", "f").of == inner
    assert fit_names(whole, shapes_of(part), "a", "f").of == {name: own for own, name in inner.items()}


def test_counters_of_batchnorm_may_be_missing_and_nothing_else() -> None:
    shapes = shapes_of(small())
    shapes.pop("bn.num_batches_tracked")
    assert set(fit_names(small(), shapes, "a", "f").of) == set(shapes)
    shapes.pop("bn.running_var")
    with pytest.raises(ArchError, match=r"\(1 tensor\).*\n  bn\.running_var: missing"):
        fit_names(small(), shapes, "a", "f")


BESIDE: list[dict[str, tuple[int, ...]]] = [
    {f"train_acc.{name}": (100,) for name in ("tp", "fp", "tn", "fn")},
    {f"metrics.top1.{name}": () for name in ("correct", "total")},
    {"val_metrics.confusion.confmat": (100, 100)},
    {"confusion.confmat": (100, 100)},
    {"criterion.weight": (100,), "criterion.log_vars": (30, 30)},
    {"loss_fn.centers": (100, 64)},
    {"ema.n_averaged": ()},
    {"n_averaged": ()},
]


@pytest.mark.parametrize("beside", BESIDE)
def test_what_trainers_keep_beside_the_weights_is_no_part_of_the_network(beside: dict[str, tuple[int, ...]]) -> None:
    shapes = shapes_of(small())
    assert fit_names(small(), {**shapes, **beside}, "a", "f").of == {name: name for name in shapes}


@pytest.mark.parametrize("extra", ["head.weight", "aux.tp.weight", "accumulate.weight", "fc.tp"])
def test_layers_that_the_network_lacks_are_refused(extra: str) -> None:
    with pytest.raises(ArchError, match=f"{extra}: unexpected in the file"):
        fit_names(small(), {**shapes_of(small()), extra: (100, 100)}, "a", "f")


def test_parametrizations_get_a_word_on_squash_mask() -> None:
    shapes = shapes_of(small())
    shapes["conv.parametrizations.weight.original"] = shapes.pop("conv.weight")
    with pytest.raises(ArchError, match=r"squash_mask\(\)"):
        fit_names(small(), shapes, "a", "f")
