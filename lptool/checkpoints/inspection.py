"""What `lptool inspect` finds out: one ticket after the other, and each beside its denser neighbour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lptool.checkpoints.evidence import of_pruning
from lptool.checkpoints.nested import USUAL, Keys
from lptool.checkpoints.pool import find_problems, in_order, prunable_names, unusual, without_duplicates
from lptool.checkpoints.reading import Checkpoint, reopened, summarise_file
from lptool.checkpoints.summary import Summary, Tally, l2_distance
from lptool.errors import first_and_count, first_ten
from lptool.tables import percent

# Statistics and counters that a network keeps beside its parameters.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Neighbours:
    """A ticket beside the next denser one.

    Attributes:
        nested: whether it keeps only weights that the denser one keeps.
        overlap: share of the sparser one's kept weights that the other keeps too, in [0, 1].
        distance: Euclidean distance over the prunable weights.
    """

    nested: bool
    overlap: float
    distance: float


@dataclass(frozen=True)
class Finding:
    """One file: its summary, its place beside the denser neighbour (None for the densest), and what is unusual.

    Attributes:
        prunable: names of its tensors that are prunable in any of the files.
    """

    summary: Summary
    neighbours: Neighbours | None
    warnings: tuple[str, ...]
    prunable: tuple[str, ...]

    @property
    def density(self) -> float:
        """Kept fraction of the weights that are prunable in any of the files, in [0, 1]."""
        return self.summary.density(self.prunable)

    @property
    def parameters(self) -> int:
        """Elements of all tensors but BatchNorm statistics; what layers share counts once."""
        return sum(tally.size for tally in self._weights)

    @property
    def nonzero(self) -> int:
        """Those of them that are not 0."""
        return sum(tally.nonzero for tally in self._weights)

    @property
    def _weights(self) -> list[Tally]:
        """Of equal matrices one: trained ones are equal where they are one tensor under several names."""
        weights = {name: tally for name, tally in self.summary.tensors.items() if not name.endswith(_BUFFERS)}
        matrix = {name: len(tally.shape) > 1 and tally.nonzero > 0 for name, tally in weights.items()}
        return list({tally.digest if matrix[name] else name: tally for name, tally in weights.items()}.values())

    @property
    def layers(self) -> list[tuple[str, tuple[int, ...], float]]:
        """Name, shape and sparsity of every prunable tensor."""
        return [(n, self.summary.tensors[n].shape, 1 - self.summary.density([n])) for n in self.prunable]


@dataclass(frozen=True)
class Inspection:
    """Findings in the order of the pool, what keeps the files from being pooled, and what else is unusual.

    A single file is no pool, and has neither problems nor warnings here.
    """

    findings: tuple[Finding, ...]
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def inspect_files(files: Sequence[str | Path], keys: Keys = USUAL) -> Inspection:
    """Read files one tensor at a time, and compare each with its denser neighbour.

    Raises:
        CheckpointError: a file cannot be read.
    """
    summaries = in_order(of_pruning([summarise_file(file, keys) for file in files]))
    names = prunable_names(summaries)
    findings = tuple(_finding(s, d, names) for s, d in zip(summaries, [None, *summaries], strict=False))
    if len(summaries) == 1:
        return Inspection(findings)
    distinct, duplicates = without_duplicates(summaries)
    problems = find_problems(distinct)
    # What else is unusual compares the same tensors of all files, which a problem may rule out.
    more = [] if problems else [*unusual(distinct), *_like_several_runs(distinct, _apart_in(findings))]
    return Inspection(findings, tuple(problems), (*first_and_count(duplicates), *more))


def not_nested(summaries: Sequence[Summary]) -> list[str]:
    """A line where tickets of an ordered and aligned pool keep weights pruned in the one before, naming the first.

    And one where they look like several runs.
    """
    names = prunable_names(summaries)
    apart = []
    for summary, denser in zip(summaries[1:], summaries, strict=False):
        kept, shared = _kept_and_shared(_again(summary), _again(denser), names)
        if shared < kept:
            apart.append((denser, summary))
    return _like_several_runs(summaries, apart) + first_and_count(_not_nested_in(*pair) for pair in apart)


def _apart_in(findings: Sequence[Finding]) -> list[tuple[Summary, Summary]]:
    """Neighbours of which the second keeps weights that are pruned in the first."""
    return [
        (a.summary, b.summary) for a, b in pairwise(findings) if b.neighbours is not None and not b.neighbours.nested
    ]


def _like_several_runs(summaries: Sequence[Summary], apart: Sequence[tuple[Summary, Summary]]) -> list[str]:
    """A line where no header names a seed, and every density below 1 is there so many times, with other masks."""
    names = prunable_names(summaries)
    often = {*Counter(percent(s.density(names)) for s in summaries if s.density(names) < 1).values()}
    twins = [pair for pair in apart if len({percent(s.density(names)) for s in pair}) == 1]
    if len(often) != 1 or not twins or any("seed" in s.metadata.train for s in summaries):
        return []
    return [
        f"these look like {often.pop()} runs: so often every density is there, with other masks; pooling averages "
        "weights that have no common start"
    ]


def _not_nested_in(denser: Summary, summary: Summary) -> str:
    return f"{summary.file}: not nested in {denser.file}: keeps weights that are pruned there"


def _finding(summary: Summary, denser: Summary | None, names: Sequence[str]) -> Finding:
    neighbours = _compare(summary, denser, names) if denser is not None else None
    warnings = [f"{summary.file}: {note}" for note in summary.notes]
    if summary.not_finite:
        warnings.append(f"{summary.file}: NaN or infinite values in {first_ten(summary.not_finite, ', ')}")
    if neighbours is not None and denser is not None and not neighbours.nested:
        warnings.append(_not_nested_in(denser, summary))
    there = tuple(name for name in names if name in summary.tensors)
    return Finding(summary, neighbours, tuple(warnings), there)


def _compare(summary: Summary, denser: Summary, names: Sequence[str]) -> Neighbours | None:
    """None where the two have different tensors."""
    shapes, others = ([found.get(name) for name in names] for found in (summary.shapes, denser.shapes))
    if shapes != others or None in shapes:
        return None
    mine, theirs = _again(summary), _again(denser)
    kept, shared = _kept_and_shared(mine, theirs, names)
    smaller = min(kept, denser.kept(names))
    distance = l2_distance((mine.tensor(name), theirs.tensor(name)) for name in names)
    return Neighbours(shared == kept, shared / smaller if smaller else 1.0, distance)


def _again(summary: Summary) -> Checkpoint:
    """The file of a summary, with its masks: without those of zeros that are none (see `of_pruning`)."""
    return reopened(summary, summary.prunable)


def _kept_and_shared(mine: Checkpoint, theirs: Checkpoint, names: Sequence[str]) -> tuple[int, int]:
    """How many weights one file keeps, and how many of them the other keeps too."""
    kept = shared = 0
    for name in names:
        own, other = mine.mask(name), theirs.mask(name)
        kept, shared = kept + int(own.count_nonzero()), shared + int((own & other).count_nonzero())
    return kept, shared
