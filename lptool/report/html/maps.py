"""Tables whose cells are coloured by their values: the search, alpha by alpha, and the coefficients of a mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from lptool.report.tables import NOTHING, Document, alpha_name, name_of, number
from lptool.tables import Table, percent

HEATS = 9  # colours of the scale in page.css: as many as an eye tells apart


class Step(NamedTuple):
    """One candidate; in a search of several passes, in one of them.

    `tries` has the value on val of each alpha tried, None where it has no place on the scale; `taken` is the alpha
    accepted.
    """

    name: str
    tries: Mapping[float, float | None]
    taken: float | None

    @property
    def incumbent(self) -> float | None:
        """The value after it, where it was accepted."""
        return None if self.taken is None else self.tries.get(self.taken)


class Scale(NamedTuple):
    """The sequential scale from `low` to `high`; the darker (in the dark: the lighter), the nearer to `high`."""

    low: float
    high: float

    def look(self, value: float) -> str:
        """The class of a cell with this value; beyond the ends, that of the end."""
        span = self.high - self.low
        place = (value - self.low) / span if span else 0.5  # the middle, where all are equal
        return f"heat-{min(HEATS - 1, max(0, int(place * HEATS)))}"


def scale_of(values: Sequence[float], *, lower_is_better: bool = False) -> Scale:
    """A scale for the attempts; a few hopeless ones do not take all of its steps."""
    if not values:
        return Scale(0.0, 0.0)
    worst, best = (max(values), min(values)) if lower_is_better else (min(values), max(values))
    # On the bad side three times as far from the median as the best lies on the good one.
    reach = median(values) + 3 * (median(values) - best)
    near = (min if lower_is_better else max)(worst, reach)
    return Scale(near if near != best else worst, best)


def chosen_by(run: Document) -> str:
    """What the search chose by."""
    return "nll" if run.get("select") == "nll" else "accuracy"


def shown_as(quantity: str) -> Callable[[float], str]:
    """How values of the quantity that a search chose by are written."""
    return number if quantity == "nll" else lambda value: f"{100 * value:.2f}"


def steps_of(run: Document) -> list[Step]:
    """The search step by step; nothing where candidates were not tried one by one, each at some alpha."""
    key, found = chosen_by(run), (run.get("search") or {"steps": []})["steps"]
    several = len({step["pass"] for step in found}) > 1
    steps = [
        Step(
            f"pass {step['pass']}: {name_of(step)}" if several else name_of(step),
            {a["alpha"]: _value(a, key) for a in step["attempts"] if a["alpha"] is not None},
            step["alpha"] if step["accepted"] else None,
        )
        for step in found
    ]
    return steps if all(step.tries for step in steps) else []


def _value(attempt: Document, key: str) -> float | None:
    """The place of an attempt on the scale: none where it was cut short (the hardest images come first) or broke."""
    return float(attempt[key]) if attempt["complete"] and attempt["nll"] is not None else None


def search_map(run: Document) -> Table:
    """Candidate × alpha: the value of each attempt, its colour, and a ring around the accepted one."""
    search, steps, key = run["search"], steps_of(run), chosen_by(run)
    tried = {alpha for step in steps for alpha in (*step.tries, step.taken) if alpha is not None}
    alphas = sorted({*search["alphas"], *tried})
    values = [value for step in steps for value in step.tries.values() if value is not None]
    show, scale = shown_as(key), scale_of(values, lower_is_better=key == "nll")

    def shown(value: float | None) -> str:
        return "" if value is None else show(value)

    rows = [["start", *[""] * len(alphas), show(search["start"][key])]]
    rows += [[step.name, *(shown(step.tries.get(a)) for a in alphas), shown(step.incumbent)] for step in steps]
    looks = {(i, j): _look(step, a, scale) for i, step in enumerate(steps, 1) for j, a in enumerate(alphas, 1)}
    return Table("", ["alpha →", *map(alpha_name, alphas), "val"], rows, looks=looks)


def _look(step: Step, alpha: float, scale: Scale) -> str:
    value = step.tries.get(alpha)
    colour = scale.look(value) if value is not None else "cut" if alpha in step.tries else ""
    return f"{colour} taken".strip() if alpha == step.taken else colour


def search_caption(run: Document) -> str:
    """Where the search went, and how to read its map."""
    steps, key = steps_of(run), chosen_by(run)
    show = shown_as(key)
    start, ends = show(run["search"]["start"][key]), [s.incumbent for s in steps if s.incumbent is not None]
    moved = f"val went from {start} to {show(ends[-1])}" if ends else f"val stayed at {start}"
    taken = sum(step.taken is not None for step in steps)
    text = (
        f"{taken} of {len(steps)} candidates accepted; {moved}. Read from top to bottom: a ring is the alpha accepted, "
        "the weight of the current model; the stronger the colour, the better."
    )
    cut = any(value is None for step in steps for value in step.tries.values())
    text += " These are the scores that the search saw; the finished models were scored anew, and may differ a little."
    return text + (" Cells struck through were cut short: they could not reach the incumbent any more." if cut else "")


def attempt_table(caption: str, steps: Sequence[Document], shown: Callable[[Document], str]) -> Table:
    """A row for each step and a column for each alpha."""
    alphas = list(dict.fromkeys(a["alpha"] for step in steps for a in step["attempts"]))
    found = [{a["alpha"]: shown(a) for a in step["attempts"]} for step in steps]
    rows = [
        [name_of(step), str(step["pass"]), *(cells.get(alpha, NOTHING) for alpha in alphas)]
        for step, cells in zip(steps, found, strict=True)
    ]
    return Table(caption, ["candidate", "pass", *map(alpha_name, alphas)], rows)


def accuracy_of(attempt: Document) -> str:
    """The accuracy of an attempt; no number for one that was cut short, which saw the hardest images only."""
    return percent(attempt["accuracy"]) if attempt["complete"] else f"cut short at {attempt['n']:,}"


def coefficient_map(found: Document) -> Table:
    """Group × ticket: how much of each ticket went into each group of weights."""
    flat = [value for row in found["values"] for value in row if math.isfinite(value)]
    scale = Scale(min(flat, default=0.0), max(flat, default=0.0))
    looks = {
        (i, j): scale.look(value)
        for i, row in enumerate(found["values"])
        for j, value in enumerate(row, 1)
        if math.isfinite(value)
    }
    rows = [[group, *(f"{v:.4f}" for v in row)] for group, row in zip(found["groups"], found["values"], strict=True)]
    return Table("", ["group", *(f"level {level}" for level in found["members"])], rows, looks=looks)
