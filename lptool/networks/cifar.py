"""Networks that timm lacks: the paper's CIFAR shapes and small ones, registered with timm under their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lptool.device import import_timm
from lptool.errors import ArchError

import_timm()
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model  # noqa: E402  (after that check)
from timm.models.resnet import BasicBlock as BasicBlockOfTimm  # noqa: E402
from timm.models.resnet import ResNet  # noqa: E402

OWN_ARCHS = ("resnet8_cifar", "resnet10_cifar", "resnet20_cifar", "resnet18_cifar", "vgg16_bn_cifar")


# What timm assumes where nothing else is said.
_CFG = {"input_size": (3, 32, 32), "num_classes": 10, "first_conv": "conv1", "classifier": "fc", "crop_pct": 1.0}
default_cfgs = generate_default_cfgs(
    {name: _CFG | ({"first_conv": "features.0"} if name.startswith("vgg") else {}) for name in OWN_ARCHS}
)


def _build(network: Callable[..., nn.Module], name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    """Build through timm, which loads the weights where `local-dir:` or `hf-hub:` names a folder. Raises ArchError."""
    if pretrained and not kwargs.get("pretrained_cfg"):
        raise ArchError(f"{name} has no pretrained weights")
    model: nn.Module = build_model_with_cfg(network, name, pretrained, **kwargs)
    return model


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a parameter-free shortcut (He et al. 2016, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        shortcut = x
        if self.stride != 1 or self.pad:
            # Every stride-th pixel. As a pool of 1×1, not a slice: a slice's gradient is not channels-last, which
            # slows all that comes before it in the backward pass.
            pixels = F.avg_pool2d(x, 1, self.stride)
            shortcut = F.pad(pixels, (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(self.bn2(self.conv2(out)) + shortcut, inplace=True)


class CifarResNet(nn.Module):
    """The CIFAR ResNet of He et al. 2016, section 4.2: stages `layer1`, `layer2`, … of so many blocks and these widths.

    Maps float images [B, in_chans, H, W] to logits [B, num_classes]. `stem_stride` is 1 in the paper.
    """

    def __init__(
        self, blocks: int, widths: tuple[int, ...], num_classes: int, in_chans: int, stem_stride: int = 1
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.num_features = num_classes, in_chans, widths[-1]
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = [f"layer{i}" for i in range(1, len(widths) + 1)]
        for i, (name, inputs, outputs) in enumerate(zip(self.stages, (widths[0], *widths), widths, strict=False)):
            # All stages but the first halve the sides of the image.
            self.add_module(name, self._stage(blocks, inputs, outputs, 1 if i == 0 else 2))
        self.fc = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class CifarVgg(nn.Module):
    """VGG with BatchNorm and one linear layer, as the pruning literature runs it on CIFAR.

    Maps float images [B, in_chans, H, W], H and W at least 16, to logits [B, num_classes].
    """

    def __init__(self, plan: tuple[int | str, ...], num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        layers: list[nn.Module] = []
        channels = in_chans
        for step in plan:
            if isinstance(step, str):
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers += [nn.Conv2d(channels, step, 3, padding=1, bias=False), nn.BatchNorm2d(step), nn.ReLU(inplace=True)]
            channels = step
        self.features = nn.Sequential(*layers)
        self.num_features = channels
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean(dim=(2, 3)))  # type: ignore[no-any-return]


# Simonyan & Zisserman 2015, table 1, column D, without the last pooling (a 32×32 image is 2×2 by then).
_VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)


def _resnet18(in_chans: int = 3, **kwargs: Any) -> nn.Module:
    """Timm's ResNet-18 with a 3×3 stride-1 stem and no max-pool."""
    model: Any = ResNet(BasicBlockOfTimm, (2, 2, 2, 2), in_chans=in_chans, **kwargs)  # type: ignore[arg-type]
    model.conv1 = nn.Conv2d(in_chans, 64, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm begins all its ResNets
    model.maxpool = nn.Identity()
    return model  # type: ignore[no-any-return]


@register_model
def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Timm's ResNet-18 with a 3×3 stride-1 stem and no max-pool, as for 32×32 images (11 M parameters)."""
    return _build(_resnet18, "resnet18_cifar", pretrained, **kwargs)


@register_model
def vgg16_bn_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VGG-16 with BatchNorm for 32×32 images: 13 convolutions, global average pool, one linear layer."""
    return _build(CifarVgg, "vgg16_bn_cifar", pretrained, plan=_VGG16, **kwargs)


@register_model
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 of He et al. 2016 for 32×32 images (0.27 M parameters)."""
    return _build(CifarResNet, "resnet20_cifar", pretrained, blocks=3, widths=(16, 32, 64), **kwargs)


@register_model
def resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The smallest network of the same family (75 k parameters): seconds on digits, minutes on Fashion-MNIST."""
    return _build(CifarResNet, "resnet8_cifar", pretrained, blocks=1, widths=(16, 32, 64), **kwargs)


@register_model
def resnet10_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """One more stage, and a stem of stride 2: 0.67 M parameters that fit Fashion-MNIST, at the cost of ResNet-8."""
    shape = {"blocks": 1, "widths": (24, 48, 96, 192), "stem_stride": 2}
    return _build(CifarResNet, "resnet10_cifar", pretrained, **shape, **kwargs)
