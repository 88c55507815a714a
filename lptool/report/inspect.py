"""What a person or a program reads of a result: rich tables and JSON documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table

from lptool.checkpoints.inspection import Finding, Inspection
from lptool.checkpoints.pool import prunable_names
from lptool.errors import one_line
from lptool.tables import percent

if TYPE_CHECKING:  # their networks and images take seconds to import, and `inspect` needs none
    from lptool.pooling.comparisons import Barrier

ROWS = {"ticket": "ticket", "ticket_bn": "ticket + BN", "pooled": "pooled"}


def inspect_document(inspection: Inspection) -> dict[str, Any]:
    """The `--json` document of `inspect`."""
    return {
        "tickets": [_finding_document(finding) for finding in inspection.findings],
        "pool": {
            "aligned": not inspection.problems,
            "problems": list(inspection.problems),
            "warnings": list(inspection.warnings),
        },
    }


def _finding_document(finding: Finding) -> dict[str, Any]:
    summary, near = finding.summary, finding.neighbours
    metadata = summary.metadata
    return {
        "file": summary.file,
        "format": summary.format,
        "kind": metadata.kind,
        "arch": metadata.arch,
        "level": metadata.level,
        "sparsity": 1 - summary.density(),
        "density": summary.density(),
        "parameters": finding.parameters,
        "nonzero": finding.nonzero,
        "mask_source": summary.mask_source,
        "nested": near.nested if near else None,
        "overlap": near.overlap if near else None,
        "distance": near.distance if near else None,
        "warnings": list(finding.warnings),
        "layers": [{"name": n, "shape": list(shape), "sparsity": s} for n, shape, s in finding.layers],
        "sha256": summary.sha256,
        "trace": metadata.trace,
        "scores": metadata.scores,
    }


def inspect_view(inspection: Inspection) -> RenderableType:
    """The pool as a table; for one file its layers, and for a pooled file its members and scores."""
    findings = inspection.findings
    parts: list[RenderableType] = [_pool_table(findings)]
    parts += [f"warning: {warning}" for warning in inspection.warnings]
    parts += [f"warning: {warning}" for finding in findings for warning in finding.warnings]
    if len(findings) == 1:
        parts.append(_layer_table(findings[0]))
        if findings[0].summary.metadata.kind == "pooled":
            parts += _pooled_tables(findings[0])
    parts += [f"problem: {problem}" for problem in inspection.problems]
    return Group(*parts)


def barrier_documents(found: Sequence[Barrier]) -> list[dict[str, Any]]:
    """What `inspect --data --json` adds under `pool.barriers`; `error` and `nll` are heights of the barrier."""
    return [
        {
            "denser": barrier.denser,
            "sparser": barrier.sparser,
            "error": barrier.error,
            "nll": barrier.nll,
            "verdict": barrier.verdict,
            "points": [score.to_json() for score in barrier.scores],
        }
        for barrier in found
    ]


def barrier_view(found: Sequence[Barrier]) -> RenderableType:
    """The barriers between neighbours for a person."""
    table = Table("between", "and", title="barriers between neighbours on val, BN recalibrated")
    for heading in ("lowest accuracy", "error barrier", "NLL barrier"):
        table.add_column(heading, justify="right")
    for barrier in found:
        lowest = min(score.accuracy for score in barrier.scores)
        files = (Path(barrier.denser).stem, Path(barrier.sparser).stem)
        table.add_row(*files, percent(lowest), percent(barrier.error), f"{barrier.nll:.4f}")
    return Group(table, *(f"{Path(b.denser).stem}, {Path(b.sparser).stem}: {b.verdict}" for b in found))


def _pool_table(findings: Sequence[Finding]) -> Table:
    folders = {str(Path(f.summary.file).parent) for f in findings}
    title = "one file" if len(findings) == 1 else f"{len(findings)} tickets, densest first"
    table = Table(title=f"{title} ({folders.pop()})" if len(folders) == 1 else title)
    shown = (lambda file: file) if folders else (lambda file: Path(file).name)
    table.add_column("file", overflow="fold")
    for heading in ("level", "sparsity", "kept / total", "nested", "overlap", "L2", "mask from"):
        table.add_column(heading, justify="right", overflow="fold")
    prunable = prunable_names([finding.summary for finding in findings])
    for finding in findings:
        summary, near = finding.summary, finding.neighbours
        names = [name for name in prunable if name in summary.tensors]  # also of a dense ticket, which has no masks
        kept, total = summary.kept(names), summary.size(names)
        compared = (
            ("yes" if near.nested else "no", f"{near.overlap:.1%}", f"{near.distance:.3f}") if near else ("–",) * 3
        )
        level = "–" if summary.metadata.level is None else str(summary.metadata.level)
        table.add_row(
            shown(summary.file),
            level,
            f"{1 - summary.density(names):.2%}",
            f"{kept:,} / {total:,}",
            *compared,
            summary.mask_source,
        )
    return table


def _layer_table(finding: Finding) -> Table:
    table = Table(
        "layer", "shape", "sparsity", title=f"prunable tensors ({finding.parameters:,} parameters in the file)"
    )
    for name, shape, sparse in finding.layers:
        table.add_row(name, "×".join(map(str, shape)), percent(sparse))
    return table


def _pooled_tables(finding: Finding) -> list[RenderableType]:
    """Members and scores from the header; a header written by another program may lack any of it."""
    metadata = finding.summary.metadata
    method = one_line(str(metadata.search.method))
    members = Table("member", "level", "alpha", "accepted", title=f"pooled by {method}")
    for member in metadata.search.members:
        file = "–" if member.file is None else one_line(member.file)
        level = "–" if member.level is None else str(member.level)
        alpha = "–" if member.alpha is None else f"{member.alpha:g}"
        members.add_row(file, level, alpha, "yes" if member.accepted else "no")
    table = Table("", "val accuracy", "test accuracy", title="scores in the header")
    for row, label in ROWS.items():
        found = [metadata.score(part, row) for part in ("val", "test")]
        if any(found):
            table.add_row(label, *(percent(score.accuracy) if score else "–" for score in found))
    return [members, table]


def to_json(document: dict[str, Any]) -> str:
    """One JSON document, as `--json` prints it."""
    return json.dumps(document, indent=1)
