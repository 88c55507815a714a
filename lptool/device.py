"""What this machine can do: devices, precision, and a torch/torchvision pair that fits."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

from lptool.errors import SetupError, first_line


def import_timm() -> ModuleType:
    """timm, or one clear error where torch and torchvision do not match (timm imports torchvision)."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        reason = first_line(error)
        raise SetupError(
            f"torchvision does not fit the installed torch {torch.__version__} ({reason}). "
            "Install a matching pair: pip install --upgrade --force-reinstall torch torchvision"
        ) from error
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        raise SetupError(f"timm cannot be imported ({first_line(error)}). Install it: pip install timm") from error


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` takes CUDA, then Apple's MPS, then the CPU. Raises SetupError.

    Under torchrun each process of a machine takes a GPU of its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local_rank() % max(1, torch.cuda.device_count()))
        torch.empty(1, device=device).cpu()  # a device that has a name may still not work: here, and not hours later
        if device.type == "cuda":
            torch.cuda.set_device(device)  # else streams and events would be those of the first GPU
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = first_line(error)
        raise SetupError(f"device {name!r} cannot be used here ({reason}); try --device auto or cpu") from error
    return device


def local_rank() -> int:
    """This process's number among those that torchrun started on this machine; 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def local_ranks() -> int:
    """How many processes torchrun started on this machine; 1 without torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The compute type for `precision` (`auto`, `fp32` or `bf16`): `auto` takes bf16 where the hardware has it."""
    if precision == "auto":
        return torch.bfloat16 if _has_fast_bf16(device) else torch.float32
    known = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if precision not in known:
        raise SetupError(f"unknown precision {precision!r}: expected auto, fp32 or bf16")
    return known[precision]


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64; on the CPU where its device, as Apple's GPUs, has no such type."""
    return (tensor.cpu() if tensor.is_mps else tensor).double()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: what the machine has left, and what its control groups leave of that.

    0 where the system does not say (`root` is where its files are looked for).
    """
    available = _numbers(root / "proc" / "meminfo").get("MemAvailable:", 0) * 1024
    return max(0, min([available, *_left_by_groups(root)]))


def is_memory(folder: Path, root: Path = Path("/")) -> bool:
    """Whether what lies in this folder takes memory, as in /dev/shm. Raises OSError."""
    device = os.stat(folder).st_dev
    mounts = (line.split() for line in _text(root / "proc" / "self" / "mountinfo").splitlines())
    kinds = [words[words.index("-") + 1] for words in mounts if words[2] == f"{os.major(device)}:{os.minor(device)}"]
    return any(kind in ("tmpfs", "ramfs") for kind in kinds)


def _left_by_groups(root: Path) -> Iterator[int]:
    """Limit minus use of each control group that this process is in, where it has a limit.

    A container sees its own group at the mount, whatever its path says, so that all folders above count too.
    """
    lines = (line.split(":", 2) for line in _text(root / "proc" / "self" / "cgroup").split())
    for number, kinds, path in lines:
        mount, names = root / "sys" / "fs" / "cgroup", ("memory.max", "memory.current", "inactive_file")
        if number != "0":  # of the first version, where each kind has groups of its own
            mount, names = mount / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if number == "0" or "memory" in kinds.split(","):
            own = mount / path.lstrip("/")
            groups = [own, *(folder for folder in own.parents if folder.is_relative_to(mount))]
            yield from (left for group in groups if (left := _left_by(group, *names)) is not None)


def _left_by(group: Path, limit: str, use: str, files: str) -> int | None:
    """None without a limit. Files that were read give way to whatever wants their memory."""
    most, used = (_text(group / name).strip() for name in (limit, use))
    if not (most.isdecimal() and used.isdecimal()):
        return None
    return int(most) - int(used) + _numbers(group / "memory.stat").get(files, 0)


def _numbers(file: Path) -> dict[str, int]:
    """The lines of a system file that are a name, a number and perhaps a unit."""
    lines = (line.split() for line in _text(file).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def release_freed_memory() -> None:
    """Hand freed memory back to the system, where the C library keeps it (glibc); elsewhere do nothing.

    States of one size that come and go leave holes in glibc's heap, and the process would seem to grow with each.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # emulated, and slow, before Ampere
    if device.type == "cpu":
        able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # from torch 2.9 on
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False
