"""What a person reads when a run is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from lptool.tables import percent


def train_view(files: Sequence[Path], records: Sequence[dict[str, Any]]) -> RenderableType:
    """A row for each ticket: how sparse it is, how accurate at its last epoch, and what it took.

    Args:
        files: the tickets by level. records: the lines of `train.jsonl`.
    """
    table = Table(title=f"{len(files)} tickets in {files[0].parent}; accuracy at the last epoch", title_justify="left")
    table.add_column("file", no_wrap=True)
    for name in ("sparsity", "epochs", "train", "val", "val NLL", "seconds", "images/s"):
        table.add_column(name, justify="right")
    for level, file in enumerate(files):
        epochs = [record for record in records if record["level"] == level]
        if not epochs:
            continue
        last, seconds = epochs[-1], sum(record["seconds"] for record in epochs)
        speeds = sorted(record["images_per_second"] for record in epochs)
        table.add_row(
            file.name,
            percent(last["sparsity"]),
            str(len(epochs)),
            percent(last["train_accuracy"]),
            percent(last["val_accuracy"]),
            f"{last['val_nll']:.4f}",
            f"{seconds:,.0f}",
            f"{speeds[len(speeds) // 2]:,.0f}",
        )
    return table
