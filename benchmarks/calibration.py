"""How many training images BN recalibration needs in the search: results against `--calibration-size`.

    lptool train -o runs/fashion --preset fashion-mnist-resnet8
    python benchmarks/calibration.py runs/fashion --json benchmarks/results/calibration.json

For each size and target: the search, then BN recalibrated on the whole training set, as `lptool pool` does. Prints the
mean over targets. Resumable: rows that the JSON file holds are not measured again.

Columns: images forwarded by the search; candidates accepted; how far the search's own score of the pooled model lies
from the score after full recalibration (val, mean absolute difference); accuracy of the finished model on val and on
test, also where `lptool pool` would ship a control instead, so that sizes are compared and not controls.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lptool.checkpoints.finding import find_checkpoints
from lptool.pooling.methods import pool_tickets
from lptool.pooling.setup import PoolOptions, open_bench

Row = dict[str, Any]


def measure(files: list[Path], size: int, target: int) -> Row:
    """One search, and the finished model's scores."""
    bench = open_bench(files, PoolOptions(method="greedy", calibration_size=size))
    scorer = bench.scorer
    best, trace = pool_tickets(bench.pool, scorer, target=target, score_as_is=scorer.as_is)
    finished = bench.recalibrated(best.state) if best.recalibrated else best.state
    return {
        "size": size,
        "target": target,
        "images": scorer.images,
        "accepted": [(step.candidate, step.alpha) for step in trace.accepted],
        "search_val": best.score.accuracy,
        "val": bench.score(finished, bench.data.val).accuracy,
        "test": bench.score(finished, bench.data.test).accuracy,
    }


def table(rows: list[Row]) -> str:
    """Markdown, one line per size, means over targets."""
    lines = [
        "| images | forwarded by the search | accepted | search − finished, val | val | test |",
        "| --: | --: | --: | --: | --: | --: |",
    ]
    for size in sorted({row["size"] for row in rows}):
        mine = [row for row in rows if row["size"] == size]
        gap = _mean([abs(row["search_val"] - row["val"]) for row in mine])
        lines.append(
            f"| {size:,} | {_mean([sum(row['images'].values()) for row in mine]):,.0f} "
            f"| {_mean([len(row['accepted']) for row in mine]):.1f} | {100 * gap:.2f} "
            f"| {100 * _mean([row['val'] for row in mine]):.2f} | {100 * _mean([row['test'] for row in mine]):.2f} |"
        )
    return "\n".join(lines)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tickets", nargs="+", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--targets", type=int, nargs="+", help="places in the pool; every second one by default")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    files = find_checkpoints(options.tickets)
    rows: list[Row] = json.loads(options.json.read_text()) if options.json.exists() else []
    for target in options.targets or range(1, len(files), 2):
        for size in options.sizes:
            if not any((row["size"], row["target"]) == (size, target) for row in rows):
                rows.append(measure(files, size, target))
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
                print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
