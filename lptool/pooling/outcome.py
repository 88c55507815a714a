"""What a search leaves behind: its best model, its steps and scores, and how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lptool.checkpoints.masks import Mask, State
from lptool.scoring.score import Score


@dataclass(frozen=True)
class Incumbent:
    """The best model so far, and its score on val.

    `recalibrated` says whether the score was taken after BN recalibration: only then shall the model that is written
    be recalibrated too.
    """

    state: State
    mask: Mask
    score: Score
    recalibrated: bool


@dataclass(frozen=True)
class Step:
    """One candidate's turn.

    Attributes:
        candidate: its place in the pool.
        alpha: the best coefficient; None where no mix replaced the incumbent (most were cut short), and where there
            is one for each group of tensors.
        score: of the best mix; None where there is none, or where this mix was not scored by itself.
        attempts: every (alpha, score), in the order of the alphas.
        number: of the pass over the candidates, from 1.
    """

    candidate: int
    alpha: float | None
    accepted: bool
    score: Score | None
    attempts: tuple[tuple[float, Score], ...]
    number: int = 1


def steps_to(score: Score, alphas: Mapping[int, float], *, accepted: bool) -> tuple[Step, ...]:
    """The steps to a mix that was scored once, when every candidate was in it.

    Args:
        score: of that mix. alphas: each candidate's, by its place in the pool, in the order mixed in.
        accepted: whether the mix is the result.
    """
    *others, (last, alpha) = alphas.items()
    steps = [Step(place, each, accepted, None, ()) for place, each in others]
    return (*steps, Step(last, alpha, accepted, score, ((alpha, score),)))


@dataclass(frozen=True)
class Coefficients:
    """What each group of tensors takes of each ticket: `values[group][place in the pool]`."""

    groups: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class LayerFit:
    """How well a layer of a rebuilt network gives what the teacher has: the squared error over the variance of that.

    Attributes:
        ridge: None where the weights stayed as they were, because no fit is better.
        before, after: with the weights of the start, and fitted; 0 is perfect, 1 no better than a constant. None where
            they mean nothing: the teacher is constant, or not finite.
    """

    name: str
    ridge: float | None
    before: float | None
    after: float | None

    def to_json(self) -> dict[str, str | float | None]:
        """Errors to six digits, beyond which they mean nothing."""
        before, after = (None if value is None else float(f"{value:.6g}") for value in (self.before, self.after))
        return {"name": self.name, "ridge": self.ridge, "before": before, "after": after}


@dataclass(frozen=True)
class Rebuilt:
    """A network whose weights were fitted layer by layer: state and mask, and how well each layer fits."""

    state: State
    mask: Mask
    fits: tuple[LayerFit, ...]


@dataclass(frozen=True)
class Outcome:
    """What one method came to.

    Attributes:
        method: its name. best: its model.
        steps: how it got there, in order. coefficients: of `learned`, and of the teacher of `reconstruct`.
        settings: what a method chose on val beside alphas, by name. fits: of `reconstruct`, layer by layer.
        ranked: scores that belong to no step: of what was scored to choose an order, or a ratio.
    """

    method: str
    best: Incumbent
    steps: tuple[Step, ...]
    coefficients: Coefficients | None = None
    ranked: tuple[Score, ...] = ()
    settings: Mapping[str, float] = field(default_factory=dict)
    fits: tuple[LayerFit, ...] = ()

    @property
    def improved(self) -> bool:
        """Whether its model is another than the one that it began with."""
        return any(step.accepted for step in self.steps)

    @property
    def scores(self) -> tuple[Score, ...]:
        """Of every mix that was scored."""
        return (*self.ranked, *(score for step in self.steps for _, score in step.attempts))


@dataclass(frozen=True)
class SearchTrace:
    """What a search did.

    Attributes:
        method: as asked for. chosen: the one that the result is of; another than `method` only for `auto`.
        target: its place in the pool. alphas: that were tried.
        ticket, ticket_bn: scores of the target; `ticket_bn` is None without BN recalibration.
        start: the better of them, which the search began with.
        steps, coefficients, settings, fits: of the method chosen.
        outcomes: the score on val of each method that was run.
        evaluations: how many states were scored, the target included.
        not_finite: how many mixes were rejected because their score is not finite.
    """

    method: str
    chosen: str
    target: int
    alphas: tuple[float, ...]
    ticket: Score
    ticket_bn: Score | None
    start: Score
    steps: tuple[Step, ...]
    coefficients: Coefficients | None
    outcomes: dict[str, Score]
    evaluations: int
    not_finite: int
    settings: Mapping[str, float] = field(default_factory=dict)
    fits: tuple[LayerFit, ...] = ()

    @property
    def accepted(self) -> tuple[Step, ...]:
        """The steps that made the result."""
        return tuple(step for step in self.steps if step.accepted)


@dataclass(frozen=True)
class Scored:
    """A state that was scored: a mix with the candidate at this place of the pool, or the target itself (None)."""

    candidate: int | None
    alpha: float | None
    score: Score


@dataclass(frozen=True)
class Progress:
    """How far a search has come: what was scored since the last report, and how many mixes of how many at most.

    `doing` says in words what begins now, where that takes long and scores nothing.
    """

    scored: tuple[Scored, ...]
    incumbent: Score
    done: int
    total: int
    doing: str = ""


OnProgress = Callable[[Progress], None]
