"""The page of `evaluate`: accuracy, calibration, corruption and cost, from the `--json` document alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath
from statistics import fmean

from lptool.checkpoints.header import CONTROL
from lptool.report import tables
from lptool.report.html import charts
from lptool.report.html.charts import Bar, Series
from lptool.report.html.drawing import Label, Look, looks
from lptool.report.html.page import Figure, Tables, drawn, made_by, render
from lptool.report.tables import NOTHING, Document
from lptool.tables import Table, percent, points

SAME = 1e-3  # difference of two densities that count as one: pooled models keep exactly as many weights as their target
MOST_AT_ONCE = 4  # files in one figure of grouped bars
_FEW = 20  # rows that a table may have without being asked for


def evaluate_page(document: Document) -> str:
    """One self-contained HTML file for the `--json` document of `evaluate`."""
    shown, hidden = corruption_figures(document["files"])
    return render(
        "evaluate.html.j2",
        document=document,
        title=headline(document),
        overview=list(figures_of(document)),
        corruptions=shown,
        more_corruptions=hidden,
        groups=list(tables_of(document)),
        **made_by(document),
    )


# What the document says


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
    names = short_names(files)
    worst, best = (pick(files, key=lambda file: file["test"]["accuracy"]) for pick in (min, max))
    if len(files) == 1:
        low, high = best["test"]["interval"]
        interval = f"95 % interval {percent(low)} to {percent(high)}"
        return f"{names[best['file']]}: {percent(best['test']['accuracy'])} {where} at {_kept(best)} ({interval})"
    reach = (f"{percent(file['test']['accuracy'])} ({names[file['file']]})" for file in (worst, best))
    return f"{len(files)} files {where}: from {' to '.join(reach)}"


def _sparsest_pair(files: Sequence[Document]) -> tuple[Document, Document] | None:
    """The sparsest pooled model beside which a ticket of the same density lies; chosen without a look at the scores.

    A control that `pool` wrote counts as neither: it was not pooled, and the headline speaks of the ticket.
    """
    pooled = [f for f in files if f["kind"] == "pooled" and f["method"] != CONTROL]
    pooled.sort(key=lambda f: -float(f["sparsity"]))
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
    return ", beyond chance" if found["p"] < 0.05 else f", no difference beyond chance: p = {found['p']:.3f}"


def _kept(file: Document) -> str:
    return f"{percent(file['sparsity'])} sparsity"


def short_names(files: Sequence[Document]) -> dict[str, str]:
    """Each file by its stem; where two have the same, by as many folders as tell them apart."""
    parts = {file["file"]: PurePath(file["file"]).with_suffix("").parts for file in files}
    names = {file: "/".join(end) for file, end in tables.shortest_ends(parts).items()}
    shared = Counter(names.values())
    return {file: name if shared[name] == 1 else file for file, name in names.items()}


def series_of(file: Document) -> str:
    """What a file is counted under: a ticket, or the method that pooled it."""
    return "ticket" if file["kind"] == "ticket" else str(file["method"] or "pooled")


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


def kinds_of(files: Sequence[Document]) -> list[str]:
    """The corruptions, in the order of the document."""
    return list(dict.fromkeys(row["name"] for file in files for row in file["corruptions"]["rows"]))


# Figures, with captions that say what to look for


def figures_of(document: Document) -> Iterator[Figure]:
    """Accuracy over density, calibration, and the mean over corruptions."""
    files = document["files"]
    style, names = looks([series_of(file) for file in files]), short_names(files)
    series, lines = curve_of(files)
    dense = f" The dense network has {percent(lines['dense'])}." if "dense" in lines else ""
    caption = f"Bars are 95 % intervals of each accuracy alone; the tables below compare pairs.{dense}"
    label = Label("curve", "Accuracy against density", f"{headline(document)}. {caption}")
    yield drawn(label, charts.curve(label, series, style, lines), caption)
    finite = [file for file in files if file["test"]["ece"] is not None]
    bars = [Bar(names[f["file"]], f["test"]["ece"], style[series_of(f)], kind=series_of(f)) for f in finite]
    label = Label("calibration", "Calibration", calibration_caption(finite, names))
    yield drawn(label, charts.bars(label, bars, "expected calibration error, points"))
    if found := corrupted(files):
        yield _means(found, style, names)


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


def calibration_caption(files: Sequence[Document], names: dict[str, str]) -> str:
    """Whose confidence can be trusted most, and least."""
    text = "Expected calibration error: how far confidence lies from accuracy, in points on average. Shorter is better"
    if len(files) < 2:
        return f"{text}."
    ends = (pick(files, key=lambda file: file["test"]["ece"]) for pick in (min, max))
    shown = (f"{names[file['file']]} ({100 * file['test']['ece']:.2f})" for file in ends)
    return f"{text}: from {' to '.join(shown)}."


def _means(files: Sequence[Document], style: dict[str, Look], names: dict[str, str]) -> Figure:
    rows = [
        Bar(names[f["file"]], f["corruptions"]["mean_accuracy"], style[kind], [f["test"]["accuracy"]], kind)
        for f in files
        for kind in [series_of(f)]
    ]
    source = ", ".join(dict.fromkeys(file["corruptions"]["source"] for file in files))
    caption = f"Mean over all corruptions and severities ({source}); the dot is the accuracy on clean images."
    label = Label("corrupted", "Accuracy on corrupted images", caption)
    return drawn(label, charts.bars(label, rows, "accuracy, %"))


def corruption_figures(files: Sequence[Document]) -> tuple[list[Figure], list[Figure]]:
    """Each corruption for the files of one density together: what is shown at once, and what on demand.

    Few figures are all shown; of many those where something was pooled.
    """
    style, names = looks([series_of(file) for file in files]), short_names(files)
    groups = by_density(corrupted(files))
    chunks = [group[i : i + MOST_AT_ONCE] for group in groups for i in range(0, len(group), MOST_AT_ONCE)]
    found: dict[bool, list[Figure]] = {True: [], False: []}
    for place, group in enumerate(chunks):
        is_open = len(chunks) <= MOST_AT_ONCE or any(file["kind"] == "pooled" for file in group)
        found[is_open].append(_grouped(group, f"corruptions-{place}", style, names))
    return found[True], found[False]


def _grouped(group: Sequence[Document], name: str, style: dict[str, Look], names: dict[str, str]) -> Figure:
    kinds, kept = kinds_of(group), _kept(group[0])
    styled = zip(group, _apart(group, style), strict=True)
    rows = {names[file["file"]]: corruption_bars(file, look, kinds) for file, look in styled}
    caption = f"{' and '.join(rows)} at {kept}: bars are means over the severities, dots the severities themselves."
    label = Label(name, f"Each corruption at {kept}", caption)
    return drawn(label, charts.grouped_bars(label, [kind.replace("_", " ") for kind in kinds], rows, "accuracy, %"))


def _apart(group: Sequence[Document], style: dict[str, Look]) -> list[Look]:
    """Their own looks; where two files are of one series, looks that tell them apart."""
    own = [style[series_of(file)] for file in group]
    # `looks` puts the two controls first, which would look like tickets.
    return own if len(set(own)) == len(own) else list(looks([f"{i}" for i in range(len(own))]).values())[2:]


def corruption_bars(file: Document, look: Look, kinds: Sequence[str]) -> list[Bar]:
    """For each corruption the mean over its severities, with each severity as a mark."""
    found = {kind: [r["accuracy"] for r in file["corruptions"]["rows"] if r["name"] == kind] for kind in kinds}
    # A kind that was not measured has a row without a bar.
    return [Bar(kind, fmean(seen) if seen else 0.0, look, seen) for kind, seen in found.items()]


# Tables


def tables_of(document: Document) -> Iterator[Tables]:
    """Scores, cost, pairs, corruptions, layers, and the files themselves."""
    files = document["files"]
    names = short_names(files)
    cost = tables.cost(files, names, saved)
    cost = replace(cost, caption=f"{cost.caption}, and how many times less")
    yield Tables([_score_table(document, names), cost])
    if any(file.get("latency") for file in files):
        timed = tables.latency(document, names)
        yield Tables([replace(timed, caption=f"{timed.caption}; {tables.ZEROS_COST}")])
    if pairs := document["comparisons"]:
        summary = f"All {len(pairs)} pairs compared" if len(pairs) > _FEW else ""
        yield Tables([comparison_table(pairs, names)], summary)
    if found := corrupted(files):
        yield Tables([_mean_table(found, names)])
        every = [tables.corruptions(names[file["file"]], file["corruptions"]) for file in found]
        yield Tables(every, "Every corruption at every severity")
    if any(file["layers"] for file in files):
        yield Tables([_layer_table(files, names)], "Density of each layer")
    rows = [[names[file["file"]], file["file"], str(file["arch"]), file["sha256"]] for file in files]
    columns = ("file", "arch", "sha256")
    yield Tables([Table("files", ("", *columns), rows, words=columns)], "The files")


def _score_table(document: Document, names: dict[str, str]) -> Table:
    files = document["files"]
    found = tables.evaluated(document, names)
    found = found.plus("made by", [series_of(file) for file in files], words=True)
    found = found.plus("level", [NOTHING if file["level"] is None else str(file["level"]) for file in files])
    return found.plus("images", [f"{file['test']['n']:,}" for file in files])


def saved(whole: float, part: float) -> str:
    """What is kept of a cost, and how many times less it is."""
    times = f"{whole / part:.1f}×" if part else NOTHING
    return f"{count(whole)} → {count(part)} ({times})"


def count(value: float) -> str:
    """A large number, short: 1.23 M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:g}"


def comparison_table(comparisons: Sequence[Document], names: dict[str, str]) -> Table:
    """Every two files, in words too; of many equal pairs some look different by chance alone."""
    found = tables.comparisons(comparisons, names)
    chance = (
        "p: how often chance alone makes a difference this large; "
        f"of {len(comparisons)} equal pairs about {0.05 * len(comparisons):.2g} would have p < 0.05."
    )
    verdicts = [verdict(c["p"], names[c["a"]], names[c["b"]], c["a_only"], c["b_only"]) for c in comparisons]
    found = replace(found, caption=f"pairs compared: {found.caption}. {chance}")
    return found.plus("in words", verdicts, words=True)


def verdict(p: float, a: str, b: str, a_only: int, b_only: int) -> str:
    """What a paired comparison says, in words; `p` is the probability of such a difference by chance."""
    if p >= 0.05 or a_only == b_only:
        return "no difference beyond chance"
    better = f"{a if a_only > b_only else b} is better"
    return better if p < 0.001 else f"{better}, with {'some' if p >= 0.01 else 'good'} evidence"


def _mean_table(files: Sequence[Document], names: dict[str, str]) -> Table:
    found = [(names[file["file"]], file["corruptions"]) for file in files]
    rows = [[name, each["source"], percent(each["mean_accuracy"])] for name, each in found]
    caption = "accuracy on corrupted images, mean over corruptions and severities"
    return Table(caption, ["file", "source", "mean accuracy"], rows, words=("source",))


def _layer_table(files: Sequence[Document], names: dict[str, str]) -> Table:
    """Layers of all files: files of other architectures have dashes."""
    found = [{layer["name"]: percent(layer["density"]) for layer in file["layers"]} for file in files]
    layers = dict.fromkeys(name for some in found for name in some)
    rows = [[layer, *(some.get(layer, NOTHING) for some in found)] for layer in layers]
    return Table("density of each layer", ["layer", *(names[file["file"]] for file in files)], rows)
