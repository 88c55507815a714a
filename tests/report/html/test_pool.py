"""Pages of `pool`: honest headlines, a figure for what there is, and for any document a page that is whole and safe."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from lptool.report.html.maps import steps_of
from lptool.report.html.page import Figure
from lptool.report.html.pool import (
    common_warnings,
    curve_of,
    figures_of,
    gap_caption,
    headline,
    layer_caption,
    methods_of,
    overview,
    pairs_of,
    pool_page,
    rows_of,
    target_table,
    warnings_of,
)
from lptool.report.tables import number
from lptool.tables import Table, percent
from tests.helpers.documents import HOSTILE, SEEDS, one_target, pool_document
from tests.helpers.reading import Page, check_page, figure, marks, said


def scores(ticket: float, with_bn: float | None, pooled: float) -> dict[str, Any]:
    rows = {"ticket": ticket, "ticket_bn": with_bn, "pooled": pooled}
    return {row: None if a is None else {"accuracy": a, "nll": 0.1, "n": 10000} for row, a in rows.items()}


def verdict(word: str, gain: float, p: float, against: str = "ticket_bn") -> dict[str, Any]:
    return {"word": word, "against": against, "gain": gain, "p": p, "n_val": 719, "n_test": 10000}


def run(**changes: Any) -> dict[str, Any]:
    plain = one_target(random.Random(5))
    plain |= {"method": "greedy", "improved": True, "shipped": "pooled", "sparsity": 0.931, "methods": {}}
    plain |= {"not_finite": 0, "select": "accuracy", "references": None, "warnings": []}
    plain["verdict"] = verdict("helped", 0.0011, 0.01)
    plain["target"]["sparsity"] = 0.931
    plain |= {"val": scores(0.9, 0.91, 0.92), "test": scores(0.9162, 0.9203, 0.9214)}
    return plain | changes


HELPED = (
    "pooling helped: +0.11 points over 'ticket + BN' on 10,000 test images (p = 0.01, exact McNemar test), both "
    "chosen on 719 val images"
)
NOTHING_GAINED = (
    "nothing better was found on 719 val images: the output is 'ticket + BN' itself, so on 10,000 test images the gain "
    "is 0 (p = 1, within chance)"
)


def test_the_headline_says_whether_it_helped() -> None:
    itself = run(shipped="ticket_bn", verdict=verdict("within chance", 0.0, 1.0))
    for document, words in ((run(), HELPED), (itself, NOTHING_GAINED)):
        assert said(headline([document])) == f"greedy: 92.14 % on test at 93.10 % sparsity; {words}"
    assert said(headline([run(verdict=None)])) == "greedy: 92.14 % on test at 93.10 % sparsity"


def test_the_headline_of_several_counts_the_verdicts() -> None:
    runs = [run(), run(verdict=verdict("hurt", -0.01, 0.01)), run()]
    words = "greedy: of 3 targets pooling helped at 2, within chance at 0, hurt at 1"
    assert headline(runs) == words
    together = {"word": "helped", "gain": 0.0042, "p": 0.003, "levels": 3, "n_test": 10000}
    assert headline(runs, together) == (
        f"{words}; all 3 levels together: helped, +0.42 points on average (p = 0.003, signs of the 10,000 test images "
        "flipped)"
    )
    assert headline([run(verdict=None)] * 2, None).startswith("greedy: of 2 targets")


def test_the_output_is_a_row_of_its_own_where_its_method_reached_other_scores() -> None:
    other = {"val": scores(0, 0, 0.5)["pooled"], "test": None}
    assert list(methods_of(run())) == ["greedy"]
    assert methods_of(run(methods={"greedy": other}))["greedy"]["test"] is None
    assert methods_of(run(methods={"greedy": other}))["output"]["test"]["accuracy"] == 0.9214
    assert list(rows_of(run(test=scores(0.9, None, 0.9), val=scores(0.9, None, 0.9)))) == ["ticket", "greedy"]


def test_the_curve_has_each_ticket_once_and_the_dense_line() -> None:
    members = [
        {"file": file, "level": i, "sparsity": s, "val": scores(0.9, 0, 0)["ticket"], "test": scores(a, 0, 0)["ticket"]}
        for i, (file, s, a) in enumerate([("d", 0.0, 0.93), ("t", 0.931, 0.9162)])
    ]
    one = run(references={"ensemble": {"val": None, "test": {"accuracy": 0.95}}, "members": members})
    one["target"]["file"] = "t"
    series, lines = curve_of([one])
    found = {s.name: list(s.points) for s in series}
    assert found["ticket"] == [(1.0, 0.93), (pytest.approx(0.069), 0.9162)]
    assert found["greedy"] == [(pytest.approx(0.069), 0.9214)]
    assert lines == {"dense": 0.93, "ensemble of 2": 0.95}
    assert {s.name: list(s.points) for s in pairs_of([one])}["ticket + BN"] == [(0.91, 0.9203)]


def test_captions_name_the_layers_that_changed_most() -> None:
    text = said(layer_caption([("a", 0.1, 0.2), ("b", 0.5, 0.5), ("c", 0.9, 0.4)]))
    assert "a 10.00 % → 20.00 %; c 90.00 % → 40.00 %" in text
    assert "no layer's share changed" in layer_caption([("a", 0.5, 0.5)])


def test_what_must_not_be_overlooked() -> None:
    assert warnings_of(run()) == []
    assert "on test it does not (−0.10 points)" in warnings_of(run(test=scores(0.9, 0.92, 0.919)))[0]
    assert warnings_of(run(warnings=["val has 9 images"])) == ["val has 9 images"]
    assert warnings_of(run(not_finite=3)) == ["3 mixes had scores that are not finite, and were rejected."]


def test_a_network_without_batchnorm_hears_nothing_of_it() -> None:
    plain = {"val": scores(0.9, None, 0.92), "test": scores(0.9162, None, 0.9214), "references": None}
    plain["verdict"] = verdict("helped", 0.0052, 0.01, "ticket")
    for document in (run(**plain), {"targets": [run(**plain), run(**plain)]}):
        text = check_page(pool_page(document)).text
        assert "BN" not in text
        assert "BatchNorm" not in text


def test_chance_of_a_count() -> None:
    """1.96 · sqrt(0.9 · 0.1 / 10 000) = 0.588 points."""
    text = gap_caption([run(test=scores(0, None, 0.9))])
    assert "Counted on 10,000 images, 90.00 % may be anything from 89.40 % to 90.57 %" in text
    # Where every image is right the interval is Wilson's: a normal one would have no width.
    assert "from 99.96 % to 100.00 %" in gap_caption([run(test=scores(0, None, 1.0))])


def test_the_gain_of_a_target_is_over_the_control_that_is_stronger_on_val() -> None:
    """Whichever is better on test."""
    test = scores(0.93, 0.92, 0.925)
    other = run(test=test, verdict=verdict("hurt", -0.005, 0.01, "ticket"))
    table = target_table([run(), run(test=test), other, run(test=test, verdict=None)])
    assert [row[-1] for row in table.rows] == ["+0.11", "+0.50", "−0.50", "+0.50"]


# Figures


def drawings(figures: list[Figure]) -> dict[str, str]:
    """Title → SVG of each figure that is one."""
    return {one.title: one.drawing for one in figures if isinstance(one.drawing, str)}


@pytest.mark.parametrize("seed", SEEDS)
def test_there_is_a_figure_for_what_there_is_and_a_cell_for_each_value(seed: int) -> None:
    run = one_target(random.Random(seed))
    found, steps = {one.title: one.drawing for one in figures_of(run)}, steps_of(run)
    maps = [table for title, table in found.items() if title.startswith("The search")]
    assert len(maps) == bool(steps)
    for table in maps:
        assert isinstance(table, Table)
        values = [value for step in steps for value in step.tries.values()]
        assert sum("heat-" in look for look in table.looks.values()) == sum(value is not None for value in values)
        assert sum("cut" in look for look in table.looks.values()) == values.count(None)
        assert sum("taken" in look for look in table.looks.values()) == sum(step.taken is not None for step in steps)
    assert ("Density of each layer" in found) == bool(run["layers"])
    assert ("Coefficients" in found) == bool(run["coefficients"])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_figures_are_on_the_page_with_all_their_marks(seed: int) -> None:
    document = pool_document(seed)
    runs = document.get("targets", [document])
    page = pool_page(document)
    for one in (*overview(runs), *(one for run in runs for one in figures_of(run) if isinstance(one.drawing, Table))):
        assert said(one.caption) in said(Page(page).text)
    for run in runs:
        layers = drawings(list(figures_of(run))).get("Density of each layer")
        assert layers is None or len(marks(figure(layers), "mark-after")) == len(run["layers"])


def test_targets_of_one_page_share_no_id() -> None:
    run = one_target(random.Random(2)) | {"layers": [{"name": "a", "shape": [1], "before": 0.5, "after": 0.4}]}
    ids = Page(pool_page({"targets": [run, run]})).ids
    assert ids
    assert len(ids) == len(set(ids))


def test_the_overview_says_the_result_to_those_who_cannot_see_it() -> None:
    run = one_target(random.Random(2)) | {"method": "greedy", "improved": True, "shipped": "pooled"}
    label = figure(drawings(overview([run]))["Accuracy against density"]).get("aria-label", "")
    assert "greedy: " in label
    assert " on test at " in label


# Pages


def scores_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every score of a document, however deep; not those of attempts that were cut short."""
    if isinstance(value, dict):
        if "accuracy" in value and value.get("complete", True):
            yield value
        for child in value.values():
            yield from scores_in(child)
    elif isinstance(value, list):
        for child in value:
            yield from scores_in(child)


@pytest.mark.parametrize("seed", SEEDS)
def test_any_document_makes_a_whole_page_with_every_score_in_a_table(seed: int) -> None:
    document = pool_document(seed)
    before = json.dumps(document)
    html = pool_page(document)
    assert json.dumps(document) == before, "the document is not changed"
    cells = said("|".join(check_page(html).cells))
    runs = document.get("targets", [document])
    for run in runs:  # of several targets the references are the same and shown once
        run["references"] = runs[0]["references"]
    if not any(run["references"] for run in runs):
        document.pop("references", None)
    for score in scores_in(document):
        assert percent(score["accuracy"]) in cells
        assert number(score["nll"]) in cells


def test_cut_short_attempts_are_no_numbers() -> None:
    run = pool_document(0)
    run = run.get("targets", [run])[0]
    odd = {"alpha": 0.5, "accuracy": 0.12345, "nll": 7.654321, "n": 77, "complete": False}
    run["search"]["steps"] = [{"pass": 1, "file": "a", "level": 1, "alpha": None, "accepted": False, "attempts": [odd]}]
    page = check_page(pool_page(run))
    assert "cut short at 77" in page.cells
    assert percent(0.12345) not in said(page.text)
    assert "7.6543" not in page.text


def test_hostile_names_are_text() -> None:
    run = one_target(random.Random(1))
    run["target"]["file"] = run["method"] = HOSTILE
    html = pool_page(run)
    page = check_page(html)
    assert "<script" not in html
    assert HOSTILE.replace("\x07", "\ufffd").replace("\udc80", "\ufffd") in page.text


def test_the_command_and_versions_stand_as_given() -> None:
    run = one_target(random.Random(2))
    run["command"], run["versions"] = "lptool pool 'a b' --x=<1>\n  more", {"torch": "2.9.0+cu128"}
    page = check_page(pool_page(run))
    assert run["command"] in page.text
    assert "2.9.0+cu128" in page.cells


def test_a_document_without_the_parts_added_later_still_makes_a_page() -> None:
    run = one_target(random.Random(3))
    for key in ("select", "passes", "search", "coefficients", "methods", "references", "layers", "verdict", "warnings"):
        run.pop(key)
    for key in ("command", "versions", "device"):
        run.pop(key)
    check_page(pool_page(run))


def test_it_says_what_batchnorm_was_measured_on() -> None:
    words = "BatchNorm recalibrated on training images augmented as in training."
    document = one_target(random.Random(0))
    assert words in " ".join(said(pool_page(document | {"bn_images": "augmented"})).split())
    for other in ("none", "x", None):
        assert "BatchNorm recalibrated" not in pool_page(document | {"bn_images": other})


def test_equal_documents_make_equal_bytes() -> None:
    assert pool_page(pool_document(3)) == pool_page(pool_document(3))


def test_candidates_that_were_not_tried_one_by_one_have_no_map() -> None:
    """`window` and its like have one attempt at the end, whatever alphas its steps would have."""
    run = one_target(random.Random(1))
    tried = {"alpha": 0.956, **run["search"]["start"], "complete": True}
    step = {"pass": 1, "file": "a.pt", "accepted": True}
    run["members"] = [{**step, "level": level, "alpha": alpha} for level, alpha in ((0, 0.606), (1, 0.956))]
    run["search"]["steps"] = [{**run["members"][0], "attempts": []}, {**run["members"][1], "attempts": [tried]}]
    text = said(check_page(pool_page(run)).text)
    assert "2 of 2 candidates used, all at once" in text
    assert "alpha →" not in text
    run["search"]["steps"][0]["attempts"] = [{**tried, "alpha": 0.606}]
    text = said(check_page(pool_page(run)).text)
    assert "2 of 2 candidates accepted" in text
    assert "alpha →" in text


def test_what_warns_of_all_targets_is_said_once() -> None:
    pool, one = "tickets of different runs", "val has 9 images"
    runs = [run(warnings=[pool]), run(warnings=[pool, one])]
    assert common_warnings(runs) == [pool]
    assert common_warnings(runs[:1]) == []
    page = pool_page({"targets": runs})
    assert (page.count(pool), page.count(one)) == (1, 1)
    assert pool_page(runs[1]).count(pool) == 1
