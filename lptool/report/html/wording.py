"""Numbers and findings as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

from lptool import tables

UNBROKEN = "\u00a0"  # a space at which no line is broken
Z95 = 1.96  # standard errors on either side that hold 95 % of a normal distribution


def percent(fraction: float) -> str:
    """A fraction as everywhere in this tool, but never broken before its sign."""
    return tables.percent(fraction).replace(" ", UNBROKEN)


def nll(value: float | None) -> str:
    """A mean negative log-likelihood; null stands for one that is not finite."""
    return "not finite" if value is None else f"{value:.4f}"


def points(gain: float) -> str:
    """A difference of two accuracies in percentage points, with its sign."""
    return f"{100 * gain:+.2f}".replace("-", "−")


def over(gain: float, name: str) -> str:
    """A gain, a loss or neither, against something."""
    if gain == 0:
        return f"the same as {name}"
    return f"{points(gain)} points {'over' if gain > 0 else 'against'} {name}"


def chance(score: dict[str, Any]) -> str:
    """How well an accuracy is known that was counted on so many images."""
    p, n = score["accuracy"], score["n"]
    half = 100 * Z95 * math.sqrt(p * (1 - p) / n)
    return f"An accuracy counted on {n:,} images is known to about ±{half:.2f} points (95 %)."


def verdict(p: float, a: str, b: str, a_only: int, b_only: int) -> str:
    """What a paired comparison says, in words; `p` is the probability of such a difference by chance."""
    if p >= 0.05 or a_only == b_only:
        return "no difference beyond chance"
    better = a if a_only > b_only else b
    return (
        f"{better} is better" if p < 0.001 else f"{better} is better, with {'some' if p >= 0.01 else 'good'} evidence"
    )


def p_value(p: float) -> str:
    """A probability, not more exactly than anyone uses it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def score_cells(score: dict[str, Any] | None) -> list[str]:
    """Accuracy, NLL and images; dashes where it was not measured."""
    return ["–"] * 3 if not score else [percent(score["accuracy"]), nll(score["nll"]), f"{score['n']:,}"]


def shown_as(quantity: str) -> Callable[[float], str]:
    """How values of the quantity that a search chose by are written."""
    return nll if quantity == "nll" else lambda value: f"{100 * value:.2f}"


def name_of(entry: dict[str, Any]) -> str:
    """A ticket by its level, or by its file where it has none."""
    level = entry.get("level")
    return PurePath(entry["file"]).stem if level is None else f"level {level}"


def short_names(files: Sequence[str]) -> dict[str, str]:
    """Each file by its stem; where two have the same, by as many folders as tell them apart."""
    names = {}
    for file in files:
        parts = PurePath(file).with_suffix("").parts
        others = [PurePath(other).with_suffix("").parts for other in files if other != file]
        lengths = range(1, len(parts) + 1)
        enough = next((k for k in lengths if all(other[-k:] != parts[-k:] for other in others)), None)
        names[file] = "/".join(parts[-enough:]) if enough else file
    return names


def among(names: Sequence[str]) -> str:
    """Each name once, in order."""
    return ", ".join(dict.fromkeys(names))


def times(part: float, whole: float) -> str:
    """How many times smaller a part is than the whole."""
    return f"{whole / part:.1f}×" if part else "–"


def count(value: float) -> str:
    """A large number, short: 1.23 M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:g}"
