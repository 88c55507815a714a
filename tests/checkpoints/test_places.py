"""Files as written: bit-exact, loadable by others, whole or absent."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lptool.checkpoints import drafts
from lptool.checkpoints.places import FILES, check_folder, check_output, is_folder, new_folder, write_atomically
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_packed, save_prune_keys, save_ticket
from lptool.errors import ArchError, DataError, OutputError
from lptool.pooling.outputs import outputs_of
from lptool.pooling.setup import PoolOptions, open_bench


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")

    def fail(file: Path) -> None:
        file.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"a: cannot be written .No space left on device"):
        write_atomically(tmp_path / "a", fail)
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def test_what_a_writer_finds_is_handed_on(tmp_path: Path) -> None:
    """What it returns, and an error that already says what is wrong, as it is."""

    def refuse(file: Path) -> None:
        raise DataError("img.png: damaged")

    assert write_atomically(tmp_path / "a", lambda file: file.write_text("four")) == 4
    with pytest.raises(DataError, match=r"^img\.png: damaged$"):
        write_atomically(tmp_path / "b", refuse)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("write", [save_ticket, save_packed, save_prune_keys])
def test_others_may_read_a_file_as_any_other_file(tmp_path: Path, write: Callable[[Ticket, Path], None]) -> None:
    """The writer of safetensors makes files that only their owner may read."""
    (tmp_path / "any").write_text("")
    write(Ticket({"w": torch.ones(2)}, {"w": torch.tensor([True, True])}), tmp_path / "ticket")
    assert (tmp_path / "ticket").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_interrupting_a_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(file: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", interrupt)
    assert os.listdir(tmp_path) == []


def test_check_output(tmp_path: Path) -> None:
    there = tmp_path / "there.safetensors"
    there.write_text("")
    (tmp_path / "link").symlink_to(there)
    (tmp_path / "broken.safetensors").symlink_to(tmp_path / "nowhere")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    hard = tmp_path / "hard.safetensors"
    hard.hardlink_to(there)
    (tmp_path / "folder.safetensors").mkdir()
    check_output(tmp_path / "new" / "folder" / "file.safetensors", [there], overwrite=False)
    check_output(there, [], overwrite=True)
    for output, inputs, overwrite, message in [
        (there, [], False, "exists"),
        (there, [tmp_path / "link"], True, "also an input"),
        (tmp_path / "broken.safetensors", [], False, "exists"),
        (there / "below.safetensors", [], False, "cannot be written"),
        (tmp_path / "gone" / "file.safetensors", [], False, "cannot be written"),
        (Path("/proc/file.safetensors"), [], False, "cannot be written"),
        (tmp_path / f"{'a' * 300}.safetensors", [], False, "cannot be written"),
        (hard, [there], True, "also an input"),
        (tmp_path / "folder.safetensors", [], True, "is a folder, expected a file"),
        (tmp_path, [], True, r"expected a name that ends in \.safetensors"),
        (tmp_path / "a.pt", [], True, r"expected a name that ends in \.safetensors"),
    ]:
        with pytest.raises(OutputError, match=message):
            check_output(output, inputs, overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["broken.safetensors", "folder.safetensors", "gone", "hard.safetensors", "link", "there.safetensors"]
    )


@pytest.mark.parametrize("what", ["file", "folder", "link", "link to nowhere"])
def test_what_comes_to_be_meanwhile_stays(tmp_path: Path, what: str) -> None:
    """Unless it may be replaced; and a link is replaced itself, never what it leads to."""
    place, other = tmp_path / "a", tmp_path / "other"
    other.write_text("other")

    def write(file: Path) -> None:
        file.write_text("mine")
        {
            "file": lambda: place.write_text("theirs"),
            "folder": place.mkdir,
            "link": lambda: place.symlink_to(other),
            "link to nowhere": lambda: place.symlink_to(tmp_path / "nowhere"),
        }[what]()

    with pytest.raises(OutputError, match=r"a: came to be while this command ran, and is not replaced; move it away"):
        write_atomically(place, write, replace=False)
    assert sorted(os.listdir(tmp_path)) == ["a", "other"]
    assert what != "file" or place.read_text() == "theirs"
    if what != "folder":
        write_atomically(place, lambda file: file.write_text("mine"))
        assert (place.read_text(), place.is_symlink(), other.read_text()) == ("mine", False, "other")
    assert sorted(os.listdir(tmp_path)) == ["a", "other"]


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def fill(folder: Path, text: str = "new") -> None:
    (folder / "config.json").write_text(text)


@pytest.mark.parametrize("before", [None, "empty", "ours"])
def test_it_appears_whole(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "some" / "folder"
    if before:
        path.mkdir(parents=True)
    if before == "ours":
        fill(path, "old")
        (path / "report.html").write_text("old")
    with new_folder(path, overwrite=before == "ours") as folder:
        assert list(folder.iterdir()) == []
        assert folder.parent.parent == path.parent
        assert folder.parent.name.startswith(".")
        fill(folder)
        assert before != "ours" or tree(path)["config.json"] == "old"
    assert tree(tmp_path) == {"some/folder/config.json": "new"}
    assert os.listdir(tmp_path / "some") == ["folder"]


def test_it_is_an_ordinary_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a", overwrite=False) as folder:
        fill(folder)
    (tmp_path / "b").mkdir()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), ArchError("x")])
@pytest.mark.parametrize("before", [False, True])
def test_what_fails_leaves_what_was_there(tmp_path: Path, error: BaseException, before: bool) -> None:
    if before:
        (tmp_path / "a").mkdir()
        fill(tmp_path / "a", "old")

    def fail() -> None:
        with new_folder(tmp_path / "a", overwrite=before) as folder:
            fill(folder)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert os.listdir(tmp_path) == ["a"] * before
    assert tree(tmp_path) == ({"a/config.json": "old"} if before else {})


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"/a: cannot be written \(No space left on device\)"),
        new_folder(tmp_path / "a", overwrite=False),
    ):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_errors_name_the_folder_that_was_asked_for(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"/a/model.safetensors: no$"),
        new_folder(tmp_path / "a", overwrite=False) as folder,
    ):
        raise OutputError(f"{folder / 'model.safetensors'}: no")


def test_a_folder_of_a_long_name_is_replaced(tmp_path: Path) -> None:
    """Names beside it are ten characters longer than its own, and no more: 255 are the most that a disk takes."""
    for text in ("old", "new"):
        with new_folder(tmp_path / ("a" * 245), overwrite=True) as folder:
            fill(folder, text)
    assert list(tree(tmp_path).values()) == ["new"]


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_is_swapped_where_the_file_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr(drafts, "_renamed", lambda *_: False)
    renamed: list[Path] = []
    rename: Callable[[Path, Path], Path] = Path.rename
    monkeypatch.setattr(Path, "rename", lambda source, target: renamed.append(source) or rename(source, target))  # type: ignore[func-returns-value]
    (tmp_path / "a").mkdir()
    fill(tmp_path / "a", "old")
    with new_folder(tmp_path / "a", overwrite=True) as folder:
        fill(folder)
    assert tree(tmp_path) == {"a/config.json": "new"}
    assert os.listdir(tmp_path) == ["a"]
    assert len(renamed) == (0 if swaps else 2)


def test_the_old_folder_comes_back_where_the_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    fill(tmp_path / "a", "old")
    rename: Callable[[Path, Path], Path] = Path.rename
    failed = []

    def failing(source: Path, target: Path) -> Path:
        if target.name == "a" and not failed:
            failed.append(source)
            raise OSError(5, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(drafts, "_renamed", lambda *_: False)  # as a file system that cannot swap two names
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="Input/output"), new_folder(tmp_path / "a", overwrite=True) as folder:
        fill(folder)
    assert os.listdir(tmp_path) == ["a"]
    assert tree(tmp_path) == {"a/config.json": "old"}


def test_what_came_to_be_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def come_late() -> None:
        with new_folder(tmp_path / "a", overwrite=False) as folder:
            fill(folder)
            (tmp_path / "a").mkdir()
            fill(tmp_path / "a", "theirs")

    with pytest.raises(OutputError, match="not empty"):
        come_late()
    assert tree(tmp_path) == {"a/config.json": "theirs"}


def test_check_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, others, file = tmp_path / "ours", tmp_path / "others", tmp_path / "file"
    for folder in (ours, others, tmp_path / "empty", others / "README.md"):
        folder.mkdir()
    for name in FILES:
        (ours / name).write_text("")
    file.write_text("")
    (others / "thesis.tex").write_text("")
    (tmp_path / "link").symlink_to(others)
    (tmp_path / "to_nowhere").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path / "empty")
    for path, overwrite in [(tmp_path / "x" / "y", False), (ours, True)]:
        check_folder(path, [others / "thesis.tex"], overwrite=overwrite)
    for path, inputs, overwrite, message in [
        (file, [], True, "is a file, expected a folder"),
        (file / "below", [], False, "cannot be written"),
        (ours, [], False, "exists and is not empty; choose another folder or add --overwrite"),
        (ours, [ours / "model.safetensors"], True, "is or holds an input"),
        (others, [tmp_path / "link" / "thesis.tex"], True, "is or holds an input"),
        (others, [], True, r"would delete README\.md, thesis\.tex"),
        (tmp_path / "link", [], True, "is a link, which is not replaced; name the folder itself"),
        (tmp_path / "to_nowhere", [], False, "is a link, which is not replaced"),
        (tmp_path, [], True, "the folder you are in"),
        (tmp_path / "empty", [], True, "the folder you are in"),
        (Path("/proc/folder"), [], False, "cannot be written"),
        (tmp_path / ("a" * 300), [], False, "cannot be written"),
    ]:
        with pytest.raises(OutputError, match=message):
            check_folder(path, inputs, overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == ["empty", "file", "link", "others", "ours", "to_nowhere"]


QUICK = PoolOptions(method="greedy", alphas=(0.5, 0.9), calibration_size=128, device="cpu")


def test_a_name_without_a_suffix_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "v1.5").mkdir()
    names = {
        "a": True,
        "a.safetensors": False,
        "a.onnx": False,
        "v1.5": True,
        "v2.5": False,
        f"{'a' * 300}.onnx": False,
    }
    assert {name: is_folder(tmp_path / name) for name in names} == names
    assert is_folder(f"{tmp_path}/v2.5/")


def test_names_that_are_neither_are_refused(tmp_path: Path, tickets: list[Path]) -> None:
    bench = open_bench(tickets, QUICK)
    for name in ("v2.5", "a.onnx"):
        with pytest.raises(OutputError, match=r"expected FILE\.safetensors or a folder, whose name .* ends in /"):
            outputs_of(bench, [3], tmp_path / name, overwrite=False)
    assert outputs_of(bench, [3], f"{tmp_path}/v2.5/", overwrite=False) == [tmp_path / "v2.5"]


def test_a_folder_is_refused_where_it_must_not_be(tmp_path: Path, tickets: list[Path]) -> None:
    bench = open_bench(tickets, QUICK)
    assert outputs_of(bench, [3], tmp_path / "new", overwrite=False) == [tmp_path / "new"]
    with pytest.raises(OutputError, match="run"):  # the folder of the tickets
        outputs_of(bench, [3], tickets[0].parent, overwrite=True)
