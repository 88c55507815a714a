"""What a result was made with: the command, the versions of what it rests on, and files by names for others to read."""

from __future__ import annotations

import platform
import re
import shlex
import sys
from importlib.metadata import version
from typing import Any

from lptool import __version__
from lptool.errors import one_line

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


# Names without the folders of the machine they were written on


def base_name(path: str) -> str:
    """The last part of a path of any system."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def arch_name(arch: str) -> str:
    """An architecture without the folders of its file: `net.py:make` of `/home/me/net.py:make`."""
    source, colon, name = one_line(arch).rpartition(":")
    return f"{base_name(source)}{colon}{base_name(name)}"


def data_name(name: str | None) -> str:
    """A data set without the folders it lies in: `folder:photos` of `folder:/home/me/photos`."""
    name = one_line(name or "")
    if name.partition("/")[0] in ("torch", "hfds", "hfids", "tfds"):
        return name
    kind = next((kind for kind in ("folder:", "npz:", "wds/") if name.startswith(kind)), "")
    return kind + base_name(name.removeprefix(kind))


# What may stand before a path, and how an absolute one begins: on Unix, in a home, on Windows, on a share.
_ABSOLUTE = re.compile(r"(?P<kind>['\"]?(--[\w-]+=)?(folder:|npz:|wds/|file://)?)(/|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\)")
_CLASSES = ("class_names", "label_names")  # these may begin with a slash, and mean no file


def without_folders(document: Any) -> Any:
    """A JSON document in which each absolute path is cut to its last part, also within the `command`.

    >>> without_folders({"file": "/home/me/a.npz", "command": "lptool pool /home/me/run -o out"})
    {'file': 'a.npz', 'command': 'lptool pool run -o out'}
    """
    if isinstance(document, dict):
        return {key: _cut(key, value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return list(map(without_folders, document))
    return _cut_text(document) if isinstance(document, str) else document


def command_without_folders(command: str) -> str:
    """A line for a shell in which each absolute path is cut to its last part."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quote that is not closed
        words = command.split()
    cut = list(map(_cut_text, words))
    return command if cut == words else shlex.join(cut)


def _cut(key: str, value: Any) -> Any:
    if key == "command" and isinstance(value, str):
        return command_without_folders(value)
    return value if key in _CLASSES else without_folders(value)


def _cut_text(text: str) -> str:
    found = _ABSOLUTE.match(text)
    return found["kind"] + base_name(text[found.end() :]) if found else text
