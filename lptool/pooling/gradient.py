"""The gradient that `learned` goes by: of the loss on training images, by the weights, with BN on batch statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lptool.checkpoints.masks import State
from lptool.scoring.batchnorm import on_batch_statistics
from lptool.scoring.score import Batches, cast_forward
from lptool.scoring.weights import put_weights


@dataclass(frozen=True)
class Slope:
    """A `GradientFunction` over one model instance, whose weights are overwritten for each state.

    BatchNorm takes the statistics of each batch, as a mix has none of its own; everything else is as in evaluation, so
    that dropout adds no noise.

    Attributes:
        model: the network; on the device of the batches.
        train: makes the batches of training images; called with the order of the images.
        train_size: how many images those are.
        compute: see `cast_forward`.
        batch_size: images of a step, drawn without replacement. seed: of the drawing.
        noise: standard deviation of the Gaussian noise added to the normalised images.
    """

    model: nn.Module
    train: Batches
    train_size: int
    compute: torch.dtype = torch.float32
    _: KW_ONLY
    batch_size: int = 128
    seed: int = 0
    noise: float = 0.0

    def __call__(self, state: Mapping[str, Tensor], step: int) -> State:
        """The gradient of the mean loss on the images of this step, by each parameter that is not frozen.

        Equal steps take equal images.
        """
        # A prime that no number of steps comes near, so that no two seeds draw the same images at any of their steps.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        order = torch.randperm(self.train_size, generator=generator)[: self.batch_size]
        put_weights(self.model, state)
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        with on_batch_statistics(self.model), torch.enable_grad():
            [(images, labels)] = self.train(len(order), order=order)
            noise = torch.randn(images.shape, generator=generator).to(images) * self.noise
            loss = F.cross_entropy(cast_forward(self.model, self.compute)(images + noise).float(), labels)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return {name: g.detach() for name, g in zip(parameters, found, strict=True) if g is not None}
