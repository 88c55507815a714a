"""What a run will do is told before it does it: the plan beside the run itself, and ImageNet's beside arithmetic."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lptool.checkpoints.masks import kept_count
from lptool.checkpoints.reading import load_ticket
from lptool.data.dataset import Data
from lptool.errors import OutputError, TrainError
from lptool.ranks import ALONE, Ranks
from lptool.training.job import train_tickets
from lptool.training.options import Levels, TrainOptions
from lptool.training.plan import disk_of, plan_of, plan_training
from lptool.training.setup import UNWATCHED, Watch, Where, open_run
from tests.helpers.training import DATA, NETWORKS

IMAGENET = 1_281_167  # training images; 50,000 in its val, which is test here
CPU = torch.device("cpu")
DIGITS = TrainOptions(
    arch="resnet8_cifar", dataset="digits", epochs=2, rewind_epoch=1, precision="fp32", val_fraction=0.5
)


def plan(folder: Path, options: TrainOptions, levels: Levels, data: Data, ranks: Ranks = ALONE) -> dict[str, Any]:
    run = open_run(options, levels, folder, None, CPU, data, ranks, UNWATCHED)
    return {**plan_of(run), "disk": disk_of(run)}


@pytest.mark.parametrize(
    ("levels", "changes"),
    [(2, {}), (2, {"scope": "layer", "rewind_epoch": "4it"}), ((0.5, 0.9), {"optimizer": "adamw", "keep": "best"})],
)
def test_the_run_does_what_was_told(levels: Levels, changes: dict[str, Any], tmp_path: Path) -> None:
    """Steps, images, kept weights and bytes, counted while it trains."""
    (tmp_path / "networks.py").write_text(NETWORKS)
    out = tmp_path / "out"
    plain = TrainOptions(arch=f"{tmp_path}/networks.py:net", dataset="random", epochs=3, rewind_epoch=1, batch_size=36)
    options = replace(plain, precision="fp32", lr=0.01, **changes)
    told = plan(out, options, levels, DATA)
    assert not out.exists()

    steps: Counter[int] = Counter()
    images: Counter[int] = Counter()
    resume: list[int] = []

    def on_step(at: Where) -> None:
        steps[at.level] += 1
        images[at.level] += at.of // 3

    def on_epoch(record: dict[str, Any]) -> None:
        resume.append(sum(file.stat().st_size for file in (out / ".resume").glob("*.safetensors")))

    files = train_tickets(options, levels, out, data=DATA, watch=Watch(on_step, on_epoch))
    assert [row["file"] for row in told["levels"]] == list(map(str, files))
    assert {level: row["steps"] for level, row in enumerate(told["levels"])} == steps
    assert {level: row["images_trained"] for level, row in enumerate(told["levels"])} == images
    assert told["costs"]["steps"] == steps.total()
    assert told["costs"]["images_trained"] == images.total()
    scored = len((out / "train.jsonl").read_text().splitlines()) * len(DATA.val)
    assert told["costs"]["images_scored"] == scored
    tickets = [load_ticket(file) for file in files]
    assert [row["kept"] for row in told["levels"]] == [kept_count(ticket.mask) for ticket in tickets]
    header = 8_000  # bytes at most, of a file
    for file in files:
        assert 0 < file.stat().st_size - told["disk"]["ticket_bytes"] < header
    assert max(resume) < told["disk"]["resume_bytes"] + 2 * header
    again = plan(out, options, levels, DATA)
    assert all(row["done"] for row in again["levels"])
    assert again["disk"]["to_write_bytes"] == told["disk"]["resume_bytes"]


def test_nothing_is_written_and_what_training_refuses_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = plan_training(DIGITS, 2, out, device="cpu")
    assert list(tmp_path.iterdir()) == []
    assert (told["data"]["train"], told["data"]["streams"], told["computing"]["device"]) == (719, False, "cpu")
    assert told["disk"]["free_bytes"] > 0
    assert json.loads(json.dumps(told)) == told
    train_tickets(DIGITS, 1, out, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert [row["done"] for row in plan_training(DIGITS, 2, out, device="cpu")["levels"]] == [True, True, False]
    with pytest.raises(TrainError, match=r"other options \(lr: 0\.1 there, 0\.2 now\)"):
        plan_training(replace(DIGITS, lr=0.2), 2, out, device="cpu")
    with pytest.raises(TrainError, match="would leave none of the weights"):
        plan_training(DIGITS, (0.999999,), tmp_path / "none", device="cpu")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: is a file, expected a folder"):
        plan_training(DIGITS, 1, tmp_path / "file", device="cpu")
    with pytest.raises(OutputError, match=r"cannot be written \(Not a directory\); choose another folder"):
        plan_training(DIGITS, 1, tmp_path / "file" / "below", device="cpu")
