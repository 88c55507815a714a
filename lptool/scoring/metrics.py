"""What test logits say of a model, and of two models on the same images."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lptool.errors import DataError
from lptool.scoring.paired import exact_mcnemar, word_of
from lptool.scoring.score import NO_IMAGE, Graded, Score

ECE_BINS = 15  # Guo et al. 2017, section 5
CONFIDENCE = 0.95
TOP_5_CLASSES = 20  # with fewer, the right one is among any five too often to say something


@dataclass(frozen=True)
class Metrics:
    """Of one model on one set of images.

    Attributes:
        score: images right, and mean negative log-likelihood.
        interval: of the accuracy, 95 %.
        ece: expected calibration error in [0, 1]; NaN where a logit is not finite.
        top5: share of the images whose class is among the five likeliest; None below 20 classes.
        right: whether each image is right, bool [N].
    """

    score: Score
    interval: tuple[float, float]
    ece: float
    top5: float | None
    right: Tensor = field(compare=False, repr=False)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images: how many only the one gets right, only the other, and how likely by chance."""

    a_only: int
    b_only: int
    p: float

    @property
    def verdict(self) -> str:
        """What a is, put in b's place: see `word_of`."""
        return word_of(self.p, self.a_only - self.b_only)


def measure_graded(graded: Graded, num_classes: int) -> Metrics:
    """All metrics of what came out for each image; `num_classes` are in the data.

    Raises:
        DataError: there is no image.
    """
    if not len(graded.right):
        raise DataError(NO_IMAGE)
    score, right = graded.score, graded.right
    # Russakovsky et al. 2015, section 4
    top5 = float(graded.among_five.double().mean()) if num_classes >= TOP_5_CLASSES else None
    ece = calibration_error(graded.confidence, right)
    return Metrics(score, wilson_interval(score.correct, score.n), ece, top5, right)


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Where the accuracy lies with 95 % confidence (Wilson 1927; recommended by Brown, Cai & DasGupta 2001)."""
    from scipy.stats import binomtest  # takes a second to import

    interval = binomtest(correct, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Expected calibration error with 15 equal bins and the L1 norm (Guo et al. 2017, equation 3).

    The mean over images of |accuracy − mean confidence| of the bin that the image's confidence falls into. NaN where a
    confidence, float [N], is none; `right` is bool [N].
    """
    if not bool(confidence.isfinite().all()):
        return float("nan")
    from torchmetrics.functional.classification import binary_calibration_error  # takes a second to import

    # The error of classes is that of the likeliest class alone, which is right or not.
    return float(binary_calibration_error(confidence, right.long(), n_bins=ECE_BINS, norm="l1"))


def mcnemar(a: Tensor, b: Tensor) -> Comparison:
    """The exact, two-sided test of McNemar 1947: do two models err equally often on the same images?

    Of the images that only one of them gets right, each is a fair coin if they do. Dietterich 1998, section 3.1,
    recommends the test where each model was trained once.

    Args:
        a, b: bool [N], whether each image is right, in the same order.
    """
    a_only, b_only = int((a & ~b).count_nonzero()), int((b & ~a).count_nonzero())
    return Comparison(a_only, b_only, exact_mcnemar(a_only, b_only))
