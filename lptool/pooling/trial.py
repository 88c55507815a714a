"""Whether a network does what a search asks of it, before there is a search."""

from __future__ import annotations

import torch
from torch import nn

from lptool.data.dataset import Data
from lptool.errors import ArchError, first_line
from lptool.networks.running import blank_images, check_forward
from lptool.pooling.gradient import Slope
from lptool.scoring.batchnorm import recalibrate_bn


def try_search(
    model: nn.Module, data: Data, arch: str, device: torch.device, *, recalibrates: bool, descends: bool
) -> None:
    """A forward pass, and as far as the search has them BN recalibration and a gradient, on two black images.

    Raises:
        ArchError: the network cannot do it.
    """
    check_forward(model, data.shape, data.num_classes, arch, device)
    images, labels = blank_images(data.shape, device), torch.zeros(2, dtype=torch.long, device=device)
    try:
        if recalibrates:
            recalibrate_bn(model, [images])
        if descends:
            Slope(model, lambda *_, **__: [(images, labels)], 2)(model.state_dict(), 0)
    except Exception as error:  # a user's own code may raise anything
        raise ArchError(f"architecture {arch!r} cannot be pooled: {first_line(error)}") from error
