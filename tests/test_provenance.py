"""The command and the versions."""

import platform
import shlex

import pytest
import torch

import lptool
from lptool.provenance import command_line, versions


def test_the_command_can_be_pasted_into_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["evaluate", "my file.safetensors", "--mean", "0.5", "it's"]
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/lptool", *arguments])
    assert shlex.split(command_line()) == ["lptool", *arguments]


def test_versions_are_those_that_are_installed() -> None:
    found = versions()
    assert list(found) == ["lptool", "python", "torch", "torchvision", "timm", "safetensors", "numpy"]
    assert found["lptool"] == lptool.__version__
    assert found["python"] == platform.python_version()
    assert torch.__version__.startswith(found["torch"].partition("+")[0])
