"""The order of the modules, as the design lays it out, and the public names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lptool

PACKAGE = Path(lptool.__file__).parent
# Each module may import only from those before it.
ORDER = [
    "errors",
    "device",
    "ranks",
    "batching",
    "masks",
    "tickets",
    "pools",
    "containers",
    "dialects",
    "checkpoints",
    "interpolate",
    "recalibrate",
    "evaluate",
    "choice",
    "trace",
    "scorer",
    "journal",
    "slope",
    "search",
    "window",
    "learned",
    "methods",
    "export",
    "networks",
    "models",
    "images",
    "augment",
    "pictures",
    "shards",
    "sources",
    "data",
    "presets",
    "run_folder",
    "train",
    "inspection",
    "setting",
    "bench",
    "targets",
    "barrier",
    "references",
    "pipeline",
    "provenance",
    "metrics",
    "corruptions",
    "cost",
    "subjects",
    "evaluation",
    "report",
    "report_pool",
    "report_evaluate",
    "drawing",
    "charts",
    "heatmaps",
    "markup",
    "wording",
    "pool_story",
    "pool_figures",
    "pool_page",
    "evaluate_story",
    "evaluate_figures",
    "evaluate_page",
    "cli",
]
POOLING_LINE = ORDER[ORDER.index("masks") : ORDER.index("export") + 1]


def imported(module: str) -> set[str]:
    """Modules of this package that a module imports, anywhere in it."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    inner = [
        f"lptool.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "lptool"
        for alias in node.names
    ]
    return {n.split(".")[1] for n in names + inner if n.startswith("lptool.")} & set(ORDER)


def test_the_order_names_every_module() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_its_left(module: str) -> None:
    assert imported(module) <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize(
    "module", [*POOLING_LINE, "setting", "bench", "pipeline", "report_pool", "report", "inspection"]
)
def test_the_pooling_line_does_not_need_the_trainer(module: str) -> None:
    assert not imported(module) & {"train", "run_folder", "presets"}


def test_only_the_command_line_knows_click() -> None:
    users = {p.stem for p in PACKAGE.glob("*.py") if "import click" in p.read_text()}
    assert users == {"cli"}


def test_every_module_has_a_test_file() -> None:
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(ORDER) <= tested


def test_public_names_can_be_used() -> None:
    for name in lptool.__all__:
        assert getattr(lptool, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lptool.nothing


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["pool", "--help"],
        ["pool"],
        ["evaluate", "--help"],
        ["evaluate"],
        ["--version"],
        ["train", "--rate", "x"],
    ],
)
def test_help_and_usage_errors_do_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from lptool.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
