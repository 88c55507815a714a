"""The table at the end of training."""

from pathlib import Path
from typing import Any

from lptool.report.train import train_view
from tests.helpers.reading import text


def record(level: int, epoch: int, **more: Any) -> dict[str, Any]:
    plain = {"sparsity": 0.2 * level, "train_accuracy": 0.5, "val_accuracy": 0.25, "val_nll": 1.5}
    return {"level": level, "epoch": epoch, "seconds": 1000.4, "images_per_second": 2000.0, **plain, **more}


def test_a_row_tells_the_last_epoch_and_all_the_seconds() -> None:
    files = [Path(f"run/level_0{level}.safetensors") for level in range(2)]
    records = [record(0, 0), record(0, 1, val_accuracy=0.9125, images_per_second=3000.0), record(1, 1, val_nll=0.25)]
    lines = text(train_view(files, records)).splitlines()
    assert "2 tickets in run" in lines[0]
    dense, pruned = (next(line for line in lines if file.name in line) for file in files)
    for cell in ("0.00 %", " 2 ", "91.25 %", "1.5000", "2,001", "3,000"):
        assert cell in dense
    for cell in ("20.00 %", " 1 ", "25.00 %", "0.2500", "1,000", "2,000"):
        assert cell in pruned


def test_a_ticket_without_records_has_no_row() -> None:
    files = [Path(f"run/level_0{level}.safetensors") for level in range(2)]
    assert "level_01" not in text(train_view(files, [record(0, 0)]))
