"""What is opened, what is walked through, and what changed meanwhile."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lptool.data.files import check_state, check_unchanged, files_below, opened, state_of
from lptool.errors import DataError


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # a long path does not fit


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is a pipe, expected a file"),
    "folder": (Path.mkdir, "is a folder, expected a file"),
    "socket": (a_socket, "is a socket, expected a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device, expected a file"),
    "nothing": (lambda path: None, "No such file"),
    "link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_regular_file_is_refused_and_not_waited_for(kind: str, tmp_path: Path) -> None:
    make, message = ODD[kind]
    make(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=rf"a\.jpg: .*{message}"):
        opened(tmp_path / "a.jpg")


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be read"):
        opened("a\0.jpg")


def test_a_file_that_was_written_or_replaced_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    now = time.time_ns()
    with opened(path) as file:
        before = state_of(file)
        check_state(file, path, before)
        check_unchanged(file, path, now)
        os.utime(path, ns=(now, now + 1))
        with pytest.raises(DataError, match="a: was changed while it was in use"):
            check_state(file, path, before)
        with pytest.raises(DataError, match="a: was changed while it was in use"):
            check_unchanged(file, path, now)
        os.utime(path, ns=(now, now + 10**15))  # of a wrong clock
        check_unchanged(file, path, now)


def test_folders_are_walked_through_links_and_past_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b/2", "a", ".ipynb_checkpoints/1", "__MACOSX/._1", "b/._2", "b/.DS_Store", "b/Thumbs.db"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "3").touch()
    (tmp_path / "root" / "c").symlink_to(tmp_path / "elsewhere")
    found = sorted(os.path.relpath(entry.path, tmp_path / "root") for entry in files_below(tmp_path / "root"))
    assert found == ["a", "b/2", "c/3"]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_in_a_circle_is_named(target: str, tmp_path: Path) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "again").symlink_to(target)
    with pytest.raises(DataError, match=r"again.*: is a link back to a folder that it lies in"):
        list(files_below(tmp_path / "root"))
