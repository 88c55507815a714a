"""The method: which teachers it tries, and what it keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lptool.checkpoints.masks import Mask, State, kept_count
from lptool.checkpoints.reading import load_ticket
from lptool.errors import PoolError
from lptool.pooling.catalogue import TEACHERS
from lptool.pooling.job import pool_target
from lptool.pooling.methods import pool_tickets
from lptool.pooling.outcome import LayerFit, SearchTrace
from lptool.pooling.setup import PoolOptions, open_bench
from lptool.scoring.score import Score
from tests.pooling.test_methods import line

FITS = (LayerFit("w", 0.1, 0.5, 0.25),)


class Recorder:
    """Writes down what it is asked for; a rebuilt weight is the number of the rebuilding."""

    def __init__(self) -> None:
        self.shares: list[list[float]] = []

    def teach(self, tickets: Iterable[tuple[float, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
        self.shares.append([share for share, _ in tickets])
        return {"teacher": torch.tensor(len(self.shares))}

    def recalibrated(self, state: State) -> State:
        return state

    def rebuild(
        self, start: State, mask: Mask, teacher: dict[str, Tensor], on_layer: Callable[[str], None]
    ) -> tuple[State, tuple[LayerFit, ...]]:
        return {name: torch.full_like(t, 100.0 + int(teacher["teacher"])) for name, t in start.items()}, FITS


def scored(best: int, method: str = "reconstruct") -> tuple[Recorder, float, SearchTrace]:
    """What comes out where the rebuilding of this number is best, or none is (0)."""
    recorder = Recorder()

    def score(state: Mapping[str, Tensor], bar: float = 0) -> Score:
        number = float(state["w"].flatten()[0])
        return Score(9 if number == 100 + best else 5 if number < 100 else 4, 1.0, 10)

    model, trace = pool_tickets(line(1.0, 2.0, 3.0, 4.0), score, method=method, target=1, rebuilder=recorder)
    return recorder, float(model.state["w"].flatten()[0]), trace


def test_every_teacher_is_tried() -> None:
    recorder, _, trace = scored(best=0)
    assert trace.evaluations == 1 + len(TEACHERS)
    for ratio, shares in zip(TEACHERS, recorder.shares, strict=True):
        raw = [ratio ** abs(place - 1) for place in range(4)]
        assert shares == pytest.approx([weight / sum(raw) for weight in raw])


@pytest.mark.parametrize("method", ["reconstruct", "auto"])
@pytest.mark.parametrize("best", range(1, len(TEACHERS) + 1))
def test_the_best_on_val_is_kept(best: int, method: str) -> None:
    _, weight, trace = scored(best, method)
    assert weight == 100 + best
    assert trace.chosen == "reconstruct"
    assert trace.settings["teacher"] == TEACHERS[best - 1]
    assert trace.settings.keys() == ({"teacher"} if method == "reconstruct" else {"window", "teacher"})
    assert trace.fits == FITS


def test_where_none_is_better_the_target_comes_out() -> None:
    _, weight, trace = scored(best=0)
    assert (weight, trace.settings, trace.fits) == (2.0, {}, ())


def test_auto_goes_without_where_it_is_given_no_rebuilder() -> None:
    _, trace = pool_tickets(line(1.0, 2.0, 3.0), lambda state, bar=0: Score(5, 1.0, 10), method="auto")
    assert "reconstruct" not in trace.outcomes
    with pytest.raises(PoolError, match="'reconstruct' needs a rebuilder"):
        pool_tickets(line(1.0, 2.0), lambda state, bar=0: Score(5, 1.0, 10), method="reconstruct")


def test_a_pool_on_disk_is_rebuilt_to_its_own_number_of_weights_and_to_the_same_bytes(
    tickets: list[Path], tmp_path: Path
) -> None:
    options = PoolOptions(method="reconstruct", fit_images=128, fit_positions=4, calibration_size=64, device="cpu")
    results = [pool_target(open_bench(tickets, options), 3, tmp_path / f"{i}.safetensors") for i in range(2)]
    assert results[0].sha256 == results[1].sha256
    before, after = load_ticket(tickets[3]), load_ticket(results[0].output)
    assert kept_count(after.mask) == kept_count(before.mask)
    if results[0].improved:
        assert after.metadata.trace["settings"].keys() == {"teacher", "images", "positions"}
        assert {fit["name"] for fit in after.metadata.trace["fits"]} == {n.removesuffix(".weight") for n in after.mask}
        assert all(torch.equal(after.mask[name], kept) for name, kept in before.mask.items())
