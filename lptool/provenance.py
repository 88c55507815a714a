"""What a result was made with: the command and the versions of what it rests on."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import version

from lptool import __version__

_PACKAGES = ("torch", "torchvision", "timm", "safetensors", "numpy")


def command_line() -> str:
    """The command as it was typed, ready for a shell."""
    return for_a_shell(*sys.argv[1:])


def for_a_shell(*words: str) -> str:
    """A command of lptool, to be copied into a shell.

    >>> for_a_shell("pool", "my runs", "-o", "a.safetensors")
    "lptool pool 'my runs' -o a.safetensors"
    """
    return shlex.join(["lptool", *words])


def versions() -> dict[str, str]:
    """Of lptool, Python and the libraries that a score depends on."""
    return {"lptool": __version__, "python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
