"""The target and the form of a pooled file that may have no more than so many bytes, chosen before any search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lptool.checkpoints.masks import sparsity
from lptool.checkpoints.packed import PackError
from lptool.checkpoints.quantised import channels_of
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import VALUES, Form, forms_from_whole
from lptool.errors import OutputError
from lptool.pooling.setup import Bench
from lptool.pooling.targets import kept_of
from lptool.scoring.score import Score
from lptool.tables import percent

# Bytes of a header: of a tensor's entry beside its name, and of what a pooled file says beside what the ticket does.
_ENTRY, _TRACE, _PER_STEP, _PER_TENSOR, _PER_COEFFICIENT = 130, 3_000, 250, 150, 30


@dataclass(frozen=True)
class Candidate:
    """A target, by its place in the pool, in the least shortened form in which its pooled file fits.

    Attributes:
        most: bytes of that file at most. rank: how much its form shortens weights, from 0.
    """

    target: int
    form: Form
    most: int
    rank: int


def fitting_target(bench: Bench, targets: Sequence[int], form: Form, most: int) -> tuple[int, Form, str]:
    """Of these targets the one whose ticket is best on val in the form that lets its pooled file fit.

    How a pooled file's weights spread over the tensors is known only when it is made; its size is bounded by how many
    there are. The form given back refuses to write more than `most` bytes.

    Args:
        targets: places in the pool. form: what is asked for already: the type of the weights.
        most: bytes of the file.

    Returns:
        The target, its form, and a line that says what was chosen.

    Raises:
        OutputError: the pooled file of no target is sure to fit; says what the smallest may take.
    """
    found = _candidates(bench, targets, Form(True, form.values, most))
    fitting = [each for each in found if each.most <= most]
    if not fitting:
        smallest = min(found, key=lambda each: each.most)
        raise OutputError(
            f"no pooled file is sure to have {most:,} bytes or less; that of level {bench.pool.level(smallest.target)} "
            f"as {smallest.form} has {smallest.most:,} at most: allow so many, or pool sparser tickets"
        )
    if len(fitting) == 1:
        return _chosen(bench, fitting[0], None, len(targets))
    scores = {each: _score(bench, each) for each in fitting}
    best = max(fitting, key=lambda each: (bench.choice.merit(scores[each]), -each.rank, -kept_of(bench, each.target)))
    return _chosen(bench, best, scores[best], len(targets))


def _candidates(bench: Bench, targets: Sequence[int], form: Form) -> list[Candidate]:
    """Of each target the first form that fits, else the smallest. Raises OutputError where a ticket has no form."""
    found = []
    for target in targets:
        every = [
            Candidate(target, each, most_bytes(bench, target, each), rank)
            for rank, each in enumerate(forms_from_whole(form))
            if _holds(bench.pool[target], each)
        ]
        if not every:
            raise OutputError(f"{bench.pool.summaries[target].file}: a weight is too large for {form.values}")
        found.append(next((each for each in every if each.most <= (form.most or 0)), min(every, key=lambda e: e.most)))
    return found


def _holds(ticket: Ticket, form: Form) -> bool:
    try:
        form.as_read(ticket)
    except PackError:
        return False
    return True


def _score(bench: Bench, candidate: Candidate) -> Score:
    """Of the ticket itself on val, its weights as the file keeps them."""
    return bench.score(candidate.form.as_read(bench.pool[candidate.target]).state, bench.data.val)


def _chosen(bench: Bench, best: Candidate, score: Score | None, targets: int) -> tuple[int, Form, str]:
    level = bench.pool.level(best.target)
    sparse = 1 - kept_of(bench, best.target) / bench.pool.summaries[0].size(bench.pool.prunable)
    best_of = f", of the tickets that fit the best on val ({percent(score.accuracy)})" if score and targets > 1 else ""
    line = (
        f"chosen to fit {best.form.most:,} bytes: level {level}, {percent(sparse)} sparse, as {best.form}{best_of}; it "
        f"takes {best.most:,} at most"
    )
    return best.target, best.form, line


def most_bytes(bench: Bench, target: int, form: Form) -> int:
    """The bytes that the pooled file of a target has at most in a packed form.

    The kept weights are as many as the target's, but may lie elsewhere: a bit for each weight says where, or a byte for
    each kept one and one for each 255 others. The trace in the header is reckoned generously.
    """
    ticket = bench.pool[target]
    tensors, copies = ticket.tensors(), ticket.mask_in_file()
    pruned = {own: tensors[own] for own in (ticket.own_names.get(name, name) for name in ticket.mask)}
    kept, total = kept_of(bench, target), sum(t.numel() for t in pruned.values())
    widest = max((t.element_size() for t in pruned.values()), default=0)
    width = min(widest, VALUES[form.values].itemsize) if form.values else widest
    scales = 4 * sum(channels_of(t.shape) for t in pruned.values()) if form.values == "int8" else 0
    positions = min(total // 8 + len(pruned), kept + total // 255)
    # A further name of a tensor is written once more, and how much of it is kept is not known.
    others = sum(t.nbytes + (t.numel() // 8 + 1) * (n in copies) for n, t in tensors.items() if n not in pruned)
    return kept * width + scales + positions + others + _header(bench, ticket)


def _header(bench: Bench, ticket: Ticket) -> int:
    """The same of the header alone."""
    names, options, tickets = ticket.tensors(), bench.options, len(bench.pool)
    masked = ticket.mask_in_file()
    # A packed tensor has three parts and an entry in the layout.
    entries = sum((len(json.dumps(name)) + _ENTRY) * (4 if name in masked else 1) for name in names)
    said = len(json.dumps(ticket.metadata.to_json(sparsity(ticket.mask))))
    steps = _PER_STEP * tickets * options.passes + _PER_TENSOR * len(masked)
    coefficients = _PER_COEFFICIENT * tickets * len(masked) if options.method == "learned" else 0
    return entries + said + _TRACE + steps + coefficients
