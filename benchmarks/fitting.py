"""How many images, positions and steps `reconstruct` needs, judged on val (test is not looked at).

    python benchmarks/fitting.py --work runs/accuracy     # tickets of accuracy.py; resumable
    python benchmarks/fitting.py                          # the table alone

Each row changes one setting. The target is the sparsest ticket, the teacher the plain mean of all. Accuracy and NLL
after temperature scaling, of one run of each setting.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from accuracy import RESULTS, opened, recalibrated_on_sample, save
from accuracy_tables import markdown

from lptool.pooling.reconstruct import room_of
from lptool.pooling.setup import Bench
from lptool.scoring.score import scaled_nll_of, score_of

Row = dict[str, Any]
FILE = RESULTS.parent / "fitting.json"
RUNS = (("fashion-mnist", 0), ("cifar10-mini", 0))
DEFAULT = {"images": 2048, "positions": 16, "steps": 20}
CHANGES: tuple[Row, ...] = (
    {},
    *({"images": images} for images in (256, 512, 1024, 4096)),
    *({"positions": positions} for positions in (4, 64)),
    *({"steps": steps} for steps in (5, 40)),
    *({"ridges": (ridge,)} for ridge in (1.0, 0.1)),
    {"mask": "refit"},
)


def measured(bench: Bench, change: Row) -> Row:
    """One fit under the default settings but for a change."""
    setting = DEFAULT | {key: value for key, value in change.items() if key in DEFAULT}
    fewer = replace(bench, options=replace(bench.options, fit_images=setting["images"]))
    ridges = {"ridges": change["ridges"]} if "ridges" in change else {}
    rebuilder = replace(fewer.rebuilder, positions=setting["positions"], steps=setting["steps"], **ridges)
    ticket, count = bench.pool[len(bench.pool) - 1], len(bench.pool)
    teacher = rebuilder.teach((1 / count, bench.pool[place].state) for place in range(count))
    start, room = rebuilder.recalibrated(ticket.state), room_of(bench.pool, count - 1) if "mask" in change else None
    state = rebuilder.rebuild(start, ticket.mask, teacher, room=room).state
    found = bench.predict(recalibrated_on_sample(bench, state), bench.data.val)
    return {"accuracy": score_of(*found).accuracy, "scaled nll": scaled_nll_of(*found)}


def label(change: Row) -> str:
    if not change:
        return "default: {images:,} images, {positions} positions, {steps} steps".format(**DEFAULT)
    ((key, value),) = change.items()
    if key == "mask":
        return f"--mask {value}"
    return f"ridge {value[0]:g} in every layer" if key == "ridges" else f"{value:,} {key}"


def table(found: dict[str, dict[str, Row]]) -> str:
    names = list(found)
    rows = [["", *(f"{name}: % right, NLL" for name in names)]]
    for change in CHANGES:
        cells = [found[name].get(label(change)) for name in names]
        known = [cell for cell in cells if cell]
        if len(known) == len(names):
            values = [f"{100 * cell['accuracy']:.2f}, {cell['scaled nll']:.4f}" for cell in known]
            rows.append([label(change), *values])
    return markdown(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where accuracy.py keeps its tickets; without it nothing is run")
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    options = parser.parse_args()
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name, seed in RUNS if options.work else ():
        bench = opened(name, seed, options.work, options.data)
        for change in CHANGES:
            if label(change) not in found.setdefault(name, {}):
                found[name][label(change)] = measured(bench, change)
                print(name, label(change), found[name][label(change)], flush=True)
                save(FILE, found)
    print(table(found))


if __name__ == "__main__":
    main()
