"""The figures of a `pool` document, with captions that say what to look for."""

from __future__ import annotations

from collections.abc import Sequence

from lptool.report.html import charts, heatmaps
from lptool.report.html.drawing import Label, looks
from lptool.report.html.markup import Html, figure, join
from lptool.report.html.pool_story import (
    Document,
    chosen_by,
    curve_caption,
    curve_of,
    gap_caption,
    headline,
    layer_caption,
    pairs_of,
    search_caption,
    search_rows,
)
from lptool.report.html.wording import shown_as


def overview(runs: Sequence[Document]) -> Html:
    """The two figures that all targets share."""
    (series, lines), pairs = curve_of(runs), pairs_of(runs)
    style = looks([one.name for one in (*pairs, *series)])
    caption = curve_caption(runs, lines)
    curve = Label("curve", "Accuracy against weights remaining", f"{headline(runs)}. {caption}")
    gap = Label("val-test", "Val against test", gap_caption(runs))
    return join(
        figure(charts.curve(curve, series, style, lines), curve.title, caption),
        figure(charts.val_test(gap, pairs, style), *gap[1:]),
    )


def figures_of(run: Document, prefix: str = "") -> Html:
    """The search, the layers, and learned coefficients, as far as there are any. `prefix` keeps ids apart."""
    return join(_search(run, prefix), _layers(run, prefix), _coefficients(run, prefix))


def _search(run: Document, prefix: str) -> Html:
    rows, alphas = search_rows(run)
    if not rows:
        return Html("")
    key = chosen_by(run)
    show, start = shown_as(key), run["search"]["start"][key]
    quantity = "NLL" if key == "nll" else "accuracy, %"
    label = Label(f"{prefix}search", f"The search, scored on val ({quantity})", search_caption(rows, start, show))
    return figure(heatmaps.search_map(label, rows, alphas, start, show, lower_is_better=key == "nll"), *label[1:])


def _layers(run: Document, prefix: str) -> Html:
    layers = [(layer["name"], layer["before"], layer["after"]) for layer in run.get("layers") or []]
    if not layers:
        return Html("")
    label = Label(f"{prefix}layers", "Density of each layer", layer_caption(layers))
    return figure(charts.layer_densities(label, layers), *label[1:])


def _coefficients(run: Document, prefix: str) -> Html:
    found = run.get("coefficients")
    if not found:
        return Html("")
    values = [value for row in found["values"] for value in row]
    reach = f", from {min(values):.3g} to {max(values):.3g}" if values else ""
    caption = f"How much of each member went into each group of weights{reach}. Look for rows unlike the others."
    label = Label(f"{prefix}coefficients", "Learned coefficients", caption)
    members = [str(level) for level in found["members"]]
    return figure(heatmaps.coefficient_map(label, found["groups"], members, found["values"]), *label[1:])
