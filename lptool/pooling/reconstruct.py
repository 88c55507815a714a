"""The target's kept weights, fitted to the mean activations of the pool.

    for each ratio, and for each ridge, the strongest first:
        teacher = Σ wᵢ·activations of ticketᵢ / Σ wᵢ,  wᵢ = ratio^|i − target|
        model = the target, rebuilt layer by layer to the teacher's activations (`lptool.pooling.reconstruction`)

Weights are fitted to training images without looking at a label. Only the ratio and the ridge are chosen on val, in the
order of least change, so there is little room for luck.
"""

from __future__ import annotations

from lptool.pooling.catalogue import RIDGES, TEACHERS
from lptool.pooling.outcome import Coefficients, Incumbent, Outcome, Step
from lptool.pooling.search import Search
from lptool.pooling.window import shares
from lptool.scoring.score import Score


def reconstruct(search: Search, start: Incumbent) -> Outcome:
    """The rebuilt target that is best on val, where it replaces the target."""
    assert search.rebuilder is not None
    best, settings, scores = start, dict[str, float](), list[Score]()
    begin = search.rebuilder.recalibrated(start.state)  # what every rebuilding starts from
    for ratio in TEACHERS:
        tickets = ((share, search.pool[place].state) for place, share in enumerate(shares(search, ratio)))
        teacher = search.rebuilder.teach(tickets)
        for ridge in RIDGES:
            state = search.rebuilder.rebuild(begin, start.mask, teacher, ridge)
            score = search.score_once(state, None, None, best.score)
            scores.append(score)
            if search.choice.replaces(score, best.score):
                best = Incumbent(state, start.mask, score, recalibrated=True)
                settings = {"ratio": ratio, "ridge": ridge}
    steps = tuple(Step(place, None, bool(settings), None, ()) for place in search.order)
    coefficients = Coefficients(("teacher",), (shares(search, settings["ratio"]),)) if settings else None
    return Outcome("reconstruct", best, steps, coefficients, tuple(scores), settings)
