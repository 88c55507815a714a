"""The maintainers' side: continuous integration, hooks and package say the same as each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import lptool

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text()


def read(file: str) -> Any:
    return pytest.importorskip("yaml").safe_load((ROOT / file).read_text())


def test_the_workflow_runs_what_a_change_has_to_pass() -> None:
    workflow = read(".github/workflows/ci.yml")
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert workflow["permissions"] == {"contents": "read"}
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)


def test_the_workflow_runs_on_every_python_that_the_package_claims() -> None:
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    pythons = job["strategy"]["matrix"]["python-version"]
    assert pythons == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    assert f'requires-python = ">={pythons[0]}"' in PROJECT


def test_the_hooks_run_the_linters_of_the_script() -> None:
    """As they are installed, so that there is one version of each."""
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    script = (ROOT / ".ci" / "run").read_text()
    plain = script.replace(" --check", "").replace(" .\n", "\n").splitlines()
    for hook in repository["hooks"]:
        assert hook["entry"].removesuffix(" --force-exclude") in plain


def test_the_version_stands_in_one_place() -> None:
    assert 'dynamic = ["version"]' in PROJECT
    assert f'__version__ = "{lptool.__version__}"' in (ROOT / "lptool" / "__init__.py").read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+", lptool.__version__)
