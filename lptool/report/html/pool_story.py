"""What a `pool` document says: its rows, its gains, the path of its search, and the sentences about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lptool.report.html.charts import Series
from lptool.report.html.heatmaps import Row, Try
from lptool.report.html.wording import among, chance, name_of, over, percent, points

Document = dict[str, Any]


def headline(runs: Sequence[Document]) -> str:
    """The result in one sentence, also where it is that nothing was gained."""
    return _headline_of_one(runs[0]) if len(runs) == 1 else _headline_of_many(runs)


def _headline_of_one(run: Document) -> str:
    test, at = run["test"], f"on test at {percent(run['sparsity'])} sparsity"
    reached = f"{percent(test['pooled']['accuracy'])} {at}"
    if not run["improved"]:
        output = {"ticket": "the ticket as it was", "ticket_bn": "ticket + BN"}.get(run["shipped"], "the incumbent")
        return f"{run['method']}: no candidate improved the ticket; the output is {output}, {reached}"
    against = [over(gain_of(test, row), name) for row, name in controls_of(test).items()]
    return f"{run['method']}: {reached}, {', '.join(against)}"


def _headline_of_many(runs: Sequence[Document]) -> str:
    gains = [gain_of(run["test"], stronger(run["test"])) for run in runs]
    better, worse = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
    best = max(range(len(runs)), key=lambda i: gains[i])
    names = among([run["method"] for run in runs])
    text = f"{names}: better on test than ticket and ticket + BN for {better} of {len(runs)} targets"
    text += f", worse for {worse}" if worse else ""
    if better:
        kept = percent(1 - runs[best]["sparsity"])
        text += f"; most at {kept} of the weights, {points(gains[best])} points"
    return text


def controls_of(scores: Document) -> dict[str, str]:
    """What the output is measured against: row → name."""
    names = {"ticket": "the ticket", "ticket_bn": "ticket + BN"}
    return {row: name for row, name in names.items() if scores.get(row)}


def stronger(scores: Document) -> str:
    """The better of the two controls."""
    return max(controls_of(scores), key=lambda row: float(scores[row]["accuracy"]))


def gain_of(scores: Document, row: str) -> float:
    """Accuracy of the output minus that of a control."""
    return float(scores["pooled"]["accuracy"]) - float(scores[row]["accuracy"])


def methods_of(run: Document) -> dict[str, Document]:
    """Scores of each method tried, and of the output: under its method's name, unless that reached other scores."""
    methods = {name: dict(found) for name, found in (run.get("methods") or {}).items()}
    written = {part: run[part]["pooled"] for part in ("val", "test")}
    own = methods.setdefault(run["method"], written)
    return methods if own == written else methods | {"output": written}


def rows_of(run: Document) -> dict[str, Document]:
    """Name → scores on val and test, of the controls and then the methods; a control that there is not, left out."""
    names = {"ticket": "ticket", "ticket_bn": "ticket + BN"}
    controls = {names[row]: {part: run[part][row] for part in ("val", "test")} for row in controls_of(run["val"])}
    return controls | methods_of(run)


def members_of(runs: Sequence[Document]) -> list[Document]:
    """The pool's tickets with scores of their own, where they were measured."""
    found = [run["references"]["members"] for run in runs if run.get("references")]
    return found[0] if found else []


def curve_of(runs: Sequence[Document]) -> tuple[list[Series], dict[str, float]]:
    """Test accuracy over density of each name, and the dense line and the ensemble's."""
    tickets = {m["file"]: (1 - m["sparsity"], m["test"]) for m in members_of(runs)}
    tickets |= {run["target"]["file"]: (1 - run["target"]["sparsity"], run["test"]["ticket"]) for run in runs}
    found: dict[str, list[tuple[float, float]]] = {"ticket": [(d, s["accuracy"]) for d, s in tickets.values() if s]}
    for run in runs:
        for name, scores in rows_of(run).items():
            if name != "ticket" and scores["test"]:
                found.setdefault(name, []).append((1 - run["sparsity"], scores["test"]["accuracy"]))
    dense = [score["accuracy"] for density, score in tickets.values() if score and density == 1]
    lines = {"dense": dense[0]} if dense else {}
    ensemble = ensemble_of(runs)
    if ensemble and ensemble["test"]:
        lines[f"ensemble of {len(members_of(runs))}"] = ensemble["test"]["accuracy"]
    return [Series(name, some) for name, some in found.items()], lines


def ensemble_of(runs: Sequence[Document]) -> Document | None:
    """Scores of all tickets of the pool together, where they were measured."""
    found = [run["references"]["ensemble"] for run in runs if run.get("references")]
    return found[0] if found else None


def pairs_of(runs: Sequence[Document]) -> list[Series]:
    """Val and test accuracy of each name."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        for name, scores in rows_of(run).items():
            if scores["test"]:
                pairs.setdefault(name, []).append((scores["val"]["accuracy"], scores["test"]["accuracy"]))
    return [Series(name, found) for name, found in pairs.items()]


def curve_caption(runs: Sequence[Document], lines: dict[str, float]) -> str:
    """What the curve shows, and what of it is a gain of pooling."""
    dense = f" The dense network has {percent(lines['dense'])}." if "dense" in lines else ""
    control = "ticket + BN" if runs[0]["test"].get("ticket_bn") else "the ticket"
    return f"Look for marks above {control}: only what lies above is gained by pooling.{dense}"


def gap_caption(runs: Sequence[Document]) -> str:
    """How to read val against test."""
    mean = ", on average" if len(runs) > 1 else ""
    return (
        f"In brackets test minus val, in points{mean}. A mark far below the diagonal was flattered by choosing on val. "
        f"{chance(runs[0]['test']['pooled'])}"
    )


def search_rows(run: Document) -> tuple[list[Row], list[float]]:
    """The search as rows, and the alphas of its columns; both empty where no alpha was tried."""
    search = run.get("search") or {"alphas": [], "steps": []}
    key = chosen_by(run)
    rows = []
    for step in search["steps"]:
        tries = [Try(a["alpha"], _value(a, key)) for a in step["attempts"] if a["alpha"] is not None]
        taken = step["alpha"] if step["accepted"] else None
        after = next((found.value for found in tries if found.alpha == taken), None)
        rows.append(Row(step["pass"], name_of(step), tries, taken, after))
    if not any(row.tries for row in rows):
        return [], []
    taken_alphas = {row.accepted for row in rows if row.accepted is not None}
    return rows, sorted({*search["alphas"], *taken_alphas, *(t.alpha for row in rows for t in row.tries)})


def chosen_by(run: Document) -> str:
    """What the search chose by."""
    return "nll" if run.get("select") == "nll" else "accuracy"


def _value(attempt: Document, key: str) -> float | None:
    """The place of an attempt on the scale: none where it was cut short (the hardest images come first) or broke."""
    return float(attempt[key]) if attempt["complete"] and attempt["nll"] is not None else None


def search_caption(rows: Sequence[Row], start: float, show: Callable[[float], str]) -> str:
    """Where the search went, and how to read its map."""
    ends = [row.incumbent for row in rows if row.incumbent is not None]
    moved = f"val went from {show(start)} to {show(ends[-1])}" if ends else f"val stayed at {show(start)}"
    taken = sum(row.accepted is not None for row in rows)
    cut = any(found.value is None for row in rows for found in row.tries)
    text = (
        f"{taken} of {len(rows)} candidates accepted; {moved}. Read from top to bottom: a ring is the alpha accepted."
    )
    return text + (" Cells struck through were cut short: they could not reach the incumbent any more." if cut else "")


def layer_caption(layers: Sequence[tuple[str, float, float]]) -> str:
    """The layers whose share grew and shrank most."""
    ends = {pick(layers, key=lambda layer: layer[2] - layer[1]) for pick in (max, min)}
    moved = [f"{name} {percent(before)} → {percent(after)}" for name, before, after in sorted(ends) if before != after]
    changes = f"the largest changes: {'; '.join(moved)}" if moved else "no layer's share changed"
    return f"Hollow before pooling, filled after: the same number of weights, {changes}."


def warnings_of(run: Document) -> list[str]:
    """What a reader must not overlook."""
    found = []
    val, test = (gain_of(run[part], stronger(run[part])) for part in ("val", "test"))
    if val > 0 > test:
        found.append(
            f"On val, where it was chosen, the output gains {points(val)} points over the stronger control; "
            f"on test it does not ({points(test)} points)."
        )
    if run.get("not_finite"):
        found.append(f"{run['not_finite']} mixes had scores that are not finite, and were rejected.")
    return found
