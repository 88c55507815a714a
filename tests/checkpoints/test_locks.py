"""A lock ends with the process that holds it, and with nothing else."""

import os
import signal
import threading
from pathlib import Path

import pytest

from lptool.checkpoints.locks import locked


def holds(path: Path) -> bool | None:
    with locked(path, os.O_RDWR | os.O_CREAT) as mine:
        return mine


def test_one_at_a_time(tmp_path: Path) -> None:
    assert holds(tmp_path / "a")
    with locked(tmp_path / "a", os.O_RDWR):
        assert holds(tmp_path / "a") is False
        assert holds(tmp_path / "b")
    assert holds(tmp_path / "a")


def test_a_worker_that_was_forked_off_does_not_hold_it_on(tmp_path: Path) -> None:
    with locked(tmp_path / "a", os.O_RDWR | os.O_CREAT) as mine:
        assert mine
        worker = os.fork()
        if worker == 0:
            signal.pause()  # until it is killed
    try:
        for _ in range(1000):  # the child has first to come so far
            if holds(tmp_path / "a"):
                break
            threading.Event().wait(0.01)
        assert holds(tmp_path / "a")
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_nothing_is_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="link"), locked(tmp_path / "link", os.O_RDWR):
        pass


def test_a_file_system_without_locks_is_told_from_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    assert holds(tmp_path / "a") is None
