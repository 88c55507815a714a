"""Maps of cells: one for each attempt, coloured only where a number stands behind it."""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import pytest

from lptool.report.html.maps import (
    HEATS,
    Scale,
    coefficient_map,
    scale_of,
    search_caption,
    search_map,
    shown_as,
    steps_of,
)
from lptool.tables import Table

ALPHAS = [0.1, 0.5, 0.9]
STYLE = files("lptool.report.html").joinpath("page.css").read_text(encoding="utf-8")


def attempt(alpha: float | None, accuracy: float, nll: float | None = 0.3, complete: bool = True) -> dict[str, Any]:
    return {"alpha": alpha, "accuracy": accuracy, "nll": nll, "n": 9, "complete": complete}


def step(attempts: list[dict[str, Any]], alpha: float | None, level: int = 2, lap: int = 1) -> dict[str, Any]:
    accepted = alpha is not None
    return {"pass": lap, "file": "a", "level": level, "alpha": alpha, "accepted": accepted, "attempts": attempts}


def searched(*steps: dict[str, Any], **changes: Any) -> dict[str, Any]:
    start = {"accuracy": 0.9, "nll": 0.4, "n": 9}
    return {"search": {"alphas": [0.1], "start": start, "steps": list(steps)}, **changes}


def count(table: Table, look: str) -> int:
    return sum(look in found for found in table.looks.values())


@pytest.mark.parametrize(("laps", "candidates"), [(1, 1), (1, 20), (3, 20)])
def test_every_attempt_has_its_cell_and_every_accepted_step_its_ring(laps: int, candidates: int) -> None:
    tries = [attempt(0.1, 0.2, complete=False), attempt(0.5, 0.6), attempt(0.9, 0.7)]
    steps = [step(tries, 0.9, level=i, lap=lap) for lap in range(1, laps + 1) for i in range(candidates)]
    table = search_map(searched(*steps))
    assert count(table, "heat-") == 2 * len(steps)
    assert count(table, "cut") == len(steps)
    assert count(table, "taken") == len(steps)
    start, *rows = table.rows
    assert (start[0], start[-1], set(start[1:-1])) == ("start", "90.00", {""})
    assert {tuple(row[1:]) for row in rows} == {("", "60.00", "70.00", "70.00")}
    passes = {row[0].partition(":")[0] for row in rows if row[0].startswith("pass")}
    assert passes == ({f"pass {lap}" for lap in range(1, laps + 1)} if laps > 1 else set())


def test_cut_short_is_no_colour_of_the_scale() -> None:
    table = search_map(searched(step([attempt(alpha, 0.9, complete=False) for alpha in ALPHAS], None)))
    assert set(table.looks.values()) == {"cut"}


def test_rings_lie_on_the_cells_that_were_accepted() -> None:
    tries = [attempt(alpha, 0.6) for alpha in ALPHAS]
    table = search_map(searched(step(tries, 0.9), step(tries, 0.1)))
    ringed = {place for place, look in table.looks.items() if "taken" in look}
    assert {(row, table.headings[column]) for row, column in ringed} == {(1, "0.9"), (2, "0.1")}


def test_the_best_has_the_last_colour_whichever_way_better_is() -> None:
    high, low = scale_of([0.1, 0.2, 0.3]), scale_of([0.1, 0.2, 0.3], lower_is_better=True)
    assert high.look(0.3) == low.look(0.1) == f"heat-{HEATS - 1}"
    assert high.look(0.1) == low.look(0.3) == "heat-0"


def test_a_hopeless_attempt_does_not_take_the_scale() -> None:
    scale = scale_of([0.1, 0.90, 0.91, 0.92, 0.93])
    assert scale.low > 0.8
    assert scale.look(0.1) == "heat-0"
    assert scale.look(0.90) != scale.look(0.92)


@pytest.mark.parametrize("values", [[], [0.4], [0.4, 0.4]])
def test_a_scale_of_few_values_is_a_scale(values: list[float]) -> None:
    assert scale_of(values).look(0.4) in {f"heat-{i}" for i in range(HEATS)}


def test_a_value_in_the_middle_has_the_middle_colour() -> None:
    assert Scale(0, 1).look(0.5) == f"heat-{HEATS // 2}"


@pytest.mark.parametrize(("groups", "members"), [(0, 0), (1, 1), (60, 12)])
def test_every_coefficient_has_a_cell(groups: int, members: int) -> None:
    values = [[i - j / 7 for j in range(members)] for i in range(groups)]
    found = {"groups": [f"<g{i}>" for i in range(groups)], "members": list(range(members)), "values": values}
    table = coefficient_map(found)
    assert count(table, "heat-") == groups * members
    assert [list(row[1:]) for row in table.rows] == [[f"{value:.4f}" for value in row] for row in values]


def test_a_coefficient_that_is_not_finite_has_no_colour() -> None:
    table = coefficient_map({"groups": ["a"], "members": [0, 1], "values": [[float("nan"), 0.5]]})
    assert set(table.looks) == {(0, 2)}


def test_only_whole_and_finite_attempts_have_a_place_on_the_scale() -> None:
    tries = [attempt(0.1, 0.2, complete=False), attempt(0.5, 0.91), attempt(0.7, 0.99, nll=None)]
    (found,) = steps_of(searched(step(tries, 0.5)))
    assert found.tries == {0.1: None, 0.5: 0.91, 0.7: None}
    assert (found.taken, found.incumbent) == (0.5, 0.91)
    assert search_map(searched(step(tries, 0.5))).headings[1:-1] == ["0.1", "0.5", "0.7"]
    (found,) = steps_of(searched(step(tries, 0.5), select="nll"))
    assert found.incumbent == 0.3


@pytest.mark.parametrize("attempts", [[], [attempt(None, 0.9)]])
def test_methods_that_choose_no_alpha_have_no_map(attempts: list[dict[str, Any]]) -> None:
    assert steps_of(searched(step(attempts, None))) == []
    assert steps_of({"search": None}) == []


def test_captions_say_where_the_search_went() -> None:
    text = search_caption(searched(step([attempt(0.5, 0.91)], 0.5)))
    assert text.startswith("1 of 1 candidates accepted; val went from 90.00 to 91.00.")
    assert "cut short" not in text
    text = search_caption(searched(step([attempt(0.5, 0.1, complete=False)], None)))
    assert text.startswith("0 of 1 candidates accepted; val stayed at 90.00.")
    assert "cut short" in text


def test_values_as_they_are_written() -> None:
    assert (shown_as("nll")(0.12345), shown_as("accuracy")(0.12345)) == ("0.1235", "12.35")


def themes() -> dict[str, dict[str, str]]:
    """The colours of the page by name, in light and in dark."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    return {
        theme: dict(re.findall(r"--([\w-]+): (?:var\(--)?(#?\w+)", block))
        for theme, block in zip(("light", "dark"), blocks, strict=True)
    }


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("heat", range(HEATS))
def test_a_number_is_readable_on_every_colour(theme: str, heat: int) -> None:
    """A contrast of 4.5, as WCAG 2 asks of small text."""
    colours = themes()[theme]
    (rule,) = re.findall(rf"\.heat-{heat} \{{ (.*?) \}}", STYLE)
    ink = (re.findall(r"(?<!-)\bcolor: var\(--([\w-]+)\)", rule) or ["ink"])[0]
    assert contrast(colours, f"heat-{heat}", ink) >= 4.5


def contrast(colours: Mapping[str, str], *names: str) -> float:
    values = [colours[name] for name in names]
    bright = sorted(luminance(value if value.startswith("#") else colours[value]) for value in values)
    return (bright[1] + 0.05) / (bright[0] + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
