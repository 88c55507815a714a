"""What goes into a layer and comes out of it, at some positions, is what torch computes there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from lptool.networks.building import build_model
from lptool.pooling.layers import (
    LARGEST,
    Layer,
    before_norm,
    find_layers,
    inputs_at,
    normalised_at,
    note_of,
    outputs_at,
    side_by_side,
)

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strided": {"stride": (2, 1), "padding": (1, 2)},
    "dilated": {"dilation": 2, "padding": "same"},
    "grouped": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4, "padding": 1, "stride": 2},
    "mirrored": {"padding": 1, "padding_mode": "reflect"},
    "1 by 3": {"kernel_size": (1, 3), "padding": (0, 1)},
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_is_its_weights_times_its_inputs(kind: str) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(4, 8, **{"kernel_size": 3, "bias": False, **CONVOLUTIONS[kind]})
    images = torch.randn(3, 4, 9, 10)
    made = module(images)
    places = torch.randperm(side_by_side(module, made).shape[1])[:5]
    inputs = inputs_at(module, images, places)  # [groups, samples, inputs]
    weights = module.weight.reshape(module.groups, 8 // module.groups, -1)
    found = (inputs @ weights.transpose(1, 2)).permute(1, 0, 2).flatten(1)
    torch.testing.assert_close(found, outputs_at(module, made, places).flatten(0, 1))


@pytest.mark.parametrize("shape", [(3, 6), (3, 5, 6), (3, 2, 4, 6)])
def test_a_linear_layer_is_its_weights_times_its_inputs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(6, 7), torch.randn(shape)
    made = module(x)
    places = torch.randperm(side_by_side(module, made).shape[1])[:2]
    found = (inputs_at(module, x, places)[0] @ module.weight.T) + module.bias
    torch.testing.assert_close(found, outputs_at(module, made, places).flatten(0, 1))


class Odd(nn.Module):
    """A layer called twice, one never called, two that share a weight, one that is no plain convolution."""

    def __init__(self) -> None:
        super().__init__()

        class Halved(nn.Conv2d):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) / 2

        conv = partial(nn.Conv2d, 4, 4, 1, bias=False)
        self.first, self.norm, self.twice, self.never = conv(), nn.BatchNorm2d(4), conv(), conv()
        self.one, self.other = conv(), conv()
        self.other.weight = self.one.weight
        self.halved, self.last = Halved(4, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.norm(self.first(x)).relu()))
        return self.last(self.halved(self.other(self.one(x))).mean((2, 3)))  # type: ignore[no-any-return]


def test_layers_that_cannot_be_fitted_by_themselves_are_left_out() -> None:
    names = ["first", "twice", "never", "one", "other", "halved", "last"]
    layers, left = find_layers(Odd(), [f"{name}.weight" for name in names], torch.randn(2, 4, 3, 3))
    assert layers == [Layer("first", "norm"), Layer("last", None)]
    assert left == [f"{name}.weight" for name in names[1:-1]]


class Steps(nn.Module):
    """Modules by name, and what is done with them: `forward(network, x)`."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.steps = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self, x)


class Named(nn.Module):
    """Takes its input by name alone, and gives a dict."""

    def forward(self, *, x: Tensor) -> dict[str, Tensor]:
        return {"x": 2 * x}


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


def chain(forward: Callable[[Any, Tensor], Tensor], norm: nn.Module | None = None, **modules: nn.Module) -> nn.Module:
    """A convolution, a norm, another convolution, and more."""
    return Steps(forward, conv=conv(), norm=norm or nn.BatchNorm2d(4), last=conv(), **modules)


def with_linear(forward: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> nn.Module:
    return Steps(forward, conv=conv(), linear=nn.Linear(4, 4), **modules)


def swallowing(net: Any, x: Tensor) -> Tensor:
    try:
        x = net.conv(x)
    except Exception:
        x = x.neg()
    return net.last(net.norm(x))  # type: ignore[no-any-return]


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        return torch.jit.script(conv())  # type: ignore[no-any-return,no-untyped-call]


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def plain(net: Any, x: Tensor) -> Tensor:
    return net.last(net.norm(net.conv(x)))  # type: ignore[no-any-return]


# Networks of 4 channels; the tensors that cannot be fitted, and the norm after each layer that can.
ODD: dict[str, tuple[Callable[[], nn.Module], list[str], list[str | None]]] = {
    "by name": (
        lambda: chain(lambda net, x: net.last(net.conv(input=net.named(x=x)["x"])), named=Named()),
        ["conv.weight"],
        [None],
    ),
    "checkpointing": (
        lambda: chain(lambda net, x: net.last(checkpoint(lambda y: net.norm(net.conv(y)), x, use_reentrant=False))),
        [],
        ["norm", None],
    ),
    "script": (
        lambda: chain(lambda net, x: net.last(net.script(net.conv(x))), script=scripted()),
        ["script.weight"],
        [None, None],
    ),
    "in place": (lambda: chain(lambda net, x: net.last(net.norm(F.relu_(net.conv(x))))), [], [None, None]),
    "swallowing": (lambda: chain(swallowing), [], ["norm", None]),
    "attention": (
        lambda: Steps(lambda net, x: net.a(*[tokens(x)] * 3)[0], a=nn.MultiheadAttention(4, 2, batch_first=True)),
        ["a.in_proj_weight", "a.out_proj.weight"],
        [],
    ),
    "encoder": (
        lambda: Steps(lambda net, x: net.e(tokens(x)), e=nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)),
        ["e.self_attn.in_proj_weight", "e.self_attn.out_proj.weight"],
        [None, None],
    ),
    "windows": (
        lambda: with_linear(lambda net, x: net.linear(tokens(net.conv(x)).unflatten(1, (-1, 2)).flatten(0, 1))),
        ["linear.weight"],
        [None],
    ),
    "no image": (
        lambda: with_linear(lambda net, x: net.conv(x) + net.linear(torch.ones(4))[:, None, None]),
        ["linear.weight"],
        [None],
    ),
    "tokens normalised": (
        lambda: with_linear(lambda net, x: net.norm(net.linear(tokens(net.conv(x)))), norm=nn.BatchNorm1d(36)),
        [],
        [None, None],
    ),
    "no statistics": (lambda: chain(plain, nn.BatchNorm2d(4, track_running_stats=False)), [], [None, None]),
    "parametrized": (
        lambda: Steps(lambda net, x: net.last(net.conv(x)), conv=weight_norm(conv()), last=conv()),
        ["conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1"],
        [None],
    ),
    "other dimensions": (
        lambda: Steps(
            lambda net, x: net.up(net.one(net.conv(x).flatten(2)).unflatten(2, (6, 6))),
            conv=conv(),
            one=nn.Conv1d(4, 4, 1),
            up=nn.ConvTranspose2d(4, 4, 2),
        ),
        ["one.weight", "up.weight"],
        [None],
    ),
    "float64": (lambda: chain(lambda net, x: plain(net, x.double()), nn.GroupNorm(2, 4)).double(), [], ["norm", None]),
    "bf16": (lambda: chain(lambda net, x: plain(net, x.bfloat16())).bfloat16(), [], ["norm", None]),
    "compiled": (
        lambda: cast(nn.Module, torch.compile(nn.Sequential(conv(), nn.ReLU(), conv()), backend="eager")),
        [],
        [None, None],
    ),
    "nothing to fit": (lambda: chain(lambda net, x: net.last(net.last(x))), ["conv.weight", "last.weight"], []),
}


def weights_of(model: nn.Module) -> list[str]:
    return [name for name, p in model.state_dict().items() if p.dim() > 1]


@pytest.mark.parametrize("kind", ODD)
def test_networks_of_any_make_are_followed_as_far_as_that_goes(kind: str) -> None:
    torch.manual_seed(0)
    make, left_out, norms = ODD[kind]
    model, images = make().eval(), torch.randn(2, 4, 6, 6)
    model(images)  # what is compiled is compiled without hooks
    before = [len(module._forward_hooks) for module in model.modules()]
    layers, left = find_layers(model, weights_of(model), images)
    assert left == left_out
    assert [layer.norm for layer in layers] == norms
    assert [len(module._forward_hooks) for module in model.modules()] == before


class Masked(nn.Conv2d):
    """As TurboPrune keeps a mask."""

    def __init__(self, *arguments: Any, **given: Any) -> None:
        super().__init__(*arguments, **given)
        self.register_buffer("mask", torch.ones_like(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.mask * self.weight
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class MaskedLinear(nn.Linear):
    """As Synaptic-Flow keeps masks, of the bias too."""

    def __init__(self, *arguments: Any, **given: Any) -> None:
        super().__init__(*arguments, **given)
        self.register_buffer("weight_mask", torch.ones_like(self.weight))
        self.register_buffer("bias_mask", torch.ones_like(self.bias))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_mask * self.weight, self.bias_mask * self.bias)


class Clipping(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(-6, 6))


class Standardised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / self.weight.norm(dim=1, keepdim=True), self.bias)


class Scaled(nn.Linear):
    """Plain as it is built, and something else with another scale."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


class Failing(nn.Linear):
    """Takes its input once."""

    seen = False

    def forward(self, x: Tensor) -> Tensor:
        if self.seen:
            raise ValueError("seen")
        self.seen = True
        return super().forward(x)


def as_masked() -> nn.Module:
    masked = Masked(4, 6, 3, stride=2, padding=1, groups=2)
    return nn.Sequential(masked, nn.BatchNorm2d(6), nn.Flatten(), MaskedLinear(24, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_of_a_program_s_own_that_keep_a_mask_can_be_fitted(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = as_masked().to(dtype)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("mask"):  # of the ticket that lies in the network
                tensor.copy_((torch.rand(tensor.shape) < 0.5).to(dtype))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers, left = find_layers(model, ["0.weight", "3.weight"], torch.zeros(2, 4, 4, 4, dtype=dtype))
    assert (layers, left) == ([Layer("0", "1"), Layer("3", None)], [])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", [Clipping, Standardised, Scaled, Failing])
def test_layers_that_compute_something_else_are_left_out_as_they_were(kind: type[nn.Linear]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(kind(4, 3), nn.Linear(3, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers, left = find_layers(model, ["0.weight", "1.weight"], torch.zeros(2, 4))
    assert ([layer.name for layer in layers], left) == (["1"], ["0.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_forward_of_the_instance_is_tried_too() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    first: Any = model[0]
    plain_forward = first.forward
    first.forward = lambda x: plain_forward(x)
    assert find_layers(model, ["0.weight"], torch.zeros(2, 4))[1] == []
    first.forward = lambda x: plain_forward(x) + 1
    assert find_layers(model, ["0.weight"], torch.zeros(2, 4))[1] == ["0.weight"]


def test_a_layer_with_more_inputs_than_fit_in_memory_is_left_out() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(LARGEST, 2, bias=False), nn.Linear(2, LARGEST + 1), nn.Linear(LARGEST + 1, 2))
        layers, left = find_layers(model, weights_of(model), torch.zeros(2, LARGEST))
    assert [layer.name for layer in layers] == ["0", "1"]
    assert left == ["2.weight"]
    assert note_of([], 3) == []
    assert note_of(left, 3)[0].startswith("reconstruct cannot fit 1 of 3 prunable tensors, which stay as they are: 2.w")


@pytest.mark.parametrize(
    ("arch", "norms", "left_out"),
    [
        ("resnet8_cifar", 7, []),
        ("resnet18", 20, []),
        ("mobilenetv2_035", 52, []),
        ("mobilenetv3_small_050", 34, []),  # its last layer is of a class of timm's own
        ("regnetx_002", 44, []),
        ("convnext_atto", 13, []),  # the stem and the depthwise convolution of each block
        ("vit_tiny_patch16_224", 0, []),
    ],
)
def test_networks_of_timm_are_followed(arch: str, norms: int, left_out: list[str]) -> None:
    size = {"img_size": 32, "patch_size": 8} if arch.startswith("vit") else {}
    model = build_model(arch, num_classes=3, **size)
    kinds = (nn.Conv2d, nn.Linear)
    prunable = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds)]
    layers, left = find_layers(model, prunable, torch.randn(2, 3, 32, 32))
    assert left == left_out
    found = [layer.weight for layer in layers]
    assert found == sorted(set(prunable) - set(left), key=found.index)
    assert sum(layer.norm is not None for layer in layers) == norms


CONV = nn.Conv2d(6, 6, 1)  # what comes before the norms below
NORMS = {
    "group": partial(nn.GroupNorm, 2, 6),
    "layer of channels": partial(LayerNorm2d, 6),
    "batch": partial(nn.BatchNorm2d, 6),
    "none": lambda: None,
}


def with_random_affine(norm: nn.Module | None) -> nn.Module | None:
    if norm is not None:
        norm.eval()
        for parameter in norm.parameters():
            nn.init.normal_(parameter, 1, 0.3)
    return norm


@pytest.mark.parametrize("kind", NORMS)
def test_what_is_asked_of_a_layer_gives_what_is_wanted_after_its_norm(kind: str) -> None:
    """To first order: where what is wanted is what there is, nothing changes; and the slope is that of the norm."""
    torch.manual_seed(1)
    norm = with_random_affine(NORMS[kind]())
    made, places = torch.randn(3, 6, 4, 4), torch.tensor([1, 7, 11])
    now = normalised_at(CONV, norm, made, places)
    asked = before_norm(CONV, norm, made, places, now)
    if kind in ("batch", "none"):  # compared after the norm itself
        assert asked is now
        return
    torch.testing.assert_close(asked, outputs_at(CONV, made, places))
    wanted = now + 0.1 * torch.randn_like(now)
    slope = (before_norm(CONV, norm, made, places, wanted) - asked) / (wanted - now)
    assert isinstance(norm, nn.GroupNorm | nn.LayerNorm)
    if kind == "group":
        deviation = made.view(3, 2, -1).std(2, unbiased=False).repeat_interleave(3, 1)[:, None]
    else:
        deviation = outputs_at(CONV, made, places).std(2, unbiased=False, keepdim=True)
    torch.testing.assert_close(slope, (deviation / norm.weight).expand_as(slope), rtol=1e-3, atol=1e-3)
