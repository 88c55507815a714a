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
    "packed",
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
    "prune_keys",
    "onnx_file",
    "header",
    "timm_config",
    "metrics",
    "markdown",
    "front_matter",
    "card",
    "folder",
    "hub",
    "images",
    "augment",
    "pictures",
    "shards",
    "sources",
    "data",
    "levels",
    "train_options",
    "presets",
    "schedule",
    "pruning",
    "starting_point",
    "optimise",
    "parallel",
    "run_folder",
    "run",
    "epoch",
    "train",
    "train_plan",
    "inspection",
    "setting",
    "bench",
    "targets",
    "barrier",
    "references",
    "plan",
    "pipeline",
    "provenance",
    "corruptions",
    "cost",
    "subjects",
    "evaluation",
    "convert",
    "report",
    "report_export",
    "report_train",
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
# Inside the command line, likewise; its `__init__` comes last.
CLI_ORDER = [
    *("options", "output", "train_options", "train", "train_first", "pool_options", "pool"),
    *("inspect", "evaluate", "convert", "push", "version"),
]
LONGEST = 300  # lines of a file
TRAINER = set(ORDER[ORDER.index("levels") : ORDER.index("train_plan") + 1])
POOLING_LINE = ORDER[ORDER.index("masks") : ORDER.index("export") + 1]


def imports(path: Path) -> set[str]:
    """All that a file imports from this package, anywhere in it: `lptool.data`, `lptool.cli.train.chosen` …"""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    return {name for name in names if name.startswith("lptool.")}


def imported(module: str) -> set[str]:
    """Modules of this package that a module imports."""
    files = [PACKAGE / f"{module}.py"] if module != "cli" else list((PACKAGE / "cli").glob("*.py"))
    return {name.split(".")[1] for file in files for name in imports(file)} & set(ORDER) - {module}


def modules_in(folder: Path) -> set[str]:
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    return {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"} | packages


def test_the_order_names_every_module() -> None:
    assert modules_in(PACKAGE) == set(ORDER)
    assert modules_in(PACKAGE / "cli") == set(CLI_ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_its_left(module: str) -> None:
    assert imported(module) <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize("module", CLI_ORDER)
def test_a_part_of_the_command_line_imports_only_from_its_left(module: str) -> None:
    """So commands import what they share, and that knows no command; nor does any know the group that holds them."""
    names = [name.split(".") for name in imports(PACKAGE / "cli" / f"{module}.py")]
    assert {name[2] for name in names if name[1] == "cli"} <= set(CLI_ORDER[: CLI_ORDER.index(module)])


@pytest.mark.parametrize(
    "module", [*POOLING_LINE, "setting", "bench", "pipeline", "report_pool", "report", "inspection"]
)
def test_the_pooling_line_does_not_need_the_trainer(module: str) -> None:
    assert not imported(module) & TRAINER


def test_only_the_command_line_knows_click() -> None:
    users = {p.relative_to(PACKAGE).parts[0] for p in PACKAGE.rglob("*.py") if "import click" in p.read_text()}
    assert users == {"cli"}


def test_every_module_has_a_test_file() -> None:
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert {*ORDER, *(f"cli_{module}" for module in CLI_ORDER)} <= tested


def test_no_file_is_too_long_to_read() -> None:
    assert [p.name for p in PACKAGE.rglob("*.py") if len(p.read_text().splitlines()) > LONGEST] == []


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
        ["push", "--help"],
        ["push"],
        ["inspect"],
        ["train", "--rate", "x"],
    ],
)
def test_help_and_usage_errors_do_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from lptool.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'timm', 'rich', 'matplotlib', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
