"""Which figures an evaluate document has."""

import re

import pytest

from lptool.report.html.evaluate_figures import corruption_figures, figures_of
from lptool.report.html.evaluate_story import corrupted, kinds_of
from tests.helpers.documents import SEEDS, evaluate_document
from tests.helpers.reading import figure, marks


def drawings(html: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", html)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mark_for_each_file_with_its_interval(seed: int) -> None:
    document = evaluate_document(seed)
    files, with_corruptions = document["files"], corrupted(document["files"])
    curve, calibration, *means = map(figure, drawings(figures_of(document)))
    assert len(marks(curve, "mark-point")) == len(marks(curve, "mark-interval")) == len(files)
    assert len(marks(calibration, "mark-bar")) == len(files)
    assert [len(marks(root, "mark-bar")) for root in means] == ([len(with_corruptions)] if with_corruptions else [])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bar_for_each_corruption_and_a_faint_mark_for_each_severity(seed: int) -> None:
    files = evaluate_document(seed, files=6)["files"]
    found, roots = corrupted(files), [figure(svg) for svg in drawings(corruption_figures(files))]
    assert sum(len(marks(root, "mark-bar")) for root in roots) == sum(len(kinds_of([file])) for file in found)
    severities = sum(len(file["corruptions"]["rows"]) for file in found)
    assert sum(len(marks(root, "mark-faint")) for root in roots) == severities
    assert all("var(--series" in svg or "var(--muted" in svg for svg in drawings(corruption_figures(files)))


def test_of_many_densities_only_those_with_a_pooled_model_are_open() -> None:
    files = evaluate_document(0, files=6)["files"]
    for number, file in enumerate(files):
        file |= {"sparsity": number / 10, "kind": "pooled" if number == 2 else "ticket", "method": None}
        file["corruptions"] = {"source": "x", "rows": [{"name": "fog", "severity": 1, "accuracy": 0.5}]}
    shown, _, hidden = corruption_figures(files).partition("<details>")
    assert (len(drawings(shown)), len(drawings(hidden))) == (1, 5)
    assert "80.00\u00a0% of the weights" in shown
