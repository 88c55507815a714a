"""The page of `evaluate`: accuracy, calibration, corruption and cost, from the `--json` document alone."""

from __future__ import annotations

from collections.abc import Sequence

from lptool.report.html.evaluate_figures import corruption_figures, figures_of
from lptool.report.html.evaluate_story import (
    Document,
    chance_caption,
    corrupted,
    headline,
    kinds_of,
    said_of,
    series_of,
)
from lptool.report.html.markup import Html, details, join, page, run_section, section, table, tag
from lptool.report.html.wording import count, nll, p_value, percent, short_names, times

_FEW = 20  # rows that a table may have without being asked for


def evaluate_page(document: Document) -> str:
    """One self-contained HTML file for the `--json` document of `evaluate`."""
    files, title = document["files"], headline(document)
    return page(
        f"lptool evaluate: {title}",
        tag("p", "lptool evaluate", class_="kicker"),
        tag("h1", title),
        tag("p", _lead(document)),
        section("Figures", tag("div", figures_of(document), class_="figures")),
        section("Corruptions", corruption_figures(files)),
        section("Tables", *_tables(document)),
        run_section(document.get("command"), document.get("versions"), document.get("device")),
    )


def _lead(document: Document) -> str:
    files = document["files"]
    number = f"{len(files)} file{'s' * (len(files) != 1)}"
    return (
        f"{number} on the {document['n']:,} test images of {document['dataset']} ({document['classes']} classes), "
        f"in {document['seconds']:.0f} s."
    )


def _tables(document: Document) -> list[Html]:
    files = document["files"]
    names = short_names([file["file"] for file in files])
    return [
        _score_table(files, names),
        _cost_table(files, names),
        _comparison_table(document["comparisons"], names),
        _corruption_table(corrupted(files), names),
        _layer_table(files, names),
        _file_table(files, names),
    ]


def _score_table(files: Sequence[Document], names: dict[str, str]) -> Html:
    headings = [
        "file",
        "made by",
        "level",
        "weights remaining",
        "accuracy",
        "95 % interval",
        "NLL",
        "ECE",
        "top 5",
        "n",
    ]
    rows = []
    for file in files:
        test = file["test"]
        low, high = (percent(end) for end in test["interval"])
        level = "–" if file["level"] is None else str(file["level"])
        top5 = "–" if test["top5"] is None else percent(test["top5"])
        cells = [percent(test["accuracy"]), f"{low} to {high}", nll(test["nll"]), percent(test["ece"]), top5]
        kept = percent(1 - file["sparsity"])
        rows.append([names[file["file"]], series_of(file), level, kept, *cells, f"{test['n']:,}"])
    return table("Scores on test", headings, rows, words=("made by",))


def _cost_table(files: Sequence[Document], names: dict[str, str]) -> Html:
    rows = []
    for file in files:
        cost = file["cost"]
        pairs = (("parameters", "kept"), ("flops_dense", "flops_kept"), ("bytes_dense", "bytes_kept"))
        rows.append([names[file["file"]], *(_saved(cost[whole], cost[part]) for whole, part in pairs)])
    caption = "Cost, dense → kept, and how many times less"
    return table(caption, ["file", "parameters", "FLOPs per image", "bytes"], rows)


def _saved(whole: float, part: float) -> str:
    return f"{count(whole)} → {count(part)} ({times(part, whole)})"


def _comparison_table(comparisons: Sequence[Document], names: dict[str, str]) -> Html:
    if not comparisons:
        return Html("")
    rows = [
        [names[c["a"]], names[c["b"]], str(c["a_only"]), str(c["b_only"]), p_value(c["p"]), said_of(c, names)]
        for c in comparisons
    ]
    headings = ["A", "B", "A only", "B only", "p", "in words"]
    shown = table(f"Pairs compared. {chance_caption(comparisons)}", headings, rows, words=("B", "in words"))
    return shown if len(rows) <= _FEW else details(f"All {len(rows)} pairs compared", shown)


def _corruption_table(files: Sequence[Document], names: dict[str, str]) -> Html:
    if not files:
        return Html("")
    kinds, severities = kinds_of(files), sorted({r["severity"] for f in files for r in f["corruptions"]["rows"]})
    rows = []
    for file in files:
        seen = {(row["name"], row["severity"]): percent(row["accuracy"]) for row in file["corruptions"]["rows"]}
        for kind in kinds:
            rows.append([names[file["file"]], kind, *(seen.get((kind, severity), "–") for severity in severities)])
    headings = ["file", "corruption", *(f"severity {severity}" for severity in severities)]
    means = table(
        "Accuracy on corrupted images, mean over corruptions and severities",
        ["file", "source", "mean accuracy"],
        [[names[f["file"]], f["corruptions"]["source"], percent(f["corruptions"]["mean_accuracy"])] for f in files],
        words=("source",),
    )
    every = table("Accuracy on test by corruption and severity", headings, rows, words=("corruption",))
    return join(means, details("Every corruption at every severity", every))


def _layer_table(files: Sequence[Document], names: dict[str, str]) -> Html:
    """Layers of all files: files of other architectures have dashes."""
    found = {file["file"]: {layer["name"]: layer for layer in file["layers"]} for file in files}
    layers = {name: layer for some in found.values() for name, layer in some.items()}
    if not layers:
        return Html("")
    rows = [
        [name, *(percent(some[name]["density"]) if name in some else "–" for some in found.values())] for name in layers
    ]
    caption = "Weights remaining in each layer"
    return details(caption, table(caption, ["layer", *(names[file] for file in found)], rows))


def _file_table(files: Sequence[Document], names: dict[str, str]) -> Html:
    rows = [[names[file["file"]], file["file"], str(file["arch"]), file["sha256"]] for file in files]
    return details("The files", table("Files", ["", "file", "arch", "sha256"], rows, words=("file", "arch", "sha256")))
