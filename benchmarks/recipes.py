"""Whether the fast recipe's tickets are as good, and pool as well, as those of the paper's: from nothing to a table.

    python benchmarks/recipes.py --work runs/recipes --dataset fashion-mnist
    python benchmarks/recipes.py --work runs/recipes --dataset npz:cifar10-mini.npz --seeds 3

Resumable, as `lptool train` is. Both recipes start from the same seeds and prune to the same densities; each level is
pooled by `--method`, which sees val alone. Told are means ± standard errors over the seeds, on test.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lptool.pooling.job import pool_target
from lptool.pooling.setup import PoolOptions, open_bench
from lptool.scoring.score import Score
from lptool.training.job import train_tickets
from lptool.training.options import TrainOptions
from lptool.training.presets import RECIPES, with_recipe

Row = dict[str, Any]
SCORED = ("ticket", "ticket_bn", "pooled")


def run(recipe: str, seed: int, base: TrainOptions, levels: int, method: str, work: Path) -> Row:
    """One recipe's tickets of one seed, as they are and pooled, at every pruned level."""
    options = with_recipe(recipe, base, {"seed": seed})
    folder = work / f"{recipe}-seed{seed}"
    files = train_tickets(options, levels, folder)
    bench = open_bench(files, PoolOptions(method=method, target="all"))
    records = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    results = [
        pool_target(bench, place, folder / "pooled" / f"{place}.safetensors", overwrite=True)
        for place in range(1, len(files))
    ]
    return {
        "recipe": recipe,
        "seed": seed,
        "epochs": options.epochs,
        "images": sum(len(bench.data.train) for _ in records),
        "train_accuracy": records[options.epochs - 1]["train_accuracy"],
        "densities": [1 - result.target_sparsity for result in results],
        "test": {
            name: [accuracy(result.test, name) for result in results] for name in ("ticket", "ticket_bn", "pooled")
        },
    }


def accuracy(scores: dict[str, Score], name: str) -> float:
    return scores[name].accuracy


def table(rows: list[Row]) -> str:
    lines = [
        "| recipe | epochs | images trained on | ticket | ticket + BN | pooled | gain |",
        "| -- " + "| --: " * 6 + "|",
    ]
    for recipe in RECIPES:
        own = [row for row in rows if row["recipe"] == recipe]
        cells = [spread([100 * fmean(row["test"][name]) for row in own]) for name in SCORED]
        gain = spread([100 * (fmean(row["test"]["pooled"]) - fmean(row["test"]["ticket_bn"])) for row in own])
        images = f"{fmean(row['images'] for row in own):,.0f}"
        lines.append("| " + " | ".join([recipe, str(own[0]["epochs"]), images, *cells, gain]) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    error = f" ± {stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
    return f"{fmean(values):.2f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where the tickets go")
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--arch", default="resnet8_cifar")
    parser.add_argument("--epochs", type=int, default=10, help="of the paper's recipe")
    parser.add_argument("--rewind-epoch", type=int, default=2)
    parser.add_argument("--levels", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.36, help="two prunings of 20 %% at once")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", default="window")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    shaping = ("dataset", "arch", "epochs", "rewind_epoch", "rate")
    base = TrainOptions(**{name: getattr(given, name) for name in shaping})
    rows = []
    for seed in range(given.seeds):
        for recipe in RECIPES:
            rows.append(run(recipe, seed, base, given.levels, given.method, given.work))
            print(json.dumps(rows[-1]), flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
