"""Devices, precision, and a torchvision that does not fit torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lptool.device import autocast_dtype, free_memory, import_timm, in_float64, is_memory, local_ranks, pick_device
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


# How much memory is free. The system's files are made here.

MEMINFO = "MemTotal: 32000 kB\nMemFree: 1 kB\nMemAvailable: 20000 kB\n"
V2, V1 = "0::/job/step", "5:cpu:/\n4:memory:/job/step\n1:name=systemd:/x"
GROUPS = {
    "none": ("", {}, 20_480_000),
    "no limit": (V2, {"job/step": ("max", 5, 0)}, 20_480_000),
    "more than there is": (V2, {"job/step": (10**12, 5, 0)}, 20_480_000),
    "a limit": (V2, {"job/step": (1000, 300, 0)}, 700),
    "files that were read": (V2, {"job/step": (1000, 900, 400)}, 500),
    "over it": (V2, {"job/step": (1000, 1200, 100)}, 0),
    "of the group above": (V2, {"job/step": (1000, 300, 0), "job": (2000, 1900, 0)}, 100),
    "in a container": (V2, {"": (800, 300, 0)}, 500),
    "of the first version": (V1, {"memory/job/step": (1000, 300, 0)}, 700),
    "of the first version, in a container": (V1, {"memory": (1000, 300, 50)}, 750),
    "none, as the first version says it": (V1, {"memory/job": (2**63 - 4096, 300, 0)}, 20_480_000),
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
