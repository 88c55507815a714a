"""The kept weights of a model, fitted to the mean activations of the pool.

    for each ratio:
        teacher = Σ wᵢ·activations of ticketᵢ / Σ wᵢ,  wᵢ = ratio^|i − target|
        model = the start, rebuilt layer by layer to the teacher's activations (`lptool.pooling.reconstruction`)

The start is the target, or in `auto` the best mean of tickets; its mask stays, or is chosen anew (`refit`). Weights are
fitted to training images without looking at a label. Only the ratio is chosen on val, so there is little room for luck.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property, partial

from lptool.checkpoints.masks import Mask, State
from lptool.checkpoints.pool import Pool
from lptool.errors import SetupError
from lptool.pooling.catalogue import TEACHERS
from lptool.pooling.outcome import Coefficients, Incumbent, Outcome, Rebuilt, Scored, Step
from lptool.pooling.search import Search
from lptool.pooling.window import shares
from lptool.scoring.batching import is_out_of_memory
from lptool.scoring.score import Score

log = logging.getLogger(__name__)
GROW = 3  # places in the pool: a refit mask may take weights of the ticket that is so much denser


class FittingError(SetupError):
    """Layers cannot be fitted on this machine."""


def reconstruct(search: Search, start: Incumbent) -> Outcome:
    """The rebuilt start that is best on val, where it is better than the start.

    Each rank rebuilds with other teachers. Only scores are exchanged: where the best was made on another rank, it is
    made again. Where no layer can be fitted the start stays, and so it does, with a warning, where memory runs out: a
    search that has come so far shall not be lost.
    """
    rebuild, made = _Rebuilding(search, start), dict[float, Rebuilt]()

    def score(ratio: float) -> Score | str:
        try:
            made[ratio] = rebuild(ratio)
        except FittingError as error:
            return str(error)
        return search.score(made[ratio].state) if made[ratio].fits else ""

    scores: list[Score] = []
    best: int | None = None
    for first in range(0, len(TEACHERS), search.ranks.count):
        among = TEACHERS[first : first + search.ranks.count]
        found = search.ranks.share({rank: partial(score, ratio) for rank, ratio in enumerate(among)}).values()
        failures = [each for each in found if isinstance(each, str)]
        if failures:
            if any(failures) and search.ranks.rank == 0:
                log.warning("Warning: %s; going on without reconstruct", max(failures))
            best = None
            break
        scores += [each for each in found if isinstance(each, Score)]
        best = search.choice.best(scores, start.score)
        made = {ratio: each for ratio, each in made.items() if best is not None and ratio == TEACHERS[best]}
        incumbent = start.score if best is None else scores[best]
        search.report(tuple(Scored(None, None, each) for each in scores[first:]), incumbent)
    steps = tuple(Step(place, None, best is not None, None, ()) for place in search.order)
    if best is None:
        return Outcome("reconstruct", start, steps, ranked=tuple(scores))
    ratio = TEACHERS[best]
    chosen = search.ranks.agree(lambda: made.get(ratio) or rebuild(ratio))
    return Outcome(
        "reconstruct",
        Incumbent(chosen.state, chosen.mask, scores[best], recalibrated=True),
        steps,
        Coefficients(("teacher",), (shares(search, ratio),)),
        ranked=tuple(scores),
        settings={"teacher": ratio},
        fits=chosen.fits,
    )


def room_of(pool: Pool, target: int) -> Mask:
    """The weights that a refit mask may take, beside those of the start."""
    return pool[max(0, target - GROW)].mask


class _Rebuilding:
    """Rebuilds a start by the ratio of the teacher's shares. Raises FittingError where memory runs out."""

    def __init__(self, search: Search, start: Incumbent) -> None:
        self.search, self.start = search, start

    @cached_property
    def begin(self) -> State:
        """What every rebuilding starts from."""
        assert self.search.rebuilder is not None
        return self.search.rebuilder.recalibrated(self.start.state)

    def __call__(self, ratio: float) -> Rebuilt:
        rebuilder = self.search.rebuilder
        assert rebuilder is not None
        try:
            teacher = rebuilder.teach(self._tickets(ratio))
            mask, say = self.start.mask, lambda layer: self._say(f"fitting {layer}")
            room = room_of(self.search.pool, self.search.target) if self.search.mask == "refit" else None
            return rebuilder.rebuild(self.begin, mask, teacher, say, room)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise FittingError(
                "fitting layers takes more memory than there is; lower --batch-size, --fit-images or --fit-positions"
            ) from error

    def _tickets(self, ratio: float) -> Iterator[tuple[float, State]]:
        pool = self.search.pool
        for place, share in enumerate(shares(self.search, ratio)):
            self._say(f"activations of level {pool.level(place)}")
            yield share, pool[place].state

    def _say(self, doing: str) -> None:
        self.search.say(doing, self.start.score)
