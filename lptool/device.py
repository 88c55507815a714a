"""What this machine can do: devices, precision, cores and threads, and a torch/torchvision pair that fits."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch

from lptool.errors import SetupError, first_line

# How `fastest_threads` measures.
_CLEARLY = 0.8  # of the time of all threads is clearly faster
_SECONDS = 0.15  # to spend on it, and the last round; where cores are shared one takes up to 0.15 itself
_CHUNK = 65536  # numbers for each thread: twice as many as torch begins another thread for
_OPERATIONS = 5  # one after the other


log = logging.getLogger(__name__)


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
        name = kind_of_device(name)
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


def kind_of_device(name: str) -> str:
    """`cuda`, `mps`, `cpu` …: what the device called `name` is, whether or not it can be used."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return name.partition(":")[0]


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


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, by its affinity and by its cgroup's share of time; a part of one counts whole.

    Args:
        root: where `/proc` and `/sys` lie.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """How many cores' time each cgroup that this process is in may take, where that is limited."""
    for group in _groups("cpu", root):
        text = _text(group / "cpu.max") or " ".join(_text(group / f"cpu.cfs_{part}_us") for part in ("quota", "period"))
        if found := re.fullmatch(r"(\d+)\s+(0*[1-9]\d*)", text.strip()):  # else "max", -1, or no such file
            yield int(found[1]) / int(found[2])


def _groups(kind: str, root: Path) -> Iterator[Path]:
    """The folders of the cgroups of `cpu` or `memory` that this process is in: what limits the groups above holds too.

    In a container the path may be one of the host, and lead nowhere here; its own group is then at the mount.
    """
    lines = (line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines())
    for number, kinds, path in (line for line in lines if len(line) == 3):
        if number != "0" and kind not in kinds.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("" if number == "0" else kind)  # the first version has groups for each kind
        own = Path(path.lstrip("/"))
        yield from (mount / part for part in (own, *own.parents))


def threads_on(device: torch.device) -> int | None:
    """How many threads the sums on a device depend on: torch's on the CPU, none elsewhere."""
    return torch.get_num_threads() if device.type == "cpu" else None


def go_on_with_threads(begun: int | None, threads: int) -> None:
    """Let torch compute with the number of threads that something was begun with, else with `threads`."""
    torch.set_num_threads(begun or threads)
    if begun and begun * local_ranks() > usable_cores():
        log.warning(
            "Warning: going on with %d threads, as it was begun, which are more than there are cores here; --threads "
            "sets another number, and sums may then differ in their last digits",
            begun,
        )


def fastest_threads(most: int, seconds: Callable[[int, int], float] | None = None) -> int:
    """How many threads to compute with: `most`, or a half, a quarter, …, 1 of them where that is clearly faster.

    It is where other programs run on the same cores: at the end of each operation all threads wait for the last, which
    may not have a core just then. On cores that are free half of the threads take twice the time for the same, so the
    answer does not hang on chance.

    Args:
        seconds: how long a piece of work takes with (threads, `most`); by default it is measured.
    """
    seconds = seconds or _seconds_of_operations
    if most == 1 or not torch.backends.openmp.is_available():  # else the number can be set only once
        return most
    tried = [most >> halvings for halvings in range(most.bit_length())]
    spent = dict.fromkeys(tried, 0.0)
    while sum(spent.values()) < _SECONDS:  # in turns, so that all see the same neighbours
        for threads in tried:
            spent[threads] += seconds(threads, most)
    fastest = min(tried, key=lambda threads: spent[threads])
    return fastest if spent[fastest] < _CLEARLY * spent[most] else most


def _seconds_of_operations(threads: int, most: int) -> float:
    """Of short operations, each on a chunk for each of `most` threads. Leaves torch with `threads`."""
    torch.set_num_threads(threads)
    numbers = torch.zeros(most * _CHUNK)
    numbers.tanh_()  # starts the threads
    started = time.perf_counter()
    for _ in range(_OPERATIONS):
        numbers.tanh_()
    return time.perf_counter() - started


# Of a cgroup of the second version and of the first: its limit, its use, and in `memory.stat` the files that were read.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


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
    """Limit minus use of each cgroup that has a limit; files that were read give way to whatever wants their memory."""
    for group in _groups("memory", root):
        for limit, use, files in _MEMORY_FILES:
            most, used = (_text(group / name).strip() for name in (limit, use))
            if most.isdecimal() and used.isdecimal():
                yield int(most) - int(used) + _numbers(group / "memory.stat").get(files, 0)


def _numbers(file: Path) -> dict[str, int]:
    """The lines of a system file that are a name, a number and perhaps a unit."""
    lines = (line.split() for line in _text(file).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
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
