"""The JSON files of benchmarks/results/accuracy as documents of `pool --json`, for `lptool compare`; without torch.

    python benchmarks/accuracy_documents.py runs/documents \
        --setting fashion-mnist cifar10-mini fashion-mnist-crops --method greedy auto
    lptool compare runs/documents/*.json --figure docs/gain.svg --overwrite

One document for each run and method. `pooled` is the method's model, also where a control is better on val, which
`lptool pool` would write in its place. `auto` was made on another machine, and has counts for
McNemar's test of 16 of its 99 models alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "accuracy"
CONTROLS = {"ticket": "ticket", "ticket_bn": "ticket + BN"}


def documents(settings: Sequence[str], methods: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Name and document of each run of these settings by each of these methods."""
    for setting in settings:
        for path in sorted(RESULTS.glob(f"{setting}-seed*.json")):
            cell = json.loads(path.read_text())
            for method in methods:
                yield f"{path.stem}-{method.replace(' ', '-')}", document(cell, method)


def document(cell: Row, method: str) -> Row:
    """One run by one method, level by level."""
    return {"targets": [target(cell, level, method) for level in cell["levels"]]}


def target(cell: Row, level: Row, method: str) -> Row:
    found, sparsity = level["methods"], 1 - level["density"]
    names = {**CONTROLS, "pooled": method}
    return {
        "dataset": cell["setting"],
        "arch": cell["options"]["arch"],
        "tickets": [f"{cell['setting']}, seed {cell['seed']}"],
        "options": {},
        "method": method,
        "target": {"file": f"level_{level['level']:02}.safetensors", "level": level["level"], "sparsity": sparsity},
        "sparsity": sparsity,
        **{part: {row: found[name][part] for row, name in names.items()} for part in ("val", "test")},
        "comparisons": [
            {"a": "pooled", "b": row, "a_only": pair[0], "b_only": pair[1], "n": found[method]["test"]["n"]}
            for row, name in CONTROLS.items()
            if (pair := found[method]["pairs"].get(name))
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--setting", nargs="+", default=["fashion-mnist", "cifar10-mini", "fashion-mnist-crops"])
    parser.add_argument("--method", nargs="+", default=["greedy", "auto"])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, found in documents(options.setting, options.method):
        (options.folder / f"{name}.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
