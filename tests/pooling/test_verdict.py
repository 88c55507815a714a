"""Whether pooling helped: by hand, against McNemar's test, and against flipping every sign."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from lptool.checkpoints.header import VERDICTS, Verdict
from lptool.pooling.choice import Choice
from lptool.pooling.result import PoolResult
from lptool.pooling.verdict import FEW, better_control, combined, sentence, verdict_of, warnings_of
from lptool.scoring.metrics import Comparison, mcnemar, word_of
from lptool.scoring.score import Graded, Score

HELPED = Verdict("helped", "ticket_bn", 0.0123, 0.0129, 5000, 10000, -0.01, 0.002)


def graded(loss: list[float]) -> Graded:
    found = torch.tensor(loss)
    return Graded(found < 1, found, found.double(), found < 1)


def test_of_the_controls_the_one_of_fewer_errors_or_lower_nll_counts() -> None:
    ticket, choice = Score(5, 1.0, 9), Choice()
    for nll, better in ((0.9, "ticket_bn"), (1.0, "ticket"), (1.1, "ticket")):
        assert better_control({"ticket": ticket, "ticket_bn": Score(5, nll, 9)}, choice) == better
    assert better_control({"ticket": ticket, "pooled": Score(9, 0.1, 9)}, choice) == "ticket"


def test_a_verdict_by_hand() -> None:
    """Differences of 0, 1 and 2 have the mean 1 and the standard error 1 / √3."""
    val = {"ticket": graded([0.5, 1.0, 1.5]), "pooled": graded([0.5, 2.0, 3.5])}
    found = verdict_of("ticket", Comparison(12, 2, 0.0129), val, 1000)
    assert found == Verdict("helped", "ticket", 0.01, 0.0129, 3, 1000, 1.0, pytest.approx(1 / math.sqrt(3)))
    same = verdict_of("ticket", Comparison(0, 0, 1.0), val | {"pooled": val["ticket"]}, 1000)
    assert (same.word, same.gain, same.nll_rise, same.nll_error) == ("within chance", 0, 0, 0)
    endless = verdict_of("ticket", Comparison(0, 0, 1.0), val | {"pooled": graded([0.5, math.inf, 1.0])}, 1000)
    assert (endless.nll_rise, endless.nll_error) == (None, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "pooling helped: +1.23 points over 'ticket + BN' on 10,000 test images (p = 0.013, exact McNemar test), "),
        ({"word": "hurt", "gain": -0.01, "against": "ticket"}, "pooling hurt: -1.00 points over 'ticket' on 10,000 "),
        ({"word": "within chance", "p": 0.5}, "pooling is within chance: +1.23 points over 'ticket + BN' on 10,000 "),
    ],
)
def test_the_sentence_has_the_word_and_the_numbers(changes: dict[str, object], words: str) -> None:
    said = sentence(replace(HELPED, **changes), "pooled")  # type: ignore[arg-type]
    assert said.startswith(words)
    assert said.endswith(", both chosen on 5,000 val images")


def test_a_control_that_was_written_is_called_by_its_name() -> None:
    said = sentence(replace(HELPED, word="within chance", gain=0.0, p=1.0), "ticket_bn")
    assert "the output is 'ticket + BN' itself" in said
    assert "nothing better was found on 5,000 val images" in said
    assert "within chance" in said


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 0),
        ({"nll_rise": 0.002, "nll_error": 0.002}, 0),
        ({"nll_rise": 0.0021, "nll_error": 0.002}, 1),
        ({"nll_rise": None, "nll_error": None}, 0),
        ({"n_val": FEW}, 0),
        ({"n_val": FEW - 1}, 1),
        ({"n_val": FEW - 1, "nll_rise": 1.0}, 2),
    ],
)
def test_what_makes_val_a_poor_guide_is_said(changes: dict[str, object], count: int) -> None:
    lines = warnings_of(replace(HELPED, **changes))  # type: ignore[arg-type]
    assert len(lines) == count
    assert all("\n" not in line for line in lines)


def test_of_few_images_it_says_what_one_weighs() -> None:
    assert "val has 50 images, of which one is 2.00 points" in warnings_of(replace(HELPED, n_val=50))[0]


def test_the_verdict_of_a_result_is_that_of_its_comparison(result: PoolResult) -> None:
    verdict, found = result.verdict, result.against[result.verdict.against]
    assert (verdict.word, verdict.p, verdict.n_test) == (found.verdict, found.p, result.test["pooled"].n)
    assert int(result.gains.sum()) == found.a_only - found.b_only == round(verdict.gain * verdict.n_test)
    assert int((result.gains == 1).sum()) == found.a_only
    rise = result.val["pooled"].nll - result.val[verdict.against].nll
    assert verdict.nll_rise == pytest.approx(rise, abs=1e-6)
    assert result.metadata.search.verdict == verdict


# All targets together


def gains_of(seed: int, levels: int, n: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(-1, 2, (n,), generator=draw).to(torch.int8) for _ in range(levels)]


@pytest.mark.parametrize("seed", range(10))
def test_of_one_target_it_is_the_exact_mcnemar_test(seed: int) -> None:
    (gains,) = gains_of(seed, 1, 40 + 10 * seed)
    found, expected = combined([gains]), mcnemar(gains == 1, gains == -1)
    assert found.p == pytest.approx(expected.p, rel=1e-9)
    assert (found.word, found.levels, found.n_test) == (expected.verdict, 1, len(gains))
    assert found.gain == pytest.approx((expected.a_only - expected.b_only) / len(gains))


@pytest.mark.parametrize("seed", range(10))
def test_of_several_it_is_the_share_of_all_flips_that_lie_as_far_out(seed: int) -> None:
    gains = gains_of(seed, 1 + seed % 4, 9)
    sums = torch.stack(gains).sum(0).tolist()
    flips = product((1, -1), repeat=9)
    totals = [abs(sum(sign * each for sign, each in zip(signs, sums, strict=True))) for signs in flips]
    expected = sum(total >= abs(sum(sums)) for total in totals) / len(totals)
    assert combined(gains).p == pytest.approx(expected)


@pytest.mark.parametrize("levels", [1, 2, 7])
def test_the_same_gains_again_tell_nothing_more(levels: int) -> None:
    """As they would if levels were taken for independent."""
    (gains,) = gains_of(3, 1, 60)
    assert combined([gains] * levels).p == pytest.approx(combined([gains]).p)
    assert combined([gains] * levels).gain == pytest.approx(combined([gains]).gain)


def test_without_any_difference_there_is_nothing_beyond_chance() -> None:
    found = combined([torch.zeros(5, dtype=torch.int8)] * 2)
    assert (found.word, found.gain, found.p) == ("within chance", 0, 1.0)


def test_small_chances_are_as_exact_as_large_ones() -> None:
    ones = torch.ones(300, dtype=torch.int8)
    assert combined([ones, ones]).p == pytest.approx(2 * binom.pmf(300, 300, 0.5), rel=1e-9)


def test_false_alarms_are_no_more_than_promised() -> None:
    """Of pools that change nothing, levels alike but for a fifth of the images, at most one in twenty is called."""
    draw, called = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        common = torch.randint(-1, 2, (80,), generator=draw).to(torch.int8)
        own = [torch.randint(-1, 2, (80,), generator=draw).to(torch.int8) for _ in range(5)]
        keep = [torch.rand(80, generator=draw) < 0.8 for _ in own]
        levels = [torch.where(kept, common, each) for kept, each in zip(keep, own, strict=True)]
        called += combined(levels).word != "within chance"
    assert 0 < called <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)


@pytest.mark.parametrize(("p", "gain"), [(0.01, 1), (0.01, -1), (0.05, 1), (1.0, 0)])
def test_the_words_are_those_that_headers_know(p: float, gain: float) -> None:
    assert word_of(p, gain) in VERDICTS
