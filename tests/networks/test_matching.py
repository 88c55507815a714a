"""Whether a file fits a network, of which one it is, and that one loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lptool.checkpoints.masks import magnitude_prune
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.errors import ArchError
from lptool.networks.building import build_model, prunable_weights
from lptool.networks.matching import fit_names, guess_arch, load_model

# Whether a file fits


def test_file_that_fits_keeps_its_names() -> None:
    shapes = {"weight": (3, 2), "bias": (3,)}
    assert fit_names(nn.Linear(2, 3), shapes, "mine", "a.pt") == {"weight": "weight", "bias": "bias"}


def test_network_in_wrappers_is_compared_without_their_prefixes() -> None:
    wrapped = nn.ModuleDict({"module": nn.ModuleDict({"_orig_mod": nn.Linear(2, 3, bias=False)})})
    assert fit_names(wrapped, {"weight": (3, 2)}, "mine", "a.pt") == {"weight": "module._orig_mod.weight"}


def test_small_tensors_of_a_module_that_the_network_lacks_are_left_out() -> None:
    shapes = {"weight": (3, 2), "bias": (3,), "normalize.mean": (1, 3, 1, 1), "normalize.std": (3,)}
    assert fit_names(nn.Linear(2, 3), shapes, "mine", "a.pt") == {"weight": "weight", "bias": "bias"}


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


def test_names_and_shapes_of_the_tensors_tell_the_architecture() -> None:
    state = build_model("vgg16_bn_cifar", num_classes=7, in_chans=1).state_dict()
    name, kwargs, evidence = guess_arch({n: tuple(t.shape) for n, t in state.items()}, "a.pt")
    assert (name, kwargs) == ("vgg16_bn_cifar", {"num_classes": 7, "in_chans": 1})
    assert evidence.startswith(f"all {len(state)} tensors")


# Loading


def pruned_ticket(arch: str, **kwargs: int) -> Ticket:
    model = build_model(arch, **kwargs)
    names = prunable_weights(model, "conv")
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    state, mask = magnitude_prune(model.state_dict(), names, keep=1000)
    return Ticket(state, mask, Metadata(arch=arch, arch_kwargs=kwargs, level=1, prunable=names))


def test_load_model_gives_back_the_network_that_was_saved(tmp_path: Path) -> None:
    ticket = pruned_ticket("resnet8_cifar", num_classes=4, in_chans=1)
    save_ticket(ticket, tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")
    assert not any(module.training for module in loaded.modules())
    assert loaded.state_dict().keys() == ticket.state.keys()
    assert all(torch.equal(tensor, ticket.state[name]) for name, tensor in loaded.state_dict().items())
    original = build_model("resnet8_cifar", 4, 1)
    original.load_state_dict(ticket.state)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded(x), original.eval()(x))


def test_load_model_refuses_the_wrong_architecture(tmp_path: Path) -> None:
    save_ticket(pruned_ticket("resnet8_cifar", num_classes=4, in_chans=1), tmp_path / "a.safetensors")
    with pytest.raises(ArchError, match=r"a\.safetensors: does not fit architecture 'resnet20_cifar'"):
        load_model(tmp_path / "a.safetensors", arch="resnet20_cifar")


def test_load_model_of_a_file_without_architecture_takes_the_one_named(tmp_path: Path) -> None:
    source = "from torch import nn\ndef takes_nothing():\n    return nn.Linear(4, 4)\n"
    (tmp_path / "net.py").write_text(source)
    state = nn.Linear(4, 4).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    model = load_model(tmp_path / "a.safetensors", arch=f"{tmp_path}/net.py:takes_nothing")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_load_model_of_a_file_that_fits_nothing_known_asks_for_the_architecture(tmp_path: Path) -> None:
    save_file(nn.Linear(4, 4).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(
        ArchError,
        match=r"a\.safetensors: does not say its architecture, .*; name it with --arch \(.*file\.py:callable\)",
    ):
        load_model(tmp_path / "a.safetensors")


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
    assert fit_names(model, {name: shapes_of(model)[own] for name, own in expected.items()}, "a", "f") == expected
    wrapped: nn.Module = model
    for part in reversed(prefix.rstrip(".").split(".")):
        outer = nn.Module()
        outer.add_module(part, wrapped)
        wrapped = outer
    assert fit_names(wrapped, shapes_of(model), "a", "f") == {own: name for name, own in expected.items()}


def test_dataparallel_of_a_part_on_either_side() -> None:
    part, whole = small(), small()
    part.bn = nn.DataParallel(part.bn)
    inner = {name: name.replace("bn.", "bn.module.") for name in shapes_of(whole)}
    assert fit_names(part, shapes_of(whole), "a", "f") == inner
    assert fit_names(whole, shapes_of(part), "a", "f") == {name: own for own, name in inner.items()}


def test_counters_of_batchnorm_may_be_missing_and_nothing_else() -> None:
    shapes = shapes_of(small())
    shapes.pop("bn.num_batches_tracked")
    assert set(fit_names(small(), shapes, "a", "f")) == set(shapes)
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
    assert fit_names(small(), {**shapes, **beside}, "a", "f") == {name: name for name in shapes}


@pytest.mark.parametrize("extra", ["head.weight", "aux.tp.weight", "accumulate.weight", "fc.tp"])
def test_layers_that_the_network_lacks_are_refused(extra: str) -> None:
    with pytest.raises(ArchError, match=f"{extra}: unexpected in the file"):
        fit_names(small(), {**shapes_of(small()), extra: (100, 100)}, "a", "f")


def test_parametrizations_get_a_word_on_squash_mask() -> None:
    shapes = shapes_of(small())
    shapes["conv.parametrizations.weight.original"] = shapes.pop("conv.weight")
    with pytest.raises(ArchError, match=r"squash_mask\(\)"):
        fit_names(small(), shapes, "a", "f")
