"""Documents of `pool --json` as runs of several seeds would leave them, with counts that are easy to add up by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lptool.report.compare import compare_document
from lptool.report.runs import gains_in

Document = dict[str, Any]
N = 1000
SETTING = {"arch_kwargs": {"width": 8}, "normalisation": {"mean": [0.3], "std": [0.4]}}
GAINS = {1: (0.010, 0.020, 0.060), 2: (0.030, 0.000, 0.030)}  # level → over the ticket, by seed


def target(
    seed: int, level: int, right: tuple[int, int | None, int], val: tuple[int, int, int] = (500, 490, 510), **more: Any
) -> Document:
    """One pooled model; of `right` of 1,000 test images ticket, ticket + BN and pooled, of `val` likewise."""
    rows = ("ticket", "ticket_bn", "pooled")
    test = {row: None if count is None else _score(count) for row, count in zip(rows, right, strict=True)}
    document = {
        "dataset": "npz:d.npz",
        "arch": "net.py:Net",
        **SETTING,
        "tickets": [f"{seed}-{place}" for place in range(3)],
        "options": {"bn_images": "auto", "passes": 1},
        "method": "greedy",
        "sha256": f"model {seed} {level} {right} {more}",
        "target": {"file": f"level_{level}.safetensors", "level": level, "sparsity": 1 - 0.8**level},
        "sparsity": 1 - 0.8**level,
        "val": {row: _score(count) for row, count in zip(rows, val, strict=True)},
        "test": test,
        "comparisons": [_pair(row, right[2], count) for row, count in zip(rows, right, strict=True) if count][:2],
    }
    return {**document, **more}


def _score(right: int) -> Document:
    return {"accuracy": right / N, "nll": 1.0, "n": N}


def _pair(control: str, pooled: int, right: int) -> Document:
    """The pooled model gets 50 images wrong that the control gets right, and so many more right as it is better."""
    return {"a": "pooled", "b": control, "a_only": 50 + pooled - right, "b_only": 50, "p": 0.5, "n": N}


def written(folder: Path, documents: Sequence[Any]) -> list[Path]:
    """Each in a file of its own."""
    files = [folder / f"{number}.json" for number in range(len(documents))]
    for file, document in zip(files, documents, strict=True):
        file.write_text(json.dumps(document), encoding="utf-8")
    return files


def evaluated(seed: int, right: tuple[int, int], a_only: int, *, swapped: bool = False) -> Document:
    """A pooled model and its ticket, as `evaluate --json` compares them."""
    kinds = ("pooled", "ticket")
    files = [
        {
            "file": f"runs/{seed}/{kind}.safetensors",
            "sha256": f"{seed} {kind}",
            "kind": kind,
            "arch": "net.py:Net",
            **SETTING,
            "tickets": [f"{seed}-{place}" for place in range(3)] if kind == "pooled" else [],
            "level": 2,
            "method": "greedy" if kind == "pooled" else None,
            "sparsity": 0.36,
            "test": _score(count),
        }
        for kind, count in zip(kinds, right, strict=True)
    ]
    counts = (a_only, a_only - right[0] + right[1])
    if swapped:
        files, counts = files[::-1], counts[::-1]
    pair = {"a": files[0]["file"], "b": files[1]["file"], "a_only": counts[0], "b_only": counts[1], "p": 0.5}
    return {"dataset": "digits", "n": N, "files": files, "comparisons": [pair]}


def run(seed: int, **more: Any) -> Document:
    """Both levels of one seed; the ticket is better than ticket + BN on val, and 10 images worse on test."""
    counts = {level: round(1000 * gains[seed]) for level, gains in GAINS.items()}
    return {"targets": [target(seed, level, (900, 910, 900 + count), **more) for level, count in counts.items()]}


def compared(folder: Path, *documents: Any) -> Document:
    """What `compare` makes of documents."""
    return compare_document(gains_in(written(folder, documents)))
