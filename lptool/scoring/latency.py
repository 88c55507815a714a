"""How long a dense forward pass takes on this machine: of one image, and of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from lptool.scoring.batching import seconds_of
from lptool.scoring.batchnorm import in_eval_mode

BATCH = 32  # images, where nobody says how many
WARM_UP = 5  # passes before those that count: the first ones allocate memory and choose kernels
LEAST, MOST = 20, 200  # passes that count, however long or short one takes
_SECONDS = 2.0  # to spend on each size of batch, once there are the least


@dataclass(frozen=True)
class Timing:
    """Seconds of one pass over `images` images: the median, and what 95 % of the `passes` did not exceed."""

    images: int
    median: float
    q95: float
    passes: int

    @classmethod
    def of(cls, images: int, seconds: Sequence[float]) -> Timing:
        """From the seconds of each pass.

        >>> Timing.of(1, [3.0, 1.0, 2.0, 9.0])
        Timing(images=1, median=2.5, q95=9.0, passes=4)
        """
        rank = math.ceil(0.95 * len(seconds))  # the nearest rank: a time that was measured
        return cls(images, median(seconds), sorted(seconds)[rank - 1], len(seconds))


@dataclass(frozen=True)
class Latency:
    """Of one network: one image, and a batch; `warm_up` passes before were not counted."""

    one: Timing
    batch: Timing
    warm_up: int = WARM_UP


def measure_latency(
    model: nn.Module,
    shape: tuple[int, int, int],
    device: torch.device,
    batch: int = BATCH,
    clock: Callable[[], float] | None = None,
) -> Latency:
    """The latency of a network in eval mode, in float32, on noise; zeros among its weights are multiplied like others.

    Args:
        model: on the device. shape: of an image, [C, H, W].
        clock: gives seconds; by default the machine's.

    >>> ticks = iter(range(1000))
    >>> measure_latency(nn.Flatten(), (1, 2, 2), torch.device("cpu"), 8, lambda: float(next(ticks))).batch
    Timing(images=8, median=1.0, q95=1.0, passes=20)
    """
    with in_eval_mode(model), torch.inference_mode():
        one, many = (_timing(model, noise(count, shape, device), clock) for count in (1, batch))
    return Latency(one, many)


def noise(count: int, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Images [B, C, H, W] as a normalised data set has them, the same each time, in memory as `Data` has them."""
    found = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    return found.to(device).contiguous(memory_format=torch.channels_last)


def _timing(model: nn.Module, images: Tensor, clock: Callable[[], float] | None) -> Timing:
    for _ in range(WARM_UP):
        seconds_of(model, images, clock)
    found = list[float]()
    while len(found) < LEAST or (len(found) < MOST and sum(found) < _SECONDS):
        found.append(seconds_of(model, images, clock))
    return Timing.of(len(images), found)
