"""Rows made once: every number of a document in its cell."""

from typing import Any

from lptool.report import tables
from lptool.tables import percent

SCORE = {"accuracy": 0.9184, "nll": 0.25, "n": 10000}


def test_a_score_has_the_quantities_asked_for_and_dashes_where_it_was_not_measured() -> None:
    rows: dict[str, Any] = {"a": {"val": SCORE, "test": None}}
    short, full = (tables.scores("x", rows, quantities) for quantities in (["accuracy"], tables.FULL))
    assert list(short.headings) == ["", "val accuracy", "test accuracy"]
    assert list(short.rows[0]) == ["a", "91.84 %", "–"]
    assert list(full.rows[0]) == ["a", "91.84 %", "0.2500", "10,000", "–", "–", "–"]


def test_numbers() -> None:
    assert (tables.number(None), tables.number(0.25)) == ("not finite", "0.2500")


def test_a_ticket_is_named_by_its_level_or_its_file() -> None:
    assert tables.name_of({"level": 0, "file": "a/b.pt"}) == "level 0"
    assert tables.name_of({"level": None, "file": "a/b.pt"}) == "b"
    assert tables.name_of({"file": "a/b.pt"}) == "b"
    assert tables.level_of({"level": 0, "file": "a/b.pt"}) == "0"


def test_candidates_of_another_program_may_lack_anything() -> None:
    steps = [{}, {"file": "a", "level": 3, "alpha": 5 / 6, "accepted": True}]
    assert [list(row) for row in tables.candidates("", steps).rows] == [
        ["–", "–", "–", "no"],
        ["a", "3", "0.833", "yes"],
    ]


def test_alphas_have_three_digits_at_most() -> None:
    assert [tables.alpha_name(a) for a in (None, 5 / 6, 0.05, 0.5, 1.0)] == ["–", "0.833", "0.05", "0.5", "1"]


def test_references_have_a_row_for_each_ticket_and_the_last_for_all() -> None:
    members = [{"file": f"{i}.pt", "level": i, "sparsity": i / 4, "val": SCORE, "test": SCORE} for i in range(3)]
    table = tables.references({"members": members, "ensemble": {"val": SCORE, "test": None}}, ["accuracy"])
    assert [row[0] for row in table.rows] == ["level 0", "level 1", "level 2", "ensemble of 3"]
    assert [row[1] for row in table.rows] == [*map(percent, (0, 0.25, 0.5)), "3 models"]


def test_targets_have_a_column_for_each_name_of_any() -> None:
    run = {"target": {"file": "a", "level": 2}, "sparsity": 0.5, "members": [{"accepted": True}], "improved": True}
    names = iter(["x", "y"])
    table = tables.targets("", [run, run | {"improved": False}], lambda _: {next(names): {"val": SCORE, "test": None}})
    assert list(table.headings) == ["level", "sparsity", "x", "y", "accepted"]
    assert [list(row) for row in table.rows] == [
        ["2", "50.00 %", "91.84 % / –", "–", "1"],
        ["2", "50.00 %", "–", "91.84 % / –", "none improved"],
    ]


def test_what_is_not_finite_is_said() -> None:
    test = {"accuracy": 0.1, "nll": None, "ece": None, "top5": None, "interval": [0.05, 0.15]}
    document = {"dataset": "d", "n": 1000, "files": [{"file": "x/a.pt", "sparsity": 0.5, "test": test}]}
    (row,) = tables.evaluated(document, {"x/a.pt": "a"}).rows
    assert list(row) == ["a", "50.00 %", "10.00 % [5.00, 15.00]", "not finite", "not finite"]


def test_corruptions_have_their_mean_and_extra_ones_are_in_brackets() -> None:
    rows = [
        {"name": n, "severity": s, "accuracy": a} for n, s, a in (("fog", 1, 0.5), ("fog", 3, 0.7), ("snow", 1, 0.2))
    ]
    table = tables.corruptions("a", {"source": "C", "rows": rows}, extra={"snow"})
    assert list(table.headings) == ["severity", "1", "3", "mean"]
    assert [list(row) for row in table.rows] == [
        ["fog", "50.00 %", "70.00 %", "60.00 %"],
        ["(snow)", "20.00 %", "–", "20.00 %"],
    ]
