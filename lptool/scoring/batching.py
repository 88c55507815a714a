"""How many images at once: as many as the device needs to be busy, and no more than fit in its memory."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from lptool.errors import SetupError
from lptool.ranks import ALONE, Ranks

T = TypeVar("T")
SMALLEST = 32
LARGEST = {"cpu": 512, "cuda": 4096}
_ENOUGH = 0.9  # of the highest rate seen is fast enough: with smaller batches a scoring can stop earlier
_SECONDS = 0.1  # to spend on measuring each size

log = logging.getLogger(__name__)


class BatchSize:
    """A number of images that halves itself where that many do not fit in memory."""

    def __init__(self, images: int) -> None:
        self.images = images

    def fit(self, run: Callable[[int], T], ranks: Ranks = ALONE) -> T:
        """`run(batch size)`, again with half the size as often as memory runs out, on all ranks where on one.

        Args:
            run: speaks to no other rank.

        Raises:
            SetupError: not even one image fits.
            LptoolError: that `run` raises; PeerError where it does on another rank.
        """
        self.images = min(ranks.gather(self.images))  # one of them may have halved by itself before
        while True:
            found = ranks.agree(lambda: self._try(run))
            if all(ranks.gather(bool(found))):
                return found[0]
            if self.images == 1:
                raise SetupError("not even one image fits in memory; free some, or choose another --device")
            log.warning("Warning: %d images at once do not fit in memory; going on with half", self.images)
            self.images //= 2

    def _try(self, run: Callable[[int], T]) -> list[T]:
        """What `run` gives; nothing where memory ran out, and then what it held is free again."""
        try:
            return [run(self.images)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return []


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the CPU."""
    # The words of CUDA and MPS, of Windows, of Linux, and of CUDA's libraries.
    words = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(text in str(error) for text in words)


def probe(
    forward: Callable[[Tensor], object], shape: tuple[int, int, int], device: torch.device, largest: int | None = None
) -> int:
    """The smallest batch size at which `forward` runs nearly as fast, in images per second, as at any size.

    Args:
        forward: one pass over float images [B, C, H, W]; nothing may depend on their values.
        shape: [C, H, W].
        largest: none above this is tried, but always the smallest.
    """
    rates: dict[int, float] = {}
    size = SMALLEST
    limit = min(LARGEST.get(device.type, LARGEST["cuda"]), largest or LARGEST["cuda"])
    while size <= max(limit, SMALLEST):
        images = torch.zeros(size, *shape, device=device).contiguous(memory_format=torch.channels_last)
        try:
            rates[size], seconds = _rate(forward, images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break  # a larger one would not fit either
        if seconds > _SECONDS * 10:  # a large network is busy with few images
            break
        size *= 2
    return min((size for size, rate in rates.items() if rate >= _ENOUGH * max(rates.values())), default=SMALLEST)


def _rate(forward: Callable[[Tensor], object], images: Tensor) -> tuple[float, float]:
    """Images per second, and seconds, of the fastest pass; a first one, not counted, warms up."""
    spent, fastest = 0.0, math.inf
    with torch.no_grad():
        seconds_of(forward, images)
        while spent < _SECONDS:
            seconds = seconds_of(forward, images)
            spent, fastest = spent + seconds, min(fastest, seconds)
    return len(images) / fastest, fastest


def seconds_of(forward: Callable[[Tensor], object], images: Tensor, clock: Callable[[], float] | None = None) -> float:
    """Of one pass, until its device is done with it; `clock` gives seconds, by default the machine's."""
    clock = clock or time.perf_counter
    started = clock()
    forward(images)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    if images.is_mps:
        torch.mps.synchronize()
    return clock() - started
