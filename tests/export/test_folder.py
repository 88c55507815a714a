"""Folders as written: whole or absent, never over what is not ours, and loaded by timm."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard

from lptool import load_model, load_ticket
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.places import FILES, new_folder, strangers
from lptool.checkpoints.ticket import Ticket
from lptool.errors import ArchError
from lptool.export.folder import write_folder
from lptool.networks.building import build_model


def ticket() -> Ticket:
    kwargs = {"num_classes": 4, "in_chans": 1}
    state = build_model("resnet8_cifar", **kwargs).state_dict()
    mask = {"conv1.weight": torch.rand(state["conv1.weight"].shape) < 0.5}
    data = {"name": "digits", "image_shape": [1, 8, 8], "mean": [0.3], "std": [0.35]}
    return Ticket(state, mask, Metadata(arch="resnet8_cifar", arch_kwargs=kwargs, dataset=data))


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


def test_nothing_in_a_folder_says_where_files_lie_on_this_machine(tmp_path: Path) -> None:
    data = {"name": "folder:/home/me/photos", "class_names": ["/m/01", "/m/02"]}
    metadata = Metadata(
        kind="pooled",
        arch="/home/me/net.py:make",
        dataset=data,
        train={"arch": "/home/me/net.py:make", "init_checkpoint": "/home/me/start.pt"},
        trace={"members": [{"file": "/home/me/run/level_01.pt", "level": 1}]},
    )
    made = Ticket({"fc.weight": torch.ones(2, 2)}, {}, metadata)
    write_folder(made, tmp_path, command="lptool pool /home/me/run -o out", documents={})
    assert [file.name for file in tmp_path.iterdir() if b"home" in file.read_bytes()] == []
    found = load_ticket(tmp_path).metadata
    assert found.arch == "net.py:make"
    assert found.data.name == "folder:photos"
    assert found.data.class_names == ("/m/01", "/m/02")
    assert "lptool pool run -o out" in (tmp_path / "README.md").read_text()
