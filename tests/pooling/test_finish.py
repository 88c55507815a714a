"""The end of a search: how far the pooled model differs from its controls, image by image."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.writing import DENSE
from lptool.pooling.finish import Destination, against_controls, finish, finished, graded
from lptool.pooling.outcome import Incumbent
from lptool.pooling.result import PoolResult
from lptool.pooling.setup import PoolOptions, open_bench
from lptool.scoring.score import Graded


def test_controls_are_compared_on_the_same_images() -> None:
    pooled = torch.tensor([True, True, True, True, False, True])
    found = against_controls({"ticket": of(~pooled), "ticket_bn": of(pooled.clone()), "pooled": of(pooled)})
    assert [(c.a_only, c.b_only) for c in found.values()] == [(5, 1), (0, 0)]
    assert [c.p for c in found.values()] == pytest.approx([binomtest(5, 6).pvalue, 1.0])


def test_what_differs_between_scores_is_what_the_comparison_counts(result: PoolResult) -> None:
    assert set(result.against) == {"ticket", "ticket_bn"}
    for control, found in result.against.items():
        difference = result.test["pooled"].correct - result.test[control].correct
        assert found.a_only - found.b_only == difference


def test_two_names_of_one_state_are_scored_once(result: PoolResult) -> None:
    bench = open_bench([member.file for member in result.members], PoolOptions(method="greedy", device="cpu"))
    dense, sparse = bench.pool[0].state, bench.pool[3].state
    found = graded(bench, {"a": dense, "b": sparse, "c": dense}, bench.data.test)
    assert list(found) == ["a", "b", "c"]
    assert found["a"] is found["c"]
    assert found["a"].score == bench.score(dense, bench.data.test)


def test_a_control_is_recalibrated_unless_the_user_wants_none(tickets: list[Path], result: PoolResult) -> None:
    """Whatever the search began with, and also where val prefers statistics that are mixed."""
    options = PoolOptions(method="greedy", device="cpu")
    asked, nothing = open_bench(tickets, options), replace(result.trace, steps=())
    mixed = replace(asked, calibration=replace(asked.calibration, mode="none"))
    start = asked.pool[3].state
    for bench, recalibrated, same in ((asked, False, "ticket"), (asked, True, "ticket_bn"), (mixed, False, "ticket")):
        best = Incumbent(start, bench.pool[3].mask, result.trace.start, recalibrated=recalibrated)
        states = finished(bench, start, best, nothing)
        assert list(states) == ["ticket", "ticket_bn", "pooled"]
        assert states["pooled"] is states[same]
        assert not torch.equal(states["ticket_bn"]["bn1.running_mean"], start["bn1.running_mean"])
    unwanted = open_bench(tickets, replace(options, bn_images="none"))
    assert list(finished(unwanted, start, best, nothing)) == ["ticket", "pooled"]


@pytest.mark.parametrize(("factor", "shipped"), [(0.01, "ticket"), (1.0, "pooled")])
def test_a_tie_that_raises_the_nll_on_val_is_not_written(
    tickets: list[Path], tmp_path: Path, result: PoolResult, factor: float, shipped: str
) -> None:
    """Flatter logits have as many images right; of the very same the mix stays."""
    bench = open_bench(tickets, PoolOptions(method="greedy", device="cpu", bn_images="none"))
    start, mask = bench.pool[3].state, bench.pool[3].mask
    state = {name: factor * t if name.startswith("fc.") else t.clone() for name, t in start.items()}
    found = Incumbent(state, mask, result.trace.start, recalibrated=False)
    steps = tuple(replace(step, accepted=True) for step in result.trace.steps)
    trace = replace(result.trace, steps=steps, ticket_bn=None)
    written = finish(bench, Destination(tmp_path / "a.safetensors", DENSE, lambda t: t, "", False), found, trace)
    assert written.val["pooled"].correct == written.val["ticket"].correct
    assert (written.shipped, written.improved) == (shipped, shipped == "pooled")
    assert torch.equal(load_ticket(written.output).state["fc.weight"], start["fc.weight"])


def of(right: Tensor) -> Graded:
    """What came out where only that is known."""
    return Graded(right, right.float(), right.double(), right)
