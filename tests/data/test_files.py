"""What is opened, what is walked through, and what changed meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lptool.checkpoints.regular import Stamp
from lptool.data.files import check_state, check_unchanged, files_below, opened
from lptool.errors import DataError


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: cannot be read \(is a pipe, expected a file\)"):
        opened(tmp_path / "a.jpg")


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be read"):
        opened("a\0.jpg")


def test_a_file_that_was_written_or_replaced_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    now = time.time_ns()
    with opened(path) as file:
        before = Stamp.of(file)
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
