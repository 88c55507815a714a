"""`lptool compare` as a person or a script meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import lptool, refused
from tests.helpers.runs import target, written


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return written(tmp_path, [target(seed, 2, (900, 910, 930 + seed)) for seed in range(3)])


def test_a_table_and_every_file(files: list[Path], tmp_path: Path) -> None:
    outputs = {
        name: tmp_path / f"out.{suffix}" for name, suffix in [("csv", "csv"), ("latex", "tex"), ("figure", "pdf")]
    }
    words = [word for name, path in outputs.items() for word in (f"--{name}", path)]
    result = lptool("compare", *files, *words)
    assert result.exit_code == 0, result.output
    assert "+3.10 ± 0.06" in result.stdout
    assert result.stdout.splitlines()[-3:] == [f"wrote {path}" for path in outputs.values()]
    assert outputs["csv"].read_text().startswith("dataset,arch,method,against,")
    assert r"\toprule" in outputs["latex"].read_text()
    assert outputs["figure"].read_bytes().startswith(b"%PDF")
    assert lptool("compare", *files, *words).exit_code == 0  # the same again


def test_other_content_is_kept_unless_told_otherwise(files: list[Path], tmp_path: Path) -> None:
    there = tmp_path / "a.csv"
    there.write_text("mine", encoding="utf-8")
    result = lptool("compare", *files, "--latex", tmp_path / "a.tex", "--csv", there)
    assert refused(result).endswith("choose another output or add --overwrite")
    assert (there.read_text(), (tmp_path / "a.tex").exists()) == ("mine", False)
    assert lptool("compare", *files, "--csv", there, "--overwrite").exit_code == 0
    assert there.read_text().startswith("dataset,")


def test_one_document_on_stdout(files: list[Path]) -> None:
    result = lptool("compare", *files, "--json")
    assert [row["against"] for row in json.loads(result.stdout)["rows"]] == ["ticket", "ticket_bn", "better"]


def test_words_of_files_and_their_names_reach_every_output_as_lines_of_text(tmp_path: Path) -> None:
    """Halves of characters, which no UTF-8 has, commands to a terminal, and line ends that would cut a row in two."""
    odd = "a\n\ud800\x1b[31m"
    document = target(0, 2, (900, 910, 930), method=odd, dataset=odd, options={odd: odd, "passes": 1})
    named = tmp_path / os.fsdecode(b"caf\xe9\n.json")
    named.write_text(json.dumps(document))
    other = tmp_path / "b.json"
    other.write_text(json.dumps(document | {"options": {odd: "b"}, "tickets": ["b"], "sha256": "b"}))
    outputs = [tmp_path / name for name in ("a.csv", "a.tex", "a.svg")]
    words = [w for pair in zip(("--csv", "--latex", "--figure"), outputs, strict=True) for w in pair]
    result = lptool("compare", named, other, *words)
    assert result.exit_code == 0, result.output
    texts = [result.stdout, *(path.read_text(encoding="utf-8") for path in outputs)]
    assert all("\x1b" not in text and "caf" + os.fsdecode(b"\xe9") not in text for text in texts)
    assert len(outputs[0].read_text().splitlines()) == 1 + 6
    assert json.loads(lptool("compare", named, other, "--json").stdout)["rows"]


def test_a_bad_input_leaves_nothing_behind(files: list[Path], tmp_path: Path) -> None:
    files[1].write_text("{", encoding="utf-8")
    result = lptool("compare", *files, "--csv", tmp_path / "a.csv", "--figure", tmp_path / "a.svg")
    assert refused(result).startswith(f"{files[1]}: not a whole JSON document")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.json", "1.json", "2.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--figure", "a.jpg"], "a.jpg: expected a name that ends in .pdf, .svg or .png"),
        (["--csv", "a.txt"], "a.txt: expected a name that ends in .csv"),
        (["--latex", "a.csv"], "a.csv: expected a name that ends in .tex"),
    ],
)
def test_outputs_of_other_kinds_are_refused(files: list[Path], words: list[str], message: str) -> None:
    assert refused(lptool("compare", *files, *words)).startswith(message)


def test_a_whole_comparison_does_without_torch(files: list[Path]) -> None:
    """And without matplotlib, where no figure is asked for."""
    code = (
        "import sys\nfrom lptool.cli import main\n"
        f"main({['compare', *map(str, files)]!r}, standalone_mode=False)\n"
        "assert not {'torch', 'timm', 'matplotlib'} & set(sys.modules)\n"
        f"main({['compare', *map(str, files), '--figure', str(files[0].parent / 'a.svg')]!r}, standalone_mode=False)\n"
        "assert 'matplotlib' in sys.modules and not {'torch', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
