"""Every form of a checkpoint, and back: the same weights, masks and logits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils import prune

import lptool
from lptool.checkpoints.containers import PACKED
from lptool.checkpoints.reading import file_sha256, load_ticket, open_checkpoint
from lptool.checkpoints.writing import DENSE, Form
from lptool.errors import ArchError, DataError, LptoolError, OutputError
from lptool.evaluation.setting import SettingOptions
from lptool.export.conversion import convert

SAYS = SettingOptions(device="cpu")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[name]) for name, t in a.items())


def logits(model: torch.nn.Module) -> Tensor:
    with torch.inference_mode():
        return model.eval()(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


def test_packed_and_back_is_the_file_it_was(tickets: list[Path], tmp_path: Path) -> None:
    small, dense = tmp_path / "small.safetensors", tmp_path / "dense.safetensors"
    packed = convert(tickets[3], small, Form(packed=True), SAYS)
    back = convert(small, dense, DENSE, SAYS)
    assert dense.read_bytes() == tickets[3].read_bytes()
    assert (packed.kind, back.kind) == ("packed", "dense")
    assert open_checkpoint(small).contents.format == PACKED
    assert packed.sizes == back.sizes
    assert packed.sizes.packed == packed.bytes == small.stat().st_size < packed.sizes.dense == dense.stat().st_size
    assert (back.sha256, back.sparsity) == (file_sha256(dense), packed.sparsity)


def test_a_folder_of_a_file_that_says_nothing(tickets: list[Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare.pt"
    torch.save({"state_dict": {f"module.{name}": t for name, t in load_file(tickets[2]).items()}}, bare)
    told = convert(bare, f"{tmp_path}/told.v1/", DENSE, replace(SAYS, dataset="digits", mean=(0.25,), std=(0.5,)))
    images = json.loads((tmp_path / "told.v1" / "config.json").read_text())["pretrained_cfg"]
    assert (images["input_size"], images["mean"], images["std"]) == ([1, 8, 8], [0.25], [0.5])
    assert told.plain_names  # timm's, which the folder has whatever the file had
    assert told.sizes.dense == told.bytes == (tmp_path / "told.v1" / "model.safetensors").stat().st_size
    assert "split" not in load_ticket(told.output).metadata.dataset
    silent = convert(bare, tmp_path / "silent", DENSE, SAYS)
    images = json.loads((tmp_path / "silent" / "config.json").read_text())["pretrained_cfg"]
    assert images["input_size"][0] == 1  # as the weights have it
    assert "mean" not in images
    assert any("config.json cannot say its mean and std" in line for line in silent.warnings)
    assert not any("mean and std" in line for line in told.warnings)


@pytest.mark.parametrize("form", ["dense", "packed", "folder", "prune keys"])
def test_every_form_is_read_to_the_same_ticket(tickets: list[Path], tmp_path: Path, form: str) -> None:
    out = tmp_path / {"folder": "model", "prune keys": "a.pt"}.get(form, "a.safetensors")
    result = convert(tickets[2], out, Form(packed=form == "packed"), SAYS)
    assert result.kind == form
    was, found = load_ticket(tickets[2]), load_ticket(out)
    assert same(was.state, found.state)
    assert same(was.mask, found.mask)
    assert same(lptool.load_state_dict(out), load_file(tickets[2]))
    assert torch.equal(logits(lptool.load_model(out)), logits(lptool.load_model(tickets[2])))
    if form != "prune keys":  # which holds tensors alone
        assert found.metadata == was.metadata


def test_a_folder_is_loaded_by_timm(tickets: list[Path], tmp_path: Path) -> None:
    convert(tickets[1], tmp_path / "model", DENSE, SAYS, command="lptool convert a b")
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    assert torch.equal(logits(model), logits(lptool.load_model(tickets[1])))
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert "lptool convert a b" in (tmp_path / "model" / "README.md").read_text()


def test_prune_keys_load_into_a_pruned_network(tickets: list[Path], tmp_path: Path) -> None:
    convert(tickets[3], tmp_path / "a.pt", DENSE, SAYS)
    model, ticket = lptool.load_model(tickets[3]), load_ticket(tickets[3])
    expected = logits(model)
    for name in ticket.mask:
        prune.identity(model.get_submodule(name.removesuffix(".weight")), "weight")
    model.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    assert torch.equal(logits(model), expected)


def test_onnx_is_checked_on_test_images(tickets: list[Path], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    result = convert(tickets[3], tmp_path / "a.onnx", DENSE, SAYS)
    assert result.kind == "onnx"
    assert result.difference is not None
    assert 0 <= result.difference < 1e-4
    said = {entry.key: entry.value for entry in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert json.loads(said["mean"]) == pytest.approx(load_ticket(tickets[3]).metadata.dataset["mean"])
    assert json.loads(said["lptool"])["level"] == 3


def silent(ticket: Path, path: Path) -> Path:
    """The weights alone, as another program writes them."""
    save_file(load_file(ticket), path)
    return path


def test_files_that_say_nothing(tickets: list[Path], tmp_path: Path) -> None:
    """Weights go from form to form by themselves; a folder needs the architecture, which is guessed; ONNX the data."""
    file = silent(tickets[3], tmp_path / "silent.safetensors")
    packed = convert(file, tmp_path / "a.safetensors", Form(packed=True, values="fp16"), SAYS)
    assert "accuracy before and after is not known" in packed.warnings[-1]
    assert "name it with --dataset" in packed.warnings[-1]
    folder = convert(file, tmp_path / "model", DENSE, SAYS)
    assert "guessed resnet8_cifar" in folder.warnings[0]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["num_classes"] == 10
    named = convert(file, tmp_path / "named", DENSE, replace(SAYS, arch="resnet8_cifar"))
    assert not any("guessed" in line for line in named.warnings)
    with pytest.raises(DataError, match="does not say its data set"):
        convert(file, tmp_path / "a.onnx", DENSE, SAYS)
    with pytest.raises(ArchError, match="does not fit architecture 'resnet20_cifar'"):
        convert(file, tmp_path / "b", DENSE, replace(SAYS, arch="resnet20_cifar"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "model", "named", "silent.safetensors"]


def test_a_network_of_ones_own_gets_a_folder_that_lptool_loads(tickets: list[Path], tmp_path: Path) -> None:
    code = tmp_path / "net.py"
    code.write_text("import timm\ndef net(**kwargs):\n    return timm.create_model('resnet8_cifar', **kwargs)\n")
    arch = f"{code}:net"
    convert(tickets[3], tmp_path / "own", DENSE, replace(SAYS, arch=arch))
    with pytest.raises(ArchError, match="run only if you name it"):
        lptool.load_model(tmp_path / "own")
    assert torch.equal(logits(lptool.load_model(tmp_path / "own", arch=arch)), logits(lptool.load_model(tickets[3])))
    assert 'lptool.load_model("DIR", arch="net.py:net")' in (tmp_path / "own" / "README.md").read_text()
    assert (
        convert(tmp_path / "own", tmp_path / "again", DENSE, SAYS).metadata.arch == "net.py:net"
    )  # no code is run for that


REFUSED: dict[str, tuple[str, Form, type[LptoolError], str]] = {
    "another name": (
        "a.bin",
        DENSE,
        OutputError,
        "expected a name that ends in .safetensors, .onnx, .pt2, .pt, or a folder",
    ),
    "packed folder": ("a", Form(packed=True), OutputError, "only a .safetensors file can be packed"),
    "packed onnx": ("a.onnx", Form(packed=True), OutputError, "only a .safetensors file can be packed"),
    "there": ("there.pt", DENSE, OutputError, "exists"),
    "full folder": ("full", DENSE, OutputError, "exists and is not empty"),
}


def test_what_does_not_go_together_is_refused(tickets: list[Path], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"only an \.onnx file computes in int8"):
        convert(tickets[3], tmp_path / "a.safetensors", DENSE, SAYS, int8=True)
    with pytest.raises(OutputError, match="nothing is shortened"):
        convert(tickets[3], tmp_path / "a.safetensors", Form(packed=True), SAYS, max_drop=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", REFUSED)
def test_what_must_not_be_written_is_refused(tickets: list[Path], tmp_path: Path, name: str) -> None:
    output, form, error, text = REFUSED[name]
    (tmp_path / "there.pt").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(error, match=text):
        convert(tickets[3], tmp_path / output, form, SAYS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "there.pt"]
    assert (tmp_path / "there.pt").read_text() == "mine"


def test_an_input_is_never_an_output(tickets: list[Path], tmp_path: Path) -> None:
    convert(tickets[3], tmp_path / "model", DENSE, SAYS)
    for output in (tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        with pytest.raises(OutputError, match="input"):
            convert(tmp_path / "model", output, DENSE, SAYS, overwrite=True)


def test_a_folder_of_several_is_no_single_input(tickets: list[Path], tmp_path: Path) -> None:
    with pytest.raises(LptoolError, match="holds 4 checkpoints, expected one"):
        convert(tickets[0].parent, tmp_path / "a.safetensors", DENSE, SAYS)
