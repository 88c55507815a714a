"""Which tickets of a pool are to be improved, and how many weights the results keep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lptool.checkpoints.pool import Pool
from lptool.errors import PoolError
from lptool.pooling.setup import Bench
from lptool.ranks import ALONE, Ranks


def choose_targets(bench: Bench, ranks: Ranks = ALONE) -> list[int]:
    """Places in the pool of the tickets to improve. `matching` scores tickets on val. Raises PoolError."""
    pool, target = bench.pool, bench.options.target
    if bench.options.sparsity is not None:
        return [_nearest_denser(pool, bench.options.sparsity)]
    if target == "all":
        return list(range(len(pool)))
    if target == "sparsest":
        return [_sparsest(pool, range(len(pool)))]
    if target == "matching":
        scorings = {i: partial(_images_right, bench, i) for i in range(len(pool))}
        correct = ranks.share(scorings)
        # Place 0 is the densest ticket, whose accuracy is to be matched.
        return [_sparsest(pool, [i for i, right in correct.items() if right >= correct[0]])]
    for i, summary in enumerate(pool.summaries):
        if target == str(pool.level(i)) or Path(target).resolve() == Path(summary.file).resolve():
            return [i]
    levels = ", ".join(str(pool.level(i)) for i in range(len(pool)))
    raise PoolError(f"no target {target!r}: expected sparsest, matching, all, a level ({levels}) or one of the files")


def _nearest_denser(pool: Pool, sparsity: float) -> int:
    """The sparsest ticket that is no sparser than asked for. Raises PoolError."""
    keep, densest = kept_at(pool, sparsity), max(range(len(pool)), key=pool.kept)
    if keep > pool.kept(densest):
        raise PoolError(
            f"expected at least {1 - pool.density(densest):.6g}, the sparsity of the densest "
            f"ticket {pool.summaries[densest].file}, found {sparsity:g}",
            "sparsity",
        )
    return _sparsest(pool, [place for place in range(len(pool)) if pool.kept(place) >= keep])


def kept_at(pool: Pool, sparsity: float) -> int:
    """How many prunable weights a model of this sparsity keeps. Raises PoolError."""
    if not 0 <= sparsity < 1:
        raise PoolError(f"expected a number in [0, 1), such as 0.9 for 90 %, found {sparsity:g}", "sparsity")
    total = pool.summaries[0].size(pool.prunable)
    keep = round(total * (1 - sparsity))
    if keep == 0:
        raise PoolError(f"{sparsity:g} would leave none of the {total:,} prunable weights; expected less", "sparsity")
    return keep


def kept_of(bench: Bench, target: int) -> int:
    """How many weights the pooled model of a target keeps."""
    sparsity = bench.options.sparsity
    return bench.pool.kept(target) if sparsity is None else kept_at(bench.pool, sparsity)


def _images_right(bench: Bench, place: int) -> int:
    return bench.score(bench.pool[place].state, bench.data.val).correct


def _sparsest(pool: Pool, places: Sequence[int] | range) -> int:
    """The sparsest of these tickets; of equally sparse ones the last of those that are not pooled already."""
    return max(places, key=lambda i: (-pool.kept(i), pool.summaries[i].metadata.kind != "pooled", i))
