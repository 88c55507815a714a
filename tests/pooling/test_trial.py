"""Networks of all habits, all the way: trained, pooled, evaluated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lptool.checkpoints.reading import load_ticket
from lptool.errors import ArchError
from lptool.evaluation.job import evaluate_files
from lptool.evaluation.setup import EvaluateOptions
from lptool.pooling.job import pool_target
from lptool.pooling.setup import PoolOptions, open_bench
from lptool.training.job import train_tickets
from lptool.training.options import TrainOptions
from tests.helpers.networks import DATA, GOOD, SOURCE


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with networks and with images to train them on."""
    folder = tmp_path_factory.mktemp("habits")
    (folder / "zoo.py").write_text(SOURCE)
    parts = {"train": DATA.train, "val": DATA.val, "test": DATA.test}
    arrays = {f"{name}_images": part.images.permute(0, 2, 3, 1).numpy() for name, part in parts.items()}
    np.savez(folder / "data.npz", **arrays, **{f"{name}_labels": part.labels.numpy() for name, part in parts.items()})
    return folder


@pytest.mark.parametrize("kind", GOOD)
def test_networks_of_all_habits_are_trained_pooled_and_evaluated(kind: str, place: Path) -> None:
    arch, data = f"{place}/zoo.py:{kind}", f"npz:{place}/data.npz"
    options = TrainOptions(arch=arch, dataset=data, epochs=2, rewind_epoch=1, batch_size=12, precision="fp32")
    tickets = train_tickets(options, 1, place / kind, device="cpu")
    method = "learned" if kind in ("Counting", "ViewsInTraining") else "window"
    search = PoolOptions(arch=arch, method=method, learning_steps=1, batch_size=12, device="cpu")
    bench = open_bench(tickets, search)
    result = pool_target(bench, 1, place / f"{kind}.safetensors")
    written, target = load_ticket(result.output), load_ticket(tickets[1])
    assert written.shapes == target.shapes
    assert result.sparsity == pytest.approx(0.2, abs=0.05)
    evaluation = evaluate_files([result.output], EvaluateOptions(arch=arch, device="cpu"))
    assert evaluation.files[0].test.score.correct == result.test["pooled"].correct
    assert evaluation.files[0].test.score.nll == pytest.approx(result.test["pooled"].nll, rel=1e-5)


def test_what_only_a_search_does_is_tried_before_it(place: Path) -> None:
    """Statistics of a batch are taken in training alone."""
    broken = (
        SOURCE
        + """

class BreaksAwake(CountingNorm):
    def forward(self, x):
        if self.training:
            raise KeyError("awake")
        return super().forward(x)


Breaks = with_norm(BreaksAwake)
"""
    )
    (place / "broken.py").write_text(broken)
    options = TrainOptions(arch=f"{place}/zoo.py:Counting", dataset=f"npz:{place}/data.npz", epochs=1, rewind_epoch=0)
    tickets = train_tickets(replace(options, batch_size=12), 1, place / "broken", device="cpu")
    search = PoolOptions(arch=f"{place}/broken.py:Breaks", device="cpu")
    with pytest.raises(ArchError, match=r"broken\.py:Breaks' cannot be pooled: 'awake'"):
        open_bench(tickets, search)
    assert open_bench(tickets, replace(search, bn_images="none")).model is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_types_are_computed_with_in_float32_and_written_as_they_came(dtype: torch.dtype, place: Path) -> None:
    """A variance that float16 cannot hold stays what it is, in float32."""
    data = f"npz:{place}/data.npz"
    (place / "loud.py").write_text(
        SOURCE.replace("first, second = nn.Conv2d(channels, 4, 3, padding=1)", "first, second = Loud(channels)")
        + "\n\ndef Loud(channels):\n    layer = nn.Conv2d(channels, 4, 3, padding=1)\n"
        "    layer.register_forward_hook(lambda module, given, made: made * 1000)\n    return layer\n"
    )
    loud = f"{place}/loud.py:Plain"
    files = []
    for seed in range(3):
        options = TrainOptions(
            arch=loud, dataset=data, epochs=1, rewind_epoch=0, batch_size=12, seed=seed, precision="fp32"
        )
        ticket = load_ticket(train_tickets(options, 1, place / f"loud{seed}", device="cpu")[1])
        state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in ticket.state.items()}
        state["body.1.running_var"] = state["body.1.running_var"].clamp(max=60000)
        files.append(place / f"{dtype}{seed}.pth")
        torch.save(state, files[-1])
    search = PoolOptions(arch=loud, dataset=data, method="uniform", batch_size=12, device="cpu", bn_images="plain")
    result = pool_target(open_bench(files, search), 0, place / f"{dtype}.safetensors")
    state = load_ticket(result.output).state
    assert all(bool(t.isfinite().all()) for t in state.values())
    kinds = {n: t.dtype for n, t in state.items() if t.is_floating_point()}
    wide = {"body.1.running_var"} if dtype == torch.float16 and result.shipped != "ticket" else set()
    assert {n for n, kind in kinds.items() if kind != dtype} == wide
    test = evaluate_files([result.output], EvaluateOptions(arch=loud, dataset=data, device="cpu")).files[0].test
    assert test.score.nll == pytest.approx(result.test["pooled"].nll, rel=1e-5)
