"""What a person reads when a run is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median_high
from typing import Any

from rich.console import RenderableType

from lptool.report.terminal import on_terminal
from lptool.tables import Table, percent


def train_view(files: Sequence[Path], records: Sequence[dict[str, Any]]) -> RenderableType:
    """A row for each ticket: how sparse it is, how accurate at its last epoch, and what it took.

    Args:
        files: the tickets by level. records: the lines of `train.jsonl`.
    """
    rows = [
        _row(file, epochs)
        for level, file in enumerate(files)
        if (epochs := [record for record in records if record["level"] == level])
    ]
    headings = ["file", "sparsity", "epochs", "train", "val", "val NLL", "seconds", "images/s"]
    caption = f"{len(files)} tickets in {files[0].parent}; accuracy at the last epoch"
    return on_terminal(Table(caption, headings, rows, spare=("images/s", "seconds", "epochs", "val NLL", "train")))


def _row(file: Path, epochs: Sequence[dict[str, Any]]) -> list[str]:
    last = epochs[-1]
    return [
        file.name,
        percent(last["sparsity"]),
        str(len(epochs)),
        percent(last["train_accuracy"]),
        percent(last["val_accuracy"]),
        f"{last['val_nll']:.4f}",
        f"{sum(record['seconds'] for record in epochs):,.0f}",
        f"{median_high(record['images_per_second'] for record in epochs):,.0f}",  # which one slow epoch does not move
    ]
