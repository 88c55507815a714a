"""A network without BatchNorm: resnet10_cifar, each of its BatchNorm layers replaced by a GroupNorm of four groups."""

from __future__ import annotations

from typing import Any

from timm.models import create_model
from torch import nn

import lptool.networks.cifar  # noqa: F401  (registers resnet10_cifar)

GROUPS = 4


def resnet10_groupnorm(**kwargs: Any) -> nn.Module:
    """What `lptool train --arch benchmarks/groupnorm.py:resnet10_groupnorm` builds."""
    model = create_model("resnet10_cifar", **kwargs)
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    for name in norms:
        owner, _, attribute = name.rpartition(".")
        old = model.get_submodule(name)
        setattr(model.get_submodule(owner), attribute, nn.GroupNorm(GROUPS, old.num_features))
    return model
