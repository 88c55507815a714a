"""What is opened at all, and what tells one state of a file from another."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lptool.checkpoints.regular import Stamp, open_regular


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # a long path does not fit


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is a pipe, expected a file"),
    "folder": (Path.mkdir, "is a folder, expected a file"),
    "socket": (a_socket, "is a socket, expected a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device, expected a file"),
    "nothing": (lambda path: None, "No such file"),
    "link to itself": (lambda path: path.symlink_to(path), "Too many levels"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_regular_file_is_refused_and_not_waited_for(kind: str, tmp_path: Path) -> None:
    make, message = ODD[kind]
    make(tmp_path / "a")
    with pytest.raises(OSError, match=message):
        open_regular(tmp_path / "a")


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").touch()
    of_a_file = os.stat(tmp_path / "a")
    os.mkfifo(tmp_path / "b")
    monkeypatch.setattr(os, "stat", lambda path: of_a_file)
    with open_regular(tmp_path / "b") as file:  # nobody writes to it: to open it otherwise would wait
        assert file.read() == b""


def by_truncating(path: Path) -> None:
    os.truncate(path, 2)
    os.utime(path, ns=(0, 7))


def by_time(path: Path) -> None:
    os.utime(path, ns=(0, 8))


def by_replacing(path: Path) -> None:
    path.with_name("new").write_bytes(b"one")
    os.utime(path.with_name("new"), ns=(0, 7))
    os.replace(path.with_name("new"), path)


@pytest.mark.parametrize("change", [by_truncating, by_time, by_replacing])
def test_a_stamp_is_of_one_state_of_one_file(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    os.utime(path, ns=(0, 7))
    with open_regular(path) as before:
        stamp = Stamp.of(before)
        assert stamp == Stamp.of(before.fileno())
        assert (stamp.size, stamp.written) == (3, 7)
        change(path)
        with open_regular(path) as after:
            assert Stamp.of(after) != stamp
