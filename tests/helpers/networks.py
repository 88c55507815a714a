"""Networks of all habits that programs have, as source: a test writes it to a file and names `file.py:Kind`."""

from __future__ import annotations

from tests.helpers.training import random_data

SOURCE = '''
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm


def body(channels, norm=nn.BatchNorm2d):
    first, second = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2)
    return nn.Sequential(first, norm(4), nn.ReLU(), second, nn.ReLU())


class Plain(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.body, self.head = body(in_chans), nn.Linear(4 * 9, num_classes)

    def flat(self, x):
        return self.body(x).flatten(1)

    def forward(self, x):
        return self.head(self.flat(x))


class Views(Plain):
    """LeNet, Conv-N and most teaching code."""

    def flat(self, x):
        x = self.body(x)
        return x.view(x.size(0), -1)


class ViewsImages(nn.Module):
    """LeNet-300-100, with a convolution so that there is something to prune."""

    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.first, self.conv = nn.Linear(in_chans * 64, 64), nn.Conv2d(1, 2, 3, padding=1)
        self.head = nn.Linear(128, num_classes)

    def forward(self, x):
        x = F.relu(self.first(x.view(x.size(0), -1))).view(-1, 1, 8, 8)
        return self.head(self.conv(x).view(x.size(0), -1))


class ViewsInTraining(Plain):
    def flat(self, x):
        x = self.body(x)
        return x.view(x.size(0), -1) if self.training else x.flatten(1)


class ViewsGradient(Plain):
    """Its own backward pass needs a layout that a channels-last convolution does not give."""

    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        self.body.register_forward_hook(lambda module, given, made: Checked.apply(made))


class Checked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.saved_tensors[0].view(-1)
        return gradient


class Volume(nn.Module):
    """Weights of five dimensions, which have no channels-last layout."""

    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv, self.head = nn.Conv3d(1, 4, 3, padding=1), nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.conv(x[:, None]).mean((2, 3, 4)))


class CountingNorm(nn.BatchNorm2d):
    """As older torch wrote it."""

    def forward(self, x):
        if self.training and self.track_running_stats:
            self.num_batches_tracked = self.num_batches_tracked + 1
        statistics, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        return F.batch_norm(x, *statistics, *affine, self.training, self.momentum, self.eps)


class OwnNorm(nn.Module):
    """No BatchNorm by class; puts new statistics in the place of the old, and its momentum is the share of the old."""

    def __init__(self, channels, momentum=0.9):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("running_var", torch.ones(1, channels, 1, 1))

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True)
            self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mean.detach()
            self.running_var = self.momentum * self.running_var + (1 - self.momentum) * var.detach()
        return (x - mean) / (var + 1e-5).sqrt() * self.weight[:, None, None] + self.bias[:, None, None]


def with_norm(norm):
    class Normed(Plain):
        def __init__(self, num_classes, in_chans):
            super().__init__(num_classes, in_chans)
            self.body = body(in_chans, norm)

    return Normed


Counting = with_norm(CountingNorm)
Own = with_norm(OwnNorm)
Instance = with_norm(lambda channels: nn.InstanceNorm2d(channels, affine=True, track_running_stats=True))
Grouped = with_norm(lambda channels: nn.GroupNorm(2, channels))


class CountsAlways(Plain):
    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls = self.calls + 1
        return super().forward(x)


class Auxiliary(Plain):
    """GoogLeNet and Inception: more than logits, in training alone."""

    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits * 2) if self.training else logits


Outputs = namedtuple("Outputs", ["logits", "aux"])


class Named(Plain):
    def forward(self, x):
        return Outputs(super().forward(x), None) if self.training else super().forward(x)


@dataclass
class Output:
    loss: object
    logits: torch.Tensor


class AsTransformers(Plain):
    def forward(self, pixel_values):
        return Output(None, super().forward(pixel_values))


class AsMapping(Plain):
    def forward(self, x):
        return OrderedDict(features=x, logits=super().forward(x))


class Spectral(Plain):
    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        self.body[3] = parametrizations.spectral_norm(self.body[3])


class OldSpectral(Plain):
    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        self.body[3] = spectral_norm(self.body[3])


class Extra(nn.ReLU):
    """Keeps what is no tensor beside the tensors."""

    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        assert state["calls"] == 3


class ExtraState(Plain):
    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        self.body[2] = Extra()


class ExtraTensor(Extra):
    def get_extra_state(self):
        return torch.tensor([3])

    def set_extra_state(self, state):
        assert state.tolist() == [3]


class ExtraTensors(Plain):
    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        self.body[2] = ExtraTensor()


class Lazy(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.norm, self.head = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.head(F.relu(self.norm(self.conv(x))).flatten(1))


class Buffers(Plain):
    """Buffers of integers and truth values, and a parameter that is not trained."""

    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        self.register_buffer("places", torch.arange(36))
        self.register_buffer("used", torch.ones(36, dtype=torch.bool))
        self.shift = nn.Parameter(torch.zeros(36, dtype=torch.long), requires_grad=False)

    def flat(self, x):
        return super().flat(x)[:, self.places] * self.used + self.shift


class Frozen(Plain):
    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        for parameter in self.body.parameters():
            parameter.requires_grad_(False)


class Hooked(Plain):
    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        self.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
        self.body.register_forward_hook(lambda module, given, made: made + 1)


# What is refused


class Pair(Plain):
    def forward(self, x):
        return super().forward(x), self.flat(x)


class OthersInTraining(Plain):
    def forward(self, x):
        return (self.flat(x), super().forward(x)) if self.training else super().forward(x)


class FailsInTraining(Plain):
    def forward(self, x):
        return super().forward(x) @ torch.zeros(99) if self.training else super().forward(x)


class NoGradient(Plain):
    def forward(self, x):
        return super().forward(x).detach()


class AllFrozen(Plain):
    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        self.requires_grad_(False)


class Weighted(Plain):
    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        self.body[3] = parametrizations.weight_norm(self.body[3])


class NotANumber(Plain):
    def forward(self, x):
        return super().forward(x) / 0 * 0


class OfAnotherSize(Plain):
    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        self.head = nn.Linear(99, num_classes)
'''

# What trains, is pooled and is evaluated; and what `train` refuses, with what it says.
GOOD = (
    *("Plain", "Views", "ViewsImages", "ViewsInTraining", "ViewsGradient", "Volume"),
    *("Counting", "Own", "Instance", "Grouped", "CountsAlways"),
    *("Auxiliary", "Named", "AsTransformers", "AsMapping"),
    *("Spectral", "OldSpectral", "ExtraState", "ExtraTensors", "Lazy", "Buffers", "Frozen", "Hooked"),
)
CONTIGUOUS = ("Views", "ViewsImages", "ViewsInTraining", "ViewsGradient", "Volume")
REFUSED = {
    "Pair": "gives a tuple for 2 images, expected logits of 3 classes: let its forward return them alone",
    "OthersInTraining": r"gives \[4, 36\] for 4 images in training mode, expected \[4, 3\] as in evaluation",
    "FailsInTraining": r"cannot be trained on images of \[3, 8, 8\]: ",
    "NoGradient": r"cannot be trained on images of \[3, 8, 8\]: element 0 of tensors does not require grad",
    "AllFrozen": r"cannot be trained on images of \[3, 8, 8\]: optimizer got an empty parameter list",
    "Weighted": r"^body\.3: its weight is made of other tensors \(as by weight norm\)",
    "NotANumber": "the loss became nan",
    "OfAnotherSize": r"cannot take images of \[3, 8, 8\]: ",
}


# Of the shape that all these networks take.
DATA = random_data(train=24, val=12, test=12, num_classes=3, channels=3)
