"""ONNX in int8: small, close to the network, refused whole where it is judged to be too far off."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lptool.errors import DataError, OutputError
from lptool.export.onnx import PACKAGES
from lptool.export.onnx_int8 import save_int8_onnx
from lptool.networks.building import build_model
from lptool.networks.onnx_file import weights_in

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in PACKAGES), reason="needs pip install 'lptool[onnx]'"
)
METADATA = {"lptool": '{"level": 3}', "mean": "[0.5]"}


def batches(*sizes: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 1, 8, 8, generator=generator) for size in sizes]


def differences(before: nn.Module, after: nn.Module) -> tuple[float, float]:
    """The largest difference, and the largest logit."""
    (images,) = batches(64, seed=2)
    return float((before(images) - after(images)).abs().max()), float(before(images).abs().max())


@dataclass(frozen=True)
class Written:
    model: nn.Module
    file: Path
    off: tuple[float, float]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    torch.manual_seed(0)
    model = build_model("resnet8_cifar", num_classes=10, in_chans=1)
    model.train()(torch.cat(batches(16)))
    file = tmp_path_factory.mktemp("int8") / "a.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        off = save_int8_onnx(model, file, batches(4, 3), batches(32, 32, seed=1), differences, METADATA)
    assert model.training
    return Written(model, file, off)


def test_logits_are_near_the_networks_but_not_its_own(written: Written) -> None:
    difference, largest = written.off
    assert 0 < difference < 0.5 * largest  # of a network that has learnt nothing


def test_what_the_weights_stand_for_is_read(written: Written) -> None:
    """Of the last layer, into which no BatchNorm is folded, to half a step of each output channel."""
    import onnx

    state = weights_in(onnx.load(written.file).graph)
    weight = written.model.fc.weight.detach()
    step = weight.abs().amax(1, keepdim=True) / 127
    found = state["fc.weight"]
    found = found if found.shape == weight.shape else found.T
    assert bool(((found - weight).abs() <= 0.5001 * step).all())
    assert sum(t.numel() for t in state.values()) < sum(p.numel() for p in written.model.parameters())


def test_weights_are_int8_with_a_scale_for_each_output_channel(written: Written) -> None:
    import onnx

    proto = onnx.load(written.file)
    onnx.checker.check_model(proto, full_check=True)
    kernels = [t for t in proto.graph.initializer if len(t.dims) == 4]
    assert len(kernels) == 7
    assert {t.data_type for t in kernels} == {onnx.TensorProto.INT8}
    scales = {tuple(t.dims) for t in proto.graph.initializer if t.name.endswith("_scale") and len(t.dims) == 1}
    assert {(16,), (32,), (64,)} <= scales
    assert {p.key: p.value for p in proto.metadata_props} == METADATA
    assert not re.search(rb"\.py\b", written.file.read_bytes())
    assert os.listdir(written.file.parent) == ["a.onnx"]


def test_it_takes_float32_batches_of_any_size(written: Written) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(written.file), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("images", "tensor(float)", ["batch", 1, 8, 8])
    ]
    for (images,) in map(batches, (1, 2, 7)):
        assert session.run(["logits"], {"images": images.numpy()})[0].shape == (len(images), 10)


def test_what_is_judged_too_far_off_is_not_written(
    written: Written, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def judge(before: nn.Module, after: nn.Module) -> None:
        raise OutputError("too far off")

    (tmp_path / "a.onnx").write_text("before")
    with pytest.raises(OutputError, match=r"^too far off$"):
        save_int8_onnx(written.model, tmp_path / "a.onnx", batches(2), batches(8), judge)
    assert os.listdir(tmp_path) == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_text() == "before"
    assert capfd.readouterr() == ("", "")


def test_temporary_files_lie_in_the_draft_which_goes_when_its_process_is_dead(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, before = tmp_path / "usual", tempfile.tempdir
    usual.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(usual))
    untouched = usual.stat().st_mtime_ns  # any name in it that comes or goes would change that

    def judge(before: nn.Module, after: nn.Module) -> Path:
        return Path(tempfile.gettempdir())

    found = save_int8_onnx(written.model, tmp_path / "out" / "a.onnx", batches(2), batches(8), judge)
    assert found.parent.parent == tmp_path / "out"
    assert found.parent.name.startswith(".a.onnx.")
    assert (os.listdir(tmp_path / "out"), usual.stat().st_mtime_ns) == (["a.onnx"], untouched)
    assert tempfile.tempdir == str(usual) != before


def test_what_onnxruntime_cannot_quantise_is_told_in_one_line(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime.quantization

    def fails(*arguments: object, **named: object) -> None:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(onnxruntime.quantization, "quantize_static", fails)
    with pytest.raises(
        OutputError, match=r"a\.onnx: not written, .* quantise this network \(no such operator\)"
    ) as told:
        save_int8_onnx(written.model, tmp_path / "a.onnx", batches(2), batches(8), differences)
    assert "\n" not in str(told.value)
    assert os.listdir(tmp_path) == []


def test_no_images_to_calibrate_on_are_refused(written: Written, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        save_int8_onnx(written.model, tmp_path / "a.onnx", batches(2), [], differences)
    assert os.listdir(tmp_path) == []
