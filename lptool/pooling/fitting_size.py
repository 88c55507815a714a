"""The target and the form of a pooled file that may have no more than so many bytes, chosen before any search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lptool.checkpoints.packed import PackError
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import Form, forms_from_whole
from lptool.errors import OutputError
from lptool.pooling.search import pruned_ticket
from lptool.pooling.setup import Bench
from lptool.pooling.targets import kept_of
from lptool.scoring.score import Score
from lptool.tables import percent

# Bytes of a header, for what a pooled file says beside what the ticket does.
_TRACE, _PER_STEP, _PER_TENSOR, _PER_COEFFICIENT = 3_000, 250, 150, 30
_SPREAD = 1.02  # over the target's own size, for kept weights that lie elsewhere


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

    How a pooled file's weights spread over the tensors is known only when it is made: see `most_bytes`. The form given
    back refuses to write more than `most` bytes.

    Args:
        targets: places in the pool. form: what is asked for already: the type of the weights.
        most: bytes of the file.

    Returns:
        The target, its form, and a line that says what was chosen.

    Raises:
        OutputError: the pooled file of no target is likely to fit; says what the smallest may take.
    """
    found = _candidates(bench, targets, Form(True, form.values, most))
    fitting = [each for each in found if each.most <= most]
    if not fitting:
        smallest = min(found, key=lambda each: each.most)
        raise OutputError(
            f"no pooled file is likely to have {most:,} bytes or less; that of level "
            f"{bench.pool.level(smallest.target)} as {smallest.form} has {smallest.most:,} at most: "
            "allow so many, or pool sparser tickets"
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
    """The bytes that the pooled file of a target has at most in a packed form, unless its weights lie far otherwise.

    That is what the target itself takes with as many weights. A pooled model has them in other places, of which the
    positions may take a little more, and a trace in its header, which is reckoned generously.
    """
    state, mask = pruned_ticket(bench.pool, target, kept_of(bench, target))
    start = form.size(replace(bench.pool[target], state=state, mask=mask))
    tickets, options = len(bench.pool), bench.options
    trace = _TRACE + _PER_STEP * tickets * options.passes + _PER_TENSOR * len(mask)
    coefficients = _PER_COEFFICIENT * tickets * len(mask) if options.method == "learned" else 0
    return math.ceil(_SPREAD * start) + trace + coefficients
