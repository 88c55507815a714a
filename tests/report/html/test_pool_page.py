"""Pages of `pool`: for any document whole, safe, and without a score left out."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from lptool.report.html.pool_page import pool_page
from lptool.report.html.wording import nll, percent
from tests.helpers.documents import HOSTILE, SEEDS, one_target, pool_document
from tests.helpers.reading import check_page


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
    cells = "|".join(check_page(html).cells)
    runs = document.get("targets", [document])
    for run in runs:  # of several targets the references are the same and shown once
        run["references"] = runs[0]["references"]
    if not any(run["references"] for run in runs):
        document.pop("references", None)
    for score in scores_in(document):
        assert percent(score["accuracy"]) in cells
        assert nll(score["nll"]) in cells


def test_cut_short_attempts_are_no_numbers() -> None:
    run = pool_document(0)
    run = run.get("targets", [run])[0]
    odd = {"alpha": 0.5, "accuracy": 0.12345, "nll": 7.654321, "n": 77, "complete": False}
    run["search"]["steps"] = [{"pass": 1, "file": "a", "level": 1, "alpha": None, "accepted": False, "attempts": [odd]}]
    page = check_page(pool_page(run))
    assert "cut short at 77" in page.cells
    assert percent(0.12345) not in page.text
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
    for key in ("select", "passes", "search", "coefficients", "methods", "references", "layers"):
        run.pop(key)
    for key in ("command", "versions", "device"):
        run.pop(key)
    check_page(pool_page(run))


def test_equal_documents_make_equal_bytes() -> None:
    assert pool_page(pool_document(3)) == pool_page(pool_document(3))
