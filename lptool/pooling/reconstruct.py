"""The target's kept weights, fitted to the mean activations of the pool.

    for each ratio:
        teacher = Σ wᵢ·activations of ticketᵢ / Σ wᵢ,  wᵢ = ratio^|i − target|
        model = the target, rebuilt layer by layer to the teacher's activations (`lptool.pooling.reconstruction`)

Weights are fitted to training images without looking at a label. Only the ratio is chosen on val, so there is little
room for luck.
"""

from __future__ import annotations

from functools import partial

from lptool.checkpoints.masks import State
from lptool.pooling.catalogue import TEACHERS
from lptool.pooling.outcome import Coefficients, Incumbent, LayerFit, Outcome, Scored, Step
from lptool.pooling.search import Search
from lptool.pooling.window import shares
from lptool.scoring.score import Score

Rebuilt = tuple[State, tuple[LayerFit, ...]]


def reconstruct(search: Search, start: Incumbent) -> Outcome:
    """The rebuilt target that is best on val, where it replaces the target.

    Each rank rebuilds with other teachers. Only scores are exchanged: where the best was made on another rank, it is
    made again.
    """
    assert search.rebuilder is not None
    begin = search.rebuilder.recalibrated(start.state)  # what every rebuilding starts from
    made: dict[float, Rebuilt] = {}

    def score(ratio: float) -> Score:
        made[ratio] = _rebuilt(search, begin, start, ratio)
        return search.score(made[ratio][0])

    scores: dict[float, Score] = {}
    best, chosen = start.score, None
    for first in range(0, len(TEACHERS), search.ranks.count):
        among = TEACHERS[first : first + search.ranks.count]
        found = search.ranks.share({rank: partial(score, ratio) for rank, ratio in enumerate(among)})
        scores |= dict(zip(among, found.values(), strict=True))
        for ratio in among:
            if search.choice.replaces(scores[ratio], best):
                best, chosen = scores[ratio], ratio
        made = {ratio: each for ratio, each in made.items() if ratio == chosen}  # one in memory at a time
        search.report(tuple(Scored(None, None, scores[ratio]) for ratio in among), best)
    steps = tuple(Step(place, None, chosen is not None, None, ()) for place in search.order)
    if chosen is None:
        return Outcome("reconstruct", start, steps, ranked=tuple(scores.values()))
    state, fits = made.get(chosen) or _rebuilt(search, begin, start, chosen)
    return Outcome(
        "reconstruct",
        Incumbent(state, start.mask, best, recalibrated=True),
        steps,
        Coefficients(("teacher",), (shares(search, chosen),)),
        ranked=tuple(scores.values()),
        settings={"ratio": chosen},
        fits=fits,
    )


def _rebuilt(search: Search, begin: State, start: Incumbent, ratio: float) -> Rebuilt:
    assert search.rebuilder is not None
    tickets = ((share, search.pool[place].state) for place, share in enumerate(shares(search, ratio)))
    return search.rebuilder.rebuild(begin, start.mask, search.rebuilder.teach(tickets))
