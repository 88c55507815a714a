"""Files of every kind but regular ones are refused before they are opened, and a file that changes is told as that."""

from __future__ import annotations

import gc
import hashlib
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lptool.checkpoints.files import OpenedFile, check_memory, is_shape, reading
from lptool.checkpoints.reading import file_sha256, load_pool, open_checkpoint, reopened, summarise_file
from lptool.errors import CheckpointError, DataError

STATE = {"w": torch.tensor([[1.0, 0.0], [3.0, 4.0]]), "b": torch.ones(3)}


@pytest.fixture(autouse=True)
def in_twenty_seconds() -> Iterator[None]:
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("hangs"))
    signal.alarm(20)
    yield
    signal.alarm(0)


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    os.chdir(path.parent)  # a socket's path has a hundred letters at most
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


KINDS = [
    (folder, r"cannot be read \(is a folder, expected a file\)"),
    (pipe, r"cannot be read \(is a pipe, expected a file\)"),
    (unix_socket, r"cannot be read \(is a socket, expected a file\)"),
    (device, r"cannot be read \(is a device, expected a file\)"),
    (loop, r"cannot be read \(Too many levels of symbolic links\)"),
    (dangling, r"cannot be read \(No such file or directory\)"),
]
NAMES = ["a.pt", "a.safetensors", "model.safetensors.index.json"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("make", "message"), KINDS)
def test_only_regular_files_are_opened(
    tmp_path: Path, make: Callable[[Path], None], message: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    for read in (open_checkpoint, file_sha256):
        with pytest.raises(CheckpointError, match=f"{name}: {message}"):
            read(tmp_path / name)


@pytest.mark.parametrize("make", [pipe, device, loop, dangling])
@pytest.mark.parametrize("beside", ["config.json", "mask.pth"])
def test_what_lies_beside_is_no_trap(tmp_path: Path, make: Callable[[Path], None], beside: str) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    torch.save(STATE, tmp_path / "model.pth")
    make(tmp_path / beside)
    assert open_checkpoint(tmp_path / "model.safetensors").ticket().shapes == {"b": (3,), "w": (2, 2)}
    assert open_checkpoint(tmp_path / "model.pth").ticket().shapes == {"w": (2, 2), "b": (3,)}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").chmod(0)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: cannot be read \(Permission denied\)"):
        open_checkpoint(tmp_path / "a.safetensors")


def test_too_many_open_files(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    torch.save(STATE, tmp_path / "a.pt")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.open(tmp_path, os.O_RDONLY)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken, limits[1]))
        for name in ("a.safetensors", "a.pt"):
            with pytest.raises(CheckpointError, match=rf"{name}: cannot be read \(Too many open files\)"):
                open_checkpoint(tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(taken)


def test_many_files_are_closed_again(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    gc.collect()  # of the tests before this one
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        open_checkpoint(tmp_path / "a.safetensors").ticket()
    assert len(os.listdir("/proc/self/fd")) == before


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def grown(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"\0")


def written_again(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x01")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def replaced(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes()[:-1] + b"\x01")
    os.utime(path.with_name("new"), ns=(0, path.stat().st_mtime_ns))
    os.replace(path.with_name("new"), path)


CHANGES = [cut_off, grown, written_again, replaced]


def write_safetensors(path: Path, by: float) -> Path:
    save_file({name: tensor * by for name, tensor in STATE.items()}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def write_torch(path: Path, by: float) -> Path:
    torch.save({name: tensor * by for name, tensor in STATE.items()}, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def write_before_zip(path: Path, by: float) -> Path:
    state = {name: tensor * by for name, tensor in STATE.items()}
    torch.save(state, path.with_suffix(".pth"), _use_new_zipfile_serialization=False)
    return path.with_suffix(".pth")


@pytest.mark.parametrize("write", [write_safetensors, write_torch, write_before_zip])
@pytest.mark.parametrize("change", CHANGES)
def test_a_ticket_that_changes_during_a_search_is_told_as_that(
    tmp_path: Path, write: Callable[[Path, float], Path], change: Callable[[Path], None]
) -> None:
    files = [write(tmp_path / name, by) for name, by in (("a", 1.0), ("b", 2.0))]
    pool = load_pool(files)
    summary = summarise_file(files[0])
    assert pool[0].file == str(files[0])
    change(files[0])
    for read in (lambda: pool[0], lambda: reopened(summary)):
        with pytest.raises(CheckpointError, match=f"{files[0].name}: was changed while it was in use: ") as error:
            read()
        assert str(error.value).isprintable()
    assert pool[1].file == str(files[1])


@pytest.mark.parametrize("write", [write_safetensors, write_torch, write_before_zip])
@pytest.mark.parametrize("change", CHANGES)
def test_an_opened_file_is_read_as_it_was_or_not_at_all(
    tmp_path: Path, write: Callable[[Path, float], Path], change: Callable[[Path], None]
) -> None:
    checkpoint = open_checkpoint(write(tmp_path / "a", 1.0))
    change(checkpoint.path)
    if change is replaced:  # what was opened is still there for who has it open
        assert torch.equal(checkpoint.tensor("w"), STATE["w"])
    else:
        with pytest.raises(CheckpointError, match="was changed while it was in use"):
            checkpoint.tensor("b")


def test_parts_beside_a_file_are_compared_too(tmp_path: Path) -> None:
    torch.save({"w": STATE["w"]}, tmp_path / "model.pth")
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "mask.pth")
    summary = summarise_file(tmp_path / "model.pth")
    assert summary.files == (str(tmp_path / "model.pth"), str(tmp_path / "mask.pth"))
    reopened(summary)
    grown(tmp_path / "mask.pth")
    with pytest.raises(CheckpointError, match=r"mask\.pth: was changed while it was in use"):
        reopened(summary)
    (tmp_path / "mask.pth").unlink()
    with pytest.raises(CheckpointError, match=r"mask\.pth: cannot be read \(No such file"):
        reopened(summary)


def test_a_mask_that_appears_changes_a_checkpoint(tmp_path: Path) -> None:
    torch.save({"w": STATE["w"]}, tmp_path / "model.pth")
    summary = summarise_file(tmp_path / "model.pth")
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "mask.pth")
    with pytest.raises(CheckpointError, match=r"model\.pth: was changed while it was in use"):
        reopened(summary)


def test_the_sha256_is_of_what_was_read(tmp_path: Path) -> None:
    for write in (write_safetensors, write_torch):
        file = write(tmp_path / "a", 1.0)
        assert summarise_file(file).sha256 == hashlib.sha256(file.read_bytes()).hexdigest() == file_sha256(file)


def test_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)))
    file = OpenedFile(tmp_path / "a")
    assert file.content(250, 6) == bytes(range(250, 256))
    assert file.tensor(3, 2).tolist() == [3, 4]
    assert file.content(256, 0) == b""
    for offset, count in ((250, 7), (-1, 2), (0, -1), (1 << 70, 1)):
        with pytest.raises(CheckpointError, match="a: ends before byte"):
            file.content(offset, count)


def test_whatever_a_library_raises_becomes_one_line() -> None:
    for error in (RuntimeError("two\nlines"), MemoryError(), RecursionError("deep"), KeyError("x"), OverflowError()):
        with (
            pytest.raises(CheckpointError, match=r"^a: not a whole thing \(.*\); copy") as found,
            reading("a", "thing"),
        ):
            raise error
        assert str(found.value).isprintable()
    with pytest.raises(DataError, match="own"), reading("a"):
        raise DataError("own")
    with pytest.raises(KeyboardInterrupt), reading("a"):
        raise KeyboardInterrupt


def test_more_memory_than_there_is_is_refused() -> None:
    check_memory(1000, "a")
    with pytest.raises(CheckpointError, match=r"a: would take 1,000,000\.0 GB of memory, and .* GB are free"):
        check_memory(10**15, "a")


def test_a_hole_of_a_file_is_not_read_into_memory(tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as file:
        file.truncate(1 << 43)
    with pytest.raises(CheckpointError, match="a: would take"):
        OpenedFile(tmp_path / "a").content(0, 1 << 43)


def test_shapes() -> None:
    for sound in ([], [0], (1, 2), [1] * 64, [0, 1 << 62]):
        assert is_shape(sound)
    for odd in (None, 3, "12", [1] * 65, [-1], [True], [1.0], ["1"], [1 << 63], [0, 1 << 32, 1 << 32], {1: 2}):
        assert not is_shape(odd)
