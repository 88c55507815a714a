"""The line of Python that loads a file is run, whatever the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import lptool
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.writing import DENSE, Form, Sizes
from lptool.evaluation.setting import SettingOptions
from lptool.export.conversion import convert
from lptool.report.convert import conversion_document, how_to_load, sizes_line
from lptool.report.tables import to_json

OURS = Metadata(arch="resnet8_cifar", arch_kwargs={"num_classes": 10, "in_chans": 1})


@pytest.mark.parametrize("kind", ["dense", "packed", "folder"])
@pytest.mark.parametrize("metadata", [OURS, Metadata()], ids=["timm", "silent"])
def test_the_line_loads_the_file(tickets: list[Path], tmp_path: Path, kind: str, metadata: Metadata) -> None:
    out = tmp_path / ("model" if kind == "folder" else "a.safetensors")
    convert(tickets[3], out, Form(packed=kind == "packed"), SettingOptions())
    line = how_to_load(metadata, out, kind=kind, plain_names=True).removeprefix("load it: ")
    expected = lptool.load_model(tickets[3])
    model: nn.Module = timm.create_model("resnet8_cifar", num_classes=10, in_chans=1)
    if kind == "folder" and metadata.arch is None:  # a folder always says
        return
    names = {"model": model}
    exec(line, names)
    assert all(torch.equal(t, names["model"].state_dict()[name]) for name, t in expected.state_dict().items())
    assert ("lptool.networks" in line) == (metadata.arch is not None and kind != "packed")


def test_networks_with_other_names_are_not_timms() -> None:
    for metadata, plain in ((Metadata(arch="net.py:net"), True), (OURS, False)):
        line = how_to_load(metadata, Path("a.safetensors"), kind="dense", plain_names=plain)
        assert line.endswith("; model.load_state_dict(safetensors.torch.load_file('a.safetensors'))")


@pytest.mark.parametrize("kind", ["dense", "packed", "folder"])
def test_a_network_that_nothing_knows_is_not_built(kind: str) -> None:
    line = how_to_load(Metadata(arch="resnet_from_mars"), Path("a"), kind=kind, plain_names=True)
    assert "; model.load_state_dict(" in line


def test_sizes_are_told_in_units_of_a_thousand() -> None:
    assert sizes_line(Sizes(46_810_000, 999_949)) == ("bytes: 46.81 MB dense, 999.9 kB packed")


def test_the_document_is_plain_json(tickets: list[Path], tmp_path: Path) -> None:
    result = convert(tickets[3], tmp_path / "a.safetensors", DENSE, SettingOptions())
    document = json.loads(to_json(conversion_document(result)))
    assert document["bytes"]["written"] == document["bytes"]["dense"] == (tmp_path / "a.safetensors").stat().st_size
    assert (document["kind"], document["test"], document["val"], document["onnx_difference"]) == ("dense", *[None] * 3)


def test_scores_before_and_after_are_told(tickets: list[Path], tmp_path: Path) -> None:
    form = Form(packed=True, values="int8")
    result = convert(tickets[3], tmp_path / "a.safetensors", form, SettingOptions(device="cpu"), max_drop=100)
    document = json.loads(to_json(conversion_document(result)))
    assert result.change is not None
    assert document["test"]["after"]["accuracy"] == result.change.after.test.accuracy
    assert document["val"]["before"]["n"] > document["val"]["before"]["accuracy"] > 0


def test_the_line_for_a_program_loads_it(tickets: list[Path], tmp_path: Path) -> None:
    made = convert(tickets[3], tmp_path / "a.pt2", DENSE, SettingOptions(device="cpu"))
    names: dict[str, Any] = {}
    exec(how_to_load(OURS, made.output, kind=made.kind, plain_names=True).removeprefix("load it: "), names)
    assert names["model"](torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert conversion_document(made)["program_difference"] == made.difference
