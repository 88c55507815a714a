"""What tests train: a short run on the embedded digits, and small networks on random images."""

from __future__ import annotations

import torch

from lptool.data.dataset import Data
from lptool.data.images import InMemory
from lptool.training.options import TrainOptions

DIGITS = TrainOptions(
    arch="resnet8_cifar", dataset="digits", epochs=3, rewind_epoch=1, rate=0.5, precision="fp32", val_fraction=0.25
)

NETWORKS = """
from torch import nn

def net(num_classes, in_chans, dropout=0.1):
    return nn.Sequential(
        nn.Conv2d(in_chans, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(dropout),
        nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

def certain(num_classes, in_chans):
    return net(num_classes, in_chans, dropout=0.0)

class Wrapped(nn.Module):
    # names its only part as programs name what they wrap a network in
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.model = net(num_classes, in_chans, dropout=0.0)

    def forward(self, x):
        return self.model(x)

def asleep(num_classes, in_chans):
    return net(num_classes, in_chans).eval()

def linear(num_classes, in_chans):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_chans, num_classes))

def too_few_classes(num_classes, in_chans):
    return net(num_classes - 1, in_chans)
"""


def random_data(train: int, val: int, test: int, num_classes: int, channels: int) -> Data:
    """Noise of 8 by 8 pixels; the same parts each time."""
    parts = [random_images(count, num_classes, channels, seed) for seed, count in enumerate((train, val, test))]
    mean, std = (0.5,) * channels, (0.3,) * channels
    split = {"fraction": 0.1, "seed": 0, "hash": "abc"}
    return Data("random", *parts, num_classes, (channels, 8, 8), mean, std, split)


def random_images(count: int, num_classes: int, channels: int, seed: int) -> InMemory:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, channels, 8, 8), dtype=torch.uint8, generator=generator)
    return InMemory(pixels, torch.randint(num_classes, (count,), generator=generator))


DATA = random_data(train=96, val=60, test=8, num_classes=4, channels=1)
