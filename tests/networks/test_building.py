"""Networks by name, a user's own, and whether a file fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from lptool.errors import ArchError
from lptool.networks.building import build_model, prunable_weights
from tests.helpers.networks import SOURCE

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


@pytest.mark.parametrize("name", ["arch", "self", "model_name"])
def test_arguments_of_any_name_go_to_the_architecture(name: str) -> None:
    with pytest.raises(ArchError, match=f"'resnet8_cifar' cannot be built with .*'{name}': 1"):
        build_model("resnet8_cifar", 10, 3, **{name: 1})


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


def test_an_argument_that_an_own_callable_does_not_take_is_named(own: str) -> None:
    with pytest.raises(
        ArchError, match=r"cannot be built with .*: it takes no argument 'widht', but num_classes, width"
    ):
        build_model(f"{own}:wide", 5, 2, widht=9)


def test_a_weight_that_layers_share_is_pruned_once() -> None:
    one, two, embedding = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.Embedding(4, 3)
    head = nn.Linear(3, 4)
    two.weight, head.weight = one.weight, embedding.weight
    model = nn.Sequential(embedding, one, two, one, head)
    assert prunable_weights(model, "all") == ("1.weight", "0.weight")
    assert set(prunable_weights(model, "all")) <= dict(model.named_parameters()).keys()


def test_tensors_in_the_same_memory_are_one(tmp_path: Path) -> None:
    lines = (
        "from torch import nn",
        "class Net(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        "        self.a, self.b, self.c = (nn.Conv2d(2, 2, 1) for _ in range(3))",
        "        self.b.weight = nn.Parameter(self.a.weight.data)",
        "        self.c.weight.data = self.a.weight.data",
        "        self.c.bias = nn.Parameter(self.a.weight.data.flatten()[:2])  # a part of it stays what it is",
    )
    (tmp_path / "net.py").write_text("\n".join(lines))
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = build_model(f"{tmp_path}/net.py:Net")
        assert model.a.weight is model.b.weight is model.c.weight
        assert len({model.a.bias, model.b.bias, model.c.bias}) == 3


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


def test_spectral_norm_is_pruned_in_what_it_divides() -> None:
    layers = (nn.Conv2d(1, 2, 3), spectral_norm(nn.Conv2d(2, 2, 3)), parametrizations.spectral_norm(nn.Conv2d(2, 2, 3)))
    model = nn.Sequential(*layers)
    names = prunable_weights(model, "conv")
    assert names == ("0.weight", "1.weight_orig", "2.parametrizations.weight.original")
    assert set(names) <= set(model.state_dict())
    with torch.no_grad():
        for name in names:
            model.get_parameter(name)[0] = 0
        model(torch.ones(1, 1, 9, 9))
    assert all(layer.weight[0].count_nonzero() == 0 for layer in layers)  # type: ignore[index]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("wrap", [weight_norm, parametrizations.weight_norm, parametrizations.orthogonal])
def test_a_weight_that_is_made_of_others_is_refused_by_name(wrap: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(ArchError, match=r"^1: its weight is made of other tensors .*remove_parametrizations"):
        prunable_weights(nn.Sequential(nn.ReLU(), wrap(nn.Conv2d(1, 2, 3))), "conv")


@pytest.mark.parametrize("kind", ["ExtraState", "ExtraTensors"])
def test_what_a_module_keeps_beside_tensors_stays_its_own(kind: str, tmp_path: Path) -> None:
    (tmp_path / "zoo.py").write_text(SOURCE)
    model = build_model(f"{tmp_path}/zoo.py:{kind}", 3, 3)
    state = model.state_dict()
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    model.load_state_dict({name: tensor for name, tensor in state.items() if "_extra_state" not in name})
    model.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({})
