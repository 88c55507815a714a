"""The page of `pool`: what the search gained, how it went, and every number, from the `--json` document alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lptool.checkpoints.header import CONTROLS, ROWS, VERDICTS, verdict_in
from lptool.pooling.verdict import sentence
from lptool.report import tables
from lptool.report.html import charts, maps
from lptool.report.html.charts import Series
from lptool.report.html.drawing import Label, looks
from lptool.report.html.page import Figure, Tables, drawn, made_by, render
from lptool.report.tables import FULL, PARTS, Document, alpha_name, number
from lptool.scoring.metrics import wilson_interval
from lptool.tables import Table, percent, points


def pool_page(document: Document) -> str:
    """One self-contained HTML file for the `--json` document of `pool`, of one target or `{"targets": […]}`."""
    runs = document.get("targets", [document])
    measured, together = references_of(runs), document.get("combined")
    references = [tables.references(measured, FULL)] if measured else []
    common = common_warnings(runs)
    return render(
        "pool.html.j2",
        title=headline(runs, together),
        overview=overview(runs, together),
        targets=[_parts(run, f"target-{place}-", common) for place, run in enumerate(runs)],
        warnings=common,
        by_target=Tables([target_table(runs), *verdict_table(runs), *references]),
        references=Tables(references),
        **made_by(runs[0] | document),
    )


def _parts(run: Document, prefix: str, common: Sequence[str]) -> dict[str, Any]:
    """What the template shows of one target; `prefix` keeps the ids of its figures apart, `common` is said above."""
    return {
        "run": run,
        "headline": headline([run]),
        "measured_on": tables.measured_on(run.get("bn_images"), run["val"].get("ticket_bn"), run["shipped"]),
        "warnings": [line for line in warnings_of(run) if line not in common],
        "numbers": numbers_of(run),
        "figures": list(figures_of(run, prefix)),
        "candidates": candidates_of(run),
        "has_map": bool(maps.steps_of(run)),
        "tables": list(tables_of(run)),
    }


# What the document says


def candidates_of(run: Document) -> str:
    """How many were accepted where they were tried one by one, else how many were used."""
    taken, of = sum(bool(member["accepted"]) for member in run["members"]), len(run["members"])
    one_by_one = bool(maps.steps_of(run)) or taken < of
    return f"{taken} of {of} candidates {'accepted' if one_by_one else 'used, all at once'}"


def headline(runs: Sequence[Document], together: Document | None = None) -> str:
    """The result in one sentence, also where it is that nothing was gained; `together` is that over all targets."""
    return _headline_of_one(runs[0]) if len(runs) == 1 else _headline_of_many(runs, together)


def _headline_of_one(run: Document) -> str:
    reached = (
        f"{run['method']}: {percent(run['test']['pooled']['accuracy'])} on test at {percent(run['sparsity'])} sparsity"
    )
    verdict = verdict_in(run.get("verdict"))
    return f"{reached}; {sentence(verdict, run['shipped'])}" if verdict else reached


def _headline_of_many(runs: Sequence[Document], together: Document | None) -> str:
    words = [verdict.word for run in runs if (verdict := verdict_in(run.get("verdict")))]
    counts = ", ".join(f"{word} at {words.count(word)}" for word in VERDICTS)
    names = ", ".join(dict.fromkeys(run["method"] for run in runs))
    text = f"{names}: of {len(runs)} targets pooling {counts}"
    return f"{text}; {tables.together(together)}" if together else text


def controls_of(scores: Document) -> list[str]:
    """What the output is measured against; a network without BatchNorm has one control."""
    return [row for row in CONTROLS if scores.get(row)]


def _all_controls(runs: Sequence[Document]) -> str:
    return " and ".join(ROWS[row] for row in CONTROLS if any(run["test"].get(row) for run in runs))


def stronger(run: Document) -> str:
    """The control that is better on val, as the verdict has it; of an older document by its accuracy there."""
    verdict = verdict_in(run.get("verdict"))
    return verdict.against if verdict else max(controls_of(run["val"]), key=lambda row: run["val"][row]["accuracy"])


def gain_of(run: Document, part: str) -> float:
    """Accuracy of the output minus that of the stronger control, on `val` or `test`."""
    return float(run[part]["pooled"]["accuracy"]) - float(run[part][stronger(run)]["accuracy"])


def methods_of(run: Document) -> dict[str, Document]:
    """Scores of each method tried, and of the output: under its method's name, unless that reached other scores."""
    methods = {name: dict(found) for name, found in (run.get("methods") or {}).items()}
    written = {part: run[part]["pooled"] for part in PARTS}
    own = methods.setdefault(run["method"], written)
    return methods if own == written else methods | {"output": written}


def rows_of(run: Document) -> dict[str, Document]:
    """Name → scores on val and test, of the controls and then the methods."""
    controls = {ROWS[row]: {part: run[part][row] for part in PARTS} for row in controls_of(run["val"])}
    return controls | methods_of(run)


def numbers_of(run: Document) -> dict[str, Document]:
    """The few scores that most readers come for: those on test, and the dense ticket's."""
    dense = [("dense", member) for member in members_of([run]) if member["sparsity"] == 0]
    return {name: scores for name, scores in [*rows_of(run).items(), *dense[:1]] if scores["test"]}


def references_of(runs: Sequence[Document]) -> Document | None:
    """What the tickets reach each alone and all together, where it was measured; all targets share it."""
    return next((run["references"] for run in runs if run.get("references")), None)


def members_of(runs: Sequence[Document]) -> list[Document]:
    """The pool's tickets that have scores of their own."""
    found = references_of(runs)
    return [member for member in found["members"] if member["test"]] if found else []


def curve_of(runs: Sequence[Document]) -> tuple[list[Series], dict[str, float]]:
    """Test accuracy over density of each name, and the dense line and the ensemble's."""
    tickets = {m["file"]: (1 - m["sparsity"], m["test"]["accuracy"]) for m in members_of(runs)}
    targets = [(run["target"], run["test"]["ticket"]) for run in runs]
    tickets |= {t["file"]: (1 - t["sparsity"], score["accuracy"]) for t, score in targets if score}
    found = {"ticket": list(tickets.values())}
    for run in runs:
        for name, scores in rows_of(run).items():
            if name != "ticket" and scores["test"]:
                found.setdefault(name, []).append((1 - run["sparsity"], scores["test"]["accuracy"]))
    dense = [accuracy for density, accuracy in tickets.values() if density == 1]
    lines = {"dense": dense[0]} if dense else {}
    measured = references_of(runs)
    if measured and measured["ensemble"]["test"]:
        lines[f"ensemble of {len(measured['members'])}"] = measured["ensemble"]["test"]["accuracy"]
    return [Series(name, some) for name, some in found.items()], lines


def pairs_of(runs: Sequence[Document]) -> list[Series]:
    """Val and test accuracy of each name."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        for name, scores in rows_of(run).items():
            if scores["test"]:
                pairs.setdefault(name, []).append((scores["val"]["accuracy"], scores["test"]["accuracy"]))
    return [Series(name, found) for name, found in pairs.items()]


def common_warnings(runs: Sequence[Document]) -> list[str]:
    """The warnings that several targets all have, as those about the pool; a single target has its own."""
    first, *others = (list(run.get("warnings") or []) for run in runs)
    return [line for line in first if all(line in other for other in others)] if others else []


def warnings_of(run: Document) -> list[str]:
    """What a reader must not overlook."""
    found = list(run.get("warnings") or [])
    val, test = (gain_of(run, part) for part in PARTS)
    if val > 0 > test:
        found.append(
            f"On val, where it was chosen, the output gains {points(val)} points over {ROWS[stronger(run)]}; "
            f"on test it does not ({points(test)} points)."
        )
    if run.get("not_finite"):
        found.append(f"{run['not_finite']} mixes had scores that are not finite, and were rejected.")
    return found


# Figures, with captions that say what to look for


def overview(runs: Sequence[Document], together: Document | None = None) -> list[Figure]:
    """The two figures that all targets share."""
    (series, lines), pairs = curve_of(runs), pairs_of(runs)
    style = looks([one.name for one in (*pairs, *series)])
    control = ROWS["ticket_bn"] if runs[0]["test"].get("ticket_bn") else "the ticket"
    dense = f" The dense network has {percent(lines['dense'])}." if "dense" in lines else ""
    caption = f"Look for marks above {control}: only what lies above is gained by pooling.{dense}"
    curve = Label("curve", "Accuracy against density", f"{headline(runs, together)}. {caption}")
    gap = Label("val-test", "Val against test", gap_caption(runs))
    return [
        drawn(curve, charts.curve(curve, series, style, lines), caption),
        drawn(gap, charts.val_test(gap, pairs, style)),
    ]


def gap_caption(runs: Sequence[Document]) -> str:
    """How to read val against test, and how well an accuracy is known that was counted on so many images."""
    mean = ", on average" if len(runs) > 1 else ""
    n, p = runs[0]["test"]["pooled"]["n"], runs[0]["test"]["pooled"]["accuracy"]
    low, high = wilson_interval(round(p * n), n)
    return (
        f"In brackets test minus val, in points{mean}. A mark far below the diagonal was flattered by choosing on val. "
        f"Counted on {n:,} images, {percent(p)} may be anything from {percent(low)} to {percent(high)} (95 %)."
    )


def figures_of(run: Document, prefix: str = "") -> Iterator[Figure]:
    """The search, the layers, their fit, and coefficients, as far as there are any. `prefix` keeps ids apart."""
    if maps.steps_of(run):
        quantity = "NLL" if maps.chosen_by(run) == "nll" else "accuracy, %"
        yield Figure(f"The search, scored on val ({quantity})", maps.search_caption(run), maps.search_map(run))
    layers = [(layer["name"], layer["before"], layer["after"]) for layer in run.get("layers") or []]
    if layers:
        label = Label(f"{prefix}layers", "Density of each layer", layer_caption(layers))
        yield drawn(label, charts.before_after(label, layers, "density of the layer, %"))
    fits = [(f["name"], f["before"], f["after"]) for f in run.get("fits") or [] if f["after"] is not None]
    if fits:
        label = Label(f"{prefix}fits", "How nearly each layer gives what the tickets give on average", FIT_CAPTION)
        yield drawn(label, charts.before_after(label, fits, "squared error, % of the variance of their mean"))
    if found := run.get("coefficients"):
        values = [value for row in found["values"] for value in row]
        reach = f", from {alpha_name(min(values))} to {alpha_name(max(values))}" if len({*values}) > 1 else ""
        into, look = ("the weights", "") if len(found["values"]) == 1 else ("each group of weights", _UNLIKE)
        caption = f"How much of each ticket went into {into}{reach}.{look}"
        if run.get("fits"):
            caption = f"How much of each ticket's activations went into the mean that layers were fitted to{reach}."
        yield Figure("Coefficients", caption, maps.coefficient_map(found))


_UNLIKE = " Look for rows unlike the others."
FIT_CAPTION = "Hollow with the weights to begin with, filled with those fitted. Look for layers that hardly moved."


def layer_caption(layers: Sequence[tuple[str, float, float]]) -> str:
    """The layers whose share grew and shrank most."""
    ends = {pick(layers, key=lambda layer: layer[2] - layer[1]) for pick in (max, min)}
    moved = [f"{name} {percent(before)} → {percent(after)}" for name, before, after in sorted(ends) if before != after]
    changes = f"the largest changes: {'; '.join(moved)}" if moved else "no layer's share changed"
    return f"Hollow before pooling, filled after: the same number of weights, {changes}."


# Tables


def target_table(runs: Sequence[Document]) -> Table:
    """A row for each target, with what was gained there."""
    controls = _all_controls(runs)
    stronger_of = "the better of " * (" and " in controls)
    caption = f"accuracy on val / test by target; the gain is in points over {stronger_of}{controls} on val"
    gains = [points(gain_of(run, "test")) for run in runs]
    return tables.targets(caption, runs, rows_of).plus("gain on test", gains)


def verdict_table(runs: Sequence[Document]) -> list[Table]:
    """Of each target whether pooling helped; none of older documents, which do not say."""
    return [tables.verdicts(runs)] if all(verdict_in(run.get("verdict")) for run in runs) else []


def tables_of(run: Document) -> Iterator[Tables]:
    """Scores, steps and attempts, layers, and the file written."""
    search = run.get("search")
    steps = search["steps"] if search else run["members"]
    taken = tables.candidates("candidates", steps)
    if search:
        start = f"{percent(search['start']['accuracy'])}, NLL {number(search['start']['nll'])}"
        order = "candidates in the order of the search" if maps.steps_of(run) else "candidates, used at once"
        caption = f"{order}; as the search saw it, the incumbent began at {start}"
        taken = replace(taken, caption=caption).plus("pass", [str(step["pass"]) for step in steps])
    yield Tables([tables.scores("scores", rows_of(run), FULL), taken])
    if any(step.get("attempts") for step in steps):
        accuracy = maps.attempt_table("accuracy on val by alpha", steps, maps.accuracy_of)
        nll = maps.attempt_table(
            "NLL on val by alpha", steps, lambda a: number(a["nll"]) if a["complete"] else "cut short"
        )
        yield Tables([accuracy, nll], "All attempts")
    if layers := run.get("layers"):
        yield Tables([_layer_table(layers)], f"All {len(layers)} layers")
    yield Tables([_file_table(run)])


def _layer_table(layers: Sequence[Document]) -> Table:
    rows = [
        [layer["name"], "×".join(map(str, layer["shape"])), percent(layer["before"]), percent(layer["after"])]
        for layer in layers
    ]
    return Table("density of each layer", ["layer", "shape", "before", "after"], rows)


def _file_table(run: Document) -> Table:
    rows = [("output", run["output"]), ("sha256", run["sha256"]), ("target", run["target"]["file"])]
    rows += [(key, str(run[key])) for key in ("select", "passes", "shipped") if key in run]
    return Table("the file written, and by which rules", ("", ""), rows, words=("",))
