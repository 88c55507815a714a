"""What is said of an evaluate document: the headline, who belongs together, and what chance makes of it."""

from typing import Any

import pytest

from lptool.report.html.drawing import CONTROLS
from lptool.report.html.evaluate_story import by_density, chance_caption, corruption_bars, curve_of, headline, series_of
from tests.helpers.documents import evaluate_document


def document(*given: tuple[str, float, float], p: float | None = None) -> dict[str, Any]:
    """Files of (kind, sparsity, accuracy)."""
    found = evaluate_document(1, files=len(given))
    for number, (file, (kind, sparsity, accuracy)) in enumerate(zip(found["files"], given, strict=True)):
        file |= {"file": f"f{number}.pt", "kind": kind, "sparsity": sparsity}
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
    text = headline(document(*given, p=p)).replace("\u00a0", " ")
    where = "on 1,000 test images of digits at 10.00 % of the weights"
    assert text == f"greedy: 92.00 % against the ticket's 91.00 % {where} {end}"


def test_without_such_a_pair_the_headline_says_what_there_is() -> None:
    one = headline(document(("pooled", 0.9, 0.92))).replace("\u00a0", " ")
    assert one == (
        "f0: 92.00 % on 1,000 test images of digits at 10.00 % of the weights (95 % interval 91.00 % to 93.00 %)"
    )
    two = headline(document(("pooled", 0.9, 0.92), ("ticket", 0.5, 0.9))).replace("\u00a0", " ")
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
    assert "of 120 equal pairs about 6 would" in chance_caption([{}] * 120)
