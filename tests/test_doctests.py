"""The examples in docstrings do what they show, each in an empty folder of its own."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import lptool

MODULES = [
    "lptool",
    *(found.name for found in pkgutil.walk_packages(lptool.__path__, "lptool.") if not found.name.endswith("__main__")),
]


def failures(module: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `doctest` says of the examples that do not show what they show here; nothing if all do."""
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    torch.set_printoptions(profile="default")
    for test in filter(lambda test: test.examples, doctest.DocTestFinder().find(module)):
        (folder / test.name).mkdir()
        monkeypatch.chdir(folder / test.name)
        with np.printoptions(precision=8, suppress=False, threshold=1000, linewidth=75):
            runner.run(test, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("name", MODULES)
def test_examples_do_what_they_show(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = failures(importlib.import_module(name), tmp_path, monkeypatch)
    assert not found, found


def test_an_example_that_shows_something_else_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def right() -> None:
        """
        >>> from pathlib import Path
        >>> Path("note").write_text("mine")
        4
        """

    def wrong() -> None:
        """
        >>> from pathlib import Path
        >>> Path("note").exists()
        True
        """

    module = ModuleType("examples")
    vars(module)["__test__"] = {"right": right, "wrong": wrong}
    found = failures(module, tmp_path, monkeypatch)
    assert found.count("Failed example") == 1
    assert "Expected:\n    True\nGot:\n    False" in found
