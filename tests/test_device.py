"""Devices, precision, and a torchvision that does not fit torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lptool import device
from lptool.device import (
    autocast_dtype,
    fastest_threads,
    free_memory,
    import_timm,
    in_float64,
    is_memory,
    kind_of_device,
    local_ranks,
    pick_device,
    threads_on,
    usable_cores,
)
from lptool.errors import SetupError
from tests.helpers.pages import ROOT


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int, mps: bool) -> list[torch.device]:
    """A machine with so many GPUs; gives the list of those that become the current one."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", lambda *size, device: torch.zeros(size))
    return current


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(1, True, "cuda:0"), (8, False, "cuda:0"), (0, True, "mps"), (0, False, "cpu")],
)
def test_auto_prefers_cuda_then_mps_then_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str
) -> None:
    current = pretend(monkeypatch, cuda=cuda, mps=mps)
    assert pick_device("auto") == torch.device(expected)
    assert current == [torch.device("cuda:0")] * (cuda > 0)


@pytest.mark.parametrize(("name", "expected"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0")])
def test_under_torchrun_each_process_takes_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: str
) -> None:
    """The fourth process of a machine with two. It becomes the current GPU, whose streams and events are meant."""
    current = pretend(monkeypatch, cuda=2, mps=False)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("cuda") == torch.device("cuda:0")  # not started by torchrun
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert pick_device(name) == current[-1] == torch.device(expected)


def test_ranks_of_this_machine_are_those_that_torchrun_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other launchers set LOCAL_WORLD_SIZE too, for whatever they like."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert local_ranks() == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert local_ranks() == 4


def test_a_named_device_is_taken_as_named() -> None:
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "banana", "cuda:99", "meta", "cpu:-1"])
def test_a_device_that_cannot_hold_a_tensor_gives_one_line_with_the_remedy(name: str) -> None:
    with pytest.raises(SetupError) as caught:
        pick_device(name)
    text = str(caught.value)
    assert repr(name) in text
    assert "--device auto" in text
    assert "\n" not in text


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_named_precision_holds_on_every_device(precision: str, expected: object) -> None:
    assert all(autocast_dtype(precision, torch.device(kind)) == expected for kind in ("cpu", "cuda", "mps"))


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_auto_precision_is_bf16_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: object
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert autocast_dtype("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("able", "expected"),
    [({}, torch.float32), ({"amx_bf16": True}, torch.bfloat16), ({"avx512_bf16": True}, torch.bfloat16)],
)
def test_auto_precision_on_a_cpu_is_bf16_only_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], expected: object
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert autocast_dtype("auto", torch.device("cpu")) == expected


def test_a_matching_pair_gives_timm() -> None:
    assert import_timm().__name__ == "timm"


def test_a_missing_torchvision_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # makes the import fail as if it were not installed
    with pytest.raises(SetupError, match=r"^[^\n]*torchvision[^\n]*pip install[^\n]*$"):
        import_timm()


def test_the_command_line_tells_of_a_broken_torchvision_in_one_line(tmp_path: Path) -> None:
    """The error of a real mismatched pair: one `Error:` line with the remedy, exit 1, no traceback, nothing written."""
    broken = tmp_path / "site" / "torchvision"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    ran = subprocess.run(
        [sys.executable, "-m", "lptool", "train", "-o", "out", "--preset", "quickstart"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{broken.parent}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("Error: ")
    for part in ("operator torchvision::nms does not exist", torch.__version__, "pip install"):
        assert part in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["hpu", "privateuseone", "cuda:99", "abacus"])
def test_devices_that_are_not_here_are_one_clear_error(name: str) -> None:
    with pytest.raises(SetupError, match=f"device '{name}' cannot be used here"):
        pick_device(name)


def test_an_unknown_precision_is_a_clear_error() -> None:
    with pytest.raises(SetupError, match="unknown precision 'fp8'"):
        autocast_dtype("fp8", torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_float64_holds_what_there_was(dtype: torch.dtype) -> None:
    tensor = torch.randn(5).to(dtype)
    found = in_float64(tensor)
    assert (found.dtype, found.device) == (torch.float64, tensor.device)
    assert torch.equal(found.to(dtype), tensor)


# Cores and threads.


def pretend_groups(root: Path, groups: str, **files: str) -> Path:
    """A machine of 8 cores whose process is in these cgroups, with these files in `/sys/fs/cgroup`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


V1 = "9:name=systemd:/\n2:cpuset:/\n1:cpu,cpuacct:/docker/ab:c\n0::/\n"


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "nonsense"}, 8),
        ("0::/\n", {"cpu.max": "100000 0"}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n"}, 4),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "400000 100000\n"}, 3),
        ("0::/a\n", {"b/cpu.max": "100000 100000\n"}, 8),
        ("0::/of/the/host\n", {"cpu.max": "500000 100000\n"}, 5),
        (V1, {"cpu/docker/ab:c/cpu.cfs_quota_us": "-1\n", "cpu/docker/ab:c/cpu.cfs_period_us": "100000\n"}, 8),
        (V1, {"cpu/docker/ab:c/cpu.cfs_quota_us": "150000\n", "cpu/docker/ab:c/cpu.cfs_period_us": "50000\n"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu/cpu.cfs_quota_us": "150000\n"}, 8),
        ("", {"cpu.max": "100000 100000\n"}, 8),
    ],
)
def test_usable_cores_are_those_of_the_cgroup(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    assert usable_cores(pretend_groups(tmp_path, groups, **files)) == expected


@pytest.mark.usefixtures("eight_cores")
def test_where_there_are_no_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8


# Seconds of a piece of work by threads, out of 8, or of 2.
IDLE = {8: 0.01, 4: 0.02, 2: 0.04, 1: 0.08}
EQUAL = dict.fromkeys(IDLE, 0.02)
NEIGHBOURS = {8: 0.2, 4: 0.1, 2: 0.05, 1: 0.06}


@pytest.mark.parametrize(
    ("most", "seconds", "expected"),
    [
        (8, IDLE, 8),
        (8, EQUAL, 8),
        (8, NEIGHBOURS, 2),
        (8, {**NEIGHBOURS, 1: 0.01}, 1),
        (2, {2: 0.1, 1: 0.081}, 2),  # within 20 %
        (2, {2: 0.1, 1: 0.079}, 1),
        (6, {6: 0.1, 3: 0.02, 1: 0.05}, 3),
        (8, {8: 0.1, 4: 0.05, 2: 0.05, 1: 0.05}, 4),  # of equals the most
    ],
)
def test_fewer_threads_are_taken_only_where_they_are_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, most: int, seconds: dict[int, float], expected: int
) -> None:
    monkeypatch.setattr(torch.backends.openmp, "is_available", lambda: True)
    assert fastest_threads(most, lambda threads, of: seconds[threads]) == expected


def test_all_numbers_of_threads_take_turns_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.openmp, "is_available", lambda: True)
    asked: list[tuple[int, int]] = []

    def seconds(threads: int, most: int) -> float:
        asked.append((threads, most))
        return 0.001

    assert fastest_threads(4, seconds) == 4
    rounds = len(asked) // 3
    assert asked == [(4, 4), (2, 4), (1, 4)] * rounds
    assert rounds > 10
    assert 0.001 * len(asked) < 0.3


@pytest.mark.parametrize(("most", "openmp"), [(1, True), (4, False)])
def test_where_there_is_no_choice_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, most: int, openmp: bool) -> None:
    monkeypatch.setattr(torch.backends.openmp, "is_available", lambda: openmp)
    assert fastest_threads(most, lambda threads, of: pytest.fail("measured")) == most


def test_what_is_measured_takes_the_threads_it_is_of() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            assert device._seconds_of_operations(threads, 2) > 0
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "kind"), [("cpu", "cpu"), ("cuda:1", "cuda"), ("banana", "banana"), ("", "")])
def test_the_kind_of_a_device_is_known_without_it(name: str, kind: str) -> None:
    assert kind_of_device(name) == kind


@pytest.mark.parametrize(("cuda", "mps", "kind"), [(1, True, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_so_is_that_of_auto(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, kind: str) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert kind_of_device("auto") == kind


def test_results_depend_on_threads_on_the_cpu_alone() -> None:
    assert threads_on(torch.device("cpu")) == torch.get_num_threads()
    assert threads_on(torch.device("cuda")) is threads_on(torch.device("mps")) is None


# How much memory is free. The system's files are made here.

MEMINFO = "MemTotal: 32000 kB\nMemFree: 1 kB\nMemAvailable: 20000 kB\n"
V2, OLD = "0::/job/step", "5:cpu:/\n4:memory:/job/step\n1:name=systemd:/x"
GROUPS = {
    "none": ("", {}, 20_480_000),
    "no limit": (V2, {"job/step": ("max", 5, 0)}, 20_480_000),
    "more than there is": (V2, {"job/step": (10**12, 5, 0)}, 20_480_000),
    "a limit": (V2, {"job/step": (1000, 300, 0)}, 700),
    "files that were read": (V2, {"job/step": (1000, 900, 400)}, 500),
    "over it": (V2, {"job/step": (1000, 1200, 100)}, 0),
    "of the group above": (V2, {"job/step": (1000, 300, 0), "job": (2000, 1900, 0)}, 100),
    "in a container": (V2, {"": (800, 300, 0)}, 500),
    "of the first version": (OLD, {"memory/job/step": (1000, 300, 0)}, 700),
    "of the first version, in a container": (OLD, {"memory": (1000, 300, 50)}, 750),
    "none, as the first version says it": (OLD, {"memory/job": (2**63 - 4096, 300, 0)}, 20_480_000),
    "that another group has": (V2, {"other": (1000, 300, 0)}, 20_480_000),
}


@pytest.mark.parametrize("case", GROUPS)
def test_free_memory_is_what_machine_and_control_groups_leave(case: str, tmp_path: Path) -> None:
    own, groups, expected = GROUPS[case]
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    (tmp_path / "proc" / "self" / "cgroup").write_text(own + "\n")
    for name, (limit, use, files) in groups.items():
        folder = tmp_path / "sys" / "fs" / "cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        first = name.startswith("memory")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if first else ("memory.max", "memory.current")
        for file, value in zip(names, (limit, use), strict=True):
            (folder / file).write_text(f"{value}\n")
        (folder / "memory.stat").write_text(f"cache 1\n{'total_' * first}inactive_file {files}\n")
    assert free_memory(tmp_path) == expected


def test_where_the_system_does_not_say_no_memory_is_free(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == 0
    assert 0 <= free_memory() < 2**60


@pytest.mark.parametrize(("kind", "expected"), [("tmpfs", True), ("ramfs", True), ("ext4", False), ("overlay", False)])
def test_a_folder_of_files_in_memory_is_told_by_its_mount(kind: str, expected: bool, tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "mountinfo").write_text(
        "36 35 0:9999 / /elsewhere rw,noatime master:1 - tmpfs shm rw\n"
        f"37 35 {os.major(device)}:{os.minor(device)} / /here rw shared:2 master:1 - {kind} /dev/x rw\n"
    )
    assert is_memory(tmp_path, tmp_path) == expected
    assert not is_memory(tmp_path, tmp_path / "nothing")
    with pytest.raises(OSError, match="No such file"):
        is_memory(tmp_path / "nothing", tmp_path)
