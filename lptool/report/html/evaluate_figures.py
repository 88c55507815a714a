"""The figures of an `evaluate` document, with captions that say what to look for."""

from __future__ import annotations

from collections.abc import Sequence

from lptool.report.html import charts
from lptool.report.html.drawing import Label, Look, looks
from lptool.report.html.evaluate_story import (
    Document,
    by_density,
    calibration_caption,
    corrupted,
    corruption_bars,
    curve_of,
    headline,
    kinds_of,
    series_of,
)
from lptool.report.html.markup import Html, details, figure, join, tag
from lptool.report.html.wording import percent, short_names

MOST_AT_ONCE = 4  # files in one figure of grouped bars


def figures_of(document: Document) -> Html:
    """Accuracy over density, calibration, and the mean over corruptions."""
    files = document["files"]
    style, names = _looks(files), short_names([file["file"] for file in files])
    return join(_curve(document, style), _calibration(files, style, names), _means(corrupted(files), style, names))


def corruption_figures(files: Sequence[Document]) -> Html:
    """Each corruption for the files of one density together; densities with a pooled model first and open."""
    found = corrupted(files)
    style, names = _looks(files), short_names([file["file"] for file in files])
    chunks = [group[i : i + MOST_AT_ONCE] for group in by_density(found) for i in range(0, len(group), MOST_AT_ONCE)]
    drawn = [(group, _grouped(group, f"corruptions-{i}", style, names)) for i, group in enumerate(chunks)]
    shown = [one for group, one in drawn if _is_open(group, chunks)]
    others = [one for group, one in drawn if not _is_open(group, chunks)]
    hidden = details(f"{len(others)} more densities", tag("div", others, class_="figures")) if others else ""
    return join(tag("div", shown, class_="figures"), hidden) if drawn else Html("")


def _is_open(group: Sequence[Document], chunks: Sequence[Sequence[Document]]) -> bool:
    """Few figures are all shown; of many those where something was pooled."""
    return len(chunks) <= MOST_AT_ONCE or any(file["kind"] == "pooled" for file in group)


def _looks(files: Sequence[Document]) -> dict[str, Look]:
    return looks([series_of(file) for file in files])


def _curve(document: Document, style: dict[str, Look]) -> Html:
    series, lines = curve_of(document["files"])
    dense = f" The dense network has {percent(lines['dense'])}." if "dense" in lines else ""
    caption = f"Bars are 95 % intervals of each accuracy alone; the tables below compare pairs.{dense}"
    label = Label("curve", "Accuracy against weights remaining", f"{headline(document)}. {caption}")
    return figure(charts.curve(label, series, style, lines), label.title, caption)


def _calibration(files: Sequence[Document], style: dict[str, Look], names: dict[str, str]) -> Html:
    rows = [
        charts.Bar(names[file["file"]], file["test"]["ece"], style[series_of(file)], kind=series_of(file))
        for file in files
    ]
    label = Label("calibration", "Calibration", calibration_caption(files, names))
    return figure(charts.bars(label, rows, "expected calibration error, points"), *label[1:])


def _means(files: Sequence[Document], style: dict[str, Look], names: dict[str, str]) -> Html:
    if not files:
        return Html("")
    rows = [
        charts.Bar(names[f["file"]], f["corruptions"]["mean_accuracy"], style[kind], [f["test"]["accuracy"]], kind)
        for f in files
        for kind in [series_of(f)]
    ]
    source = ", ".join(dict.fromkeys(file["corruptions"]["source"] for file in files))
    caption = f"Mean over all corruptions and severities ({source}); the dot is the accuracy on clean images."
    label = Label("corrupted", "Accuracy on corrupted images", caption)
    return figure(charts.bars(label, rows, "accuracy, %"), *label[1:])


def _grouped(group: Sequence[Document], name: str, style: dict[str, Look], names: dict[str, str]) -> Html:
    kinds, kept = kinds_of(group), percent(1 - group[0]["sparsity"])
    by_name = dict(zip((names[f["file"]] for f in group), _apart(group, style), strict=True))
    rows = {
        shown: corruption_bars(file, look, kinds) for file, (shown, look) in zip(group, by_name.items(), strict=True)
    }
    who = " and ".join(by_name)
    caption = f"{who} at {kept} of the weights: bars are means over the severities, dots the severities themselves."
    label = Label(name, f"Each corruption at {kept} of the weights", caption)
    return figure(
        charts.grouped_bars(label, [kind.replace("_", " ") for kind in kinds], rows, "accuracy, %"), *label[1:]
    )


def _apart(group: Sequence[Document], style: dict[str, Look]) -> list[Look]:
    """Their own looks; where two files are of one series, looks that tell them apart."""
    own = [style[series_of(file)] for file in group]
    return own if len(set(own)) == len(own) else list(looks([f"{i}" for i in range(len(own))]).values())[2:]
