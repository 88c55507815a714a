"""Results in README and docs, held to the JSON files that they come from."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from lptool.report.compare import compare_document
from lptool.report.runs import gains_in
from tests.helpers.commands import lptool
from tests.helpers.pages import ROOT
from tests.helpers.reading import SVG
from tests.helpers.runs import written

RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
Document = dict[str, Any]


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[dict[str, ModuleType]]:
    """The scripts, imported as they import one another."""
    names = ("accuracy", "accuracy_tables", "accuracy_documents")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


def rows_of(benchmarks: dict[str, ModuleType], folder: Path, settings: list[str], methods: list[str]) -> list[Document]:
    """What `lptool compare` makes of the runs, in its order of file names."""
    found = sorted(benchmarks["accuracy_documents"].documents(settings, methods))
    rows: list[Document] = compare_document(gains_in(written(folder, [document for _, document in found])))["rows"]
    return rows


def cells_of(table: str) -> list[list[str]]:
    """The cells of Markdown, and lines that are none; without rulers, which may look otherwise."""
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines() if line.strip()]
    return [cells for cells in lines if not all(re.fullmatch(r":?-+:?", cell) for cell in cells)]


def test_the_tables_are_those_of_the_json(benchmarks: dict[str, ModuleType]) -> None:
    tables = benchmarks["accuracy_tables"]
    pages = tables.pages()
    assert [page.name for page in pages] == ["README.md", "results.md", "tables.md"]
    for page, content in pages.items():
        assert cells_of(tables.content_of(page)) == cells_of(content)
        assert len(cells_of(content)) > 5


def test_compare_and_the_tables_agree(benchmarks: dict[str, ModuleType], tmp_path: Path) -> None:
    tables, settings = benchmarks["accuracy_tables"], list(benchmarks["accuracy"].SETTINGS)
    rows = rows_of(benchmarks, tmp_path, settings, ["greedy", "uniform"])
    for setting in settings:
        cells = tables.load(setting)
        levels = range(len(cells[0]["levels"]))
        for method in ("greedy", "uniform"):
            for against, control in (("ticket", "ticket"), ("ticket_bn", "ticket + BN")):
                (row,) = (
                    row
                    for row in rows
                    if (row["dataset"], row["method"], row["against"], row["over"])
                    == (setting, method, against, "levels")
                )
                gains = tables.per_run(cells, levels, tables.over(method, control))
                assert [100 * run["gain"] for run in row["runs"]] == pytest.approx(gains)


QUOTED: dict[str, set[tuple[str, int | None]]] = {
    "auto": {("fashion-mnist", None), ("cifar10-mini", None), ("fashion-mnist", 6), ("fashion-mnist", 7)}
    | {("cifar10-mini-crops", 6)},
    "greedy": {("fashion-mnist", None), ("cifar10-mini", None), ("fashion-mnist", 6), ("fashion-mnist", 7)},
    "uniform": {("fashion-mnist", 7), ("fashion-mnist-crops", 5), ("cifar10-mini-groupnorm", 6)},
    "swa": {("fashion-mnist", 7), ("fashion-mnist-crops", 5), ("cifar10-mini-groupnorm", 6)},
}


def test_what_the_page_quotes_is_what_compare_says(benchmarks: dict[str, ModuleType], tmp_path: Path) -> None:
    settings = list(benchmarks["accuracy"].SETTINGS)
    rows = rows_of(benchmarks, tmp_path, settings, list(QUOTED))
    quoted = 0
    for row in rows:
        if row["against"] == "better" and (row["dataset"], row["level"]) in QUOTED[row["method"]]:
            sign = "−" if row["gain"] < 0 and row["method"] == "greedy" else ""  # of a loss the text says the size
            assert f"{sign}{abs(100 * row['gain']):.2f} ± {100 * row['error']:.2f}" in RESULTS, row
            quoted += 1
    assert quoted == sum(map(len, QUOTED.values()))


def test_what_the_pages_say_of_auto_is_in_the_json(benchmarks: dict[str, ModuleType]) -> None:
    tables, p = benchmarks["accuracy_tables"], {}
    for setting in benchmarks["accuracy"].SETTINGS:
        cells = tables.load(setting)
        gains = tables.per_run(cells, range(len(cells[0]["levels"])), tables.over("auto", "greedy"))
        p[setting] = f"{ttest_1samp(gains, 0).pvalue:.2g}"
    pooled = [
        level["methods"]["auto"]["search"]["accepted"] > 0
        for cell in tables.load("fashion-mnist-crops")
        for level in cell["levels"]
    ]
    for text in (RESULTS, (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")):
        flowing = " ".join(text.split())
        assert f"p = {p['fashion-mnist']}, {p['cifar10-mini']} and {p['cifar10-mini-groupnorm']}" in flowing
        assert f"(p = {p['cifar10-mini-crops']})" in flowing
        assert f"pools in {sum(pooled)} of {len(pooled)} models" in flowing


def test_the_picture_shows_what_its_command_gives(benchmarks: dict[str, ModuleType], tmp_path: Path) -> None:
    """The lines of the picture are, up to the scale of the axes, the gains and the logarithms of the densities."""
    command = "--setting fashion-mnist cifar10-mini fashion-mnist-crops --method greedy auto\n"
    assert f"python benchmarks/accuracy_documents.py runs/documents {command}" in RESULTS
    rows = rows_of(benchmarks, tmp_path, ["fashion-mnist", "cifar10-mini", "fashion-mnist-crops"], ["greedy", "auto"])
    lines = lines_of(ROOT / "docs" / "gain.svg")
    panels = ("cifar10-mini", "fashion-mnist-crops", "fashion-mnist")  # in the order of file names
    assert len(lines) == 2 * len(panels)
    for dataset, mine in zip(panels, (lines[:2], lines[2:4], lines[4:]), strict=True):
        wanted = [
            [
                row
                for row in rows
                if (row["dataset"], row["method"], row["against"], row["over"]) == (dataset, m, "better", "one")
            ]
            for m in ("auto", "greedy")
        ]
        for line, points in zip(mine, wanted, strict=True):
            assert off_a_line([np.log(row["density"]) for row in points], line[:, 0]) < 0.05  # pixels
        gains = [row["gain"] for points in wanted for row in points]
        assert off_a_line(gains, np.concatenate([line[:, 1] for line in mine])) < 0.05
    assert (ROOT / "docs" / "gain.svg").stat().st_size <= 60_000


def lines_of(file: Path) -> list[np.ndarray]:
    """The coloured lines of a figure with more points than an error bar has, in the order drawn, as x and y."""
    found = []
    for path in ElementTree.parse(file).iter(f"{SVG}path"):
        points = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.get("d", ""))
        if len(points) > 3 and "stroke: #" in path.get("style", "") and "fill: none" in path.get("style", ""):
            found.append(np.array(points, dtype=float))
    return found


def off_a_line(x: list[float], y: np.ndarray) -> float:
    """How far y is from the straight line through it and x, at most."""
    return float(np.abs(y - np.polyval(np.polyfit(x, y, 1), x)).max())


def test_a_picture_of_other_numbers_would_be_noticed() -> None:
    assert off_a_line([1.0, 2.0, 3.0, 4.0], np.array([10.0, 20.0, 30.0, 40.5])) > 0.05


def test_the_commands_make_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = ROOT / "benchmarks" / "accuracy_documents.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path), "--setting", "cifar10-mini", "--method", "greedy"])
    runpy.run_path(str(script), run_name="__main__")
    files = sorted(tmp_path.glob("*.json"))
    assert [file.name for file in files] == [f"cifar10-mini-seed{seed}-greedy.json" for seed in range(3)]
    result = lptool("compare", *files, "--figure", tmp_path / "gain.svg")
    assert result.exit_code == 0, result.output
    assert [line.shape for line in lines_of(tmp_path / "gain.svg")] == [(9, 2)]


@pytest.mark.parametrize("script", sorted(ROOT.glob("benchmarks/*.py")), ids=lambda script: script.name)
def test_scripts_import_what_there_is(script: Path) -> None:
    """They take hours, so nothing else would notice that a function has gone."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lptool":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{module.__name__}.{alias.name}")
