"""By what to choose between methods: search on one half of val, see on the other half what was chosen.

    python benchmarks/choosing.py --work runs/accuracy --setting cifar10-mini --seed 0   # one run, of accuracy.py
    python benchmarks/choosing.py                                                        # the table of all

A score that a search has maximised is flattered by luck, and more so the more it has tried; a method that tried little
is then wrongly passed over. So nothing here looks at test, and what is chosen is judged on images that no search saw.
Of each run three levels: in the middle, the last but one, and the sparsest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accuracy import RESULTS, SETTINGS, arguments, asked, finished_states, opened, save
from accuracy_tables import markdown, with_error
from torch import Tensor

from lptool.scoring.metrics import measure_graded
from lptool.scoring.score import Graded, scaled_nll_of

Row = dict[str, Any]
CHOOSING = RESULTS.parent / "choosing"
AVERAGES = ("greedy", "average", "window", "soup", "swa", "ema", "uniform")
FITTED = ("reconstruct 0.3", "reconstruct 0.5", "reconstruct 0.7", "reconstruct 1")
METHODS = (*AVERAGES, *FITTED)


def run(name: str, seed: int, work: Path, data: Path) -> None:
    """What each method makes of one half of val, with its scores on both."""
    path = CHOOSING / f"{name}-seed{seed}.json"
    if path.exists():
        return
    bench = opened(name, seed, work, data)
    order = torch.randperm(len(bench.data.val), generator=torch.Generator().manual_seed(seed))
    seen, unseen = (bench.data.val.subset(half) for half in order.tensor_split(2))
    half = replace(bench, data=replace(bench.data, val=seen))
    count, rows = len(bench.pool), list[Row]()
    for target in sorted({count // 2, count - 2, count - 1}):
        for method, state, _ in finished_states(half, target, ("ticket", "ticket + BN", *METHODS)):
            row = {"level": target, "method": method}
            for part, images in (("seen", seen), ("unseen", unseen)):
                row[part] = measures(*half.predict(state, images))
            rows.append(row)
            print(name, seed, target, method, row["seen"]["accuracy"], row["unseen"]["accuracy"], flush=True)
    save(path, {"setting": name, "seed": seed, "rows": rows})


def measures(logits: Tensor, labels: Tensor) -> Row:
    found = measure_graded(Graded.of(logits, labels), logits.shape[1]).score
    return {"accuracy": found.accuracy, "nll": found.nll, "scaled nll": scaled_nll_of(logits, labels), "n": found.n}


# What to maximise over the controls and the methods.
Rule = Callable[[Row], float]
RULES: dict[str, Rule] = {
    "accuracy": lambda row: float(row["seen"]["accuracy"]),
    "NLL": lambda row: -float(row["seen"]["nll"]),
    "NLL after temperature scaling": lambda row: -float(row["seen"]["scaled nll"]),
}
CONTROLS = ("ticket", "ticket + BN")
POOLS = {
    "greedy": ("greedy",),
    "averages": AVERAGES,
    "reconstruct 0.5": FITTED[1:2],
    "reconstruct 1": FITTED[3:],
    "reconstruct 0.5, 1": FITTED[1::2],
    "reconstruct 0.3, 1": FITTED[::3],
    "reconstruct, all four": FITTED,
    "greedy and reconstruct 0.5, 1": ("greedy", *FITTED[1::2]),
    "window and reconstruct 0.5, 1": ("window", *FITTED[1::2]),
    "averages and reconstruct 0.5, 1": (*AVERAGES, *FITTED[1::2]),
}


def table() -> str:
    """Points of accuracy on the unseen half over `ticket + BN`: settings × what is chosen among × by what."""
    rows = [["setting", "chosen among", *RULES]]
    for name in SETTINGS:
        cells = [json.loads(path.read_text()) for path in sorted(CHOOSING.glob(f"{name}-seed*.json"))]
        for label, among in POOLS.items() if cells else ():
            rows.append(
                [
                    name,
                    label,
                    *(with_error([gain(cell, among, rule) for cell in cells], sign="+") for rule in RULES.values()),
                ]
            )
    return markdown(rows)


def gain(cell: Row, among: tuple[str, ...], rule: Rule) -> float:
    found = []
    for level in {row["level"] for row in cell["rows"]}:
        rows = {row["method"]: row for row in cell["rows"] if row["level"] == level}
        chosen = max((rows[method] for method in (*CONTROLS, *among) if method in rows), key=rule)
        found.append(100 * (chosen["unseen"]["accuracy"] - rows["ticket + BN"]["unseen"]["accuracy"]))
    return fmean(found)


def main() -> None:
    for each in asked(arguments(__doc__).parse_args()):
        run(*each)
    print(table())


if __name__ == "__main__":
    main()
