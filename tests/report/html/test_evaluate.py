"""Pages of `evaluate`: the headline, who belongs together, what chance makes of it, and every score in a table."""

from typing import Any

import pytest

from lptool.report.html.drawing import CONTROLS
from lptool.report.html.evaluate import (
    by_density,
    comparison_table,
    corrupted,
    corruption_bars,
    corruption_figures,
    count,
    curve_of,
    evaluate_page,
    figures_of,
    headline,
    kinds_of,
    saved,
    series_of,
    short_names,
    verdict,
)
from lptool.report.html.page import Figure
from lptool.report.tables import number
from lptool.tables import percent
from tests.helpers.documents import HOSTILE, SEEDS, evaluate_document
from tests.helpers.reading import check_page, figure, marks, said


def document(*given: tuple[str, float, float], p: float | None = None) -> dict[str, Any]:
    """Files of (kind, sparsity, accuracy)."""
    found = evaluate_document(1, files=len(given))
    for place, (file, (kind, sparsity, accuracy)) in enumerate(zip(found["files"], given, strict=True)):
        file |= {"file": f"f{place}.pt", "kind": kind, "sparsity": sparsity}
        file["method"] = "greedy" if kind == "pooled" else None
        file["test"] |= {"accuracy": accuracy, "interval": [accuracy - 0.01, accuracy + 0.01]}
    pair = {"a": "f0.pt", "b": "f1.pt", "a_only": 1, "b_only": 9, "p": p}
    found["comparisons"] = [] if p is None else [pair]
    found["dataset"] = "digits"
    return found


@pytest.mark.parametrize(
    ("p", "end"),
    [
        (None, "(+1.00 points)"),
        (0.01, "(+1.00 points, beyond chance)"),
        (0.2, "(+1.00 points, no difference beyond chance: p = 0.200)"),
    ],
)
def test_the_headline_is_of_the_sparsest_pooled_model_and_its_ticket(p: float | None, end: str) -> None:
    given = [("ticket", 0.9, 0.91), ("pooled", 0.9, 0.92), ("ticket", 0.5, 0.8), ("pooled", 0.5, 0.95)]
    text = headline(document(*given, p=p))
    where = "on 1,000 test images of digits at 90.00 % sparsity"
    assert text == f"greedy: 92.00 % against the ticket's 91.00 % {where} {end}"


def test_without_such_a_pair_the_headline_says_what_there_is() -> None:
    one = headline(document(("pooled", 0.9, 0.92)))
    assert one == ("f0: 92.00 % on 1,000 test images of digits at 90.00 % sparsity (95 % interval 91.00 % to 93.00 %)")
    two = headline(document(("pooled", 0.9, 0.92), ("ticket", 0.5, 0.9)))
    assert two == "2 files on 1,000 test images of digits: from 90.00 % (f1) to 92.00 % (f0)"


def test_the_curve_counts_files_by_what_made_them() -> None:
    series, lines = curve_of(document(("ticket", 0.0, 0.9), ("ticket", 0.5, 0.8), ("pooled", 0.5, 0.85))["files"])
    assert {one.name: list(one.points) for one in series} == {
        "ticket": [(0.5, 0.8), (1.0, 0.9)],
        "greedy": [(0.5, 0.85)],
    }
    assert [list(end) for end in series[0].intervals] == [[0.79, 0.81], [0.89, 0.91]]
    assert lines == {"dense": 0.9}
    assert series_of({"kind": "pooled", "method": None}) == "pooled"


def test_files_of_one_density_stand_together_the_ticket_first() -> None:
    files = document(("pooled", 0.5, 0.1), ("ticket", 0.9, 0.2), ("ticket", 0.5, 0.3))["files"]
    assert [[file["file"] for file in group] for group in by_density(files)] == [["f1.pt"], ["f2.pt", "f0.pt"]]


def test_a_bar_is_the_mean_of_its_severities() -> None:
    rows = [{"name": "fog", "severity": s, "accuracy": a} for s, a in ((1, 0.9), (2, 0.5))]
    (bar, none) = corruption_bars({"corruptions": {"rows": rows}}, CONTROLS["ticket"], ["fog", "snow"])
    assert (bar.name, bar.value, list(bar.marks)) == ("fog", pytest.approx(0.7), [0.9, 0.5])
    assert list(none.marks) == []


def test_many_comparisons_come_with_a_warning() -> None:
    pair = {"a": "a", "b": "a", "a_only": 0, "b_only": 0, "p": 1.0}
    assert "of 120 equal pairs about 6 would" in comparison_table([pair] * 120, {"a": "a"}).caption


def test_costs_are_short() -> None:
    assert [count(n) for n in (999, 1500, 2.5e6, 4e9, 3e12)] == ["999", "1.5 k", "2.5 M", "4 G", "3 T"]
    assert (saved(25, 10), saved(25, 0)) == ("25 → 10 (2.5×)", "25 → 0 (–)")


@pytest.mark.parametrize(("p", "differs"), [(0.049, True), (0.05, False), (0.07, False), (0.1, False)])
def test_one_in_twenty_by_chance_is_no_difference(p: float, differs: bool) -> None:
    assert (verdict(p, "a", "b", 9, 5) != "no difference beyond chance") == differs


def test_equal_counts_are_no_difference() -> None:
    assert verdict(0.01, "a", "b", 5, 5) == "no difference beyond chance"


def named(*files: str) -> dict[str, str]:
    return short_names([{"file": file} for file in files])


def test_files_are_named_by_as_little_as_tells_them_apart() -> None:
    assert named("runs/a/level_1.pt", "runs/b/level_1.pt", "runs/b/level_2.pt", "level_2.pt") == {
        "runs/a/level_1.pt": "a/level_1",
        "runs/b/level_1.pt": "b/level_1",
        "runs/b/level_2.pt": "b/level_2",
        "level_2.pt": "level_2",
    }
    assert len(set(named("a/x.pt", "a/x.safetensors").values())) == 2


# Figures


def drawings(figures: list[Figure]) -> list[str]:
    return [str(one.drawing) for one in figures]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mark_for_each_file_with_its_interval(seed: int) -> None:
    document = evaluate_document(seed)
    files, with_corruptions = document["files"], corrupted(document["files"])
    curve, calibration, *means = map(figure, drawings(list(figures_of(document))))
    assert len(marks(curve, "mark-point")) == len(marks(curve, "mark-interval")) == len(files)
    assert len(marks(calibration, "mark-bar")) == len(files)
    assert [len(marks(root, "mark-bar")) for root in means] == ([len(with_corruptions)] if with_corruptions else [])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bar_for_each_corruption_and_a_faint_mark_for_each_severity(seed: int) -> None:
    files = evaluate_document(seed, files=6)["files"]
    shown, hidden = corruption_figures(files)
    drawn = drawings([*shown, *hidden])
    found, roots = corrupted(files), [figure(svg) for svg in drawn]
    assert sum(len(marks(root, "mark-bar")) for root in roots) == sum(len(kinds_of([file])) for file in found)
    severities = sum(len(file["corruptions"]["rows"]) for file in found)
    assert sum(len(marks(root, "mark-faint")) for root in roots) == severities
    assert all("var(--series" in svg or "var(--muted" in svg for svg in drawn)


def test_of_many_densities_only_those_with_a_pooled_model_are_open() -> None:
    files = evaluate_document(0, files=6)["files"]
    for place, file in enumerate(files):
        file |= {"sparsity": place / 10, "kind": "pooled" if place == 2 else "ticket", "method": None}
        file["corruptions"] = {"source": "x", "rows": [{"name": "fog", "severity": 1, "accuracy": 0.5}]}
    shown, hidden = corruption_figures(files)
    assert (len(shown), len(hidden)) == (1, 5)
    assert "20.00 % sparsity" in shown[0].title


# Pages


@pytest.mark.parametrize("seed", SEEDS)
def test_any_document_makes_a_whole_page_with_every_score_in_a_table(seed: int) -> None:
    document = evaluate_document(seed)
    html = evaluate_page(document)
    cells = [said(cell) for cell in check_page(html).cells]
    for file in document["files"]:
        test = file["test"]
        low, high = test["interval"]
        accuracy = f"{percent(test['accuracy'])} [{100 * low:.2f}, {100 * high:.2f}]"
        for shown in (accuracy, number(test["nll"]), number(test["ece"])):
            assert shown in cells
        assert test["top5"] is None or percent(test["top5"]) in cells
        for layer in file["layers"]:
            assert percent(layer["density"]) in cells
        for row in (file["corruptions"] or {"rows": []})["rows"]:
            assert percent(row["accuracy"]) in cells
        assert file["sha256"] in cells


def test_hostile_names_are_text() -> None:
    document = evaluate_document(1, files=3)
    document["files"][0]["file"] = HOSTILE
    document["comparisons"] = []
    html = evaluate_page(document)
    assert HOSTILE.replace("\x07", "\ufffd").replace("\udc80", "\ufffd") in check_page(html).cells
    assert "<script" not in html


@pytest.mark.parametrize(
    ("p", "a_only", "b_only", "words"),
    [
        (0.3, 5, 9, "no difference beyond chance"),
        (0.02, 9, 5, "0/level is better, with some evidence"),
        (0.004, 5, 9, "1/level is better, with good evidence"),
        (1e-9, 5, 9, "1/level is better"),
    ],
)
def test_comparisons_are_said_in_words(p: float, a_only: int, b_only: int, words: str) -> None:
    document = evaluate_document(1, files=2)
    for place, file in enumerate(document["files"]):
        file["file"] = f"{place}/level.safetensors"
    names = [file["file"] for file in document["files"]]
    document["comparisons"] = [{"a": names[0], "b": names[1], "a_only": a_only, "b_only": b_only, "p": p}]
    assert words in check_page(evaluate_page(document)).cells


def test_cost_is_shown_from_dense_to_kept() -> None:
    document = evaluate_document(1, files=1)
    document["files"][0]["cost"] |= {"parameters": 272474, "kept": 27247, "flops_kept": 0}
    cells = check_page(evaluate_page(document)).cells
    assert "272 k → 27.2 k (10.0×)" in cells
    assert "41 M → 0 (–)" in cells


def test_what_is_not_finite_is_said_and_drawn_nowhere() -> None:
    document = evaluate_document(1, files=3)
    document["files"][0]["test"] |= {"nll": None, "ece": None}
    assert check_page(evaluate_page(document)).cells.count("not finite") >= 2
    calibration = next(one for one in figures_of(document) if one.title == "Calibration")
    assert len(marks(figure(str(calibration.drawing)), "mark-bar")) == 2


def test_equal_documents_make_equal_bytes() -> None:
    assert evaluate_page(evaluate_document(3)) == evaluate_page(evaluate_document(3))


def test_latency_is_a_table_of_the_page_and_says_what_zeros_cost() -> None:
    found = document(("ticket", 0.5, 0.9), ("pooled", 0.5, 0.9))
    assert "forward pass" not in said(evaluate_page(found))
    one = {"images": 1, "median": 0.00125, "q95": 0.002, "passes": 200}
    latency = {"one": one, "batch": {**one, "images": 32, "median": 0.016, "passes": 90}, "warm_up": 5}
    for file, runtime in zip(found["files"], ("torch", "onnxruntime"), strict=True):
        file |= {"latency": latency, "runtime": runtime}
    text = said(evaluate_page(found | {"threads": 2}))
    assert "forward pass, float32, on cpu, 2 threads; 5 passes before to warm up; zeros cost as much time" in text
    for cell in ("1.25 ms", "2 ms", "800", "16 ms", "2,000", "90", "onnxruntime"):
        assert cell in text
    assert "onnxruntime on the CPU" in said(evaluate_page(found | {"device": "cuda:0"}))
    found["files"][0]["cost"] |= {"flops_dense": None, "flops_kept": None}
    check_page(evaluate_page(found))
