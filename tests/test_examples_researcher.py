"""The researcher's example, run as a reader would: from tickets of plain torch to pooled files and a figure."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest

from lptool.checkpoints.reading import file_sha256, summarise_file
from tests.helpers.commands import lptool
from tests.helpers.pages import ROOT, commands_in

EXAMPLE = ROOT / "examples" / "researcher"


def run_python(script: str, *words: str) -> None:
    """What `python SCRIPT WORD…` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *words])
        patch.syspath_prepend(Path(script).parent)
        runpy.run_path(script, run_name="__main__")
    sys.modules.pop("net", None)  # the module beside it is its own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example leaves behind; the quickest method, its other options as they are."""
    out = tmp_path_factory.mktemp("researcher")
    given = f"set -- '{out}' --method uniform --calibration-size 64 --device cpu"
    there = f"dirname() {{ echo '{EXAMPLE}'; }}; mkdir() {{ [[ -d ${{!#}} ]]; }}"
    script = (EXAMPLE / "researcher.sh").read_text(encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        for program, *words in commands_in(f"{there}\n{given}\n{script}", out):
            if program == "python":
                run_python(*words)
            else:
                assert program == "lptool"
                result = lptool(*words)
                assert result.exit_code == 0, result.output
                if "--json" in words:
                    Path("pooled.json").write_text(result.stdout, encoding="utf-8")
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


def test_the_figure_and_its_numbers_are_those_of_the_json(folder: Path) -> None:
    assert (folder / "figure.pdf").read_bytes().startswith(b"%PDF")
    targets = json.loads((folder / "pooled.json").read_text(encoding="utf-8"))["targets"]
    found = {(row["against"], row["level"]): row for row in rows(folder / "figure.csv")}
    for target in targets:
        row = found["ticket", str(target["target"]["level"])]
        scores = target["test"]
        assert float(row["gain"]) == pytest.approx(scores["pooled"]["accuracy"] - scores["ticket"]["accuracy"])
        assert float(row["density"]) == pytest.approx(1 - target["sparsity"])
        assert float(row["mcnemar_p"]) == pytest.approx(target["comparisons"][0]["p"])
    assert {row["runs"] for row in found.values()} == {"1"}
    assert {(row["dataset"], row["arch"]) for row in found.values()} == {("npz:digits.npz", "net.py:Net")}
