"""Draws test accuracy against weights remaining, from what `lptool pool --target all --json` printed.

    python figure.py figure.pdf pooled.json                   # one run: 95 % Wilson intervals over the test images
    python figure.py figure.pdf seed0.json seed1.json …       # several: mean and standard error over the runs

Beside the figure, `figure.csv` has the numbers drawn.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

CURVES = {"ticket": "ticket", "ticket_bn": "ticket + BN", "pooled": "pooled"}
LOOKS = {"ticket": ("#888888", "o", 0.98), "ticket_bn": ("#d08000", "s", 1.0), "pooled": ("#1060c0", "D", 1.02)}


def wilson(p: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Where an accuracy lies with 95 % confidence, if it is p on n images."""
    center, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (center - half) / (1 + z * z / n), (center + half) / (1 + z * z / n)


def point(scores: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Accuracy and the ends of its bar, in percent: of one run, or of several."""
    accuracies = [score["accuracy"] for score in scores]
    middle = mean(accuracies)
    if len(scores) == 1:
        low, high = wilson(middle, scores[0]["n"])
    else:
        error = stdev(accuracies) / math.sqrt(len(scores))
        low, high = middle - error, middle + error
    return 100 * middle, 100 * low, 100 * high


def rows_of(files: list[str]) -> list[dict[str, Any]]:
    """A row for each curve and target; runs are joined by the place of the target in its run."""
    runs = [json.loads(Path(file).read_text(encoding="utf-8"))["targets"] for file in files]
    rows = []
    for targets in zip(*runs, strict=True):
        remaining = 100 * (1 - mean(target["sparsity"] for target in targets))
        for curve in CURVES:
            if all(target["test"].get(curve) for target in targets):  # a ticket_bn that is not needed is not made
                middle, low, high = point([target["test"][curve] for target in targets])
                rows.append({"curve": curve, "remaining": remaining, "accuracy": middle, "low": low, "high": high})
    return rows


def draw(rows: list[dict[str, Any]], bars: str, file: Path) -> None:
    """One line for each curve, a little apart so that their bars can be told."""
    figure = Figure(figsize=(4.5, 3), layout="constrained")
    axes = figure.subplots()
    for curve, label in CURVES.items():
        mine = [row for row in rows if row["curve"] == curve]
        color, marker, shift = LOOKS[curve]
        axes.errorbar(
            [row["remaining"] * shift for row in mine],
            [row["accuracy"] for row in mine],
            [[row["accuracy"] - row["low"] for row in mine], [row["high"] - row["accuracy"] for row in mine]],
            label=label, color=color, marker=marker, markersize=3, linewidth=1, elinewidth=0.7, capsize=1.5,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = sorted({round(row["remaining"], 1) for row in rows})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="weights remaining (%)", ylabel=f"test accuracy (%), {bars}")
    figure.legend(frameon=False, loc="outside upper center", ncols=len(CURVES))
    figure.savefig(file)


def main(file: Path, *documents: str) -> None:
    """Draw the figure and write its numbers beside it."""
    rows = rows_of(list(documents))
    with open(file.with_suffix(".csv"), "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, "95 % interval" if len(documents) == 1 else f"{len(documents)} runs ± s.e.", file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
