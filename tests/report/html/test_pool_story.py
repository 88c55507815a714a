"""What is said of a pool document: honest headlines, the right rows, and a search that shows only what was measured."""

import random
from typing import Any

import pytest

from lptool.report.html.pool_story import (
    curve_of,
    headline,
    layer_caption,
    methods_of,
    pairs_of,
    rows_of,
    search_caption,
    search_rows,
    warnings_of,
)
from tests.helpers.documents import one_target


def scores(ticket: float, with_bn: float | None, pooled: float) -> dict[str, Any]:
    rows = {"ticket": ticket, "ticket_bn": with_bn, "pooled": pooled}
    return {row: None if a is None else {"accuracy": a, "nll": 0.1, "n": 10000} for row, a in rows.items()}


def run(**changes: Any) -> dict[str, Any]:
    plain = one_target(random.Random(5))
    plain |= {"method": "greedy", "improved": True, "shipped": "pooled", "sparsity": 0.931, "methods": {}}
    plain |= {"not_finite": 0, "select": "accuracy", "references": None}
    plain["target"]["sparsity"] = 0.931
    plain |= {"val": scores(0.9, 0.91, 0.92), "test": scores(0.9162, 0.9203, 0.9214)}
    return plain | changes


def said(text: str) -> str:
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "greedy: 92.14 % on test at 93.10 % sparsity, +0.52 points over the ticket, +0.11 points over ticket + BN",
        ),
        (
            {"test": scores(0.92, None, 0.91)},
            "greedy: 91.00 % on test at 93.10 % sparsity, −1.00 points against the ticket",
        ),
        (
            {"improved": False, "shipped": "ticket_bn"},
            "greedy: no candidate improved the ticket; the output is ticket + BN, 92.14 % on test at 93.10 % sparsity",
        ),
    ],
)
def test_the_headline_says_what_was_gained_or_that_nothing_was(changes: dict[str, Any], expected: str) -> None:
    assert said(headline([run(**changes)])) == expected


def test_the_headline_of_several_counts_against_the_stronger_control() -> None:
    worse = run(test=scores(0.93, 0.92, 0.925), sparsity=0.5)
    assert said(headline([run(), worse])) == (
        "greedy: better on test than ticket and ticket + BN for 1 of 2 targets, worse for 1; "
        "most at 6.90 % of the weights, +0.11 points"
    )
    assert "most at" not in headline([worse, worse])


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


def attempt(alpha: float | None, accuracy: float, nll: float | None = 0.3, complete: bool = True) -> dict[str, Any]:
    return {"alpha": alpha, "accuracy": accuracy, "nll": nll, "n": 9, "complete": complete}


def searched(attempts: list[dict[str, Any]], alpha: float | None, **changes: Any) -> dict[str, Any]:
    step = {"pass": 1, "file": "a", "level": 2, "alpha": alpha, "accepted": alpha is not None, "attempts": attempts}
    start = {"accuracy": 0.9, "nll": 0.4, "n": 9}
    return run(search={"alphas": [0.1], "start": start, "steps": [step]}, **changes)


def test_only_whole_and_finite_attempts_have_a_place_on_the_scale() -> None:
    tries = [attempt(0.1, 0.2, complete=False), attempt(0.5, 0.91), attempt(0.7, 0.99, nll=None)]
    (row,), alphas = search_rows(searched(tries, 0.5))
    assert [found.value for found in row.tries] == [None, 0.91, None]
    assert (row.accepted, row.incumbent, alphas) == (0.5, 0.91, [0.1, 0.5, 0.7])
    (row,), _ = search_rows(searched(tries, 0.5, select="nll"))
    assert row.incumbent == 0.3


@pytest.mark.parametrize("attempts", [[], [attempt(None, 0.9)]])
def test_methods_that_choose_no_alpha_have_no_map(attempts: list[dict[str, Any]]) -> None:
    assert search_rows(searched(attempts, None)) == ([], [])
    assert search_rows(run(search=None)) == ([], [])


def test_captions_say_where_the_search_went() -> None:
    rows, _ = search_rows(searched([attempt(0.5, 0.91)], 0.5))
    text = search_caption(rows, 0.9, lambda value: f"{value:.2f}")
    assert text.startswith("1 of 1 candidates accepted; val went from 0.90 to 0.91.")
    assert "cut short" not in text
    rows, _ = search_rows(searched([attempt(0.5, 0.1, complete=False)], None))
    text = search_caption(rows, 0.9, lambda value: f"{value:.2f}")
    assert text.startswith("0 of 1 candidates accepted; val stayed at 0.90.")
    assert "cut short" in text


def test_captions_name_the_layers_that_changed_most() -> None:
    text = said(layer_caption([("a", 0.1, 0.2), ("b", 0.5, 0.5), ("c", 0.9, 0.4)]))
    assert "a 10.00 % → 20.00 %; c 90.00 % → 40.00 %" in text
    assert "no layer's share changed" in layer_caption([("a", 0.5, 0.5)])


def test_what_must_not_be_overlooked() -> None:
    assert warnings_of(run()) == []
    assert "on test it does not (−0.10 points)" in warnings_of(run(test=scores(0.9, 0.92, 0.919)))[0]
    assert warnings_of(run(not_finite=3)) == ["3 mixes had scores that are not finite, and were rejected."]
