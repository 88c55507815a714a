"""The method: which teachers it tries, and what it keeps of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lptool.checkpoints.masks import Mask, State, kept_count
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.pool import Pool
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.errors import PoolError
from lptool.pooling.catalogue import TEACHERS
from lptool.pooling.job import pool_target
from lptool.pooling.methods import pool_tickets
from lptool.pooling.outcome import LayerFit, Rebuilt, SearchTrace
from lptool.pooling.setup import PoolOptions, open_bench
from lptool.report.pool import pool_document
from lptool.scoring.score import Score
from tests.pooling.test_methods import line

Teacher = dict[str, Tensor]
OnLayer = Callable[[str], None]
FITS = (LayerFit("w", 0.1, 0.5, 0.25),)


class Recorder:
    """Writes down what it is asked for; a rebuilt weight is the number of the rebuilding."""

    def __init__(self) -> None:
        self.shares: list[list[float]] = []

    def teach(self, tickets: Iterable[tuple[float, Mapping[str, Tensor]]]) -> Teacher:
        self.shares.append([share for share, _ in tickets])
        return {"teacher": torch.tensor(len(self.shares))}

    def recalibrated(self, state: State) -> State:
        return state

    def rebuild(self, start: State, mask: Mask, teacher: Teacher, on_layer: OnLayer, room: Mask | None) -> Rebuilt:
        weight = 100.0 + int(teacher["teacher"])
        return Rebuilt({name: torch.full_like(t, weight) for name, t in start.items()}, mask, FITS)


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


class OutOfMemory(Recorder):
    """Memory runs out at a step of the second rebuilding."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self.step = step

    def teach(self, tickets: Iterable[tuple[float, Mapping[str, Tensor]]]) -> Teacher:
        teacher = super().teach(tickets)
        self._fail("teach")
        return teacher

    def rebuild(self, start: State, mask: Mask, teacher: Teacher, on_layer: OnLayer, room: Mask | None) -> Rebuilt:
        self._fail("rebuild")
        return super().rebuild(start, mask, teacher, on_layer, room)

    def recalibrated(self, state: State) -> State:
        if self.step == "recalibrated":
            raise MemoryError
        return state

    def _fail(self, step: str) -> None:
        if step == self.step and len(self.shares) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("method", ["reconstruct", "auto"])
@pytest.mark.parametrize("step", ["teach", "rebuild", "recalibrated"])
def test_where_memory_runs_out_the_search_goes_on_without(
    step: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    def score(state: Mapping[str, Tensor], bar: float = 0) -> Score:
        return Score(9 if float(state["w"].flatten()[0]) > 100 else 5, 1.0, 10)

    pool = line(1.0, 2.0, 3.0, 4.0)
    model, trace = pool_tickets(pool, score, method=method, target=1, rebuilder=OutOfMemory(step))
    without = method if method == "reconstruct" else "window"
    expected = pool_tickets(pool, score, method="window", target=1)[0].state if method == "auto" else pool[1].state
    assert torch.equal(model.state["w"], expected["w"])
    assert (trace.chosen, trace.fits) == (without, ())
    assert "lower --batch-size, --fit-images or --fit-positions; going on without reconstruct" in caplog.text
    assert len(caplog.records) == 1


def test_other_errors_are_not_hidden() -> None:
    class Broken(Recorder):
        def rebuild(self, start: State, mask: Mask, teacher: Teacher, on_layer: OnLayer, room: Mask | None) -> Rebuilt:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        pool_tickets(line(1.0, 2.0), lambda s, bar=0: Score(5, 1.0, 10), method="reconstruct", rebuilder=Broken())


def test_where_nothing_can_be_fitted_the_start_stays_and_nothing_is_scored(caplog: pytest.LogCaptureFixture) -> None:
    class Nothing(Recorder):
        def rebuild(self, start: State, mask: Mask, teacher: Teacher, on_layer: OnLayer, room: Mask | None) -> Rebuilt:
            return Rebuilt(start, mask, ())

    pool = line(1.0, 2.0, 3.0)
    model, trace = pool_tickets(
        pool, lambda s, bar=0: Score(5, 1.0, 10), method="reconstruct", target=1, rebuilder=Nothing()
    )
    assert torch.equal(model.state["w"], pool[1].state["w"])
    assert (trace.evaluations, trace.accepted, caplog.text) == (1, (), "")


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
        assert after.metadata.trace["settings"].keys() == {"teacher"}
        assert after.metadata.trace["fit_images"] == 128
        assert {fit["name"] for fit in after.metadata.trace["fits"]} == {n.removesuffix(".weight") for n in after.mask}
        assert all(torch.equal(after.mask[name], kept) for name, kept in before.mask.items())


def test_a_pool_on_disk_with_a_mask_chosen_anew(tickets: list[Path], tmp_path: Path) -> None:
    options = PoolOptions(
        method="reconstruct", mask="refit", fit_images=128, fit_positions=4, calibration_size=64, device="cpu"
    )
    results = [pool_target(open_bench(tickets, options), 3, tmp_path / f"{i}.safetensors") for i in range(2)]
    assert results[0].sha256 == results[1].sha256
    room, before, after = (load_ticket(path) for path in (tickets[0], tickets[3], results[0].output))
    assert after.metadata.trace["mask"] == "refit"
    for name, kept in before.mask.items():
        assert int(after.mask[name].sum()) == int(kept.sum())
        assert not (after.mask[name] & ~(room.mask[name] | kept)).any()
        assert not after.state[name][~after.mask[name]].any()
    moved = any(not torch.equal(after.mask[name], kept) for name, kept in before.mask.items())
    assert moved == results[0].improved


@pytest.mark.parametrize(("target", "place"), [(4, 1), (3, 0), (1, 0), (0, 0)])
def test_the_room_of_a_new_mask_is_the_ticket_three_places_denser(target: int, place: int) -> None:
    given: list[Mask | None] = []

    class Rooms(Recorder):
        def rebuild(self, start: State, mask: Mask, teacher: Teacher, on_layer: OnLayer, room: Mask | None) -> Rebuilt:
            given.append(room)
            return super().rebuild(start, mask, teacher, on_layer, room)

    masks = [torch.arange(5) >= level for level in range(5)]
    pool = Pool.of(
        [Ticket({"w": torch.ones(5) * mask}, {"w": mask}, Metadata(level=i)) for i, mask in enumerate(masks)]
    )
    for mask in ("start", "refit"):
        pool_tickets(
            pool, lambda s, bar=0: Score(5, 1.0, 10), method="reconstruct", target=target, rebuilder=Rooms(), mask=mask
        )
    assert given[: len(TEACHERS)] == [None] * len(TEACHERS)
    rooms = [room["w"].tolist() for room in given if room]
    assert rooms == [masks[place].tolist()] * len(TEACHERS)


def with_state(change: Callable[[str, Tensor], Tensor]) -> Callable[[Ticket], Ticket]:
    """Changes every float tensor of a ticket."""

    def changed(ticket: Ticket) -> Ticket:
        state = {name: change(name, t) if t.is_floating_point() else t for name, t in ticket.state.items()}
        return replace(ticket, state=state)

    return changed


def with_header(**changes: Any) -> Callable[[Ticket], Ticket]:
    return lambda ticket: replace(ticket, metadata=replace(ticket.metadata, **changes))


HUGE = 1e38  # layers of such weights overflow
ODD_POOLS: dict[str, tuple[Callable[[Ticket], Ticket], dict[str, Any]]] = {
    "bf16": (with_state(lambda name, t: t.bfloat16()), {"method": "reconstruct"}),
    "float64": (with_state(lambda name, t: t.double()), {"method": "reconstruct"}),
    "layers of zeros": (with_state(lambda name, t: t * 0 if name.startswith("conv1") else t), {}),
    "overflowing": (with_state(lambda name, t: t * HUGE if name == "layer2.0.conv1.weight" else t), {}),
    "overflowing everywhere": (with_state(lambda name, t: t * HUGE if t.dim() > 1 else t), {"bn_images": "none"}),
    "of one level": (with_header(level=3), {}),
    "one image": (with_header(), {"fit_images": 1}),
    "one image at once": (
        with_header(),
        {"fit_images": 3, "batch_size": 1, "bn_images": "none", "method": "reconstruct"},
    ),
    "little to train on": (with_header(dataset={}), {"dataset": "digits", "val_fraction": 0.99, "bn_images": "plain"}),
    "more positions than there are": (with_header(), {"fit_positions": 10_000, "fit_images": 8}),
}


@pytest.mark.parametrize("kind", ODD_POOLS)
def test_odd_pools_end_in_a_sound_file(kind: str, tickets: list[Path], tmp_path: Path) -> None:
    change, given = ODD_POOLS[kind]
    files = [tmp_path / path.name for path in tickets[2:]]
    for path in tickets[2:]:
        save_ticket(change(load_ticket(path)), tmp_path / path.name)
    small = {"fit_images": 32, "fit_positions": 4, "calibration_size": 64, "device": "cpu"}
    result = pool_target(open_bench(files, PoolOptions(**small | given)), 1, tmp_path / "out.safetensors")
    before, after = load_ticket(files[1]), load_ticket(result.output)
    assert all(bool(t.isfinite().all()) for t in after.state.values())
    assert {name: t.dtype for name, t in after.state.items()} == {name: t.dtype for name, t in before.state.items()}
    assert kept_count(after.mask) == kept_count(before.mask)
    json.dumps(pool_document(result), allow_nan=False)
    assert result.val["pooled"].correct >= result.val["ticket"].correct
