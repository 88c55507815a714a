"""The tables of README, docs/results.md and docs/tables.md, from the JSON files that benchmarks/accuracy.py leaves.

    python benchmarks/accuracy_tables.py          # writes them between the marks of these pages

Of each run the mean over its levels is one sample, as levels of one run are not independent; a standard error is over
the runs. `images` is the standard error that the finite test set leaves in the difference to `ticket + BN` of one
model: from the images that only one of the two has right (McNemar). Where these were counted of some models alone, it
says of how many.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from accuracy import CORRUPTED, RESULTS, SETTINGS

from lptool import tables
from lptool.scoring.paired import Spread, image_error
from lptool.tables import percent

Row = dict[str, Any]
Of = Callable[[Row], float]  # a number, of the methods at one level
ROOT = Path(__file__).parent.parent
BASE = "ticket + BN"
CONTROLS = ("ticket", BASE, "ensemble")
BY_LEVEL = ("ticket", BASE, "greedy", "window", "reconstruct 0.5", "reconstruct 1", "auto", "ensemble")


def load(name: str) -> list[Row]:
    """The runs of a setting that are complete, seed by seed."""
    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{name}-seed*.json"))]
    return [
        cell for cell in cells if sum("auto" in level["methods"] for level in cell["levels"]) == SETTINGS[name].levels
    ]


def methods_in(cells: list[Row]) -> list[str]:
    """What was measured at every level of every run, in the order of the first; the ensemble last."""
    rows = [level["methods"] for cell in cells for level in cell["levels"]]
    found = [name for name in rows[0] if all(name in row for row in rows)]
    return [name for name in found if name != "ensemble"] + ["ensemble"]


def long_tables(found: dict[str, list[Row]]) -> str:
    """All that is measured, setting by setting."""
    return "\n\n".join(setting_tables(name, cells) for name, cells in found.items())


def short_table(found: dict[str, list[Row]]) -> str:
    """What a user may expect: points over `ticket + BN` on test."""
    head = ["", "images right, %", "`greedy`", "`auto`", "of the ensemble's", "ensemble", "`auto` over `greedy`"]
    rows = [[*head, "over `ticket`, two sparsest"]]
    for name, cells in found.items():
        levels = range(len(cells[0]["levels"]))
        gain, whole = (mean(cells, levels, over(m)) for m in ("auto", "ensemble"))
        rows.append(
            [
                name,
                spread(cells, levels, test(BASE)),
                spread(cells, levels, over("greedy")),
                spread(cells, levels, over("auto")),
                percent(gain / whole, 0),
                spread(cells, levels, over("ensemble")),
                spread(cells, levels, over("auto", "greedy")),
                ", ".join(spread(cells, [i], over("auto", "ticket")) for i in levels[-2:]),
            ]
        )
    return markdown(rows)


def setting_tables(name: str, cells: list[Row]) -> str:
    methods, levels = methods_in(cells), range(len(cells[0]["levels"]))
    half = len(levels) // 2
    options, n = cells[0]["options"], cells[0]["levels"][0]["methods"][BASE]["test"]["n"]
    fits = ", ".join(f"{100 * cell['train_accuracy']:.1f}" for cell in cells)
    head = (
        f"### {name}\n\n{len(cells)} runs of {len(levels)} prunings, `{options['arch'].rpartition(':')[2]}`, "
        f"{options['epochs']} epochs, {n:,} test images; at level 0 {fits} % of the training images right."
    )
    by_level = [["images right, %", *(f"{100 * cells[0]['levels'][i]['density']:.1f} %" for i in levels), "mean"]]
    summary = [["points", f"over {BASE}", "images", "over ticket", "denser half", "sparser half", "over greedy"]]
    summary[0] += ["val gain", "kept on test"]
    quality = [["", "test NLL", "test ECE, %", "corrupted, % right", "corrupted ECE, %"]]
    for m in methods:
        if m in BY_LEVEL:
            by_level.append([m, *(spread(cells, [i], test(m)) for i in levels), spread(cells, levels, test(m))])
        on_val = mean(cells, levels, lambda row, m=m: value(row, m, "val") - value(row, BASE, "val"))
        # what is kept of a gain can only be said where there is one: three of 6,000 images at least
        kept = (
            percent(mean(cells, levels, over(m)) / on_val, 0) if m not in CONTROLS and round(on_val, 2) >= 0.05 else ""
        )
        summary.append(
            [m, spread(cells, levels, over(m)), of_images(cells, levels, m), spread(cells, levels, over(m, "ticket"))]
            + [spread(cells, part, over(m)) for part in (levels[:half], levels[half:])]
            + [spread(cells, levels, over(m, "greedy")), f"{on_val:.2f}", kept]
        )
        quality.append(
            [m, spread(cells, levels, lambda row, m=m: row[m]["test"]["nll"], 4)]
            + [spread(cells, levels, lambda row, m=m: value(row, m, "test", "ece"))]
            + [corrupted(cells, levels, m, key) for key in ("accuracy", "ece")]
        )
    return "\n\n".join([head, markdown(by_level), markdown(summary), markdown(quality)])


def of_images(cells: list[Row], levels: Sequence[int], method: str) -> str:
    """The standard error of one model's difference that is due to the test images, in points, on average."""

    def error(row: Row) -> float:
        return 100 * image_error(*row[method]["pairs"][BASE], row[method]["test"]["n"])

    rows = [cell["levels"][i]["methods"] for cell in cells for i in levels]
    counted = [error(row) for row in rows if BASE in row[method].get("pairs", {})]
    some = f" ({len(counted)} of {len(rows)})" if len(counted) < len(rows) else ""
    return f"± {fmean(counted):.2f}{some}" if counted else ""


def corrupted(cells: list[Row], levels: Sequence[int], method: str, key: str) -> str:
    return spread(cells, levels, lambda row: value(row, method, "corrupted", key)) if method in CORRUPTED else ""


def value(row: Row, method: str, part: str, key: str = "accuracy") -> float:
    """In percent."""
    return 100 * float(row[method][part][key])


def test(method: str) -> Of:
    return lambda row: value(row, method, "test")


def over(method: str, other: str = BASE) -> Of:
    """Points on test by which a method is above another."""
    return lambda row: value(row, method, "test") - value(row, other, "test")


def per_run(cells: list[Row], levels: Sequence[int], of: Of) -> list[float]:
    return [fmean(of(cell["levels"][i]["methods"]) for i in levels) for cell in cells]


def mean(cells: list[Row], levels: Sequence[int], of: Of) -> float:
    return fmean(per_run(cells, levels, of))


def spread(cells: list[Row], levels: Sequence[int], of: Of, digits: int = 2) -> str:
    return with_error(per_run(cells, levels, of), digits)


def with_error(values: list[float], digits: int = 2, sign: str = "") -> str:
    """Mean and standard error of one value for each run; `sign` is "+" where a gain shall show it."""
    return Spread.of(values).shown(1, digits, sign)


def markdown(rows: list[list[str]]) -> str:
    return tables.markdown(tables.Table("", rows[0], rows[1:]))


BEGIN, END = "<!-- tables: benchmarks/accuracy_tables.py -->", "<!-- end of tables -->"


def content_of(page: Path) -> str:
    """What stands in a page between its two marks."""
    return page.read_text().partition(BEGIN)[2].partition(END)[0].strip("\n")


def write(page: Path, content: str) -> None:
    """Put tables into a page, between its two marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")


def pages() -> dict[Path, str]:
    """Each page with what belongs between its marks."""
    found = {name: cells for name in SETTINGS if (cells := load(name))}
    short, docs = short_table(found), ROOT / "docs"
    return {ROOT / "README.md": short, docs / "results.md": short, docs / "tables.md": long_tables(found)}


def main() -> None:
    for page, content in pages().items():
        write(page, content)


if __name__ == "__main__":
    main()
