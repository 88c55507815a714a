"""What goes into a layer and comes out of it, at some positions, is what torch computes there."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from lptool.networks.building import build_model
from lptool.pooling.layers import Layer, before_norm, find_layers, inputs_at, normalised_at, outputs_at, side_by_side

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


@pytest.mark.parametrize(
    ("arch", "norms"),
    [
        ("resnet8_cifar", 7),
        ("resnet18", 20),
        ("mobilenetv2_035", 52),
        ("convnext_atto", 13),  # the stem and the depthwise convolution of each block
        ("vit_tiny_patch16_224", 0),
    ],
)
def test_networks_of_timm_are_followed(arch: str, norms: int) -> None:
    size = {"img_size": 32, "patch_size": 8} if arch.startswith("vit") else {}
    model = build_model(arch, num_classes=3, **size)
    kinds = (nn.Conv2d, nn.Linear)
    prunable = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds)]
    layers, left = find_layers(model, prunable, torch.randn(2, 3, 32, 32))
    assert left == []
    assert [layer.weight for layer in layers] == sorted(prunable, key=[layer.weight for layer in layers].index)
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
