"""Tables in their skins."""

from lptool.tables import Table, markdown, percent


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
