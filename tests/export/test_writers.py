"""Files that are shorter than the network: scored before and after, and not written where they lose too much."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lptool
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.writing import DENSE, Form
from lptool.errors import DataError, OutputError
from lptool.evaluation.setting import SettingOptions
from lptool.export.conversion import convert
from tests.helpers.fragile import fragile

SAYS = SettingOptions(device="cpu")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[name]) for name, t in a.items())


def logits(model: torch.nn.Module) -> Tensor:
    with torch.inference_mode():
        return model.eval()(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("values", ["bf16", "int8"])
def test_shorter_values_tell_the_accuracy_before_and_after(tickets: list[Path], tmp_path: Path, values: str) -> None:
    result = convert(tickets[3], tmp_path / "a.safetensors", Form(packed=True, values=values), SAYS)
    assert result.change is not None
    test = lptool.evaluate_files([tickets[3], tmp_path / "a.safetensors"]).files
    assert [result.change.before.test, result.change.after.test] == [file.test.score for file in test]
    assert result.change.before.val is None
    assert result.bytes < result.sizes.packed
    assert not result.warnings


def test_int8_is_read_like_any_packed_file_and_keeps_what_was_kept(tickets: list[Path], tmp_path: Path) -> None:
    small, dense = tmp_path / "small.safetensors", tmp_path / "dense.safetensors"
    made = convert(tickets[3], small, Form(packed=True, values="int8"), SAYS)
    bf16 = convert(tickets[3], tmp_path / "bf16.safetensors", Form(packed=True, values="bf16"), SAYS)
    assert made.bytes < bf16.bytes
    convert(small, dense, DENSE, SAYS)
    was, found, again = load_ticket(tickets[3]), load_ticket(small), load_ticket(dense)
    assert same(found.state, again.state)
    assert same(was.mask, found.mask)
    assert same(was.mask, again.mask)
    assert {n: t.dtype for n, t in found.state.items()} == {n: t.dtype for n, t in was.state.items()}
    shortened = {name for name, t in found.state.items() if not torch.equal(t, was.state[name])}
    assert shortened == set(was.mask)
    assert torch.equal(logits(lptool.load_model(small)), logits(lptool.load_model(dense)))


@pytest.mark.parametrize(
    ("output", "form", "int8"),
    [("a.safetensors", Form(packed=True, values="int8"), False), ("a.onnx", DENSE, True)],
)
def test_what_loses_too_much_is_not_written(
    tickets: list[Path], tmp_path: Path, output: str, form: Form, int8: bool
) -> None:
    if int8:
        pytest.importorskip("onnxruntime")
    file, out = fragile(tickets[3], tmp_path / "fragile.safetensors"), tmp_path / "out" / output
    out.parent.mkdir()
    out.write_text("mine")
    with pytest.raises(OutputError, match=rf"{output}: not written, because accuracy on val falls by \d+"):
        convert(file, out, form, SAYS, int8=int8, max_drop=1, overwrite=True)
    assert (out.read_text(), [p.name for p in out.parent.iterdir()]) == ("mine", [output])
    if int8:  # to export it again takes long
        return
    made = convert(file, out, form, SAYS, int8=int8, max_drop=100, overwrite=True)
    assert made.change is not None
    assert made.change.drop is not None
    assert made.change.drop > 1
    assert out.stat().st_size == made.bytes


def test_int8_onnx_is_scored_by_onnxruntime(tickets: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = convert(tickets[3], tmp_path / "a.onnx", DENSE, SAYS, int8=True)
    assert made.change is not None
    assert made.change.before.val is None
    (file,) = lptool.evaluate_files([tickets[3]]).files
    assert made.change.before.test.correct == file.test.score.correct
    assert made.change.after.test.correct >= 0.9 * file.test.score.correct
    assert made.bytes < made.sizes.dense / 2


def test_a_program_is_checked_on_test_images(tickets: list[Path], tmp_path: Path) -> None:
    made = convert(tickets[3], tmp_path / "a.pt2", DENSE, SAYS)
    assert made.difference is not None
    assert (made.kind, made.difference < 1e-4) == ("program", True)
    said = {"lptool": "", "mean": ""}
    program = torch.export.load(tmp_path / "a.pt2", extra_files=said).module()
    assert json.loads(said["lptool"])["level"] == 3
    assert json.loads(said["mean"]) == pytest.approx(load_ticket(tickets[3]).metadata.dataset["mean"])
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(program(images), logits(lptool.load_model(tickets[3])), atol=1e-4)


def test_a_bound_on_the_loss_needs_val(tickets: list[Path], tmp_path: Path) -> None:
    file, form = tmp_path / "silent.safetensors", Form(packed=True, values="int8")
    save_file(load_file(tickets[3]), file)  # the weights alone, as another program writes them
    with pytest.raises(DataError, match=r"--max-drop compares accuracy on val, which cannot be had: .*--dataset"):
        convert(file, tmp_path / "a.safetensors", form, SAYS, max_drop=100)
    assert [p.name for p in tmp_path.iterdir()] == ["silent.safetensors"]
    named = convert(file, tmp_path / "a.safetensors", form, replace(SAYS, dataset="digits"), max_drop=100)
    assert named.change is not None
    assert named.change.before.val is not None
    assert any("does not say which images it was trained on" in line for line in named.warnings)
