"""Networks and normalisations told apart."""

from typing import Any

import pytest

from lptool.errors import DocumentError
from lptool.report.documents import Part
from lptool.report.settings import Setting


def model(*, mean: Any = (0.3,), std: Any = (0.4,), **arguments: Any) -> Part:
    normalisation = {"mean": list(mean), "std": list(std)}
    return Part({"arch": "a.py:Net", "arch_kwargs": arguments, "normalisation": normalisation}, "d.json")


def said(part: Part) -> Setting:
    found = Setting.of(part)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        (model(width=8), True),
        (model(width=16), False),
        (model(), False),
        (model(width=8, deep=True), False),
        (model(width=8, mean=(0.304,), std=(0.396,)), True),  # measured on another part of the images
        (model(width=8, mean=(0.5,)), False),
        (model(width=8, std=(0.5,)), False),
        (model(width=8, mean=(0.3,) * 3, std=(0.4,) * 3), False),
    ],
)
def test_arguments_are_equal_and_normalisations_near(other: Part, alike: bool) -> None:
    mine, found = said(model(width=8)), said(other)
    assert (mine.alike(found), found.alike(mine)) == (alike, alike)
    assert mine.alike(mine)


def test_the_order_of_arguments_does_not_matter() -> None:
    assert said(model(a=1, b=[2])) == said(model(b=[2], a=1))


def test_both_files_of_a_pair_count() -> None:
    pairs = [(model(width=8), model(width=w)) for w in (8, 8, 16)]
    one, same, wider = (Setting.of_both(*pair) for pair in pairs)
    assert one is not None
    assert same is not None
    assert wider is not None
    assert one.alike(same)
    assert not one.alike(wider)
    assert wider.words() == {
        "width": 8,
        "other width": 16,
        "image normalisation": [0.3, 0.4, 0.3, 0.4],
    }
    assert Setting.of_both(model(), Part({"arch": "x"}, "d.json")) is None


def test_an_older_document_does_not_say_it_and_an_odd_one_is_refused() -> None:
    assert Setting.of(Part({"arch": "a"}, "d.json")) is None
    for odd in ({"mean": [0.1]}, {"mean": [0.1], "std": ["x"]}, {"mean": 3, "std": [1]}):
        with pytest.raises(DocumentError, match=r"^d.json: .*normalisation\."):
            Setting.of(Part({"arch_kwargs": {}, "normalisation": odd}, "d.json"))
