"""The researcher's example, run as a reader would: from tickets of plain torch to pooled files and a figure."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lptool.checkpoints.reading import file_sha256, summarise_file
from lptool.scoring.metrics import wilson_interval
from tests.helpers.pages import ROOT

EXAMPLE = ROOT / "examples" / "researcher"


def environment() -> dict[str, str]:
    """One thread, and the programs and the lptool of this very test."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example leaves behind; the quickest method, its other options as they are."""
    out = tmp_path_factory.mktemp("researcher") / "out"
    command = [
        "bash",
        str(EXAMPLE / "researcher.sh"),
        str(out),
        *["--method", "uniform", "--calibration-size", "64", "--device", "cpu"],
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_number_at_90_percent_is_there(folder: Path) -> None:
    pooled = summarise_file(folder / "pooled_90.safetensors")
    assert 1 - pooled.density() == pytest.approx(0.9, abs=1 / pooled.size())
    assert pooled.metadata.scores["test"]["pooled"]["n"] == 500


def test_every_level_is_pooled_and_the_last_is_beyond_90_percent(folder: Path) -> None:
    targets = json.loads((folder / "pooled.json").read_text(encoding="utf-8"))["targets"]
    assert [target["target"]["level"] for target in targets] == list(range(8))
    assert targets[-1]["sparsity"] > 0.9
    assert all(file_sha256(folder / target["output"]) == target["sha256"] for target in targets)
    assert min(target["test"]["ticket"]["accuracy"] for target in targets) > 0.8


def test_the_figure_shows_the_numbers_of_the_json(folder: Path) -> None:
    assert (folder / "figure.pdf").read_bytes().startswith(b"%PDF")
    targets = json.loads((folder / "pooled.json").read_text(encoding="utf-8"))["targets"]
    drawn = {(row["curve"], round(float(row["remaining"]), 6)): row for row in rows(folder / "figure.csv")}
    assert len(drawn) == 3 * len(targets)
    for target in targets:
        for curve, score in target["test"].items():
            row = drawn[curve, round(100 * (1 - target["sparsity"]), 6)]
            interval = wilson_interval(round(score["accuracy"] * score["n"]), score["n"])
            expected = [100 * score["accuracy"], *(100 * end for end in interval)]
            assert [float(row[name]) for name in ("accuracy", "low", "high")] == pytest.approx(expected)


def test_several_runs_are_drawn_with_their_standard_error(tmp_path: Path) -> None:
    for name, accuracies in (("a", (0.9, 0.8)), ("b", (0.94, 0.8))):
        targets = [
            {"sparsity": sparsity, "test": {curve: {"accuracy": right, "n": 100} for curve in ("ticket", "pooled")}}
            for sparsity, right in zip((0.5, 0.9), accuracies, strict=True)
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps({"targets": targets}), encoding="utf-8")
    command = [sys.executable, str(EXAMPLE / "figure.py"), "figure.pdf", "a.json", "b.json"]
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True)
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    found = [
        (row["curve"], *(float(row[name]) for name in ("accuracy", "low", "high")))
        for row in rows(tmp_path / "figure.csv")
    ]
    assert [curve for curve, *_ in found] == ["ticket", "pooled"] * 2
    assert found[0][1:] == pytest.approx((92, 90, 94))  # two runs 4 points apart: 4/√2 over √2 is 2
    assert found[3][1:] == pytest.approx((80, 80, 80))
