"""What a person or a program reads of an evaluation: tables and the JSON document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from lptool.evaluation.job import Evaluation, FileResult
from lptool.provenance import command_line, versions
from lptool.report import tables
from lptool.report.terminal import on_terminal
from lptool.scoring.metrics import Metrics
from lptool.tables import percent


def evaluate_document(evaluation: Evaluation) -> dict[str, Any]:
    """The `--json` document of `evaluate`."""
    files = evaluation.files
    return {
        "dataset": evaluation.dataset,
        "n": files[0].test.score.n,
        "classes": evaluation.num_classes,
        "files": [_file_document(result, evaluation.source) for result in files],
        "comparisons": [
            {"a": files[i].summary.file, "b": files[j].summary.file, **asdict(comparison)}
            for (i, j), comparison in evaluation.comparisons.items()
        ],
        "seconds": round(evaluation.seconds, 3),
        "command": command_line(),
        "versions": versions(),
        "device": evaluation.device,
        "threads": evaluation.threads,
    }


def _file_document(result: FileResult, source: str | None) -> dict[str, Any]:
    summary, metadata = result.summary, result.summary.metadata
    tensors = summary.tensors
    return {
        "file": summary.file,
        "sha256": summary.sha256,
        "kind": metadata.kind,
        "arch": result.arch,
        "arch_kwargs": result.arch_kwargs,
        "normalisation": tables.normalisation(*result.normalisation),
        "tickets": metadata.search.tickets,
        "level": metadata.level,
        "method": metadata.search.method,
        "shipped": metadata.search.shipped,
        "sparsity": 1 - summary.density(),
        "test": {**_metrics_document(result.test), "interval": list(result.test.interval), "top5": result.test.top5},
        "cost": asdict(result.cost),
        "runtime": result.runtime,
        "latency": asdict(result.latency) if result.latency else None,
        "layers": [
            {"name": name, "shape": list(tensors[name].shape), "density": summary.density([name])}
            for name in summary.prunable
        ],
        "corruptions": _corruptions_document(result, source) if source else None,
    }


def _metrics_document(metrics: Metrics) -> dict[str, Any]:
    ece = metrics.ece if math.isfinite(metrics.ece) else None  # JSON has no word for it
    return {**metrics.score.to_json(), "ece": ece}


def _corruptions_document(result: FileResult, source: str) -> dict[str, Any]:
    rows = [{"name": row.name, "severity": row.severity, **_metrics_document(row.metrics)} for row in result.corrupted]
    return {"source": source, "rows": rows, "mean_accuracy": result.mean_corruption_accuracy}


def evaluate_view(evaluation: Evaluation) -> RenderableType:
    """The evaluation for a person: scores, costs, corruptions, comparisons."""
    document = evaluate_document(evaluation)
    files = document["files"]
    names = _short_names([file["file"] for file in files])
    parts: list[RenderableType] = [
        on_terminal(tables.evaluated(document, names)),
        on_terminal(tables.cost(files, names, lambda dense, kept: f"{dense:,} → {kept:,}")),
    ]
    if any(file["latency"] for file in files):
        parts += [on_terminal(tables.latency(document, names)), tables.ZEROS_COST]
    for file, result in zip(files, evaluation.files, strict=True):
        if found := file["corruptions"]:
            name = names[file["file"]]
            extra = {row.name for row in result.corrupted if row.extra}
            parts.append(on_terminal(tables.corruptions(name, found, extra)))
            parts.append(f"mean corruption accuracy of {name}: {percent(found['mean_accuracy'])}")
    if compared := document["comparisons"]:
        parts.append(on_terminal(tables.comparisons(compared, names)))
    return Group(*parts)


def _short_names(files: Sequence[str]) -> dict[str, str]:
    """Of each file its name, or its whole path where two would look the same."""
    short = {file: Path(file).name for file in files}
    return short if len(set(short.values())) == len(short) else {file: file for file in files}
