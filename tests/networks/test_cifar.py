"""The registered networks: shapes, published sizes, and the parts that differ from timm's."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from lptool.errors import ArchError
from lptool.networks.building import build_model
from lptool.networks.cifar import OWN_ARCHS, BasicBlock

REGISTERED = sorted(OWN_ARCHS)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("arch", REGISTERED)
@pytest.mark.parametrize("in_chans", [1, 3])
def test_registered_network_maps_images_to_logits(arch: str, in_chans: int) -> None:
    model = build_model(arch, num_classes=7, in_chans=in_chans).eval()
    with torch.inference_mode():
        assert model(torch.randn(2, in_chans, 32, 32)).shape == (2, 7)
    assert arch in timm.list_models()
    assert isinstance(timm.create_model(arch, num_classes=7, in_chans=in_chans), type(model))


@pytest.mark.parametrize("arch", ["resnet8_cifar", "resnet10_cifar", "resnet20_cifar", "resnet18_cifar"])
def test_networks_take_digits(arch: str) -> None:
    with torch.inference_mode():
        assert build_model(arch, 10, 1).eval()(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arch", "count"),
    [
        ("resnet20_cifar", 269_722),  # He et al. 2016, table 6: 0.27 M
        ("resnet18_cifar", 11_173_962),  # 11.17 M, as in the common CIFAR shape of ResNet-18
        ("vgg16_bn_cifar", 14_710_464 + 2 * 4_224 + 5_130),  # 13 convolutions, a BatchNorm each, one linear layer
        # a 3×3 stem and two BatchNorm parameters per channel; four blocks of two convolutions; linear layer
        ("resnet10_cifar", 696 + 10_464 + 31_296 + 124_800 + 498_432 + 1_930),
        ("resnet8_cifar", 464 + 4_672 + 13_952 + 55_552 + 650),  # stem, three blocks, linear layer
    ],
)
def test_parameter_counts_are_the_published_ones(arch: str, count: int) -> None:
    assert parameters(build_model(arch, num_classes=10, in_chans=3)) == count


def test_resnet18_cifar_keeps_the_resolution_of_its_stem() -> None:
    """3×3 stride-1 stem and no max-pool: only the three later stages halve 32 pixels."""
    model = build_model("resnet18_cifar", 10, 3).eval()
    assert (model.conv1.kernel_size, model.conv1.stride) == ((3, 3), (1, 1))
    with torch.inference_mode():
        assert model.forward_features(torch.randn(1, 3, 32, 32)).shape == (1, 512, 4, 4)


def test_resnet10_cifar_halves_the_resolution_at_its_stem_and_three_times_more() -> None:
    model, sizes = build_model("resnet10_cifar", 10, 1).eval(), list[torch.Size]()
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(name).register_forward_hook(lambda m, inputs, output: sizes.append(output.shape[1:]))
    with torch.inference_mode():
        model(torch.randn(1, 1, 28, 28))
    assert sizes == [(24, 14, 14), (24, 14, 14), (48, 7, 7), (96, 4, 4), (192, 2, 2)]


def test_shortcut_of_a_block_subsamples_and_pads_with_zero_channels() -> None:
    """Option A of He et al. 2016; seen alone once the residual branch gives 0."""
    block = BasicBlock(4, 8, stride=2).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 4, 6, 6)
    out = block(x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2].relu())
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


@pytest.mark.parametrize("size", [8, 9])
def test_the_gradient_of_a_shortcut_stays_channels_last(size: int) -> None:
    """One that does not slows everything before it."""
    block = BasicBlock(4, 8, stride=2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 4, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
    branch = x * 1  # a gradient is brought into the layout of a leaf, whatever it comes in
    branch.register_hook(lambda gradient: strides.append(gradient.stride()))
    strides: list[tuple[int, ...]] = []
    block(branch).sum().backward()
    assert strides == [x.stride()]


def test_weights_come_from_the_global_generator() -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build_model("resnet8_cifar", 10, 1).parameters())

    with torch.random.fork_rng():
        assert torch.equal(weights(1), weights(1))
        assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("arch", REGISTERED)
def test_pretrained_weights_are_refused(arch: str) -> None:
    with pytest.raises(ArchError, match=f"{arch} has no pretrained weights"):
        build_model(arch, 10, 3, pretrained=True)
