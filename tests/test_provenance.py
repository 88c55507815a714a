"""The command and the versions."""

import platform
import shlex

import pytest
import torch

import lptool
from lptool.provenance import (
    arch_name,
    base_name,
    command_line,
    command_without_folders,
    data_name,
    versions,
    without_folders,
)


def test_the_command_can_be_pasted_into_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["evaluate", "my file.safetensors", "--mean", "0.5", "it's"]
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/lptool", *arguments])
    assert shlex.split(command_line()) == ["lptool", *arguments]


def test_versions_are_those_that_are_installed() -> None:
    found = versions()
    assert list(found) == ["lptool", "python", "torch", "torchvision", "timm", "safetensors", "numpy"]
    assert found["lptool"] == lptool.__version__
    assert found["python"] == platform.python_version()
    assert torch.__version__.startswith(found["torch"].partition("+")[0])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("digits", "digits"),
        ("folder:/home/me/photos/", "folder:photos"),
        ("npz:C:\\data\\some.npz", "npz:some.npz"),
        ("wds//srv/shards", "wds/shards"),
        ("hfds/user/set", "hfds/user/set"),
        ("torch/mnist", "torch/mnist"),
        ("/srv/images", "images"),
        (None, ""),
        ("two\nlines", "two lines"),
    ],
)
def test_data_is_named_without_its_folder(name: str | None, shown: str) -> None:
    assert data_name(name) == shown


def test_architectures_are_named_without_their_folder() -> None:
    assert arch_name("/home/me/net.py:make") == "net.py:make"
    assert arch_name("package.nets:make") == "package.nets:make"
    assert arch_name("resnet18") == "resnet18"
    assert arch_name("") == ""
    assert base_name("a\\b/c/") == "c"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/run/level_01.safetensors", "level_01.safetensors"),
        ("/home/me/net.py:make", "net.py:make"),
        ("~/runs/a", "a"),
        ("~me/runs/a", "a"),
        ("C:\\Users\\me\\a.npz", "a.npz"),
        ("\\\\server\\share\\a.npz", "a.npz"),
        ("folder:/home/me/my photos", "folder:my photos"),
        ("wds//srv/shards/", "wds/shards"),
        ("runs/a", "runs/a"),
        ("~5 %", "~5 %"),
        ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("https://arxiv.org/abs/2208.10842", "https://arxiv.org/abs/2208.10842"),
        (0.5, 0.5),
        (None, None),
    ],
)
def test_a_document_for_others_names_no_folder(text: object, shown: object) -> None:
    assert without_folders(text) == shown
    assert without_folders({"a": [{"b": text}]}) == {"a": [{"b": shown}]}
    assert without_folders({"class_names": ["/m/01g317"]}) == {"class_names": ["/m/01g317"]}  # no file: a class


def test_a_command_for_others_still_says_what_was_done() -> None:
    command = "lptool pool '/home/me/my run/level_0.pt' ckpts/*.pt --arch=/home/me/net.py:make --passes 2"
    assert command_without_folders(command) == "lptool pool level_0.pt 'ckpts/*.pt' --arch=net.py:make --passes 2"
    assert without_folders({"command": command}) == {"command": command_without_folders(command)}
    assert "/home" not in command_without_folders("lptool pool '/home/me/a quote that does not end")
