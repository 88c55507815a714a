"""Networks by name, a user's own, and whether a file fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lptool.errors import ArchError
from lptool.export import save_ticket
from lptool.masks import magnitude_prune
from lptool.models import build_model, check_forward, fit_names, guess_arch, load_model, prunable_weights
from lptool.tickets import Metadata, Ticket


def test_prunable_weights_are_those_of_convolutions_or_of_linear_layers_too() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Conv1d(2, 2, 1), nn.Linear(2, 2)), nn.Embedding(3, 2)
    )
    assert prunable_weights(model, "conv") == ("0.weight", "2.0.weight")
    assert prunable_weights(model, "all") == ("0.weight", "2.0.weight", "2.1.weight")


@pytest.mark.parametrize("prune", ["conv", "all"])
def test_prunable_weights_of_a_network_are_its_matrices_and_kernels(prune: str) -> None:
    dimensions = {"conv": (4,), "all": (2, 4)}[prune]
    model = build_model("resnet20_cifar", 10, 3)
    expected = {name for name, p in model.named_parameters() if p.dim() in dimensions}
    assert set(prunable_weights(model, prune)) == expected


# Names


def test_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(ArchError, match=r"unknown architecture 'resnet20_cifr': .*Did you mean 'resnet20_cifar'\?"):
        build_model("resnet20_cifr", 10, 3)


def test_a_file_alone_is_told_what_is_missing() -> None:
    with pytest.raises(ArchError, match=r"unknown architecture 'net\.py': .* as net\.py:Net\.$"):
        build_model("net.py", 10, 3)


def test_any_timm_name_is_built() -> None:
    model = build_model("resnet10t", num_classes=3, in_chans=1)
    assert model.get_classifier().out_features == 3


def test_arguments_that_timm_refuses_are_named() -> None:
    with pytest.raises(ArchError, match=r"'resnet10t' cannot be built with .*'no_such': 1"):
        build_model("resnet10t", 10, 3, no_such=1)


# A user's own network

OWN = """
import torch
from torch import nn

class Net(nn.Linear):
    def __init__(self, num_classes, in_chans):
        super().__init__(in_chans, num_classes)

def takes_anything(**kwargs):
    return Net(kwargs["num_classes"], kwargs["in_chans"])

def takes_nothing():
    return nn.Linear(4, 4)

def wide(num_classes, width=2):
    return nn.Linear(width, num_classes)

def no_module(): return "a string"
def fails(): raise KeyError("inside")
number = 3
"""


@pytest.fixture(params=["module", "file"])
def own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What stands before the colon in --arch."""
    name = f"own_{request.param}_networks"
    (tmp_path / f"{name}.py").write_text(OWN)
    if request.param == "file":
        return str(tmp_path / f"{name}.py")
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize(
    ("callable_", "shape"), [("Net", (5, 2)), ("takes_anything", (5, 2)), ("takes_nothing", (4, 4)), ("wide", (5, 2))]
)
def test_own_callable_is_given_what_its_signature_takes(own: str, callable_: str, shape: tuple[int, int]) -> None:
    model = build_model(f"{own}:{callable_}", num_classes=5, in_chans=2)
    assert isinstance(model, nn.Linear)
    assert model.weight.shape == shape


def test_own_callable_is_given_further_arguments(own: str) -> None:
    model = build_model(f"{own}:wide", num_classes=5, in_chans=2, width=9)
    assert isinstance(model, nn.Linear)
    assert model.weight.shape == (5, 9)


@pytest.mark.parametrize(
    ("callable_", "message"),
    [
        ("absent", "cannot import 'absent' from .*no attribute 'absent'"),
        ("number", "'number' is a int, expected a class or function"),
        ("no_module", r"gives a str, expected a torch\.nn\.Module"),
        ("fails", "cannot be built with .*inside"),
    ],
)
def test_own_callable_that_is_no_network_is_named(own: str, callable_: str, message: str) -> None:
    with pytest.raises(ArchError, match=message) as caught:
        build_model(f"{own}:{callable_}", 5, 2)
    assert f"{own}:{callable_}" in str(caught.value)


def test_missing_and_broken_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 +")
    for source in ("no_such_module_anywhere", tmp_path / "absent.py", tmp_path / "broken.py"):
        with pytest.raises(ArchError, match=f"cannot import 'Net' from '{source}'"):
            build_model(f"{source}:Net", 5, 2)


def test_own_file_may_define_dataclasses(tmp_path: Path) -> None:
    lines = (
        "from __future__ import annotations",
        "import dataclasses",
        "@dataclasses.dataclass",
        "class C:",
        " x: int",
    )
    (tmp_path / "net.py").write_text("\n".join(lines) + OWN)
    build_model(f"{tmp_path}/net.py:Net", 5, 2)


def test_networks_of_torchvision_are_own_callables_too() -> None:
    build_model("torchvision.models:resnet18", 5, 3)


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
    (tmp_path / "net.py").write_text(OWN)
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


def test_names_and_shapes_of_the_tensors_tell_the_architecture() -> None:
    state = build_model("vgg16_bn_cifar", num_classes=7, in_chans=1).state_dict()
    name, kwargs, evidence = guess_arch({n: tuple(t.shape) for n, t in state.items()}, "a.pt")
    assert (name, kwargs) == ("vgg16_bn_cifar", {"num_classes": 7, "in_chans": 1})
    assert evidence.startswith(f"all {len(state)} tensors")


# Whether it runs


def test_images_too_small_for_the_network_are_refused_before_training() -> None:
    model = build_model("vgg16_bn_cifar", 10, 1)
    check_forward(model, (1, 32, 32), 10, "vgg16_bn_cifar")
    with pytest.raises(ArchError, match=r"'vgg16_bn_cifar' cannot take images of \[1, 8, 8\]"):
        check_forward(model, (1, 8, 8), 10, "vgg16_bn_cifar")


def test_a_network_with_too_few_classes_is_refused_and_left_in_its_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).train()
    check_forward(model, (1, 2, 2), 3, "mine")
    with pytest.raises(ArchError, match=r"'mine' gives \[2, 3\] for 2 images, expected logits of 4 classes"):
        check_forward(model, (1, 2, 2), 4, "mine")
    assert model.training
