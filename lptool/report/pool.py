"""What a person or a program reads of a pooled model: tables and the JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Group, RenderableType

from lptool.checkpoints.header import ROWS
from lptool.checkpoints.places import is_folder
from lptool.pooling.comparisons import References
from lptool.pooling.outcome import SearchTrace, Step
from lptool.pooling.outputs import evaluations_at_most
from lptool.pooling.result import PoolResult
from lptool.pooling.setup import Bench
from lptool.pooling.verdict import combined, sentence, warnings_of
from lptool.provenance import arch_name, command_line, data_name, versions
from lptool.report import tables
from lptool.report.convert import how_to_load, in_units, sizes_line
from lptool.report.tables import PARTS, Document
from lptool.report.terminal import on_terminal, whole_line
from lptool.scoring.score import Score
from lptool.tables import percent


def pool_document(result: PoolResult, references: References | None = None) -> Document:
    """The `--json` document of one pooled model."""
    trace, made = result.trace, result.metadata.trace
    return {
        "output": str(result.output),
        "sha256": result.sha256,
        "form": asdict(result.form),
        "bytes": {"written": result.written, **asdict(result.sizes)},
        "control": result.control and asdict(result.control) | {"output": str(result.control.output)},
        "rounded": result.rounded and result.rounded.to_json(),
        "dataset": data_name(result.metadata.data.name),
        "arch": arch_name(result.metadata.arch or ""),
        "arch_kwargs": result.metadata.arch_kwargs,
        "normalisation": tables.normalisation(result.metadata.data.mean, result.metadata.data.std),
        "tickets": [member.sha256 for member in result.members],
        "options": result.options,
        "method": trace.method,
        "chosen": trace.chosen,
        "target": asdict(result.members[trace.target]),
        "sparsity": result.sparsity,
        "members": [_step_document(result, step) for step in trace.steps],
        "improved": result.improved,
        "shipped": result.shipped,
        "evaluations": trace.evaluations,
        "not_finite": trace.not_finite,
        "seconds": round(result.seconds, 3),
        "val": _scores(result.val),
        "test": _scores(result.test),
        "verdict": asdict(result.verdict),
        "warnings": [*result.warnings, *warnings_of(result.verdict)],
        "comparisons": _comparisons_document(result),
        "select": made["select"],
        "passes": made["passes"],
        "bn_images": made["bn_images"],
        "search": _search_document(result),
        "coefficients": _coefficients_document(result),
        "settings": dict(trace.settings),
        "fits": [fit.to_json() for fit in trace.fits],
        "methods": _methods_document(result),
        "references": references and _references_document(result, references),
        "layers": [asdict(layer) for layer in result.layers],
        "device": result.device,
        "threads": result.threads,
        "command": command_line(),
        "versions": versions(),
    }


def _step_document(result: PoolResult, step: Step) -> Document:
    member = result.members[step.candidate]
    return {"file": member.file, "level": member.level, "alpha": step.alpha, "accepted": step.accepted}


def _search_document(result: PoolResult) -> Document:
    """Every step with every attempt: those cut short say how far they were scored."""
    trace = result.trace
    steps = [
        {
            "pass": step.number,
            **_step_document(result, step),
            "attempts": [{"alpha": a, **score.to_json(), "complete": score.complete} for a, score in step.attempts],
        }
        for step in trace.steps
    ]
    return {"alphas": list(trace.alphas), "start": trace.start.to_json(), "steps": steps}


def _coefficients_document(result: PoolResult) -> Document | None:
    found, levels = result.trace.coefficients, [member.level for member in result.members]
    if found is None:
        return None
    return {"groups": list(found.groups), "members": levels, "values": [list(row) for row in found.values]}


def _methods_document(result: PoolResult) -> Document:
    """Of each method its score on val as the search saw it; of the one asked for the finished scores."""
    trace = result.trace
    documents: Document = {m: {"val": s.to_json(), "test": None} for m, s in trace.outcomes.items()}
    written = {"val": result.val["pooled"].to_json(), "test": result.test["pooled"].to_json()}
    return documents | {trace.method: written}


def _references_document(result: PoolResult, found: References) -> Document:
    members = [
        asdict(member) | {part: score.to_json() for part, score in scores.items()}
        for member, scores in zip(result.members, found.members, strict=True)
    ]
    return {"ensemble": {part: score.to_json() for part, score in found.ensemble.items()}, "members": members}


def _comparisons_document(result: PoolResult) -> list[Document]:
    """The pooled model against each control on test; `gain` is in accuracy, `p` of the exact McNemar test."""
    n = result.test["pooled"].n
    return [
        {
            "a": "pooled",
            "b": control,
            **asdict(found),
            "n": n,
            "gain": (found.a_only - found.b_only) / n,
            "verdict": found.verdict,
        }
        for control, found in result.against.items()
    ]


def _scores(scores: dict[str, Score]) -> Document:
    return {row: scores[row].to_json() if row in scores else None for row in ROWS}


def plan_document(
    bench: Bench, targets: Sequence[int], outputs: Sequence[Path], controls: Sequence[Path | None]
) -> Document:
    """What `pool --dry-run` says would be done."""
    files = [summary.file for summary in bench.pool.summaries]
    places = [
        {"file": files[target], "output": str(output), **({"control": str(control)} if control else {})}
        for target, output, control in zip(targets, outputs, controls, strict=True)
    ]
    return {
        "pool": files,
        "targets": places,
        "method": bench.options.method,
        "evaluations_at_most": len(targets) * evaluations_at_most(bench.options, len(bench.pool)),
    }


def pool_view(result: PoolResult) -> RenderableType:
    """The result of one search for a person: scores, members, the file and how to load it."""
    trace = result.trace
    target = f"level {result.members[trace.target].level}, {percent(result.sparsity)} sparse"
    rows = _rows_of({"val": _scores(result.val), "test": _scores(result.test)})
    measured = {name: found for name, found in rows.items() if found["val"]}
    scores = tables.scores(f"{_method(trace)} → {target}", measured, ["accuracy", "NLL"])
    lines = [sentence(result.verdict, result.shipped), *(f"warning: {line}" for line in warnings_of(result.verdict))]
    lines += [
        *tables.measured_on(result.metadata.trace["bn_images"], result.val.get("ticket_bn"), result.shipped),
        *_made_of(result),
    ]
    if trace.not_finite:
        lines.append(f"{trace.not_finite} mixes had scores that are not finite, and were rejected")
    if result.rounded is not None:
        kept = f"with weights kept as {result.form.values} the test accuracy is {percent(result.rounded.accuracy)}"
        lines.append(f"{kept}, before {percent(result.test['pooled'].accuracy)}")
    wrote = f"wrote {result.output} ({in_units(result.written)}, {_name(result)}), {percent(result.sparsity)} sparse"
    load = how_to_load(result.metadata, result.output, kind=_kind(result), plain_names=result.plain_names)
    written: tuple[RenderableType, ...] = (
        whole_line(wrote),
        sizes_line(result.sizes),
        *_beside(result),
        whole_line(load),
    )
    return Group(on_terminal(scores, numbers="left"), *lines, *written)


def _beside(result: PoolResult) -> list[str]:
    """The control that was written too, and how to compare with it; how to get it where it is the better model."""
    if result.control is None:
        worse = result.verdict.word == "hurt" and result.verdict.against == "ticket_bn"
        return ["the same command with --control FILE also writes 'ticket + BN'"] * worse
    found = result.control
    return [
        f"wrote {found.output} ({ROWS[found.holds]}, sha256 {found.sha256[:16]}…), for `lptool evaluate` to compare"
    ]


def _kind(result: PoolResult) -> str:
    return "packed" if result.form.packed else "folder" if is_folder(result.output) else "dense"


def _name(result: PoolResult) -> str:
    """The beginning of the file's sha256; and on the CPU the number of threads, on which it depends."""
    count = result.threads
    return f"sha256 {result.sha256[:16]}…" + (f", {count} thread{'s' * (count > 1)}" if count else "")


def _method(trace: SearchTrace) -> str:
    return trace.method if trace.chosen == trace.method else f"{trace.method} ({trace.chosen})"


def _made_of(result: PoolResult) -> list[str]:
    """What the output is made of, in a line; of a control that was written why, where a mix had been accepted."""
    if result.improved:
        return [_mixed(result)]
    accepted = len(result.trace.accepted)
    return [f"the search accepted {accepted}, but the model made of them is no better on val"] if accepted else []


def _mixed(result: PoolResult) -> str:
    accepted = len(result.trace.accepted)
    coefficients = result.trace.coefficients
    if result.trace.fits:
        fitted = sum(fit.ridge is not None for fit in result.trace.fits)
        settings, count = result.trace.settings, len(result.members)
        begin = f"the mean with ratio {settings['window']:g}" if "window" in settings else "the target"
        taught = f"the mean activations of {count} tickets (ratio {settings['teacher']:g})"
        return f"fitted {fitted} layers of {begin} to {taught}"
    if coefficients and len(coefficients.groups) > 1:
        return f"mixed {len(result.members)} tickets with a coefficient for each of {len(coefficients.groups)} groups"
    if coefficients:
        shares = ", ".join(f"{value:.2f}" for value in coefficients.values[0])
        return f"mixed {len(result.members)} tickets with the coefficients {shares}, in the order of their levels"
    steps = ", ".join(f"level {result.members[s.candidate].level} (alpha {s.alpha:.3g})" for s in result.trace.accepted)
    return f"accepted {accepted} of {len(result.trace.steps)} candidates: {steps}"


def summary_view(document: Document) -> RenderableType:
    """One row per target, and all of them together, for `--target all`."""
    runs = document["targets"]
    scores = tables.targets(f"{runs[0]['method']}, accuracy on val / test", runs, _rows_of)
    return Group(on_terminal(scores), on_terminal(tables.verdicts(runs)), tables.together(document["combined"]))


def _rows_of(run: Document) -> dict[str, Document]:
    """Name → scores on val and test."""
    return {name: {part: run[part][row] for part in PARTS} for row, name in ROWS.items()}


def all_targets_document(results: Sequence[PoolResult], references: References | None = None) -> Document:
    """The `--json` document of `--target all`: what all have in common stands once."""
    documents = [pool_document(result, references) for result in results]
    together = {"combined": asdict(combined([result.gains for result in results]))}
    return {"targets": documents, **together, **{key: documents[0][key] for key in ("command", "versions", "device")}}


def references_view(document: Document) -> RenderableType:
    """Each ticket of the pool and the ensemble of them all, for a person."""
    return on_terminal(tables.references(document["references"], ["accuracy"]), numbers="left")
