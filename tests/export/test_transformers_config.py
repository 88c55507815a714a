"""A folder made from a checkpoint of transformers: one `config.json` for timm and for transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from lptool import load_state_dict
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.export.folder import write_folder
from lptool.export.timm_config import as_timm_config, transformers_config
from lptool.networks.building import build_model
from tests.helpers.commands import lptool

THEIRS: dict[str, Any] = {
    "_name_or_path": "/home/me/checkpoints/start",
    "_commit_hash": "0123",
    "architectures": ["ResNetForImageClassification"],
    "model_type": "resnet",
    "depths": [1, 1],
    "id2label": {"0": "cat", "1": "/m/01"},
    "label2id": {"cat": 0, "/m/01": 1},
    "cache": {"folder": "/home/me/cache"},
}
PUBLIC = {
    "architectures": ["ResNetForImageClassification"],
    "model_type": "resnet",
    "depths": [1, 1],
    "id2label": {"0": "cat", "1": "/m/01"},
    "label2id": {"cat": 0, "/m/01": 1},
    "cache": {"folder": "cache"},
}


def beside(folder: Path, document: object, name: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return folder / name


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "pytorch_model.bin",
    ],
)
def test_all_but_what_is_private_is_kept(name: str, tmp_path: Path) -> None:
    assert transformers_config(beside(tmp_path, THEIRS, name)) == PUBLIC


@pytest.mark.parametrize(
    "document",
    ["", "{", "[]", "null", '{"model_type": 3}', '{"architecture": "resnet18"}', "[" * 100_000, "\xff"],
)
def test_what_is_no_configuration_of_transformers_says_nothing(document: str, tmp_path: Path) -> None:
    assert transformers_config(beside(tmp_path, document)) == {}


def test_a_file_that_is_named_otherwise_has_no_configuration_beside_it(tmp_path: Path) -> None:
    assert transformers_config(beside(tmp_path, THEIRS, "level_01.safetensors")) == {}
    assert transformers_config(tmp_path / "nothing" / "model.safetensors") == {}
    assert transformers_config("<memory>") == {}


def test_timm_loads_the_folder_and_its_own_words_go_first(tmp_path: Path) -> None:
    """As from transformers' wrapper of timm, whose configuration has keys of both."""
    kwargs = {"num_classes": 4, "in_chans": 1}
    network = build_model("resnet8_cifar", **kwargs).eval()
    source = beside(tmp_path / "theirs", {"model_type": "timm_wrapper", "architecture": "resnet18", "num_classes": 9})
    ticket = Ticket(network.state_dict(), {}, Metadata(arch="resnet8_cifar", arch_kwargs=kwargs), str(source))
    (tmp_path / "out").mkdir()
    write_folder(ticket, tmp_path / "out", command=None, documents={})
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    assert document == {"model_type": "timm_wrapper", **as_timm_config(ticket)}
    images = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
        assert torch.equal(loaded(images), network(images))


NET = """
from torch import nn

def make(num_classes, in_chans):
    return nn.Sequential(nn.Conv2d(in_chans, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


def test_convert_and_pool_keep_it_and_push_finds_nothing_private(tmp_path: Path) -> None:
    plain = {"id2label": {"0": "cat"}, "label2id": {"cat": 0}}  # `push` asks about names that look like a path
    public = PUBLIC | plain
    (tmp_path / "net.py").write_text(NET)
    arch, generator = f"{tmp_path}/net.py:make", torch.Generator().manual_seed(0)
    for level in range(2):
        source = beside(tmp_path / f"level_{level}", THEIRS | plain | {"level": level})
        shapes = {name: tensor.shape for name, tensor in build_model(arch, 10, 1).state_dict().items()}
        state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        kept = {"0.weight": torch.arange(36).view(4, 1, 3, 3) >= 12 * level}
        save_ticket(Ticket({**state, "0.weight": state["0.weight"] * kept["0.weight"]}, kept), source)
    fast = ["--method", "greedy", "--alphas", "0.5", "--device", "cpu"]
    named = ["--arch", arch, "--dataset", "digits"]
    tickets = [tmp_path / "level_0", tmp_path / "level_1"]
    commands = {"converted": ["convert", tickets[1]], "pooled": ["pool", *tickets, *fast, "-o"]}
    for name, command in commands.items():
        done = lptool(*command, f"{tmp_path / name}/", *named)
        assert done.exit_code == 0, done.output
        document = json.loads((tmp_path / name / "config.json").read_text())
        assert {key: document[key] for key in public} == public
        assert document["level"] == 1  # the target's
        assert (document["architecture"], "_name_or_path" in document) == ("net.py:make", False)
        said = lptool("push", tmp_path / name, "me/net", "--dry-run")
        assert (said.exit_code, "a place on a machine" in said.stderr) == (0, False)


def test_transformers_loads_what_is_written(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    network = transformers.ResNetForImageClassification(config).eval()
    network.save_pretrained(tmp_path / "theirs")
    state = load_state_dict(tmp_path / "theirs")
    ticket = Ticket(state, {}, Metadata(arch="net.py:make"), str(tmp_path / "theirs" / "model.safetensors"))
    (tmp_path / "out").mkdir()
    write_folder(ticket, tmp_path / "out", command=None, documents={})
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(images).logits, network(images).logits)
