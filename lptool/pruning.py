"""From one level to the next: how many weights stay, and which.

Source: Yin et al. 2023, Algorithm 1; global and layerwise scope as in Frankle & Carbin 2019, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lptool.errors import TrainError
from lptool.levels import Levels
from lptool.masks import Mask, kept_count, magnitude_mask, total_count


def next_mask(state: Mapping[str, Tensor], mask: Mask, level: int, levels: Levels, rate: float, scope: str) -> Mask:
    """The mask of `level`, within that of the level before.

    Args:
        state: the weights of the level before; of all its tensors those that `mask` covers are looked at.
        level: from 1. levels: see `Levels`.
        scope: `global` keeps the largest of all tensors together; `layer` the same share of each tensor's.

    Raises:
        TrainError: nothing would be left.
    """
    before = kept_count(mask)
    keep = round(before * (1 - rate)) if isinstance(levels, int) else _planned(levels[level - 1], mask)
    if scope == "global":
        _check_left(keep, level, "the weights")
        return magnitude_mask({name: state[name] for name in mask}, keep, within=mask)
    shares = {name: round(kept_count({name: kept}) * keep / before) for name, kept in mask.items()}
    for name, share in shares.items():
        _check_left(share, level, name)
    return {n: magnitude_mask({n: state[n]}, share, within={n: mask[n]})[n] for n, share in shares.items()}


def _planned(sparsity: float, mask: Mapping[str, Tensor]) -> int:
    """How many weights are kept where a sparsity was asked for."""
    return round(total_count(mask) * (1 - sparsity))


def _check_left(keep: int, level: int, what: str) -> None:
    if keep == 0:
        raise TrainError(f"level {level}: pruning would leave none of {what}; ask for fewer levels or less sparsity")
