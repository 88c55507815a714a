"""Networks whose names are not one to one with their tensors, for images [1, 8, 8] of digits, as a file to name."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune


class Shared(nn.Module):
    """A weight under two names, a BatchNorm that runs twice, and a block that is the same module twice."""

    def __init__(self, num_classes: int = 10, in_chans: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.b = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.b.weight = self.a.weight
        self.bn = nn.BatchNorm2d(8)
        self.again = self.bn
        block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.ModuleList([block, block])
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.bn(self.a(self.stem(x).relu())).relu()
        x = self.again(self.b(x)).relu()
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


class ConvMask(nn.Conv2d):
    """After TurboPrune: a buffer `mask` beside the weight."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("mask", torch.ones_like(self.weight))

    def forward(self, x):
        return F.conv2d(x, self.mask.to(self.weight.device) * self.weight, self.bias, self.stride, self.padding)


class WeightMask(nn.Conv2d):
    """After Synaptic-Flow: `weight_mask` beside the weight, and `bias_mask` beside the bias."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("weight_mask", torch.ones(self.weight.shape))
        if self.bias is not None:
            self.register_buffer("bias_mask", torch.ones(self.bias.shape))

    def forward(self, x):
        bias = self.bias if self.bias is None else self.bias_mask * self.bias
        return F.conv2d(x, self.weight_mask * self.weight, bias, self.stride, self.padding)


class Masked(nn.Module):
    conv = ConvMask

    def __init__(self, num_classes: int = 10, in_chans: int = 1) -> None:
        super().__init__()
        self.conv1 = self.conv(in_chans, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = self.conv(8, 16, 3, 2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        return self.fc(self.bn2(self.conv2(x)).relu().mean((2, 3)))


class SynFlow(Masked):
    conv = WeightMask


class Hooked(Masked):
    """With the hooks of `torch.nn.utils.prune`."""

    conv = nn.Conv2d

    def __init__(self, num_classes: int = 10, in_chans: int = 1) -> None:
        super().__init__(num_classes, in_chans)
        for layer in (self.conv1, self.conv2):
            prune.identity(layer, "weight")
'''


def write_networks(folder: Path) -> str:
    """The file; `FILE:Shared` and so on are architectures."""
    file = folder / "nets.py"
    file.write_text(SOURCE)
    return str(file)
