"""Tables in their skins."""

import pytest

from lptool.tables import Table, latex, markdown, percent, points


def test_a_table_in_markdown() -> None:
    table = Table("what", ("file", "level", "how"), [("a|b", "1", "greedy"), ("c", "–", "soup")], words=("how",))
    assert markdown(table).splitlines() == [
        "| file | level | how |",
        "|:--|--:|:--|",
        "| a\\|b | 1 | greedy |",
        "| c | – | soup |",
    ]


def test_a_fraction_as_percent() -> None:
    assert percent(0.12345) == "12.35 %"


def test_a_difference_has_its_sign_but_for_none() -> None:
    assert (points(0.0052), points(-0.0012)) == ("+0.52", "−0.12")
    assert {points(0.0), points(-0.0), points(-1e-6), points(1e-6)} == {"0.00"}


def test_a_table_whose_rows_do_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="not 2 cells"):
        Table("", ["", "a"], [["row", "1", "2"]])
    with pytest.raises(ValueError, match="zip"):
        Table("", ["a"], [["1"]]).plus("b", [])


def test_one_more_column() -> None:
    table = Table("what", ("file", "how"), [("a", "soup"), ("b", "swa")], words=("how",)).plus("n", ["1", "2"])
    assert (list(table.headings), [list(row) for row in table.rows]) == (
        ["file", "how", "n"],
        [["a", "soup", "1"], ["b", "swa", "2"]],
    )
    more = table.plus("why", ["x", "y"], words=True)
    assert [more.is_text(column) for column in range(4)] == [True, True, False, True]


def test_a_table_in_latex() -> None:
    table = Table("what", ("file", "gain"), [("a_b", "-0.41 ± 0.20"), ("a_b", "1e-05"), ("100 %\\", "–")])
    assert latex(table).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"file & gain \\",
        r"\midrule",
        r"a\_b & $-0.41 \pm 0.20$ \\",
        r"a\_b & $1 \cdot 10^{-5}$ \\",
        r"\addlinespace",
        r"100 \%\textbackslash{} & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_one_column_less() -> None:
    table = Table("what", ("file", "how", "n"), [("a", "soup", "1")], words=("how",), looks={(0, 2): "heat-1"})
    less = table.without("how")
    assert (list(less.headings), [list(row) for row in less.rows], less.looks) == (["file", "n"], [["a", "1"]], {})
