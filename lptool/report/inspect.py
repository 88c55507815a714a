"""What a person or a program reads of files that were inspected: tables and the JSON document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType

from lptool.checkpoints.header import ROWS, SavedScore
from lptool.checkpoints.inspection import Finding, Inspection
from lptool.checkpoints.metadata import Metadata
from lptool.errors import first_and_count, one_line
from lptool.report import tables
from lptool.report.tables import NOTHING, PARTS, number
from lptool.report.terminal import on_terminal
from lptool.tables import Table, percent

if TYPE_CHECKING:  # their networks and images take seconds to import, and `inspect` needs none
    from lptool.pooling.comparisons import Barrier


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
        "sparsity": 1 - finding.density,
        "density": finding.density,
        "parameters": finding.parameters,
        "nonzero": finding.nonzero,
        "mask_source": summary.mask_source,
        **(asdict(near) if near else dict.fromkeys(("nested", "overlap", "distance"))),
        "warnings": list(finding.warnings),
        "layers": [{"name": n, "shape": list(shape), "sparsity": s} for n, shape, s in finding.layers],
        "sha256": summary.sha256,
        "trace": metadata.trace,
        "scores": metadata.scores,
    }


def inspect_view(inspection: Inspection) -> RenderableType:
    """The pool as a table; for one file its layers, and for a pooled file its members and scores."""
    findings = inspection.findings
    parts: list[RenderableType] = [on_terminal(_pool_table(findings))]
    parts += [f"warning: {warning}" for warning in inspection.warnings]
    parts += [f"warning: {warning}" for warning in _one_of_each_kind(findings)]
    if len(findings) == 1:
        parts.append(on_terminal(_layer_table(findings[0]), numbers="left"))
        metadata = findings[0].summary.metadata
        if metadata.kind == "pooled":
            from lptool.pooling.verdict import recorded  # with scipy, which a pool of tickets does not need

            parts += [on_terminal(table, numbers="left") for table in _pooled_tables(metadata)]
            parts += [*tables.measured_on(metadata.search.measured), *recorded(metadata.search)]
    parts += [f"problem: {problem}" for problem in inspection.problems]
    return Group(*parts)


def _one_of_each_kind(findings: Sequence[Finding]) -> list[str]:
    """The warnings about single files; of those that end in the same words the first, with a count."""
    kinds: dict[str, list[str]] = {}
    for warning in (warning for finding in findings for warning in finding.warnings):
        kinds.setdefault(warning.rpartition(": ")[2], []).append(warning)
    return [line for warnings in kinds.values() for line in first_and_count(warnings)]


def barrier_documents(found: Sequence[Barrier]) -> list[dict[str, Any]]:
    """What `inspect --data --json` adds under `pool.barriers`; `error` and `nll` are heights of the barrier."""
    return [
        {
            "denser": barrier.denser,
            "sparser": barrier.sparser,
            "error": barrier.error,
            "nll": _finite(barrier.nll),
            "verdict": barrier.verdict,
            "points": [score.to_json() for score in barrier.scores],
        }
        for barrier in found
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no word for it


def barrier_view(found: Sequence[Barrier]) -> RenderableType:
    """The barriers between neighbours for a person."""
    rows = []
    for barrier in found:
        lowest = min(score.accuracy for score in barrier.scores)
        rows.append([*_stems(barrier), percent(lowest), percent(barrier.error), number(_finite(barrier.nll))])
    headings = ["between", "and", "lowest accuracy", "error barrier", "NLL barrier"]
    recalibrated = ", BN recalibrated" * any(barrier.recalibrated for barrier in found)
    caption, spare = f"barriers between neighbours on val{recalibrated}", ("lowest accuracy",)
    table = Table(caption, headings, rows, words=("and",), spare=spare)
    return Group(on_terminal(table), *(f"{', '.join(_stems(barrier))}: {barrier.verdict}" for barrier in found))


def _stems(barrier: Barrier) -> list[str]:
    return [Path(file).stem for file in (barrier.denser, barrier.sparser)]


def _pool_table(findings: Sequence[Finding]) -> Table:
    folders = {str(Path(f.summary.file).parent) for f in findings}
    title = "one file" if len(findings) == 1 else f"{len(findings)} tickets, densest first"
    in_one, beside = len(folders) == 1, ["nested", "overlap", "L2"] if len(findings) > 1 else []
    return Table(
        f"{title} ({folders.pop()})" if in_one else title,
        ["file", "level", "sparsity", "kept / total", *beside, "mask from"],
        [_pool_row(finding, in_one=in_one, alone=not beside) for finding in findings],
        spare=("mask from", "L2", "kept / total", "overlap", "nested", "level"),
    )


def _pool_row(finding: Finding, *, in_one: bool, alone: bool) -> list[str]:
    summary, near, names = finding.summary, finding.neighbours, finding.prunable
    compared = (
        ["yes" if near.nested else "no", percent(near.overlap), f"{near.distance:.3f}"] if near else [NOTHING] * 3
    )
    return [
        Path(summary.file).name if in_one else summary.file,
        NOTHING if summary.metadata.level is None else str(summary.metadata.level),
        percent(1 - finding.density),
        f"{summary.kept(names):,} / {summary.size(names):,}",
        *([] if alone else compared),
        summary.mask_source,
    ]


def _layer_table(finding: Finding) -> Table:
    rows = [[name, "×".join(map(str, shape)), percent(sparse)] for name, shape, sparse in finding.layers]
    caption = f"prunable tensors ({finding.parameters:,} parameters in the file)"
    return Table(caption, ["layer", "shape", "sparsity"], rows, spare=("shape",))


def _pooled_tables(metadata: Metadata) -> list[Table]:
    """Members and scores from the header; a header written by another program may lack any of it."""
    members = [asdict(member) | {"file": member.file and one_line(member.file)} for member in metadata.search.members]
    found = {name: {part: _score(metadata.score(part, row)) for part in PARTS} for row, name in ROWS.items()}
    pooled = [tables.candidates(f"pooled by {one_line(str(metadata.search.method))}", members)]
    return [
        *pooled * (not metadata.search.is_control),
        tables.scores("scores in the header", {n: s for n, s in found.items() if any(s.values())}, ["accuracy"]),
    ]


def _score(found: SavedScore | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)
