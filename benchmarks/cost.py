"""What the methods cost: images that go through the network, and seconds, side by side over one pool.

    python benchmarks/cost.py --work runs/accuracy     # tickets of accuracy.py; the sparsest is the target

An image counts for the share of the network that it goes through: to fit a layer, images go as far as that layer.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accuracy import RESULTS, opened, save
from accuracy_tables import markdown
from torch import nn

from lptool.pooling.catalogue import needs
from lptool.pooling.methods import pool_tickets

Row = dict[str, Any]
FILE = RESULTS.parent / "cost.json"
METHODS = ("greedy", "window", "reconstruct", "auto")


def measured(name: str, seed: int, work: Path, data: Path) -> Iterator[Row]:
    """One row for each method; the pool is opened anew, so that none profits from another's scores."""
    for method in METHODS:
        bench = opened(name, seed, work, data)
        scorer = bench.scorer
        rebuilder = bench.rebuilder if needs(method, "rebuilder") else None
        with counting(bench.model) as seen:
            begin = time.perf_counter()
            _, trace = pool_tickets(
                *(bench.pool, scorer),
                method=method,
                rebuilder=rebuilder,
                score_as_is=scorer.as_is if scorer.recalibrates else None,
            )
            seconds = time.perf_counter() - begin
        row = {"setting": name, "method": method, "evaluations": trace.evaluations, "seconds": round(seconds, 2)}
        yield row | {"images": round(seen()), "device": str(bench.device), "threads": torch.get_num_threads()}


@contextmanager
def counting(model: nn.Module) -> Iterator[Any]:
    """Counts images, each by the share of the layers with weights that it goes through."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    total = [0]

    def count(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        total[0] += len(given[0])

    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield lambda: total[0] / len(layers)
    finally:
        for handle in handles:
            handle.remove()


def table(rows: list[Row]) -> str:
    head = [["setting", "method", "models scored", "images through the network", "seconds"]]
    return markdown(
        head
        + [[r["setting"], r["method"], str(r["evaluations"]), f"{r['images']:,}", f"{r['seconds']:.1f}"] for r in rows]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where accuracy.py keeps its tickets; without it nothing is run")
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    options = parser.parse_args()
    if options.work:
        settings = ("fashion-mnist", "cifar10-mini")
        save(FILE, {"rows": [row for name in settings for row in measured(name, 0, options.work, options.data)]})
    print(table(json.loads(FILE.read_text())["rows"]))


if __name__ == "__main__":
    main()
