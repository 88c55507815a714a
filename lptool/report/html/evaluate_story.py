"""What an `evaluate` document says: which files belong together, the corruptions of each, and the sentences."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from lptool.report.html.charts import Bar, Series
from lptool.report.html.drawing import Look
from lptool.report.html.wording import p_value, percent, points, short_names, verdict

Document = dict[str, Any]
SAME = 1e-3  # difference of two densities that count as one: pooled models keep exactly as many weights as their target


def headline(document: Document) -> str:
    """The result in one sentence: the sparsest pooled model against its ticket, or what there is instead."""
    files, where = document["files"], f"on {document['n']:,} test images of {document['dataset']}"
    pair = _sparsest_pair(files)
    if pair:
        pooled, ticket = pair
        gain = pooled["test"]["accuracy"] - ticket["test"]["accuracy"]
        scores = f"{percent(pooled['test']['accuracy'])} against the ticket's {percent(ticket['test']['accuracy'])}"
        found = _compared(document, pooled, ticket)
        return f"{series_of(pooled)}: {scores} {where} at {_kept(pooled)} ({points(gain)} points{found})"
    names = short_names([file["file"] for file in files])
    worst, best = (pick(files, key=lambda file: file["test"]["accuracy"]) for pick in (min, max))
    if len(files) == 1:
        low, high = best["test"]["interval"]
        interval = f"95 % interval {percent(low)} to {percent(high)}"
        return f"{names[best['file']]}: {percent(best['test']['accuracy'])} {where} at {_kept(best)} ({interval})"
    reach = (f"{percent(file['test']['accuracy'])} ({names[file['file']]})" for file in (worst, best))
    return f"{len(files)} files {where}: from {' to '.join(reach)}"


def _sparsest_pair(files: Sequence[Document]) -> tuple[Document, Document] | None:
    """The sparsest pooled model beside which a ticket of the same density lies; chosen without a look at the scores."""
    pooled = sorted((f for f in files if f["kind"] == "pooled"), key=lambda f: -float(f["sparsity"]))
    for one in pooled:
        for other in files:
            if other["kind"] == "ticket" and abs(one["sparsity"] - other["sparsity"]) < SAME:
                return one, other
    return None


def _compared(document: Document, one: Document, other: Document) -> str:
    """What chance makes of the difference of two files."""
    pair = {one["file"], other["file"]}
    found = next((c for c in document["comparisons"] if {c["a"], c["b"]} == pair), None)
    if found is None:
        return ""
    return ", beyond chance" if found["p"] < 0.05 else f", no difference beyond chance: p = {p_value(found['p'])}"


def _kept(file: Document) -> str:
    return f"{percent(1 - file['sparsity'])} of the weights"


def series_of(file: Document) -> str:
    """What a file is counted under: a ticket, or the method that pooled it."""
    return "ticket" if file["kind"] == "ticket" else str(file["method"] or "pooled")


def curve_of(files: Sequence[Document]) -> tuple[list[Series], dict[str, float]]:
    """Accuracy with its interval over density for each kind of file; and the dense line."""
    found: dict[str, list[Document]] = {}
    for file in sorted(files, key=lambda f: 1 - float(f["sparsity"])):
        found.setdefault(series_of(file), []).append(file)
    series = [
        Series(name, [(1 - f["sparsity"], f["test"]["accuracy"]) for f in some], [f["test"]["interval"] for f in some])
        for name, some in found.items()
    ]
    dense = [f["test"]["accuracy"] for f in files if f["kind"] == "ticket" and f["sparsity"] == 0]
    return series, {"dense": dense[0]} if dense else {}


def corrupted(files: Sequence[Document]) -> list[Document]:
    """The files that were evaluated on corrupted images."""
    return [file for file in files if file["corruptions"] and file["corruptions"]["rows"]]


def by_density(files: Sequence[Document]) -> list[list[Document]]:
    """Files of one density together, sparsest first, the ticket before what was pooled: these are to be compared."""
    groups: list[list[Document]] = []
    for file in sorted(files, key=lambda f: (-float(f["sparsity"]), f["kind"] == "pooled")):
        if groups and abs(groups[-1][0]["sparsity"] - file["sparsity"]) < SAME:
            groups[-1].append(file)
        else:
            groups.append([file])
    return groups


def corruption_bars(file: Document, look: Look, kinds: Sequence[str]) -> list[Bar]:
    """For each corruption the mean over its severities, with each severity as a mark."""
    found = {kind: [r["accuracy"] for r in file["corruptions"]["rows"] if r["name"] == kind] for kind in kinds}
    return [Bar(kind, fmean(seen) if seen else 0.0, look, seen) for kind, seen in found.items()]


def kinds_of(files: Sequence[Document]) -> list[str]:
    """The corruptions, in the order of the document."""
    return list(dict.fromkeys(row["name"] for file in files for row in file["corruptions"]["rows"]))


def said_of(comparison: Document, names: dict[str, str]) -> str:
    """The verdict on one pair, in words."""
    a, b = names[comparison["a"]], names[comparison["b"]]
    return verdict(comparison["p"], a, b, comparison["a_only"], comparison["b_only"])


def calibration_caption(files: Sequence[Document], names: dict[str, str]) -> str:
    """Whose confidence can be trusted most, and least."""
    best, worst = (pick(files, key=lambda file: file["test"]["ece"]) for pick in (min, max))
    text = "Expected calibration error: how far confidence lies from accuracy, in points on average. Shorter is better"
    if best is worst:
        return f"{text}."
    ends = (f"{names[f['file']]} ({100 * f['test']['ece']:.2f})" for f in (best, worst))
    return f"{text}: from {' to '.join(ends)}."


def chance_caption(comparisons: Sequence[Document]) -> str:
    """How many of so many pairs look different by chance alone."""
    expected = 0.05 * len(comparisons)
    return (
        "A only: images right under A and wrong under B. p: how often chance alone makes a difference this large; "
        f"of {len(comparisons)} equal pairs about {expected:.2g} would have p < 0.05."
    )
