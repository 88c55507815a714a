"""Gains of several runs brought together, against sums done by hand and tests of SciPy."""

import csv
import io
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from lptool.errors import DocumentError
from lptool.report.compared import csv_of, tables_of
from tests.helpers.runs import GAINS, Document, compared, evaluated, run, target


def evaluation(seed: int, **more: Any) -> Document:
    """With another setting of both files."""
    document = evaluated(seed, (930, 900), 40)
    return document | {"files": [file | more for file in document["files"]]}


def rows(document: dict[str, Any], against: str) -> list[dict[str, Any]]:
    return [row for row in document["rows"] if row["against"] == against]


def test_mean_standard_error_and_t_test_over_the_seeds(tmp_path: Path) -> None:
    found = rows(compared(tmp_path, *map(run, range(3))), "ticket")
    assert [row["level"] for row in found] == [1, 2, None]
    expected = [*GAINS.values(), [sum(both) / 2 for both in zip(*GAINS.values(), strict=True)]]
    for row, gains in zip(found, expected, strict=True):
        assert row["gain"] == pytest.approx(sum(gains) / 3)
        assert row["error"] == pytest.approx(scipy.stats.sem(gains))
        assert row["p"] == pytest.approx(scipy.stats.ttest_rel([0.9 + g for g in gains], [0.9] * 3).pvalue)
        assert [each["gain"] for each in row["runs"]] == pytest.approx(list(gains))
        assert row["n"] == 3
    assert (found[0]["density"], found[2]["levels"]) == (pytest.approx(0.8), [1, 2])


def test_mcnemar_of_each_run(tmp_path: Path) -> None:
    found = rows(compared(tmp_path, *map(run, range(3))), "ticket_bn")[0]
    for each, gain in zip(found["runs"], GAINS[1], strict=True):
        won = 50 + round(1000 * gain) - 10
        assert each["p"] == pytest.approx(scipy.stats.binomtest(won, won + 50).pvalue)
        assert (each["a_only"], each["b_only"], each["n"]) == (won, 50, 1000)


def test_the_gain_over_the_better_control_is_that_over_the_one_better_on_val(tmp_path: Path) -> None:
    better_on_val = [(500, 490, 510), (490, 500, 510), (490, 500, 510)]
    documents = [target(seed, 2, (900, 910, 930), val) for seed, val in enumerate(better_on_val)]
    (found,) = rows(compared(tmp_path, *documents), "better")
    assert [each["gain"] for each in found["runs"]] == pytest.approx([0.03, 0.02, 0.02])
    assert [each["control"] for each in found["runs"]] == ["ticket", "ticket_bn", "ticket_bn"]


def test_the_mean_is_over_the_levels_that_all_runs_have(tmp_path: Path) -> None:
    long = {"targets": [*run(0)["targets"], target(0, 3, (900, 910, 999))]}
    *_, mean = rows(compared(tmp_path, long, run(1)), "ticket")
    assert mean["levels"] == [1, 2]
    assert [each["gain"] for each in mean["runs"]] == pytest.approx([0.02, 0.01])


def test_one_level_that_all_runs_have_makes_no_mean(tmp_path: Path) -> None:
    """It would be that level again, and in the CSV a second row of it."""
    short = {"targets": run(1)["targets"][1:]}
    document = compared(tmp_path, run(0), short)
    assert [(row["level"], row["n"]) for row in rows(document, "ticket")] == [(1, 1), (2, 2)]
    lacking = run(0)
    lacking["targets"][0]["test"]["ticket_bn"] = lacking["targets"][0]["val"]["ticket_bn"] = None
    one_control = compared(tmp_path, lacking, run(1))
    assert [row["level"] for row in rows(one_control, "better")] == [1, 2, None]
    assert [row["level"] for row in rows(one_control, "ticket_bn")] == [1, 2]
    levels = [line["level"] for line in csv.DictReader(io.StringIO(csv_of(one_control)))]
    assert set(levels) == {"1", "2", "mean"}


def test_what_differs_is_a_series_of_its_own_and_says_in_what(tmp_path: Path) -> None:
    other = {"options": {"bn_images": "plain", "passes": 1}}
    document = compared(tmp_path, run(0), run(1), run(0, **other), run(0, method="window"))
    found = {(row["name"], row["n"]) for row in document["rows"]}
    assert found == {("greedy (bn-images auto)", 2), ("greedy (bn-images plain)", 1), ("window", 1)}


def test_densities_that_rounding_alone_tells_apart_are_one_point(tmp_path: Path) -> None:
    near, far = target(1, 2, (900, 910, 930), sparsity=0.3601), target(2, 2, (900, 910, 930), sparsity=0.5)
    found = rows(compared(tmp_path, target(0, 2, (900, 910, 930)), near, far), "ticket")
    assert [(row["level"], row["n"]) for row in found] == [(2, 2), (2, 1)]


def test_the_same_result_twice_is_refused(tmp_path: Path) -> None:
    twice = "0.json and .*1.json: the same result twice .*greedy at level 1"
    with pytest.raises(DocumentError, match=twice):
        compared(tmp_path, run(0), run(0))
    with pytest.raises(DocumentError, match=twice):  # searched again, with another --seed say
        compared(tmp_path, run(0), run(0, sha256="another"))
    old = [{**target(0, 1, (900, 910, 930)), "tickets": None} for _ in range(2)]
    with pytest.raises(DocumentError, match=twice):
        compared(tmp_path, *old)
    with pytest.raises(DocumentError, match="the same result twice"):
        compared(tmp_path, evaluated(0, (930, 900), 40), evaluated(0, (930, 900), 40))


def test_pools_that_share_a_ticket_are_no_two_runs(tmp_path: Path) -> None:
    """A pool of some of a run's tickets, whichever comes first, at whichever level."""
    whole, part = run(0), run(0, tickets=["0-0", "0-1"], sha256="another")
    for documents in ((whole, part), (part, whole), (part["targets"][0], whole["targets"][1])):
        with pytest.raises(DocumentError, match=r"0.json and .*1.json: two pools that share 2 tickets \(greedy\)"):
            compared(tmp_path, *documents)
    assert {row["n"] for row in compared(tmp_path, *whole["targets"])["rows"]} == {1}  # targets of one pool
    assert {row["n"] for row in compared(tmp_path, whole, run(0, method="window", tickets=["0-0"]))["rows"]} == {1}


def without(document: Document, *keys: str) -> Document:
    """As an older lptool printed it."""
    files = [{key: value for key, value in file.items() if key not in keys} for file in document.get("files", ())]
    return {key: value for key, value in document.items() if key not in keys} | ({"files": files} if files else {})


def another(document: Document, **more: Any) -> Document:
    """The same evaluation of another pooled model."""
    return document | {"files": [file | (more if file["kind"] == "pooled" else {}) for file in document["files"]]}


@pytest.mark.parametrize("older", [False, True])
def test_evaluations_that_share_a_file_or_a_ticket_are_no_two_runs(tmp_path: Path, older: bool) -> None:
    """Of one file the digest tells; of pooled models of the same tickets their headers, where the document says it."""
    one = evaluated(0, (930, 900), 40)
    beside_the_same = another(one, sha256="another", tickets=[])
    of_the_same = another(evaluated(1, (930, 900), 40), tickets=["0-1"])
    for other in (beside_the_same, of_the_same)[: 1 if older else 2]:
        documents = [without(each, "tickets") if older else each for each in (one, other)]
        for pair in (documents, documents[::-1]):
            with pytest.raises(
                DocumentError, match=r"0.json and .*1.json: two results \(greedy at level 2\) that share"
            ):
                compared(tmp_path, *pair)
    apart = [evaluated(seed, (930, 900), 40) for seed in range(3)]
    found = compared(tmp_path, *(without(each, "tickets") if older else each for each in apart))
    assert [row["n"] for row in found["rows"]] == [3]


def test_two_that_are_joined_by_a_third_are_one_run(tmp_path: Path) -> None:
    """Whichever comes first."""
    levels = [(1, ["a"]), (2, ["b"]), (3, ["a", "b"])]
    documents = []
    for level, tickets in levels:
        document = evaluated(level, (930, 900), 40)
        files = [file | {"level": level, "sparsity": 1 - 0.8**level} for file in document["files"]]
        documents.append(another(document | {"files": files}, tickets=tickets))
    for order in permutations(documents):
        *alone, mean = compared(tmp_path, *order)["rows"]
        assert [row["n"] for row in (*alone, mean)] == [1, 1, 1, 1]
        assert mean["levels"] == [1, 2, 3]


def test_the_same_files_in_another_order_are_the_same_result(tmp_path: Path) -> None:
    def both(first: str, second: str) -> Document:
        document = another(evaluated(0, (930, 900), 40), method="window")
        document["files"][1] |= {"kind": "pooled", "method": "greedy"}
        swapped = document["files"][0]["method"] != first
        pair = document["comparisons"][0]
        other = pair | {"a": pair["b"], "b": pair["a"], "a_only": pair["b_only"], "b_only": pair["a_only"]}
        turned = document | {"files": document["files"][::-1], "comparisons": [other]}
        return turned if swapped else document

    one, other = both("window", "greedy"), both("greedy", "window")
    assert [row["gain"] for row in compared(tmp_path, one)["rows"]] == [
        row["gain"] for row in compared(tmp_path, other)["rows"]
    ]
    with pytest.raises(DocumentError, match="the same result twice"):
        compared(tmp_path, one, other)


WIDER = {"arch_kwargs": {"width": 16}}


@pytest.mark.parametrize("make", [run, evaluation])
def test_networks_of_other_arguments_are_no_repetitions(tmp_path: Path, make: Callable[..., Document]) -> None:
    document = compared(tmp_path, make(0), make(1), make(2, **WIDER))
    names = {(row["name"].partition(",")[0].rstrip(")"), row["n"]) for row in document["rows"]}
    assert names == {("greedy (width 8", 2), ("greedy (width 16", 1)}
    sums = {row["name"]: row["n"] for row in document["rows"]}
    assert all(name in csv_of(document) for name in sums)
    assert sum(len(table.rows) for table in tables_of(document)) == len(
        [row for row in document["rows"] if row["kind"] == "evaluate" or row["against"] == "better"]
    )


def test_an_argument_that_one_network_has_alone_names_both(tmp_path: Path) -> None:
    document = compared(tmp_path, run(0), run(1, arch_kwargs={"width": 8, "deep": True}))
    assert {row["name"] for row in document["rows"]} == {"greedy (deep –)", "greedy (deep True)"}


def test_another_normalisation_is_another_setting_but_one_that_was_measured_anew_is_not(tmp_path: Path) -> None:
    measured = {"normalisation": {"mean": [0.304], "std": [0.397]}}
    other = {"normalisation": {"mean": [0.5], "std": [0.5]}}
    document = compared(tmp_path, run(0), run(1, **measured), run(2, **other))
    found = {(row["name"], row["n"]) for row in document["rows"]}
    assert found == {
        ("greedy (image normalisation 0.3,0.4)", 2),
        ("greedy (image normalisation 0.5,0.5)", 1),
    }


def test_what_an_older_document_does_not_say_is_not_compared(tmp_path: Path) -> None:
    older = {"targets": [without(each, "arch_kwargs", "normalisation") for each in run(1)["targets"]]}
    assert {(row["name"], row["n"]) for row in compared(tmp_path, older, run(0))["rows"]} == {("greedy", 2)}
    assert {row["setting"] for row in compared(tmp_path, older)["rows"]} == {None}
    expected = r"1.json: does not say .*0.json and .*2.json differ \(width 8\); make it again"
    with pytest.raises(DocumentError, match=expected):  # it may be of either
        compared(tmp_path, run(0), older, run(2, **WIDER))


def test_classes_differ_between_data_sets_and_name_no_row(tmp_path: Path) -> None:
    other = run(0, dataset="digits", arch_kwargs={"width": 8, "num_classes": 100})
    assert {row["name"] for row in compared(tmp_path, run(0), other)["rows"]} == {"greedy"}


def test_other_test_images_are_refused(tmp_path: Path) -> None:
    other = target(1, 1, (900, 910, 930))
    other["test"]["pooled"]["n"] = 500
    with pytest.raises(DocumentError, match=r"1.json: scored on 500 test images of npz:d.npz, expected 1,000 as in"):
        compared(tmp_path, run(0), other)
