"""What a person or a program reads of an evaluation: tables and the JSON document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from lptool.data.corruptions import SEVERITIES
from lptool.evaluation.job import CorruptedScore, Evaluation, FileResult
from lptool.provenance import command_line, versions
from lptool.scoring.metrics import Comparison, Metrics
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
    }


def _file_document(result: FileResult, source: str | None) -> dict[str, Any]:
    summary, metadata = result.summary, result.summary.metadata
    tensors = summary.tensors
    return {
        "file": summary.file,
        "sha256": summary.sha256,
        "kind": metadata.kind,
        "arch": result.arch,
        "level": metadata.level,
        "method": metadata.search.method,
        "sparsity": 1 - summary.density(),
        "test": {
            **_metrics_document(result.test),
            "interval": list(result.test.interval),
            "top5": result.test.top5,
        },
        "cost": asdict(result.cost),
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
    return {
        "source": source,
        "rows": [
            {"name": row.name, "severity": row.severity, **_metrics_document(row.metrics)} for row in result.corrupted
        ],
        "mean_accuracy": result.mean_corruption_accuracy,
    }


def evaluate_view(evaluation: Evaluation) -> RenderableType:
    """The evaluation for a person: scores, costs, corruptions, comparisons."""
    names = _short_names([result.summary.file for result in evaluation.files])
    parts: list[RenderableType] = [_score_table(evaluation, names), _cost_table(evaluation.files, names)]
    if evaluation.source:
        for name, result in zip(names, evaluation.files, strict=True):
            parts.append(_corruption_table(name, result.corrupted, evaluation.source))
            parts.append(f"mean corruption accuracy of {name}: {percent(result.mean_corruption_accuracy)}")
    if evaluation.comparisons:
        parts.append(_comparison_table(evaluation.comparisons, names))
    return Group(*parts)


def _short_names(files: Sequence[str]) -> list[str]:
    """File names, or whole paths where two would look the same."""
    short = [Path(file).name for file in files]
    return short if len(set(short)) == len(set(files)) else list(files)


def _score_table(evaluation: Evaluation, names: Sequence[str]) -> Table:
    top5 = any(result.test.top5 is not None for result in evaluation.files)
    table = _table(
        f"{evaluation.dataset}, {evaluation.files[0].test.score.n:,} test images",
        *("file", "sparsity", "accuracy [95 %]", "NLL", "ECE", *["top-5"] * top5),
    )
    for name, result in zip(names, evaluation.files, strict=True):
        test, (low, high) = result.test, result.test.interval
        accuracy = f"{percent(test.score.accuracy)} [{100 * low:.2f}, {100 * high:.2f}]"
        cells = [percent(1 - result.summary.density()), accuracy, f"{test.score.nll:.4f}", f"{test.ece:.4f}"]
        table.add_row(name, *cells, *["–" if test.top5 is None else percent(test.top5)] * top5)
    return table


def _cost_table(files: Sequence[FileResult], names: Sequence[str]) -> Table:
    table = _table("cost, dense → as kept", "file", "parameters", "FLOPs per image", "bytes")
    for name, result in zip(names, files, strict=True):
        cost = result.cost
        pairs = [
            (cost.parameters, cost.kept),
            (cost.flops_dense, cost.flops_kept),
            (cost.bytes_dense, cost.bytes_kept),
        ]
        table.add_row(name, *(f"{dense:,} → {kept:,}" for dense, kept in pairs))
    return table


def _corruption_table(name: str, rows: Sequence[CorruptedScore], source: str) -> Table:
    table = _table(f"{name}: accuracy under corruptions ({source})", "severity", *map(str, SEVERITIES), "mean")
    for kind in dict.fromkeys(row.name for row in rows):
        found = [row for row in rows if row.name == kind]
        accuracies = [row.metrics.score.accuracy for row in found]
        label = f"({kind})" if found[0].extra else kind
        table.add_row(label, *map(percent, [*accuracies, sum(accuracies) / len(accuracies)]))
    return table


def _comparison_table(comparisons: dict[tuple[int, int], Comparison], names: Sequence[str]) -> Table:
    table = _table("images that only one of two gets right (exact McNemar test)", "a", "b", "only a", "only b", "p")
    for (i, j), found in comparisons.items():
        table.add_row(names[i], names[j], str(found.a_only), str(found.b_only), f"{found.p:.3g}")
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title)
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right", overflow="fold")
    return table
