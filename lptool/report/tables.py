"""The tables that a terminal and a page share: rows made once, from the JSON documents.

A page has room for more: it adds columns with `Table.plus`, and asks for `FULL` scores.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePath
from statistics import fmean
from typing import Any

from lptool.checkpoints.header import MEASURED_ON, ROWS
from lptool.tables import Table, percent

Document = dict[str, Any]

PARTS = ("val", "test")
NOTHING = "–"

# What a score has, by the names that headings give it.
_QUANTITIES: dict[str, Callable[[Document], str]] = {
    "accuracy": lambda score: percent(score["accuracy"]),
    "NLL": lambda score: number(score["nll"]),
    "images": lambda score: f"{score['n']:,}",
}
FULL = tuple(_QUANTITIES)


def to_json(document: Document) -> str:
    """One JSON document, as `--json` prints it."""
    return json.dumps(document, indent=1)


def normalisation(mean: Sequence[float], std: Sequence[float]) -> Document:
    """What images were normalised by, as the documents of `pool` and `evaluate` say it; `compare` reads it there."""
    return {"mean": list(mean), "std": list(std)}


def number(value: float | None) -> str:
    """A mean negative log-likelihood or the like; null stands for one that is not finite."""
    return "not finite" if value is None else f"{value:.4f}"


def level_of(entry: Document) -> str:
    """The level of a ticket, or its file where it has none."""
    level = entry.get("level")
    return PurePath(entry["file"]).stem if level is None else str(level)


def name_of(entry: Document) -> str:
    """A ticket as sentences and rows name it."""
    return level_of(entry) if entry.get("level") is None else f"level {entry['level']}"


def shortest_ends(parts: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Of each path, given in parts, as many of the last parts as no other one ends in; all, where there are none.

    >>> shortest_ends({"a/x": ["a", "x"], "b/x": ["b", "x"], "b/y": ["b", "y"]})
    {'a/x': ['a', 'x'], 'b/x': ['b', 'x'], 'b/y': ['y']}
    """
    ends = {}
    for path, own in parts.items():
        others = [other for name, other in parts.items() if name != path]
        enough = next((k for k in range(1, len(own)) if all(other[-k:] != own[-k:] for other in others)), len(own))
        ends[path] = own[-enough:]
    return ends


def scores(caption: str, rows: Mapping[str, Document], quantities: Sequence[str]) -> Table:
    """Name → scores on val and test; dashes where one was not measured."""
    cells = [[name, *_score_cells(found, quantities)] for name, found in rows.items()]
    return Table(caption, ["", *_score_headings(quantities)], cells, spare=("val NLL", "test NLL"))


def measured_on(bn_images: str | None, ticket_bn: object = None, shipped: str = "pooled") -> list[str]:
    """What `ticket + BN` and the pooled model were recalibrated on, in a sentence; none where nothing was.

    Args:
        ticket_bn: the score of `ticket + BN`, if there is one. shipped: what was written.
    """
    if bn_images == "none" and ticket_bn:
        return [
            f"BatchNorm statistics mixed like the weights, the best on val; of 'ticket + BN' on {MEASURED_ON['plain']}"
        ]
    words = MEASURED_ON.get(bn_images or "")
    whose = " of 'ticket + BN'" * (shipped == "ticket")
    return [f"BatchNorm{whose} recalibrated on {words}"] if words else []


def references(found: Document, quantities: Sequence[str]) -> Table:
    """Each ticket of the pool, and the ensemble of them all: not chosen from, and no single model at this sparsity."""
    members = found["members"]
    rows = [[name_of(m), percent(m["sparsity"]), *_score_cells(m, quantities)] for m in members]
    together = _score_cells(found["ensemble"], quantities)
    rows.append([f"ensemble of {len(members)}", f"{len(members)} models", *together])
    headings = ["reference", "sparsity", *_score_headings(quantities)]
    return Table("references, reported only", headings, rows, spare=("sparsity",))


def _score_headings(quantities: Sequence[str]) -> list[str]:
    return [f"{part} {quantity}" for part in PARTS for quantity in quantities]


def _score_cells(found: Document, quantities: Sequence[str]) -> list[str]:
    scores = (found.get(part) for part in PARTS)
    return [_QUANTITIES[quantity](score) if score else NOTHING for score in scores for quantity in quantities]


def targets(caption: str, runs: Sequence[Document], rows_of: Callable[[Document], Mapping[str, Document]]) -> Table:
    """A row for each target; `rows_of` gives its scores by the names that the columns have."""
    found = [rows_of(run) for run in runs]
    names = list(dict.fromkeys(name for rows in found for name in rows))
    cells = [
        [
            level_of(run["target"]),
            percent(run["sparsity"]),
            *(_val_and_test(rows.get(name)) for name in names),
            str(sum(bool(member["accepted"]) for member in run["members"])) if run["improved"] else "none improved",
        ]
        for run, rows in zip(runs, found, strict=True)
    ]
    headings = ["level", "sparsity", *names, "accepted"]
    return Table(caption, headings, cells, spare=("accepted", "sparsity"))


def verdicts(runs: Sequence[Document]) -> Table:
    """Of each target whether pooling helped."""
    found = [(run, run["verdict"]) for run in runs]
    rows = [
        [level_of(run["target"]), percent(run["sparsity"]), ROWS[v["against"]], *_gain_cells(v)] for run, v in found
    ]
    caption = f"gain on {found[0][1]['n_test']:,} test images, in points over the control that is better on val"
    return Table(caption, ["level", "sparsity", "over", "gain", "p", "verdict"], rows, words=("over", "verdict"))


def together(found: Document) -> str:
    """Whether pooling helped over all targets, in one sentence."""
    return (
        f"all {found['levels']} levels together: {found['word']}, {100 * found['gain']:+.2f} points on average "
        f"(p = {found['p']:.2g}, signs of the {found['n_test']:,} test images flipped)"
    )


def _gain_cells(verdict: Document) -> list[str]:
    return [f"{100 * verdict['gain']:+.2f}", f"{verdict['p']:.2g}", verdict["word"]]


def _val_and_test(found: Document | None) -> str:
    if not found or not found["val"]:
        return NOTHING
    return " / ".join(_score_cells(found, ["accuracy"]))


def candidates(caption: str, steps: Sequence[Document]) -> Table:
    """The candidates as the search took them; a header written by another program may lack any part of one."""
    keys, verdicts = ("file", "level", "alpha"), {True: "yes", False: "no"}
    rows = [[*(_given(step.get(key)) for key in keys), verdicts[bool(step.get("accepted"))]] for step in steps]
    return Table(caption, ["candidate", "level", "alpha", "accepted"], rows, spare=("level",))


def _given(value: object) -> str:
    if value is None:
        return NOTHING
    return alpha_name(value) if isinstance(value, float) else str(value)  # levels are whole, files are text


def alpha_name(alpha: float | None) -> str:
    """An alpha, not more exactly than anyone uses it."""
    return NOTHING if alpha is None else f"{alpha:.3g}"


def evaluated(document: Document, names: Mapping[str, str]) -> Table:
    """What each file reached on test; `names` are those of the files, here and below."""
    files = document["files"]
    top5 = any(file["test"]["top5"] is not None for file in files)
    rows = []
    for file in files:
        test = file["test"]
        low, high = test["interval"]
        accuracy = f"{percent(test['accuracy'])} [{100 * low:.2f}, {100 * high:.2f}]"
        cells = [names[file["file"]], percent(file["sparsity"]), accuracy, number(test["nll"]), number(test["ece"])]
        rows.append([*cells, *[_percent(test["top5"])] * top5])
    headings = ["file", "sparsity", "accuracy [95 %]", "NLL", "ECE", *["top-5"] * top5]
    caption = f"{document['dataset']}, {document['n']:,} test images"
    return Table(caption, headings, rows, spare=("top-5", "ECE", "NLL", "sparsity"))


def _percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else percent(fraction)


def cost(files: Sequence[Document], names: Mapping[str, str], show: Callable[[float, float], str]) -> Table:
    """What each file costs to run and to keep; `show` writes a pair of dense and kept."""
    pairs = (("parameters", "kept"), ("flops_dense", "flops_kept"), ("bytes_dense", "bytes_kept"))
    rows = [[names[file["file"]], *(_pair(file["cost"], dense, kept, show) for dense, kept in pairs)] for file in files]
    headings = ["file", "parameters", "FLOPs per image", "bytes"]
    return Table("cost, dense → as kept", headings, rows, spare=("parameters", "FLOPs per image"))


def _pair(found: Document, dense: str, kept: str, show: Callable[[float, float], str]) -> str:
    return NOTHING if found[dense] is None else show(found[dense], found[kept])


ZEROS_COST = "zeros cost as much time as other numbers: dense kernels multiply them too"


def latency(document: Document, names: Mapping[str, str]) -> Table:
    """How long a pass over one image and over a batch takes, of the files of which it was measured."""
    measured = [(file, file["latency"]) for file in document["files"] if file.get("latency")]
    rows = [
        [names[file["file"]], file["runtime"], *_timing_cells(found[kind])]
        for file, found in measured
        for kind in ("one", "batch")
    ]
    threads, warm_up = document.get("threads"), measured[0][1]["warm_up"]
    where = document["device"] + (f", {threads} thread{'s' * (threads != 1)}" if threads else "")
    on_cpu = ", that of onnxruntime on the CPU" * (
        document["device"] != "cpu" and any(file["runtime"] != "torch" for file, _ in measured)
    )
    caption = f"time of a dense forward pass, float32, on {where}{on_cpu}; {warm_up} passes before to warm up"
    headings = ["file", "run by", "images", "median", "95 %", "images/s", "passes"]
    return Table(caption, headings, rows, words=("run by",), spare=("passes", "images/s"))


def _timing_cells(found: Document) -> list[str]:
    times = [f"{1000 * found[key]:.3g} ms" for key in ("median", "q95")]
    rate = f"{found['images'] / found['median']:,.0f}" if found["median"] else NOTHING
    return [str(found["images"]), *times, rate, str(found["passes"])]


def comparisons(found: Sequence[Document], names: Mapping[str, str]) -> Table:
    """Every two files, on the same images."""
    rows = [[names[c["a"]], names[c["b"]], str(c["a_only"]), str(c["b_only"]), f"{c['p']:.3g}"] for c in found]
    caption = "images that only one of two gets right (exact McNemar test)"
    return Table(caption, ["a", "b", "only a", "only b", "p"], rows, words=("b",))


def corruptions(name: str, found: Document, extra: Collection[str] = ()) -> Table:
    """Accuracy of one file by kind and severity; `extra` kinds are no part of the mean over all."""
    severities = sorted({row["severity"] for row in found["rows"]})
    seen = {(row["name"], row["severity"]): row["accuracy"] for row in found["rows"]}
    rows = []
    for kind in dict.fromkeys(row["name"] for row in found["rows"]):
        accuracies = [seen.get((kind, severity)) for severity in severities]
        mean = fmean(accuracy for accuracy in accuracies if accuracy is not None)
        rows.append([f"({kind})" if kind in extra else kind, *map(_percent, [*accuracies, mean])])
    headings = ["severity", *map(str, severities), "mean"]
    return Table(f"{name}: accuracy under corruptions ({found['source']})", headings, rows, spare=("4", "2"))
