"""Folders as written: whole or absent, never over what is not ours, and loaded by timm."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard

from lptool import load_model, load_ticket
from lptool.errors import ArchError, OutputError
from lptool.folder import FILES, check_folder, new_folder, strangers, write_folder
from lptool.models import build_model
from lptool.tickets import Metadata, Ticket


def ticket() -> Ticket:
    kwargs = {"num_classes": 4, "in_chans": 1}
    state = build_model("resnet8_cifar", **kwargs).state_dict()
    mask = {"conv1.weight": torch.rand(state["conv1.weight"].shape) < 0.5}
    data = {"name": "digits", "image_shape": [1, 8, 8], "mean": [0.3], "std": [0.35]}
    return Ticket(state, mask, Metadata(arch="resnet8_cifar", arch_kwargs=kwargs, dataset=data))


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
        assert folder.parent == path.parent
        assert folder.name.startswith(".")
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


def test_the_old_folder_comes_back_where_the_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    fill(tmp_path / "a", "old")
    rename: Callable[[Path, Path], Path] = Path.rename

    def failing(source: Path, target: Path) -> Path:
        if source.name.startswith(".a.") and target.name == "a":
            raise OSError(5, "Input/output error")
        return rename(source, target)

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
        (tmp_path / "link", [], True, r"would delete README\.md, thesis\.tex"),
        (tmp_path, [], True, "the folder you are in"),
        (tmp_path / "empty", [], True, "the folder you are in"),
        (Path("/proc/folder"), [], False, "cannot be written"),
        (tmp_path / ("a" * 300), [], False, "cannot be written"),
    ]:
        with pytest.raises(OutputError, match=message):
            check_folder(path, inputs, overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == ["empty", "file", "link", "others", "ours"]


def test_timm_and_lptool_load_what_is_written(tmp_path: Path) -> None:
    before = ticket()
    documents = {"trace.json": "{}\n", "report.html": "<p>é"}
    with new_folder(tmp_path / "a", overwrite=False) as folder:
        write_folder(before, folder, command="lptool pool runs -o a", documents=documents)
    assert sorted(os.listdir(tmp_path / "a")) == sorted(FILES)
    assert strangers(tmp_path / "a") == []
    assert {name: (tmp_path / "a" / name).read_text(encoding="utf-8") for name in documents} == documents
    images = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        theirs = timm.create_model(f"local-dir:{tmp_path / 'a'}", pretrained=True).eval()(images)
        assert torch.equal(theirs, load_model(tmp_path / "a")(images))
    assert torch.equal(load_ticket(tmp_path / "a").mask["conv1.weight"], before.mask["conv1.weight"])
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    assert ModelCard(card).data.library_name == "timm"
    assert "lptool pool runs -o a" in card
    size = (tmp_path / "a" / "model.safetensors").stat().st_size
    assert f"{size:,}" in card


def test_the_same_ticket_gives_the_same_bytes(tmp_path: Path) -> None:
    made = ticket()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_folder(made, tmp_path / name, command=None, documents={})
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_network_of_another_program_keeps_its_names(tmp_path: Path) -> None:
    state = {"stem.weight": torch.ones(2, 2)}
    own = Ticket(state, {}, Metadata(arch="nets:make"), own_names={"stem.weight": "module.stem.weight"})
    write_folder(own, tmp_path, command=None, documents={})
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "nets:make"
    assert load_ticket(tmp_path).own_names == own.own_names


def test_a_ticket_without_an_architecture_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArchError, match="--arch"):
        write_folder(replace(ticket(), metadata=Metadata()), tmp_path, command=None, documents={})
    assert os.listdir(tmp_path) == []
