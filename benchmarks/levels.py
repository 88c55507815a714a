"""Accuracy per level of several methods, from the documents of `lptool pool --target all --json`.

    lptool train -o runs/fashion --preset fashion-mnist-resnet8
    for m in average greedy; do
      lptool pool runs/fashion -o "runs/$m/pooled.safetensors" --target all --method "$m" --json > "runs/$m.json"
    done
    python benchmarks/levels.py runs/average.json runs/greedy.json --json benchmarks/results/fashion-mnist-resnet8.json

Prints a Markdown table and, with `--json`, writes its numbers. Scores are images right: val, on which the search chose,
and test, reported once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lptool.tables import percent

Row = dict[str, Any]


def rows(documents: list[Row]) -> list[Row]:
    """One row per level: density, and val and test accuracy of the two controls and of each method."""
    found = []
    for targets in zip(*(document["targets"] for document in documents), strict=True):
        first = targets[0]
        row = {"level": first["target"]["level"], "density": 1 - first["sparsity"]}
        row |= {name: _accuracies(first, name) for name in ("ticket", "ticket_bn") if first["test"][name]}
        found.append(row | {target["method"]: _accuracies(target, "pooled") for target in targets})
    return found


def _accuracies(target: Row, name: str) -> Row:
    return {part: target[part][name]["accuracy"] for part in ("val", "test")}


def markdown(table: list[Row]) -> str:
    """The table as README shows it, with the mean over levels last."""
    columns = [name for name in table[0] if name not in ("level", "density")]
    titles = ["level", "density", *(name.replace("ticket_bn", "ticket + BN") for name in columns)]
    lines = [titles, ["--:"] * len(titles)]
    for row in table:
        lines.append([str(row["level"]), percent(row["density"], 1), *(_cell(row[name]) for name in columns)])
    means = [{p: sum(row[name][p] for row in table) / len(table) for p in ("val", "test")} for name in columns]
    lines.append(["mean", "", *map(_cell, means)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(scores: Row) -> str:
    return f"{100 * scores['val']:.2f} / {100 * scores['test']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table = rows([json.loads(path.read_text()) for path in options.documents])
    print(markdown(table))
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
