"""`lptool --version`."""

import builtins
from typing import Any

import pytest
import torch

from lptool import __version__
from lptool.device import autocast_dtype, pick_device
from lptool.errors import SetupError
from tests.helpers.commands import lptool


def test_it_tells_what_auto_picks() -> None:
    shown = lptool("--version")
    dtype = {torch.bfloat16: "bf16", torch.float32: "fp32"}[autocast_dtype("auto", pick_device())]
    assert shown.exit_code == 0
    assert shown.stdout == f"lptool {__version__}, torch {torch.__version__}, auto: {pick_device()} {dtype}\n"


@pytest.mark.parametrize(
    "error", [ImportError("libcudart.so: no such file\nmore"), OSError("libcudart.so: no such file")]
)
def test_it_tells_why_torch_cannot_be_imported(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def broken(name: str, *rest: Any) -> Any:
        if name == "torch":
            raise error
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    shown = lptool("--version")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout == f"lptool {__version__}, torch cannot be used: libcudart.so: no such file\n"


def test_it_tells_of_a_device_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> torch.device:
        raise SetupError("device 'cuda' cannot be used here")

    monkeypatch.setattr("lptool.device.pick_device", refuse)
    assert (
        lptool("--version").stdout == f"lptool {__version__}, torch cannot be used: device 'cuda' cannot be used here\n"
    )
