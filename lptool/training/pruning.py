"""From one level to the next: how many weights stay, and which.

Source: Yin et al. 2023, Algorithm 1; global and layerwise scope as in Frankle & Carbin 2019, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lptool.checkpoints.masks import Mask, kept_count, magnitude_mask, total_count
from lptool.errors import TrainError
from lptool.training.options import Levels, count_of


def next_mask(state: Mapping[str, Tensor], mask: Mask, level: int, levels: Levels, rate: float, scope: str) -> Mask:
    """The mask of `level`, within that of the level before: once pruned, a weight stays pruned.

    Args:
        state: the weights of the level before; of all its tensors those that `mask` covers are looked at.
        level: from 1. levels: see `Levels`.
        scope: `global` keeps the largest of all tensors together; `layer` the same share of each tensor's.

    Raises:
        TrainError: nothing would be left.
    """
    keep = _to_keep(kept_count(mask), total_count(mask), level, levels, rate)
    if scope == "global":
        _check_left(keep, level, "the weights")
        return magnitude_mask({name: state[name] for name in mask}, keep, within=mask)
    shares = _shares({name: kept_count({name: kept}) for name, kept in mask.items()}, keep, level)
    return {n: magnitude_mask({n: state[n]}, share, within={n: mask[n]})[n] for n, share in shares.items()}


def planned_counts(sizes: Mapping[str, int], levels: Levels, rate: float, scope: str) -> list[int]:
    """How many weights `next_mask` will keep at each level, the dense one first, of tensors with these `sizes`.

    Raises:
        TrainError: nothing would be left.
    """
    total = sum(sizes.values())
    now = dict(sizes) if scope == "layer" else {"the weights": total}
    counts = [total]
    for level in range(1, count_of(levels) + 1):
        now = _shares(now, _to_keep(sum(now.values()), total, level, levels, rate), level)
        counts.append(sum(now.values()))
    return counts


def _to_keep(before: int, total: int, level: int, levels: Levels, rate: float) -> int:
    """Of so many weights of the level before, and so many in all."""
    return round(before * (1 - rate)) if isinstance(levels, int) else round(total * (1 - levels[level - 1]))


def _shares(before: Mapping[str, int], keep: int, level: int) -> dict[str, int]:
    """The same share of each tensor's weights."""
    whole = sum(before.values())
    shares = {name: round(count * keep / whole) for name, count in before.items()}  # their sum may differ a little
    for name, share in shares.items():
        _check_left(share, level, name)
    return shares


def _check_left(keep: int, level: int, what: str) -> None:
    if keep == 0:
        raise TrainError(f"level {level}: pruning would leave none of {what}; ask for fewer levels or less sparsity")
