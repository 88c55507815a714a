"""Injects faults: a command is run again and again, and each time another of its calls to the file system fails.

Every call that concerns a file of the sandbox is an event: of `open`, `mkdir`, `rename`, `unlink` and the like, which
Python's audit hook reports, and of `read`, `write`, `fsync` and the native writers of tensors, which are wrapped. The
undisturbed run counts them; in each further run, a fork of one process that has imported everything, the event number
`k` ends the process, is interrupted, or fails as on a full or a broken disk. See `injection`.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Each fault, and the kinds of events that it can meet. A kill at a read leaves what a kill at the write before leaves.
CHANGES = ("create", "write", "fsync", "mkdir", "rename", "unlink", "rmdir", "chmod", "truncate", "link", "swap")
READS = ("open", "read", "list")
FAULTS: dict[str, tuple[str, ...]] = {
    "kill": CHANGES,
    "interrupt": CHANGES + READS,
    "ENOSPC": ("create", "write", "fsync", "mkdir", "rename", "link"),
    "EIO": CHANGES + READS,
    # What others do to files meanwhile: cut an input off, put another in its place, write something where output goes.
    "cut": CHANGES + READS,
    "replace": CHANGES + READS,
    "appear": CHANGES + READS,
    "EACCES": ("create", "mkdir", "rename", "unlink", "rmdir", "chmod", "open", "list", "link", "swap"),
}
LASTING = ("ENOSPC",)  # a full disk stays full
_OF_AUDIT = {
    "os.mkdir": "mkdir",
    "os.rename": "rename",
    "os.remove": "unlink",
    "os.rmdir": "rmdir",
    "os.chmod": "chmod",
    "os.truncate": "truncate",
    "os.link": "link",
    "os.symlink": "link",
    "os.listdir": "list",
    "os.scandir": "list",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_real_open = builtins.open


@dataclass
class Faults:
    """What has happened in the sandbox, and at which event what shall go wrong.

    Attributes:
        root: the sandbox; what lies elsewhere is no event.
        fault: one of FAULTS, None to count only. deed: what others do.
        at: number of the event, from 0, among those that the fault can meet.
        seen: the events, as kind and path. held: no event is noted while the harness itself looks.
    """

    root: str
    fault: str | None = None
    at: int = -1
    seen: list[tuple[str, str]] = field(default_factory=list)
    met: int = 0
    deed: Callable[[], object] = lambda: None
    held: bool = False

    def note(self, kind: str, path: object, half: Callable[[], object] = lambda: None) -> None:
        """An event is about to happen; `half` does the half of it, which is all that happens where a kill meets it."""
        name = self._inside(path)
        if name is None or self.held:
            return
        self.seen.append((kind, name))
        if self.fault is None or kind not in FAULTS[self.fault]:
            return
        number, self.met = self.met, self.met + 1
        if number == self.at or (number > self.at >= 0 and self.fault in LASTING):
            self._strike(name, half)

    def _strike(self, name: str, half: Callable[[], object]) -> None:
        if self.fault == "kill":
            self.held = True
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        elif self.fault in ("cut", "replace", "appear"):
            self.held = True
            self.deed()
            self.held = False
        else:
            assert self.fault is not None
            code = getattr(errno, self.fault)
            raise OSError(code, os.strerror(code), os.path.join(self.root, name))

    def _inside(self, path: object) -> str | None:
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return None
        try:
            whole = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        return os.path.relpath(whole, self.root) if f"{whole}/".startswith(f"{self.root}/") else None


class _Raw(io.FileIO):
    """A file of which every read and write is an event."""

    faults: Faults

    def _kind(self, kind: str, half: Callable[[], object] = lambda: None) -> None:
        self.faults.note(kind, self.name, half)

    def write(self, content: Any) -> int:
        self._kind("write", lambda: io.FileIO.write(self, memoryview(content)[: len(content) // 2]))
        return super().write(content)

    def truncate(self, size: int | None = None) -> int:
        self._kind("truncate")
        return super().truncate(size)

    def readinto(self, buffer: Any) -> int:
        self._kind("read")
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._kind("read")
        return super().readall()

    def read(self, size: int = -1) -> bytes:
        self._kind("read")
        return super().read(size)


def install(faults: Faults) -> None:
    """Let every call of this process that concerns the sandbox pass by `faults`. For good: meant for a fork."""
    sys.addaudithook(lambda event, arguments: _audited(faults, event, arguments))
    raw = type("_RawHere", (_Raw,), {"faults": faults})

    def opened(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
               newline: Any = None, closefd: bool = True, opener: Any = None) -> Any:  # fmt: skip
        if faults._inside(file) is None or opener is not None:
            return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        return _layered(
            raw(file, mode.replace("t", "").replace("b", ""), closefd), mode, buffering, encoding, errors, newline
        )

    builtins.open = io.open = opened  # type: ignore[assignment]
    _wrap_system(faults)
    _wrap_tensors(faults)


def _audited(faults: Faults, event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        faults.note("create" if (flags or 0) & _WRITING else "open", path)
    elif event in _OF_AUDIT:
        faults.note(_OF_AUDIT[event], arguments[1 if _OF_AUDIT[event] == "link" else 0])


def _layered(raw: io.FileIO, mode: str, buffering: int, encoding: Any, errors: Any, newline: Any) -> Any:
    """As `open` builds a file over a raw one."""
    if buffering == 0:
        return raw
    kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
    buffered = kind(raw)
    if "b" in mode:
        return buffered
    text = io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
    text.mode = mode  # type: ignore[misc]
    return text


def _wrap_system(faults: Faults) -> None:
    """The calls that no audit event tells of."""
    for name, kind in (("fsync", "fsync"), ("fdatasync", "fsync"), ("pwrite", "write"), ("write", "write"),
                       ("pread", "read"), ("ftruncate", "truncate"), ("posix_fallocate", "write")):  # fmt: skip
        real = getattr(os, name)

        def noted(descriptor: int, *arguments: Any, _real: Any = real, _kind: str = kind) -> Any:
            faults.note(_kind, descriptor)
            return _real(descriptor, *arguments)

        setattr(os, name, noted)


def _wrap_tensors(faults: Faults) -> None:
    """The native writers and readers, which open files by themselves."""
    import safetensors
    import safetensors.torch
    import torch

    serialize, opening, loading = safetensors.torch.serialize_file, safetensors.safe_open, torch.load

    def written(tensors: Any, filename: Any, *arguments: Any, **more: Any) -> Any:
        whole = safetensors.torch.serialize(tensors, *arguments, **more)
        faults.note("create", filename)
        faults.note("write", filename, lambda: Path(filename).write_bytes(whole[: len(whole) // 2]))
        return serialize(tensors, filename, *arguments, **more)

    def read(filename: Any, *arguments: Any, **more: Any) -> Any:
        faults.note("open", filename)
        return opening(filename, *arguments, **more)

    def loaded(file: Any, *arguments: Any, **more: Any) -> Any:
        faults.note("open", file)
        return loading(file, *arguments, **more)

    safetensors.torch.serialize_file = written
    safetensors.safe_open = safetensors.torch.safe_open = read
    torch.load = loaded
    for module in list(sys.modules.values()):  # those that have taken it by name
        if getattr(module, "__name__", "").startswith("lptool") and getattr(module, "safe_open", None) is opening:
            module.safe_open = read
