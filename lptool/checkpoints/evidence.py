"""Which masks and zeros are of pruning.

Programs also write masks of ones for tensors that they never prune, tables with zeros that are the same in all files,
and, now and then, a weight that happens to be 0.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from lptool.checkpoints.summary import Summary

# Of all weights of a file without masks: with a smaller share of zeros nothing has been pruned.
_STRAY = 0.001


def of_pruning(summaries: Sequence[Summary]) -> list[Summary]:
    """The summaries of files of one run, or of one file, without the masks that prune nothing; in the same order.

    What an lptool header calls prunable stays so. Of other masks those of ones go: where no file prunes a tensor it is
    not prunable, and where another one does, the pool fills in ones again. Of zeros that stand for masks those in
    tensors go that are equal in all files, as a table of positions is, and those of a file that has nearly none.
    """
    constant = _constant(summaries)
    return [_of_pruning(summary, constant) for summary in summaries]


def _of_pruning(summary: Summary, constant: Collection[str]) -> Summary:
    if summary.metadata.prunable or summary.mask_source == "packed":
        return summary
    if summary.mask_source != "zeros":
        return _without_masks(summary, [n for n in summary.prunable if summary.kept([n]) == summary.size([n])])
    changing = _without_masks(summary, constant)
    zeros = changing.size() - changing.kept()
    weights = changing.size([name for name, tally in changing.tensors.items() if len(tally.shape) > 1])
    if zeros >= _STRAY * weights:
        return changing
    stray = [f"{zeros:,} of {weights:,} weights are 0, too few to be pruned; read as dense"] if zeros else []
    dense = _without_masks(changing, changing.prunable)
    return replace(dense, mask_source="none", notes=(*dense.notes, *stray))


def _constant(summaries: Sequence[Summary]) -> set[str]:
    """Names of the tensors that are equal in all files, where there are two different ones at least."""
    different = list({summary.weights: summary for summary in summaries}.values())
    if len(different) < 2:
        return set()
    first, *others = different
    return {
        name
        for name, tally in first.tensors.items()
        if all(name in other.tensors and other.tensors[name].digest == tally.digest for other in others)
    }


def _without_masks(summary: Summary, names: Collection[str]) -> Summary:
    """The summary with these tensors kept whole."""
    gone = set(names)
    tensors = {n: replace(tally, kept=None) if n in gone else tally for n, tally in summary.tensors.items()}
    return replace(summary, tensors=tensors, prunable=tuple(name for name in summary.prunable if name not in gone))
