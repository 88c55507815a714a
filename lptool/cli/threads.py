"""How many threads a command computes with: as sums on the CPU depend on it, so do its results."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lptool.ranks import Ranks


def choose_threads(asked: int | None, device: str, ranks: Ranks | None = None) -> int | None:
    """Let torch compute with `asked` threads, else as OMP_NUM_THREADS says, else with as many as are fastest here.

    Args:
        device: that is computed on; on another than the CPU nothing is measured.
        ranks: that compute together, and each have to call this. They come to one number.

    Returns:
        The number, where it was found here: what was begun with another one goes on with that. Else None.
    """
    import torch

    from lptool.device import fastest_threads, kind_of_device, usable_cores
    from lptool.ranks import ALONE

    # torchrun sets OMP_NUM_THREADS itself where the user has not, so there it says nothing.
    named = os.environ.get("OMP_NUM_THREADS") and "TORCHELASTIC_RUN_ID" not in os.environ
    if asked:
        torch.set_num_threads(asked)
    if asked or named:
        return None
    most, on_cpu = min(torch.get_num_threads(), usable_cores()), kind_of_device(device) == "cpu"
    threads = min((ranks or ALONE).gather(fastest_threads(most) if on_cpu else most))
    torch.set_num_threads(threads)
    return threads if on_cpu else None


def go_on_with(begun: int | None, threads: int | None) -> None:
    """Take the number that something was begun with, else `threads`; where that is None, as `choose_threads` says."""
    from lptool.device import go_on_with_threads

    if threads:
        go_on_with_threads(begun, threads)
