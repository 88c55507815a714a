"""Numbers and findings in words."""

import pytest

from lptool.report.html import wording


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (0.0052, "+0.52 points over the ticket"),
        (-0.0012, "−0.12 points against the ticket"),
        (0.0, "the same as the ticket"),
    ],
)
def test_a_gain_is_honest_about_its_sign(gain: float, said: str) -> None:
    assert wording.over(gain, "the ticket") == said


def test_numbers() -> None:
    assert wording.percent(0.9214) == "92.14\u00a0%"
    assert (wording.nll(None), wording.nll(0.25)) == ("not finite", "0.2500")
    assert [wording.count(n) for n in (999, 1500, 2.5e6, 4e9, 3e12)] == ["999", "1.5 k", "2.5 M", "4 G", "3 T"]
    assert (wording.times(10, 25), wording.times(0, 25)) == ("2.5×", "–")
    assert (wording.p_value(0.0004), wording.p_value(0.0412)) == ("< 0.001", "0.041")
    assert wording.score_cells(None) == ["–", "–", "–"]


def test_chance_of_a_count() -> None:
    """1.96 · sqrt(0.9 · 0.1 / 10 000) = 0.588 points."""
    assert "10,000 images is known to about ±0.59 points" in wording.chance({"accuracy": 0.9, "n": 10000})


@pytest.mark.parametrize(("p", "differs"), [(0.049, True), (0.05, False), (0.07, False), (0.1, False)])
def test_one_in_twenty_by_chance_is_no_difference(p: float, differs: bool) -> None:
    assert (wording.verdict(p, "a", "b", 9, 5) != "no difference beyond chance") == differs


def test_equal_counts_are_no_difference() -> None:
    assert wording.verdict(0.01, "a", "b", 5, 5) == "no difference beyond chance"


def test_files_are_named_by_as_little_as_tells_them_apart() -> None:
    files = ["runs/a/level_1.pt", "runs/b/level_1.pt", "runs/b/level_2.pt", "level_2.pt"]
    assert wording.short_names(files) == {
        "runs/a/level_1.pt": "a/level_1",
        "runs/b/level_1.pt": "b/level_1",
        "runs/b/level_2.pt": "b/level_2",
        "level_2.pt": "level_2.pt",
    }
    twins = ["a/x.pt", "a/x.safetensors"]
    assert len(set(wording.short_names(twins).values())) == 2


def test_a_ticket_is_named_by_its_level_or_its_file() -> None:
    assert wording.name_of({"level": 0, "file": "a/b.pt"}) == "level 0"
    assert wording.name_of({"level": None, "file": "a/b.pt"}) == "b"
    assert wording.name_of({"file": "a/b.pt"}) == "b"
