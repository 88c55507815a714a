"""The order of the modules, as the design lays it out, and the public names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lptool
from tests.helpers.processes import begin, run_in

PACKAGE = Path(lptool.__file__).parent
# The house: rooms from the ground up, and the modules of each in the order to read them. A module imports from rooms
# before its own, and in its own only from modules before it.
ROOMS = {
    "ground": "errors tables device ranks provenance",
    "checkpoints": "locks drafts masks regular files header metadata names ticket nested summary evidence pool "
    "positions quantised packed safetensors_file pickles stored torch_file containers dialects finding apart reading "
    "places writing inspection",
    "scoring": "batching batchnorm weights score paired metrics cost latency",
    "networks": "cifar building matching running onnx_file pretrained architecture",
    "data": "files colours image_folder images augment classes arrays shards pictures pixel_file cache sources dataset "
    "corruptions loose",
    "evaluation": "setting setup job prediction",
    "training": "options presets schedule pruning start steps parallel folder setup epoch trial job plan",
    "pooling": "catalogue mixing choice outcome search window learned reconstruct methods scorer journal "
    "gradient layers least_squares reconstruction calibration trained_on trial setup decoding targets fitting_size "
    "comparisons fingerprint outputs result verdict finish job",
    "export": "licenses timm_config card folder hub onnx onnx_int8 program source accuracy fitting writers conversion",
    "report": "tables terminal inspect convert train pool evaluate predict documents settings runs compare compared "
    "figure",
    "report.html": "drawing charts maps page pool evaluate",
    "cli": "ending options output logs threads train_options train train_first pool_options pool_job pool inspect "
    "evaluate compare predict convert push version",
}
ORDER = [
    module if room == "ground" else f"{room}.{module}" for room, modules in ROOMS.items() for module in modules.split()
]
# The search, which knows tensors and a function that scores them.
SEARCH = [
    f"pooling.{module}"
    for module in ["catalogue", "mixing", "choice", "outcome", "search", "window", "learned", "methods"]
]
LONGEST = 300  # lines of a file


def path_of(module: str) -> Path:
    return PACKAGE / (module.replace(".", "/") + ".py")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def room_of(module: str) -> str:
    return module.rpartition(".")[0] or "ground"


def imported(path: Path) -> set[str]:
    """Modules of this package that a file imports, anywhere in it."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}".removeprefix("lptool.") for node in nodes for alias in node.names]
    return {module for module in ORDER for name in names if name == module or name.startswith(f"{module}.")}


def test_the_order_names_every_module() -> None:
    doors = {"__init__", "__main__"}
    assert {module_of(path) for path in PACKAGE.rglob("*.py") if path.stem not in doors} == set(ORDER)


def test_the_house_is_seen_at_a_glance() -> None:
    entries = {path.name for path in PACKAGE.iterdir()} - {"__init__.py", "__main__.py", "__pycache__", "py.typed"}
    assert len(entries) <= 15


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_rooms_below_and_from_its_left(module: str) -> None:
    assert imported(path_of(module)) <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in ("ground", "cli", "networks")])
def test_the_door_of_a_room_holds_a_sign_and_no_imports(room: str) -> None:
    """So `--help` never waits for torch. The door of `networks` registers with timm; that of `cli` has the group."""
    body = ast.parse((PACKAGE / room.replace(".", "/") / "__init__.py").read_text()).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)


def test_only_the_command_line_imports_the_trainer() -> None:
    """Pooling takes tickets from any trainer."""
    users = {module for module in ORDER for found in imported(path_of(module)) if room_of(found) == "training"}
    assert {room_of(module) for module in users} == {"training", "cli"}


def test_only_the_command_line_knows_click() -> None:
    users = {room_of(module_of(path)) for path in PACKAGE.rglob("*.py") if "import click" in path.read_text()}
    assert users == {"cli"}


@pytest.mark.parametrize("module", SEARCH)
def test_the_search_knows_no_network_and_no_data(module: str) -> None:
    below = imported(path_of(module))
    while further := {found for each in below for found in imported(path_of(each))} - below:
        below |= further
    assert not {room_of(found) for found in below} & {"networks", "data"}


def test_every_module_has_a_test_file() -> None:
    tests = Path(__file__).parent
    lacking = [
        m for m in ORDER if not (tests / path_of(m).relative_to(PACKAGE).with_name(f"test_{path_of(m).name}")).exists()
    ]
    assert lacking == []


def test_no_file_is_too_long_to_read() -> None:
    assert [p.name for p in PACKAGE.rglob("*.py") if len(p.read_text().splitlines()) > LONGEST] == []


def test_public_names_can_be_used() -> None:
    for name in lptool.__all__:
        assert ">>> " in (getattr(lptool, name).__doc__ or ""), f"{name} lacks a runnable example"
    assert set(lptool.__all__) <= set(dir(lptool))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lptool.nothing


def test_no_module_takes_the_place_of_a_public_name(tmp_path: Path) -> None:
    """An imported module becomes an attribute of its package, and would hide the function of the same name."""
    code = (
        "import importlib, pkgutil, lptool\n"
        "first = {name: getattr(lptool, name) for name in lptool.__all__}\n"
        "assert all(callable(found) for found in first.values()), first\n"
        "modules = [module.name for module in pkgutil.walk_packages(lptool.__path__, 'lptool.')]\n"
        "for module in modules:\n"
        "    module.endswith('__main__') or importlib.import_module(module)\n"
        "assert {name: getattr(lptool, name) for name in lptool.__all__} == first\n"
        "print(len(modules))"
    )
    child = begin(tmp_path / "child", run_in, tmp_path, code)
    assert child.end() == 0, child.stderr
    assert int(child.stdout) >= len(ORDER)
    assert not {path.stem for path in PACKAGE.iterdir()} & set(lptool.__all__)


def test_help_and_usage_errors_do_not_wait_for_torch(tmp_path: Path) -> None:
    """Nor for anything else that takes long. All of them in one process: nothing that one imports is forgotten."""
    names = ["inspect", "train", "pool", "evaluate", "compare", "predict", "convert", "push", "version"]
    commands = [
        ["--help"],
        *([name, "--help"] for name in names),
        ["pool"],
        ["evaluate"],
        ["compare"],
        ["predict", "a"],
        ["push"],
        ["inspect"],
    ]
    commands += [["train", "--rate", "x"], ["nothing"]]
    slow = {"torch", "timm", "rich", "jinja2", "matplotlib", "huggingface_hub"}
    code = f"""
import sys
from lptool.cli import main
for arguments in {commands!r}:
    try:
        main(arguments)
    except SystemExit as stop:
        assert stop.code in ([1] if arguments == ["inspect"] else [0, 2]), arguments
    assert not {slow!r} & set(sys.modules), arguments
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
