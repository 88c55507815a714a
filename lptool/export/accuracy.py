"""Accuracy before and after a network was shortened: val decides what may be written, test is reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from lptool.checkpoints.files import changed
from lptool.checkpoints.ticket import Ticket
from lptool.errors import LptoolError, OutputError
from lptool.evaluation.setting import SettingOptions
from lptool.evaluation.setup import EvaluateOptions, Plan, Subject, plan_evaluation
from lptool.networks.matching import fitted_ticket
from lptool.ranks import ALONE
from lptool.scoring.score import Score, graded
from lptool.scoring.weights import put_weights
from lptool.tables import percent


@dataclass(frozen=True)
class Scores:
    """On val, where that was asked for, and on test."""

    val: Score | None
    test: Score


@dataclass(frozen=True)
class Change:
    """The scores of a network before and after it was shortened.

    >>> Change(Scores(Score(9, 0.1, 10), Score(8, 0.1, 10)), Scores(Score(7, 0.1, 10), Score(8, 0.1, 10))).drop
    20.0
    """

    before: Scores
    after: Scores

    @property
    def drop(self) -> float | None:
        """By how many points accuracy on val fell, below 0 where it rose; None where val was not scored."""
        before, after = self.before.val, self.after.val
        return None if before is None or after is None else 100 * (before.correct - after.correct) / before.n

    def check(self, max_drop: float | None, output: Path) -> None:
        """Refuse a loss of more than `max_drop` points on val. Raises OutputError."""
        before, after, drop = self.before.val, self.after.val, self.drop
        if max_drop is None or drop is None or before is None or after is None or drop <= max_drop:
            return
        raise OutputError(
            f"{output}: not written, because accuracy on val falls by {drop:.2f} points, from "
            f"{percent(before.accuracy)} to {percent(after.accuracy)} of {after.n} images, and --max-drop allows "
            f"{max_drop:g}"
        )


@dataclass(frozen=True)
class Gauge:
    """A file's network with its weights in it, and the images to score it on; val only where it is needed."""

    plan: Plan
    subject: Subject
    with_val: bool

    @classmethod
    def opened(cls, source: Path, options: SettingOptions, sha256: str, *, with_val: bool) -> Gauge:
        """Raises LptoolError where the network or the images cannot be had, or the file has another sha256 by now."""
        plan = plan_evaluation([source], EvaluateOptions(**vars(options)))
        (subject,) = plan.subjects
        if subject.summary.sha256 != sha256:
            raise changed(source)
        subject.load()
        return cls(plan, subject, with_val)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of val, where that decides."""
        seen = self.subject.summary.metadata.data.split.hash
        if not self.with_val or seen == self.plan.data.split["hash"]:
            return ()
        if seen is not None:
            other = (
                "was trained on another split or data set; if val's images are among them, the loss may look too small"
            )
            return (f"{self.subject.summary.file} {other}",)
        unknown = "does not say which images it was trained on; if val's are among them, the loss may look too small"
        return (f"{self.subject.summary.file} {unknown}",)

    def scores(self, model: nn.Module | None = None) -> Scores:
        """Of a network on the same device, by default the file's own with the weights that it has."""
        own = model or self.subject.network.model
        return Scores(self._score(own, "val") if self.with_val else None, self._score(own, "test"))

    def _score(self, model: nn.Module, part: str) -> Score:
        images = getattr(self.plan.data, part).to(self.plan.device)
        batches = partial(self.subject.data.batches, images, device=self.plan.device)
        return graded(model, batches, self.plan.batch_size, ALONE).score

    def change(self, shortened: Ticket) -> Change:
        """Before and after; the network has the shortened weights then."""
        before = self.scores()
        self._put(shortened)
        return Change(before, self.scores())

    def val_of(self, ticket: Ticket) -> Score:
        """Of the network with these weights, which it keeps."""
        self._put(ticket)
        return self._score(self.subject.network.model, "val")

    def _put(self, ticket: Ticket) -> None:
        network = self.subject.network
        fitted = fitted_ticket(network.model, ticket, network.arch)
        put_weights(network.model, fitted.state, fitted.mask)


@contextmanager
def needing_val(max_drop: float | None) -> Iterator[None]:
    """Say for what the images are needed, where it is an error that they cannot be had."""
    try:
        yield
    except LptoolError as error:
        if max_drop is None:
            raise
        unknown = f"--max-drop compares accuracy on val, which cannot be had: {error.text}"
        raise type(error)(unknown, *error.options) from error
