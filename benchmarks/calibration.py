"""How many training images BN recalibration needs, in the search and for the finished model.

    python benchmarks/accuracy.py --work runs/accuracy --tickets
    python benchmarks/calibration.py runs/accuracy/cifar10-mini-seed0 runs/accuracy/fashion-mnist-seed0 \\
        --json benchmarks/results/calibration.json

For each run and target: a search with each number of images, and the model that the search with 1,024 found finished
with each number, as `lptool pool` does it. Prints means over runs and targets. Resumable: rows that the JSON file holds
are not measured again.

Columns: images forwarded by the search; candidates accepted; how far the search's own score of the pooled model lies
from the finished one's (val, mean absolute difference); images right on val and on test (its first 10,000) and NLL on
val, also where `lptool pool` would ship a control instead, so that sizes are compared and not controls. All are read
from the finished model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from lptool.checkpoints.finding import find_checkpoints
from lptool.checkpoints.masks import State
from lptool.pooling.job import searched
from lptool.pooling.outcome import Incumbent
from lptool.pooling.setup import Bench, PoolOptions, open_bench

Row = dict[str, Any]
SEARCHED, FINAL = (256, 1024), (256, 512, 1024, 2048, 4096, 8192, None)
USUAL_SEARCH, USUAL_FINAL = 1024, 4096
TEST_IMAGES = 10_000


def measure(run: Path, method: str, size: int, target: int, finals: tuple[int | None, ...]) -> Row:
    """One search, and its model finished with each number of images."""
    bench = open_bench(find_checkpoints(run), PoolOptions(method=method, calibration_size=size))
    best, trace = searched(bench, target)
    return {
        "run": run.name,
        "method": method,
        "size": size,
        "target": target,
        "images": bench.scorer.images,
        "accepted": len(trace.accepted),
        "search_val": best.score.accuracy,
        "final": {str(final or "all"): finished(bench, best, final) for final in finals},
    }


def finished(bench: Bench, best: Incumbent, images: int | None) -> Row:
    """The scores of what a search found, BatchNorm recalibrated on so many images."""
    bench = replace(bench, options=replace(bench.options, final_calibration_size=images))
    state: State = bench.recalibrated(best.state) if best.recalibrated else best.state
    val = bench.score(state, bench.data.val)
    test = bench.data.test.subset(torch.arange(min(TEST_IMAGES, len(bench.data.test))))
    return {"val": val.accuracy, "val_nll": val.nll, "test": bench.score(state, test).accuracy}


def search_table(rows: list[Row]) -> str:
    """Markdown, one line per method and size of the search, means over runs and targets."""
    headings = ["images", "forwarded by the search", "accepted", "search − finished, val", "val", "val NLL", "test"]
    lines = [f"| `--method` | {' | '.join(headings)} |", "| --- |" + " --: |" * len(headings)]
    for method, size in sorted({(row["method"], row["size"]) for row in rows}):
        mine = [row for row in rows if (row["method"], row["size"]) == (method, size)]
        ends = [row["final"][str(USUAL_FINAL)] for row in mine]
        gap = fmean(abs(row["search_val"] - end["val"]) for row, end in zip(mine, ends, strict=True))
        forwarded, accepted = (_mean_of(mine, key) for key in (lambda row: sum(row["images"].values()), _accepted))
        lines.append(
            f"| `{method}` | {size:,} | {forwarded:,.0f} | {accepted:.1f} | {100 * gap:.2f} | {_scores(ends)} |"
        )
    return "\n".join(lines)


def final_table(rows: list[Row]) -> str:
    """Markdown, one line per method and size of the end, means over runs and targets, from the usual search."""
    lines = ["| `--method` | images at the end | val | val NLL | test |", "| --- | --: | --: | --: | --: |"]
    for method in sorted({row["method"] for row in rows}):
        mine = [row for row in rows if row["method"] == method and row["size"] == USUAL_SEARCH]
        for final in (str(final or "all") for final in FINAL):
            lines.append(f"| `{method}` | {final} | {_scores([row['final'][final] for row in mine])} |")
    return "\n".join(lines)


def _scores(ends: list[Row]) -> str:
    val, nll, test = (fmean(end[key] for end in ends) for key in ("val", "val_nll", "test"))
    return f"{100 * val:.2f} | {nll:.4f} | {100 * test:.2f}"


def _mean_of(rows: list[Row], value: Callable[[Row], float]) -> float:
    return fmean(map(value, rows))


def _accepted(row: Row) -> float:
    return float(row["accepted"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--methods", nargs="+", default=["greedy", "auto"])
    parser.add_argument("--targets", type=int, default=3, help="of each run: the sparsest, and others evenly spread")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    rows: list[Row] = json.loads(given.json.read_text()) if given.json.exists() else []
    for run in given.runs:
        last = len(find_checkpoints(run)) - 1
        for target in [last - k * last // given.targets for k in range(given.targets)]:
            for method in given.methods:
                for size in SEARCHED:
                    what = {"run": run.name, "method": method, "size": size, "target": target}
                    if not any(what.items() <= row.items() for row in rows):
                        finals = FINAL if size == USUAL_SEARCH else (USUAL_FINAL,)
                        rows.append(measure(run, method, size, target, finals))
                        given.json.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
                        print(rows[-1], flush=True)
    print(search_table(rows))
    print(final_table(rows))


if __name__ == "__main__":
    main()
