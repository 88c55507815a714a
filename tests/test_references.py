"""Each ticket and the ensemble of them all, against means of probabilities written out."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch.nn import functional as F

from lptool.bench import Bench, PoolOptions, open_bench
from lptool.evaluate import Score
from lptool.models import load_model
from lptool.references import references


def test_members_are_the_tickets_as_they_are_and_the_ensemble_their_mean(tickets: list[Path]) -> None:
    bench = open_bench(tickets[:3], PoolOptions(device="cpu"))
    found = references(bench)
    for part, images in (("val", bench.data.val), ("test", bench.data.test)):
        ((x, labels),) = bench.data.batches(images, len(images), torch.device("cpu"))
        with torch.inference_mode():
            each = [load_model(path).eval()(x).double() for path in tickets[:3]]
        mean = sum(F.softmax(logits, dim=1) for logits in each) / 3
        assert isinstance(mean, torch.Tensor)
        assert found.ensemble[part] == plain(mean.log(), labels)
        assert [member[part] for member in found.members] == [plain(logits, labels) for logits in each]


def plain(logits: torch.Tensor, labels: torch.Tensor) -> Score:
    """Equal to a score whose NLL differs in the last digits only."""
    nll = -float(F.log_softmax(logits, dim=1)[range(len(labels)), labels].mean())
    return Score(int((logits.argmax(1) == labels).sum()), pytest.approx(nll, rel=1e-4), len(labels))


def test_a_probability_that_float32_has_no_room_for_is_not_lost() -> None:
    """Two tickets as sure of the wrong class as can be leave a finite loss."""
    state = SimpleNamespace(state={})
    bench = SimpleNamespace(
        pool=[state, state],
        data=SimpleNamespace(val=None, test=None),
        predict=lambda state, images: (torch.tensor([[200.0, 0.0]]), torch.tensor([1])),
    )
    found = references(cast(Bench, bench))
    assert found.ensemble["val"] == Score(0, pytest.approx(200.0), 1)
