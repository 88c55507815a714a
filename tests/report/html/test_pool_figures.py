"""Which figures a pool document has."""

import random
import re

import pytest

from lptool.report.html.pool_figures import figures_of, overview
from lptool.report.html.pool_story import search_rows
from tests.helpers.documents import SEEDS, one_target
from tests.helpers.reading import Page, figure, marks


def drawings(html: str) -> dict[str, str]:
    """Title → SVG of each figure."""
    return dict(re.findall(r"<figure><h3>([^<]*)</h3>(<svg.*?</svg>)", html))


@pytest.mark.parametrize("seed", SEEDS)
def test_there_is_a_figure_for_what_there_is_and_a_mark_for_each_value(seed: int) -> None:
    run = one_target(random.Random(seed))
    found = drawings(figures_of(run))
    rows, _ = search_rows(run)
    maps = [figure(svg) for title, svg in found.items() if title.startswith("The search")]
    assert len(maps) == bool(rows)
    for root in maps:
        values = [attempt.value for row in rows for attempt in row.tries]
        assert len(marks(root, "mark-cell")) == sum(value is not None for value in values)
        assert len(marks(root, "mark-cut")) == values.count(None)
        assert len(marks(root, "mark-accepted")) == sum(row.accepted is not None for row in rows)
    assert ("Density of each layer" in found) == bool(run["layers"])
    assert ("Learned coefficients" in found) == bool(run["coefficients"])


def test_targets_of_one_page_share_no_id() -> None:
    run = one_target(random.Random(2)) | {"layers": [{"name": "a", "shape": [1], "before": 0.5, "after": 0.4}]}
    ids = Page(f"<div>{figures_of(run, 'target-0-')}{figures_of(run, 'target-1-')}{overview([run])}</div>").ids
    assert ids
    assert len(ids) == len(set(ids))


def test_the_overview_says_the_result_to_those_who_cannot_see_it() -> None:
    run = one_target(random.Random(2)) | {"method": "greedy", "improved": True}
    label = figure(drawings(overview([run]))["Accuracy against weights remaining"]).get("aria-label", "")
    assert "greedy: " in label
    assert " on test at " in label
