"""Each metric beside its formula, written out or in another library."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from lptool.errors import DataError
from lptool.scoring.metrics import Metrics, calibration_error, mcnemar, measure_graded, wilson_interval
from lptool.scoring.score import Graded

N, CLASSES = 400, 25


def measure(logits: Tensor, labels: Tensor, num_classes: int) -> Metrics:
    return measure_graded(Graded.of(logits, labels), num_classes)


@pytest.fixture(scope="module")
def predictions() -> tuple[Tensor, Tensor]:
    """Logits that are often right, too sure of it in one half and not sure enough in the other: gaps of both signs."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (N,), generator=generator)
    logits = 3 * torch.randn(N, CLASSES, generator=generator)
    logits[torch.arange(N), labels] += 4
    logits[::2] *= 0.3
    return logits, labels


def test_accuracy_nll_and_top5_are_those_of_scikit_learn(predictions: tuple[Tensor, Tensor]) -> None:
    logits, labels = predictions
    found = measure(logits, labels, CLASSES)
    probabilities = logits.double().softmax(1).numpy()
    assert found.score.accuracy == accuracy_score(labels, logits.argmax(1))
    assert found.score.nll == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    assert found.top5 == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5), abs=1e-12)
    assert 0 < found.score.accuracy < found.top5 < 1
    assert (found.score.n, found.interval) == (N, wilson_interval(found.score.correct, N))


def test_top5_needs_twenty_classes(predictions: tuple[Tensor, Tensor]) -> None:
    logits, labels = predictions
    assert measure(logits, labels, 19).top5 is None
    assert measure(logits, labels, 20).top5 is not None


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (7, 9), (9711, 10_000)])
def test_wilson_by_its_formula(correct: int, n: int) -> None:
    z, p = 1.959963984540054, correct / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert wilson_interval(correct, n) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_by_sorting_into_fifteen_bins(predictions: tuple[Tensor, Tensor]) -> None:
    logits, labels = predictions
    confidence, guess = (t.numpy() for t in logits.double().softmax(1).max(1))
    expected = 0.0
    for i in range(15):
        inside = (confidence >= i / 15) & (confidence < (i + 1) / 15)
        if inside.any():
            gap = abs((guess == labels.numpy())[inside].mean() - confidence[inside].mean())
            expected += np.mean(inside) * gap
    assert expected > 0.01
    right = logits.argmax(1) == labels
    assert calibration_error(logits.double().softmax(1).amax(1), right) == pytest.approx(expected, abs=1e-6)
    classes = multiclass_calibration_error(logits.double().softmax(1), labels, CLASSES, n_bins=15, norm="l1")
    assert measure(logits, labels, CLASSES).ece == pytest.approx(float(classes), abs=1e-7)


def test_logits_that_are_not_finite_have_no_calibration(predictions: tuple[Tensor, Tensor]) -> None:
    logits, labels = predictions
    broken = logits.clone()
    broken[0, 0] = float("inf")
    assert math.isnan(measure(broken, labels, CLASSES).ece)


def test_mcnemar_by_adding_up_the_binomial() -> None:
    a = torch.tensor([True] * 8 + [False] * 2 + [True] * 20 + [False] * 5)
    b = torch.tensor([False] * 8 + [True] * 2 + [True] * 20 + [False] * 5)
    found = mcnemar(a, b)
    assert (found.a_only, found.b_only) == (8, 2)
    assert found.p == pytest.approx(2 * sum(math.comb(10, k) for k in range(3)) / 2**10)
    mirrored = mcnemar(b, a)
    assert (mirrored.a_only, mirrored.b_only, mirrored.p) == (2, 8, pytest.approx(found.p))


def test_models_that_err_alike_do_not_differ() -> None:
    same = torch.tensor([True, False, True])
    assert (mcnemar(same, same).a_only, mcnemar(same, same).p) == (0, 1.0)
    assert mcnemar(torch.tensor([True, False]), torch.tensor([False, True])).p == 1.0


def test_no_image_is_an_error() -> None:
    with pytest.raises(DataError, match="no image to score on"):
        measure(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 3)


@pytest.mark.parametrize(
    ("a_only", "b_only", "verdict"),
    [(0, 0, "within chance"), (5, 0, "within chance"), (6, 0, "helped"), (0, 6, "hurt"), (30, 20, "within chance")],
)
def test_what_differs_by_less_than_chance_is_called_chance(a_only: int, b_only: int, verdict: str) -> None:
    """One half to the fifth is 3 %, and 6 % both ways; to the sixth it is 3 % both ways."""
    a = torch.tensor([True] * a_only + [False] * b_only, dtype=torch.bool)
    assert mcnemar(a, ~a).verdict == verdict
