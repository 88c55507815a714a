"""What a person or a program reads of a result: rich tables and JSON documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table

from lptool.evaluate import Score
from lptool.inspection import Finding, Inspection
from lptool.provenance import command_line, versions

if TYPE_CHECKING:  # their networks and images take seconds to import, and `inspect` needs none
    from lptool.barrier import Barrier
    from lptool.bench import Bench
    from lptool.pipeline import PoolResult
    from lptool.references import References
    from lptool.search import SearchTrace

ROWS = {"ticket": "ticket", "ticket_bn": "ticket + BN", "pooled": "pooled"}


def percent(fraction: float) -> str:
    """A fraction as a person reads it."""
    return f"{100 * fraction:.2f} %"


def pool_document(result: PoolResult, references: References | None = None) -> dict[str, Any]:
    """The `--json` document of one pooled model."""
    trace, made = result.trace, result.metadata.trace
    return {
        "output": str(result.output),
        "sha256": result.sha256,
        "method": trace.method,
        "chosen": trace.chosen,
        "target": {
            "file": result.files[trace.target],
            "level": result.levels[trace.target],
            "sparsity": result.target_sparsity,
        },
        "sparsity": result.sparsity,
        "members": [
            {
                "file": result.files[step.candidate],
                "level": result.levels[step.candidate],
                "alpha": step.alpha,
                "accepted": step.accepted,
            }
            for step in trace.steps
        ],
        "improved": result.improved,
        "shipped": result.shipped,
        "evaluations": trace.evaluations,
        "not_finite": trace.not_finite,
        "seconds": round(result.seconds, 3),
        "val": _scores(result.val),
        "test": _scores(result.test),
        "select": made["select"],
        "folds": made["folds"],
        "passes": max((step.number for step in trace.steps), default=1),
        "search": _search_document(result),
        "coefficients": _coefficients_document(result),
        "methods": _methods_document(result),
        "references": references and _references_document(result, references),
        "layers": [asdict(layer) for layer in result.layers],
        "device": result.device,
        "command": command_line(),
        "versions": versions(),
    }


def _search_document(result: PoolResult) -> dict[str, Any]:
    """Every step with every attempt: those cut short say how far they were scored."""
    trace = result.trace
    steps = [
        {
            "pass": step.number,
            "file": result.files[step.candidate],
            "level": result.levels[step.candidate],
            "alpha": step.alpha,
            "accepted": step.accepted,
            "attempts": [{"alpha": a, **score.to_json(), "complete": score.complete} for a, score in step.attempts],
        }
        for step in trace.steps
    ]
    return {"alphas": list(trace.alphas), "start": trace.start.to_json(), "steps": steps}


def _coefficients_document(result: PoolResult) -> dict[str, Any] | None:
    found = result.trace.coefficients
    if found is None:
        return None
    return {"groups": list(found.groups), "members": list(result.levels), "values": [list(row) for row in found.values]}


def _methods_document(result: PoolResult) -> dict[str, Any]:
    """Of each method its score on val as the search saw it; of the one asked for the finished scores."""
    trace = result.trace
    documents: dict[str, Any] = {m: {"val": s.to_json(), "test": None} for m, s in trace.outcomes.items()}
    written = {"val": result.val["pooled"].to_json(), "test": result.test["pooled"].to_json()}
    return documents | {trace.method: written}


def _references_document(result: PoolResult, found: References) -> dict[str, Any]:
    names = [
        {"file": file, "level": level, "sparsity": sparsity}
        for file, level, sparsity in zip(result.files, result.levels, result.sparsities, strict=True)
    ]
    return {
        "ensemble": {part: score.to_json() for part, score in found.ensemble.items()},
        "members": [
            name | {part: score.to_json() for part, score in member.items()}
            for name, member in zip(names, found.members, strict=True)
        ],
    }


def _scores(scores: dict[str, Score]) -> dict[str, Any]:
    return {row: scores[row].to_json() if row in scores else None for row in ROWS}


def plan_document(bench: Bench, targets: Sequence[int], outputs: Sequence[Path], evaluations: int) -> dict[str, Any]:
    """What `pool --dry-run` says would be done."""
    files = [summary.file for summary in bench.pool.summaries]
    return {
        "pool": files,
        "targets": [{"file": files[t], "output": str(o)} for t, o in zip(targets, outputs, strict=True)],
        "method": bench.options.method,
        "evaluations_at_most": len(targets) * evaluations,
    }


def pool_view(result: PoolResult) -> RenderableType:
    """The result of one search for a person: scores, members, the file and how to load it."""
    trace = result.trace
    target = f"level {result.levels[trace.target]}, {percent(result.sparsity)} sparse"
    scores = Table("", "val accuracy", "val NLL", "test accuracy", "test NLL", title=f"{_method(trace)} → {target}")
    for row, label in ROWS.items():
        if row in result.val:
            parts = (result.val[row], result.test[row])
            scores.add_row(label, *(cell for s in parts for cell in (percent(s.accuracy), f"{s.nll:.4f}")))
    lines = [_verdict(result)]
    if trace.not_finite:
        lines.append(f"{trace.not_finite} mixes had scores that are not finite, and were rejected")
    lines += [f"wrote {result.output} (sha256 {result.sha256[:16]}…)", *_how_to_load(result)]
    return Group(scores, *lines)


def _method(trace: SearchTrace) -> str:
    return trace.method if trace.chosen == trace.method else f"{trace.method} ({trace.chosen})"


def _verdict(result: PoolResult) -> str:
    accepted = len(result.trace.accepted)
    if accepted and not result.improved:
        return (
            f"no candidate improved: {accepted} accepted, but with BatchNorm recalibrated on all of the training set "
            f"{ROWS[result.shipped]!r} scores better on val, so that is the output"
        )
    if not result.improved:
        return "no candidate improved; the output is the incumbent that the search started from"
    coefficients = result.trace.coefficients
    if coefficients:
        return f"mixed {len(result.files)} tickets with the coefficients learned for {len(coefficients.groups)} groups"
    steps = ", ".join(f"level {result.levels[s.candidate]} (alpha {s.alpha:g})" for s in result.trace.accepted)
    return f"accepted {len(result.trace.accepted)} of {len(result.trace.steps)} candidates: {steps}"


def _how_to_load(result: PoolResult) -> list[str]:
    """One line of Python; networks that are ours have to be registered with timm before."""
    from lptool.networks import OWN_ARCHS

    metadata, path = result.metadata, str(result.output)
    if metadata.arch is None or ":" in metadata.arch or not result.plain_names:
        return [f"load it: model.load_state_dict(safetensors.torch.load_file({path!r}))"]
    arguments = "".join(f", {name}={value!r}" for name, value in metadata.arch_kwargs.items())
    first = "import lptool.networks; " if metadata.arch in OWN_ARCHS else ""
    return [f"load it: {first}timm.create_model({metadata.arch!r}{arguments}, checkpoint_path={path!r})"]


def summary_view(results: Sequence[PoolResult]) -> RenderableType:
    """One row per target, for `--target all`."""
    table = Table("level", "density", title=f"{results[0].trace.method}, accuracy on val / test")
    for label in (*ROWS.values(), "members"):
        table.add_column(label, justify="right")
    for result in results:
        table.add_row(
            str(result.levels[result.trace.target]),
            percent(1 - result.sparsity),
            *(_both(result, row) for row in ROWS),
            str(len(result.trace.accepted)) if result.improved else "none improved",
        )
    return table


def _both(result: PoolResult, row: str) -> str:
    if row not in result.val:
        return "–"
    return f"{percent(result.val[row].accuracy)} / {percent(result.test[row].accuracy)}"


def all_targets_document(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The `--json` document of `--target all`: what all have in common is told once."""
    common = {key: documents[0][key] for key in ("command", "versions", "device")}
    return {"targets": list(documents), **common}


def references_view(result: PoolResult, found: References) -> RenderableType:
    """Each ticket of the pool and the ensemble of them all: not chosen from, and no single model at this sparsity."""
    table = Table("reference", "density", "val accuracy", "test accuracy", title="references, reported only")
    names = [f"level {level}" for level in result.levels]
    rows = zip(names, result.sparsities, found.members, strict=True)
    for name, sparsity, scores in rows:
        table.add_row(name, percent(1 - sparsity), *(percent(scores[part].accuracy) for part in ("val", "test")))
    ensemble = (percent(found.ensemble[part].accuracy) for part in ("val", "test"))
    table.add_row(f"ensemble of {len(names)}", f"{len(names)} models", *ensemble)
    return table


def inspect_document(inspection: Inspection) -> dict[str, Any]:
    """The `--json` document of `inspect`."""
    return {
        "tickets": [_finding_document(finding) for finding in inspection.findings],
        "pool": {
            "aligned": not inspection.problems,
            "problems": list(inspection.problems),
            "warnings": list(inspection.oddities),
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
    parts += [f"warning: {warning}" for warning in inspection.oddities]
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
    for finding in findings:
        summary, near = finding.summary, finding.neighbours
        kept, total = summary.kept(), summary.size()
        compared = (
            ("yes" if near.nested else "no", f"{near.overlap:.1%}", f"{near.distance:.3f}") if near else ("–",) * 3
        )
        level = "–" if summary.metadata.level is None else str(summary.metadata.level)
        table.add_row(
            shown(summary.file),
            level,
            f"{1 - summary.density():.2%}",
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
    trace, scores = finding.summary.metadata.trace, finding.summary.metadata.scores
    members = Table("member", "level", "alpha", "accepted", title=f"pooled by {trace.get('method')}")
    for member in trace.get("members", []):
        cells = [member.get(key) for key in ("file", "level", "alpha")]
        accepted = "yes" if member.get("accepted") else "no"
        members.add_row(*("–" if c is None else f"{c:g}" if isinstance(c, float) else str(c) for c in cells), accepted)
    table = Table("", "val accuracy", "test accuracy", title="scores in the header")
    for row, label in ROWS.items():
        cells = [scores.get(part, {}).get(row) for part in ("val", "test")]
        if any(cells):
            table.add_row(label, *(percent(cell["accuracy"]) if cell else "–" for cell in cells))
    return [members, table]


def to_json(document: dict[str, Any]) -> str:
    """One JSON document, as `--json` prints it."""
    return json.dumps(document, indent=1)
