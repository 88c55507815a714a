"""The page of `pool`: what the search gained, how it went, and every number, from the `--json` document alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lptool.report.html.markup import Html, details, join, page, pairs, run_section, section, table, tag
from lptool.report.html.pool_figures import figures_of, overview
from lptool.report.html.pool_story import (
    Document,
    ensemble_of,
    gain_of,
    headline,
    members_of,
    rows_of,
    search_rows,
    stronger,
    warnings_of,
)
from lptool.report.html.wording import name_of, nll, percent, points, score_cells

SCORES = ("val accuracy", "val NLL", "val images", "test accuracy", "test NLL", "test images")


def pool_page(document: Document) -> str:
    """One self-contained HTML file for the `--json` document of `pool`, of one target or `{"targets": […]}`."""
    runs = document.get("targets", [document])
    title = headline(runs)
    commanded = document if document.get("command") else runs[0]
    return page(
        f"lptool pool: {title}",
        tag("p", "lptool pool", class_="kicker"),
        tag("h1", title),
        _one(runs[0]) if len(runs) == 1 else _many(runs),
        run_section(
            commanded.get("command"), commanded.get("versions"), document.get("device") or runs[0].get("device")
        ),
    )


def _one(run: Document) -> Html:
    return join(
        _lead(run),
        _numbers(run),
        section("Figures", tag("div", overview([run]), figures_of(run), class_="figures"), _no_search(run)),
        section("Tables", *_tables(run), _reference_table([run])),
    )


def _many(runs: Sequence[Document]) -> Html:
    """What the targets share, then each target on demand."""
    each = (
        details(
            f"{name_of(run['target'])}, {percent(1 - run['sparsity'])} of the weights: {headline([run])}",
            _lead(run),
            tag("div", figures_of(run, f"target-{place}-"), class_="figures"),
            _no_search(run),
            *_tables(run),
        )
        for place, run in enumerate(runs)
    )
    return join(
        section("Figures", tag("div", overview(runs), class_="figures")),
        section("By target", _target_table(runs), _reference_table(runs)),
        section("Each target", each),
    )


def _lead(run: Document) -> Html:
    target, taken = run["target"], sum(bool(member["accepted"]) for member in run["members"])
    kept, models = percent(1 - run["sparsity"]), run["evaluations"]
    text = (
        f"Target: {name_of(target)} ({target['file']}), {kept} of the prunable weights remaining. {taken} of "
        f"{len(run['members'])} steps accepted; {models} models scored on val, {run['seconds']:.0f} s in all."
    )
    return join(tag("p", text), (tag("p", warning, class_="note") for warning in warnings_of(run)))


def _numbers(run: Document) -> Html:
    """The few numbers that most readers come for."""
    rows = {name: scores for name, scores in rows_of(run).items() if scores["test"]}
    dense = [member for member in members_of([run]) if member["sparsity"] == 0 and member["test"]]
    rows |= {"dense": dense[0]} if dense else {}
    return tag("dl", (_number(name, scores) for name, scores in rows.items()), class_="numbers")


def _number(name: str, scores: Document) -> Html:
    on_val = tag("small", f"{percent(scores['val']['accuracy'])} on val")
    return tag("div", tag("dt", f"{name}, on test"), tag("dd", percent(scores["test"]["accuracy"]), on_val))


def _no_search(run: Document) -> Html:
    if search_rows(run)[0]:
        return Html("")
    return tag("p", f"{run['method']} tried no alphas one by one, so there is no map of a search.", class_="note")


def _target_table(runs: Sequence[Document]) -> Html:
    names = list(dict.fromkeys(name for run in runs for name in rows_of(run)))
    headings = [
        "target",
        "weights remaining",
        *(f"{name} (val / test)" for name in names),
        "gain on test",
        "steps accepted",
    ]
    rows = []
    for run in runs:
        found = rows_of(run)
        taken = str(sum(bool(member["accepted"]) for member in run["members"])) if run["improved"] else "none improved"
        gained = points(gain_of(run["test"], stronger(run["test"])))
        cells = [_both(found.get(name)) for name in names]
        rows.append([name_of(run["target"]), percent(1 - run["sparsity"]), *cells, gained, taken])
    return table(
        "Accuracy by target; the gain is in points over the stronger of ticket and ticket + BN", headings, rows
    )


def _both(scores: Document | None) -> str:
    if not scores:
        return "–"
    return " / ".join(percent(score["accuracy"]) if score else "–" for score in (scores["val"], scores["test"]))


def _tables(run: Document) -> list[Html]:
    return [_score_table(run), *_step_tables(run), _layer_table(run), _coefficient_table(run), _file_table(run)]


def _score_table(run: Document) -> Html:
    rows = [[name, *score_cells(s["val"]), *score_cells(s["test"])] for name, s in rows_of(run).items()]
    return table("Scores", ["", *SCORES], rows)


def _reference_table(runs: Sequence[Document]) -> Html:
    """What the pool's tickets reach each alone, and all of them together."""
    members, ensemble = members_of(runs), ensemble_of(runs)
    rows = [(f"{name_of(m)}, {percent(1 - m['sparsity'])} of the weights", m) for m in members]
    if ensemble:
        rows.insert(0, (f"ensemble of {len(members)}, each of them run", ensemble))
    shown = [[name, *score_cells(s["val"]), *score_cells(s["test"])] for name, s in rows]
    return table("The pool's tickets", ["", *SCORES], shown) if shown else Html("")


def _step_tables(run: Document) -> list[Html]:
    """The steps with what came of them, and every attempt."""
    search = run.get("search")
    if not search:
        rows = [[name_of(m), m["file"], _alpha(m["alpha"]), _yes(m["accepted"])] for m in run["members"]]
        return [table("Members", ["candidate", "file", "alpha", "accepted"], rows, words=("file",))]
    steps = search["steps"]
    rows = [[name_of(s), str(s["pass"]), s["file"], _alpha(s["alpha"]), _yes(s["accepted"])] for s in steps]
    headings = ["candidate", "pass", "file", "alpha", "accepted"]
    start = f"the incumbent began at {percent(search['start']['accuracy'])}, NLL {nll(search['start']['nll'])}"
    taken = table(f"Steps of the search; {start}", headings, rows, words=("file",))
    number = sum(len(step["attempts"]) for step in steps)
    return [taken, *([_attempts(steps)] if number else [])]


def _attempts(steps: Sequence[Document]) -> Html:
    """Every attempt, a row for each step and a column for each alpha."""
    alphas = list(dict.fromkeys(a["alpha"] for step in steps for a in step["attempts"]))
    headings = ["candidate", "pass", *map(_alpha, alphas)]

    def rows(shown: Callable[[Document], str]) -> list[list[str]]:
        found = [{a["alpha"]: shown(a) for a in step["attempts"]} for step in steps]
        return [
            [name_of(step), str(step["pass"]), *(cells.get(alpha, "–") for alpha in alphas)]
            for step, cells in zip(steps, found, strict=True)
        ]

    return details(
        "All attempts",
        table("Accuracy on val by alpha", headings, rows(_attempt)),
        table("NLL on val by alpha", headings, rows(lambda a: nll(a["nll"]) if a["complete"] else "cut short")),
    )


def _attempt(attempt: Document) -> str:
    """The accuracy of an attempt; no number for one that was cut short, which saw the hardest images only."""
    return percent(attempt["accuracy"]) if attempt["complete"] else f"cut short at {attempt['n']:,}"


def _alpha(alpha: float | None) -> str:
    return "–" if alpha is None else f"{alpha:g}"


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _layer_table(run: Document) -> Html:
    layers = run.get("layers")
    if not layers:
        return Html("")
    rows = [
        [layer["name"], "×".join(map(str, layer["shape"])), percent(layer["before"]), percent(layer["after"])]
        for layer in layers
    ]
    headings = ["layer", "shape", "weights remaining before", "after"]
    return details(f"All {len(rows)} layers", table("Density of each layer", headings, rows))


def _coefficient_table(run: Document) -> Html:
    found = run.get("coefficients")
    if not found:
        return Html("")
    rows = [[group, *(f"{v:.4f}" for v in row)] for group, row in zip(found["groups"], found["values"], strict=True)]
    headings = ["group", *(f"level {level}" for level in found["members"])]
    return details("Learned coefficients in full", table("Coefficient of each member", headings, rows))


def _file_table(run: Document) -> Html:
    """What was written, and by which rules."""
    rows = [("output", run["output"]), ("sha256", run["sha256"]), ("target", run["target"]["file"])]
    rows += [(key, str(run[key])) for key in ("select", "passes", "shipped") if key in run]
    return pairs("The file written, and by which rules", rows)
