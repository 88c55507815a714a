"""Maps of cells: one for each attempt, coloured only where a number stands behind it."""

import re

import pytest

from lptool.report.html.drawing import HEATS, STAND_INS, Label
from lptool.report.html.heatmaps import Row, Scale, Try, coefficient_map, scale_of, search_map
from tests.helpers.reading import figure, marks, words

LABEL = Label("map", "A title", "A finding")
ALPHAS = [0.1, 0.5, 0.9]


def drawn(rows: list[Row], **more: bool) -> str:
    return search_map(LABEL, rows, ALPHAS, 0.5, lambda value: f"{value:.3f}", **more)


def rows_of(laps: int, candidates: int) -> list[Row]:
    tries = [Try(0.1, None), Try(0.5, 0.6), Try(0.9, 0.7)]
    return [Row(lap, f"level {i}", tries, 0.9, 0.7) for lap in range(1, laps + 1) for i in range(candidates)]


@pytest.mark.parametrize(("laps", "candidates"), [(0, 0), (1, 1), (1, 20), (3, 20)])
def test_every_attempt_has_its_cell_and_every_accepted_step_its_ring(laps: int, candidates: int) -> None:
    root = figure(drawn(rows_of(laps, candidates)))
    count = laps * candidates
    assert len(marks(root, "mark-cell")) == 2 * count
    assert len(marks(root, "mark-cut")) == count
    assert len(marks(root, "mark-accepted")) == count
    passes = [text for text in words(root) if text.startswith("pass")]
    assert passes == ([f"pass {lap}" for lap in range(1, laps + 1)] if laps > 1 else [])
    assert float(root.get("viewBox", "").split()[3]) < 1000


def test_cut_short_is_no_colour_of_the_scale() -> None:
    rows = [Row(1, "level 0", [Try(alpha, None) for alpha in ALPHAS], None, None)]
    svg = drawn(rows)
    assert "cut short" in words(figure(svg))
    assert "--heat" not in svg
    assert "cut short" not in words(figure(drawn([Row(1, "a", [Try(0.5, 0.4)], None, None)])))


def test_rings_lie_on_the_cells_that_were_accepted() -> None:
    rows = [Row(1, str(i), [Try(a, 0.6) for a in ALPHAS], alpha, 0.6) for i, alpha in enumerate([0.9, 0.1])]
    root = figure(drawn(rows))
    first, second = marks(root, "mark-accepted")
    cells = [re.findall(r"[-\d.]+", path.get("d", "")) for path in marks(root, "mark-cell")]
    for ring, cell in ((first, cells[2]), (second, cells[3])):
        xs, ys = [float(v) for v in cell[::2]], [float(v) for v in cell[1::2]]
        assert min(xs) < float(ring.get("x", 0)) < max(xs)
        assert min(ys) < float(ring.get("y", 0)) < max(ys)


def test_the_best_has_the_last_colour_whichever_way_better_is() -> None:
    high, low = scale_of([0.1, 0.2, 0.3]), scale_of([0.1, 0.2, 0.3], lower_is_better=True)
    assert high.heat(0.3) == low.heat(0.1) == STAND_INS[f"heat-{HEATS - 1}"]
    assert high.heat(0.1) == low.heat(0.3) == STAND_INS["heat-0"]


def test_a_hopeless_attempt_does_not_take_the_scale() -> None:
    scale = scale_of([0.1, 0.90, 0.91, 0.92, 0.93])
    assert scale.low > 0.8
    assert scale.heat(0.1) == STAND_INS["heat-0"]
    assert scale.heat(0.90) != scale.heat(0.92)


@pytest.mark.parametrize("values", [[], [0.4], [0.4, 0.4]])
def test_a_scale_of_few_values_is_a_scale(values: list[float]) -> None:
    assert scale_of(values).heat(0.4) in STAND_INS.values()


def test_a_value_in_the_middle_has_the_middle_colour() -> None:
    assert Scale(0, 1).heat(0.5) == STAND_INS[f"heat-{HEATS // 2}"]


@pytest.mark.parametrize(("groups", "members"), [(0, 0), (1, 1), (60, 12)])
def test_every_coefficient_has_a_cell(groups: int, members: int) -> None:
    values = [[i - j / 7 for j in range(members)] for i in range(groups)]
    svg = coefficient_map(LABEL, [f"<g{i}>" for i in range(groups)], [str(j) for j in range(members)], values)
    assert len(marks(figure(svg), "mark-cell")) == groups * members
