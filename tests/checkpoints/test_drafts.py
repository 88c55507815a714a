"""What commands leave that were killed while they wrote: the next one takes it away, and nothing else."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from lptool.checkpoints import drafts
from lptool.checkpoints.drafts import draft_of, tidy
from lptool.checkpoints.finding import find_checkpoints
from lptool.checkpoints.places import check_folder, check_output, write_atomically
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.errors import LeftBehind

KILLED = ".a.0123abcd"  # a draft whose process lives no more


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# What a kill leaves, by where it came.
LEFT: dict[str, Callable[[Path], object]] = {
    "before the lock": lambda draft: None,
    "before the file": lambda draft: (draft / "lock").touch(),
    "half a file": lambda draft: [(draft / name).write_text("x") for name in ("lock", "new", ".tmpAb3")],
    "half a folder": lambda draft: [(draft / "lock").touch(), (draft / "new" / "b").mkdir(parents=True)],
    "a library's folder": lambda draft: [(draft / "lock").touch(), (draft / "tmpAb3" / "b").mkdir(parents=True)],
}
NEXT: dict[str, Callable[[Path], object]] = {
    "tidy": tidy,
    "write": lambda place: write_atomically(place, lambda file: file.write_text("mine")),
    "check": lambda place: check_output(place, [], overwrite=True, suffix=""),
    "check folder": lambda place: check_folder(place, [], overwrite=True),
}


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("command", NEXT)
def test_what_a_killed_command_left_goes_with_the_next(tmp_path: Path, left: str, command: str) -> None:
    (tmp_path / KILLED).mkdir()
    LEFT[left](tmp_path / KILLED)
    NEXT[command](tmp_path / "a")
    assert not (tmp_path / KILLED).exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_what_is_not_ours_or_not_dead_stays(tmp_path: Path) -> None:
    for name in (".a.0123abcz", ".b.0123abcd", ".a.0123abcd.bak", "a.0123abcd", ".a.00000000"):
        (tmp_path / name).mkdir()
    (tmp_path / ".a.00000000" / "thesis.tex").touch()  # a folder of that name that is no draft
    (tmp_path / ".a.11111111").touch()
    (tmp_path / ".a.22222222").symlink_to(tmp_path / ".b.0123abcd")
    before = listing(tmp_path)
    with draft_of(tmp_path / "a") as living:
        living.write_text("half")
        inside = listing(tmp_path)
        write_atomically(tmp_path / "a", lambda file: file.write_text("mine"))
        tidy(tmp_path / "a")
        assert listing(tmp_path) == sorted([*inside, "a"])
    assert listing(tmp_path) == sorted([*before, "a"])


@pytest.mark.parametrize("when", ["between the renames", "after them"])
@pytest.mark.parametrize(
    "command", [tidy, lambda place: check_folder(place, [], overwrite=True), lambda place: find_checkpoints(place)]
)
def test_a_folder_that_was_moved_aside_comes_back(tmp_path: Path, when: str, command: Callable[[Path], object]) -> None:
    """On a file system that cannot swap two names."""
    place, draft = tmp_path / "a", tmp_path / KILLED
    for folder in ("new", "old"):
        (draft / folder).mkdir(parents=True)
        (draft / folder / "model.safetensors").write_text(folder)
    (draft / "lock").touch()
    if when == "after them":
        (draft / "new").rename(place)
        tidy(place)
    command(place)
    assert listing(tmp_path) == ["a", "a/model.safetensors"]
    assert (place / "model.safetensors").read_text() == ("old" if when == "between the renames" else "new")


def test_a_draft_that_cannot_be_removed_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(drafts, "_remove", fail)
    with pytest.warns(LeftBehind, match=r"\.a\.[0-9a-f]{8}: cannot be removed \(Input/output error\); delete it"):
        write_atomically(tmp_path / "a", lambda file: file.write_text("whole"))
    assert (tmp_path / "a").read_text() == "whole"
    monkeypatch.undo()
    tidy(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_an_interrupted_clean_up_is_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    unlink, failed = Path.unlink, list[Path]()

    def failing(path: Path, **given: bool) -> None:
        if not failed:
            failed.append(path)
            raise error
        unlink(path, **given)

    monkeypatch.setattr(Path, "unlink", failing)
    with nullcontext() if isinstance(error, OSError) else pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", lambda file: file.write_text("whole"))
    assert failed
    assert os.listdir(tmp_path) == ["a"]


def test_a_living_draft_without_its_lock_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command may come between its two first steps."""
    mkdir, came = Path.mkdir, list[Path]()

    def meanwhile(path: Path, *arguments: object, **given: object) -> None:
        mkdir(path, *arguments, **given)  # type: ignore[arg-type]
        if path.name.startswith(".a.") and not came:
            came.append(path)
            tidy(tmp_path / "a")

    monkeypatch.setattr(Path, "mkdir", meanwhile)
    write_atomically(tmp_path / "a", lambda file: file.write_text("whole"))
    assert os.listdir(tmp_path) == ["a"]
    assert came


def test_the_temporary_file_of_safetensors_is_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes one beside the name that it is given; so a kill leaves it in a draft."""
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(os.listdir(tmp_path)))
    save_ticket(Ticket({"w": torch.ones(2)}, {}), tmp_path / "a")
    assert [name.startswith(".a.") for names in seen for name in names] == [True]
    assert os.listdir(tmp_path) == ["a"]
