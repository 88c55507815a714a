"""The document of `compare` as tables, CSV and LaTeX."""

import csv
import io
from pathlib import Path

import pytest
import scipy.stats

from lptool.report.compared import csv_of, latex_of, notes_of, tables_of
from tests.helpers.runs import GAINS, compared, evaluated, run, target


def test_a_table_for_each_data_set_and_network(tmp_path: Path) -> None:
    alike = compared(tmp_path, run(0), run(1), run(0, method="window"))
    assert [table.caption.partition(": ")[2] for table in tables_of(alike)] == [
        "1–2 runs, 1,000 test images; gains in points"
    ]
    apart = compared(tmp_path, run(0), run(0, dataset="digits"), run(0, arch="resnet8_cifar"))
    assert [table.caption.partition(": 1 run")[0] for table in tables_of(apart)] == [
        "npz:d.npz, net.py:Net",
        "digits, net.py:Net",
        "npz:d.npz, resnet8_cifar",
    ]


def test_a_control_that_some_runs_lack_has_no_number_in_the_table(tmp_path: Path) -> None:
    """Those that have it may be those with a gain."""
    lacking = target(1, 2, (900, None, 900))
    lacking["val"]["ticket_bn"] = None
    document = compared(tmp_path, target(0, 2, (900, 910, 930)), lacking)
    (table,) = tables_of(document)
    (line,) = table.rows
    assert line[:6] == ["greedy", "2, 64.0 %", "91.50", "+1.50 ± 1.50", "–", "+1.50 ± 1.50"]
    assert any(note.startswith("–") for note in notes_of(document))
    assert not any(note.startswith("–") for note in notes_of(compared(tmp_path, target(0, 2, (900, 910, 930)))))


def test_one_run_has_the_test_on_its_images_alone(tmp_path: Path) -> None:
    document = compared(tmp_path, target(0, 2, (900, 910, 930)))
    (table,) = tables_of(document)
    p = scipy.stats.binomtest(80, 130).pvalue
    assert table.rows[0][2:] == ["93.00", "+3.00", "+2.00", "+3.00", "–", f"{p:.2g}"]
    assert "p needs three runs" in notes_of(document)


def test_pairs_of_evaluate_have_a_table_of_their_own(tmp_path: Path) -> None:
    document = compared(tmp_path, evaluated(0, (930, 900), 40), evaluated(1, (920, 900), 30, swapped=True))
    (table,) = tables_of(document)
    assert table.headings[:2] == ["model", "over"]
    assert list(table.rows[0]) == ["greedy", "ticket", "2, 64.0 %", "92.50", "+2.50 ± 0.50", "–", "2 of 2"]


def test_two_runs_have_no_t_test_and_three_have(tmp_path: Path) -> None:
    two, three = (compared(tmp_path, *map(run, range(count))) for count in (2, 3))
    assert {row["p"] for row in two["rows"]} == {None}
    assert "p needs three runs" in notes_of(two)
    assert all(row["p"] is not None for row in three["rows"])
    assert "p needs three runs" not in notes_of(three)
    assert not any("exactly the same gain" in note for note in (*notes_of(two), *notes_of(three)))


def test_a_dash_for_equal_gains_is_explained(tmp_path: Path) -> None:
    document = compared(tmp_path, *(target(seed, 2, (900, 910, 930)) for seed in range(3)))
    (table,) = tables_of(document)
    assert table.rows[0][6] == "–"
    assert any("exactly the same gain" in note for note in notes_of(document))


def test_csv_has_every_row(tmp_path: Path) -> None:
    document = compared(tmp_path, *map(run, range(3)))
    found = list(csv.DictReader(io.StringIO(csv_of(document))))
    assert len(found) == len(document["rows"]) == 9
    first = found[0]
    assert (first["method"], first["level"], first["runs"], first["test_images"]) == ("greedy", "1", "3", "1000")
    assert [float(gain) for gain in first["gains"].split(";")] == pytest.approx(list(GAINS[1]))
    assert float(first["accuracy"]) - float(first["base"]) == pytest.approx(float(first["gain"]))
    assert [row["level"] for row in found if row["against"] == "better"] == ["1", "2", "mean"]


def test_latex_has_what_the_tables_have(tmp_path: Path) -> None:
    document = compared(tmp_path, run(0, method="a_b"), run(1, method="a_b"), run(0))
    found = latex_of(document)
    assert r"a\_b & 1, 80.0 \% & $91.50$ & $+1.50 \pm 0.50$" in found
    assert found.count(r"\begin{tabular}") == found.count(r"\end{tabular}") == 1
    assert found.count(r"\addlinespace") == 1
    body = [line for line in found.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in body} == {7}
    assert all(line.isascii() for line in body)
