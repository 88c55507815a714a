"""The kept weights of a model, fitted to the mean activations of the pool.

    for each ratio:
        teacher = Σ wᵢ·activations of ticketᵢ / Σ wᵢ,  wᵢ = ratio^|i − target|
        model = the start, rebuilt layer by layer to the teacher's activations (`lptool.pooling.reconstruction`)

The start is the target, or in `auto` the best mean of tickets. Weights are fitted to training images without looking
at a label. Only the ratio is chosen on val, so there is little room for luck.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from lptool.checkpoints.masks import State
from lptool.pooling.catalogue import TEACHERS
from lptool.pooling.outcome import Coefficients, Incumbent, LayerFit, Outcome, Scored, Step
from lptool.pooling.search import Search
from lptool.pooling.window import shares
from lptool.scoring.score import Score

Rebuilt = tuple[State, tuple[LayerFit, ...]]


def reconstruct(search: Search, start: Incumbent) -> Outcome:
    """The rebuilt start that is best on val, where it is better than the start.

    Each rank rebuilds with other teachers. Only scores are exchanged: where the best was made on another rank, it is
    made again.
    """
    assert search.rebuilder is not None
    begin = search.rebuilder.recalibrated(start.state)  # what every rebuilding starts from
    made: dict[float, Rebuilt] = {}

    def score(ratio: float) -> Score:
        made[ratio] = _rebuilt(search, begin, start, ratio)
        return search.score(made[ratio][0])

    scores: list[Score] = []
    best: int | None = None
    for first in range(0, len(TEACHERS), search.ranks.count):
        among = TEACHERS[first : first + search.ranks.count]
        found = search.ranks.share({rank: partial(score, ratio) for rank, ratio in enumerate(among)})
        scores += found.values()
        best = search.choice.best(scores, start.score)
        made = {ratio: each for ratio, each in made.items() if best is not None and ratio == TEACHERS[best]}
        incumbent = start.score if best is None else scores[best]
        search.report(tuple(Scored(None, None, each) for each in found.values()), incumbent)
    steps = tuple(Step(place, None, best is not None, None, ()) for place in search.order)
    if best is None:
        return Outcome("reconstruct", start, steps, ranked=tuple(scores))
    ratio = TEACHERS[best]
    state, fits = made.get(ratio) or _rebuilt(search, begin, start, ratio)
    return Outcome(
        "reconstruct",
        Incumbent(state, start.mask, scores[best], recalibrated=True),
        steps,
        Coefficients(("teacher",), (shares(search, ratio),)),
        ranked=tuple(scores),
        settings={"teacher": ratio},
        fits=fits,
    )


def _rebuilt(search: Search, begin: State, start: Incumbent, ratio: float) -> Rebuilt:
    assert search.rebuilder is not None

    def tickets() -> Iterator[tuple[float, State]]:
        for place, share in enumerate(shares(search, ratio)):
            search.say(f"activations of level {search.pool.level(place)}", start.score)
            yield share, search.pool[place].state

    teacher = search.rebuilder.teach(tickets())
    return search.rebuilder.rebuild(
        begin, start.mask, teacher, lambda layer: search.say(f"fitting {layer}", start.score)
    )
