"""Plots: as many marks as values, in the right places, and a figure also of one value or none."""

import random

import pytest

from lptool.report.html import charts
from lptool.report.html.charts import Bar, Series
from lptool.report.html.drawing import Label, looks
from tests.helpers.reading import figure, marks, words

LABEL = Label("chart", "A title", "A finding")
NAMES = ["ticket", "ticket + BN", "_greedy", "<swa>"]
LOOKS = looks(NAMES)


def series(seed: int, intervals: bool = False) -> list[Series]:
    rng = random.Random(seed)
    found = []
    for name in NAMES[: rng.randint(0, 4)]:
        points = [(rng.uniform(0.01, 1), rng.random()) for _ in range(rng.choice([0, 1, 5]))]
        found.append(Series(name, points, [(y - 0.1, y + 0.1) for _, y in points] if intervals else ()))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_curve_has_a_mark_for_each_point_and_a_line_for_each_reference(seed: int) -> None:
    given = series(seed, intervals=seed % 2 == 0)
    root = figure(charts.curve(LABEL, given, LOOKS, {"dense": 0.9}))
    points = sum(len(one.points) for one in given)
    shown = words(root)
    assert len(marks(root, "mark-point")) == points
    assert len(marks(root, "mark-interval")) == (points if seed % 2 == 0 else 0)
    assert "dense" in shown
    assert all(any(text.endswith(one.name) for text in shown) for one in given)


def test_curve_has_dense_left_and_better_above() -> None:
    root = figure(charts.curve(LABEL, [Series("ticket", [(1.0, 0.5), (0.1, 0.8)])], LOOKS, {}))
    dense, sparse = marks(root, "mark-point")
    if float(dense.get("y", 0)) < float(sparse.get("y", 0)):
        dense, sparse = sparse, dense
    assert float(dense.get("x", 0)) < float(sparse.get("x", 0))


@pytest.mark.parametrize("seed", range(4))
def test_val_test_has_a_mark_for_each_point(seed: int) -> None:
    given = series(seed)
    root = figure(charts.val_test(LABEL, given, LOOKS))
    assert len(marks(root, "mark-point")) == sum(len(one.points) for one in given)


def test_val_test_names_the_mean_gap_in_points() -> None:
    shown = words(figure(charts.val_test(LABEL, [Series("ticket", [(0.9, 0.895), (0.8, 0.785)])], LOOKS)))
    assert "ticket (−1.00)" in shown


@pytest.mark.parametrize("count", [0, 1, 20, 200])
def test_layers_have_two_marks_each_and_stay_of_a_size(count: int) -> None:
    layers = [(f"layer{i}.weight", 0.5, 0.2) for i in range(count)]
    svg = charts.before_after(LABEL, layers, "weights")
    root = figure(svg)
    assert len(marks(root, "mark-before")) == len(marks(root, "mark-after")) == count
    assert float(root.get("viewBox", "").split()[3]) < 1200


def test_a_layer_without_weights_is_on_a_linear_axis() -> None:
    root = figure(charts.before_after(LABEL, [("a", 0.0, 0.5), ("b", 0.5, 0.0)], "weights"))
    assert len({mark.get("x") for mark in marks(root, "mark-before")}) == 2


@pytest.mark.parametrize("count", [0, 1, 30])
def test_bars_have_their_values_beside_them(count: int) -> None:
    rows = [Bar(f"file {i}", i / 100, LOOKS["ticket"], [0.5], "ticket") for i in range(count)]
    root = figure(charts.bars(LABEL, rows, "points"))
    assert len(marks(root, "mark-bar")) == len(marks(root, "mark-faint")) == count
    assert {f"{i:.2f}" for i in range(count)} <= set(words(root))


@pytest.mark.parametrize(("files", "groups"), [(0, 0), (1, 1), (4, 15)])
def test_grouped_bars_have_a_bar_for_each_and_their_parts_faint(files: int, groups: int) -> None:
    names = [f"kind {i}" for i in range(groups)]
    rows = {f"_file {i}": [Bar(n, 0.5, LOOKS["ticket"], [0.4, 0.6]) for n in names] for i in range(files)}
    root = figure(charts.grouped_bars(LABEL, names, rows, "accuracy"))
    assert len(marks(root, "mark-bar")) == files * groups
    assert len(marks(root, "mark-faint")) == 2 * files * groups
    assert all(any(text.endswith(name) for text in words(root)) for name in (rows if groups else []))


@pytest.mark.parametrize("low", [1e-4, 0.3, 1.0, 4.2, 11.0, 27.4, 45.0, 78.0, 91.0])
def test_a_density_axis_has_round_ticks_enough_to_read_it_and_none_above_all(low: float) -> None:
    ticks = charts.log_ticks(low / 1.3, 100.0)
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    assert all(low / 1.3 <= tick <= 100 for tick in ticks)
    assert all(len(f"{tick:g}".strip("0.").replace(".", "")) <= 2 for tick in ticks)
    shown = charts.curve(LABEL, [Series("ticket", [(low / 100, 0.5), (1.0, 0.6)])], LOOKS, {})
    assert {f"{tick:g}" for tick in ticks} <= {*words(figure(shown))}
    assert "200" not in words(figure(shown))
