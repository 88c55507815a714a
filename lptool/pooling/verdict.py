"""Whether pooling helped: what is written against the better of its controls, in numbers, one word and one sentence.

Test decides the word, and nothing else: what is compared was chosen on val.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from torch import Tensor

from lptool.checkpoints.header import CONTROLS, ROWS, SearchRecord, Verdict
from lptool.pooling.choice import Choice
from lptool.scoring.metrics import Comparison
from lptool.scoring.paired import word_of
from lptool.scoring.score import Graded, Score

FEW = 200  # val images: of fewer, one is more than half a point
_OPENING = {"helped": "pooling helped", "hurt": "pooling hurt", "within chance": "pooling is within chance"}


def better_control(val: Mapping[str, Score], choice: Choice) -> str:
    """The control of the higher standing on val: `ticket` or `ticket_bn`, of equals the first, which changes less."""
    return max((name for name in CONTROLS if name in val), key=lambda name: choice.standing(val[name]))


def verdict_of(against: str, found: Comparison, val: Mapping[str, Graded], n_test: int) -> Verdict:
    """The verdict on what is written, `val["pooled"]` on val, against a control.

    Args:
        found: both on the `n_test` images of test.
    """
    rise = (val["pooled"].loss - val[against].loss).double()
    error = math.sqrt(float(rise.var(correction=0)) / max(1, len(rise) - 1))
    by, known = float(rise.mean()), math.isfinite(error)
    gain = (found.a_only - found.b_only) / n_test
    return Verdict(
        found.verdict, against, gain, found.p, len(rise), n_test, by if known else None, error if known else None
    )


def sentence(verdict: Verdict, shipped: str) -> str:
    """Whether pooling helped; `shipped` is `pooled`, or the control that was written.

    >>> print(sentence(Verdict("helped", "ticket_bn", 0.0042, 0.003, 5000, 10000, 0.0, 0.0), "pooled"))
    pooling helped: +0.42 points over 'ticket + BN' on 10,000 test images (p = 0.003, exact McNemar test), both chosen \
on 5,000 val images
    """
    if shipped != "pooled":
        return (
            f"nothing better was found on {verdict.n_val:,} val images: the output is {ROWS.get(shipped, shipped)!r} "
            f"itself, so on {verdict.n_test:,} test images the gain is 0 (p = 1, within chance)"
        )
    return (
        f"{_OPENING[verdict.word]}: {100 * verdict.gain:+.2f} points over {ROWS[verdict.against]!r} on "
        f"{verdict.n_test:,} test images (p = {verdict.p:.2g}, exact McNemar test), both chosen on "
        f"{verdict.n_val:,} val images"
    )


def warnings_of(verdict: Verdict) -> list[str]:
    """What speaks against trusting the choice on val, a line each."""
    found = []
    rise, error = verdict.nll_rise, verdict.nll_error
    if rise is not None and error is not None and rise > error:
        found.append(
            f"val NLL is {rise:.4f} ± {error:.4f} higher than that of {ROWS[verdict.against]!r} (mean and standard "
            "error of the difference per image): more val images are right, and the others the more wrong; go by test"
        )
    if verdict.n_val < FEW:
        found.append(
            f"val has {verdict.n_val} images, of which one is {100 / verdict.n_val:.2f} points: what is chosen on so "
            f"few is chosen by chance; {FEW} or more are better"
        )
    return found


def recorded(search: SearchRecord) -> list[str]:
    """The sentence and the warnings of a verdict in a header, made of its numbers and of no words that stand there."""
    if search.verdict is None:
        return []
    shipped = search.shipped if search.shipped in ROWS else "pooled"
    return [sentence(search.verdict, shipped), *(f"warning: {line}" for line in warnings_of(search.verdict))]


@dataclass(frozen=True)
class Combined:
    """The verdict over several targets.

    Attributes:
        gain: in accuracy, the mean over targets; p: see `combined`. levels: how many targets. n_test: images.
    """

    word: str
    gain: float
    p: float
    levels: int
    n_test: int


def combined(gains: Sequence[Tensor]) -> Combined:
    """Whether pooling helped over several targets, scored on the same images: an exact test by flipping signs.

    Images are independent of each other, the targets of one image are not. So the unit is the image: its gain is summed
    over targets. If pooling changed nothing, a pooled model and its control could trade places in any image, and each
    image's sum is as likely as its opposite. Over all such flips the total lies at least as far from 0, on either
    side, as it does here, with probability p. For one target that is the exact McNemar test.

    Source: the randomisation test for pairs, Fisher 1935, section 21; Pitman 1937.

    Args:
        gains: of each target int8 [N]: 1 where only the pooled model is right, −1 where only its control is, else 0.

    >>> import torch
    >>> one = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0], dtype=torch.int8)
    >>> [round(combined(gains).p, 6) for gains in ([one], [one, one])]  # the same gains again tell nothing more
    [0.03125, 0.03125]
    """
    sums = sum(gain.long() for gain in gains)
    assert isinstance(sums, Tensor)
    total, n = int(sums.sum()), len(sums)
    p = _flipped(np.bincount(sums.abs().numpy()), total)
    return Combined(word_of(p, total), total / (n * len(gains)), p, len(gains), n)


def _flipped(counts: NDArray[np.int64], total: int) -> float:
    """How likely |Σ ±size| is at least |total|, where each of `counts[size]` images flips its sign by a fair coin."""
    chances = np.ones(1)  # of Σ size · heads, which is (Σ size · count + Σ ±size) / 2
    for size, count in enumerate(counts[1:], start=1):
        spread = np.zeros(size * count + 1)
        spread[::size] = _fair(int(count))
        chances = np.convolve(chances, spread)  # no term is negative, so small chances are as exact as large ones
    most = len(chances) - 1
    heads = np.arange(most + 1)
    return min(1.0, float(chances[np.abs(2 * heads - most) >= abs(total)].sum()))


def _fair(count: int) -> NDArray[np.float64]:
    """How likely each number of heads is, of `count` fair coins."""
    heads = np.arange(count + 1)
    ways = gammaln(count + 1) - gammaln(heads + 1) - gammaln(count - heads + 1)
    return np.exp(ways - count * math.log(2))  # type: ignore[no-any-return]
