"""ONNX files beside the networks that they were made of, and files that are none."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import lptool
from lptool.checkpoints.writing import Form
from lptool.errors import ArchError, CheckpointError, SetupError
from lptool.evaluation.job import Evaluation, evaluate_files
from lptool.evaluation.prediction import PredictOptions, predict_pictures
from lptool.evaluation.setting import SettingOptions
from lptool.evaluation.setup import EvaluateOptions
from lptool.networks.onnx_file import OnnxNetwork, check_packages, is_onnx, onnx_summary
from lptool.networks.running import check_forward

needs_packages = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs pip install 'lptool[onnx]'",
)


@pytest.fixture(scope="module")
def exported(tickets: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "level_03.onnx"
    lptool.convert(tickets[3], file, Form(), SettingOptions(device="cpu"))
    return file


@pytest.fixture(scope="module")
def both(tickets: list[Path], exported: Path) -> Evaluation:
    return evaluate_files([exported, tickets[3], tickets[0]], EvaluateOptions(device="cpu"))


@needs_packages
def test_it_gets_the_same_images_right(both: Evaluation) -> None:
    of_file, of_torch, _ = both.files
    assert torch.equal(of_file.test.right, of_torch.test.right)
    assert of_file.test.score.nll == pytest.approx(of_torch.test.score.nll, abs=1e-5)
    assert (of_file.runtime, of_torch.runtime) == ("onnxruntime", "torch")
    assert of_file.arch == of_torch.arch == "resnet8_cifar"
    assert both.comparisons[0, 1].p == 1


@needs_packages
def test_its_weights_are_counted(both: Evaluation) -> None:
    """BatchNorm is folded into the convolutions, and so some vectors are none of the file's."""
    of_file, of_torch, _ = both.files
    assert of_file.summary.density() == of_torch.summary.density() < 1
    assert of_file.summary.prunable == of_torch.summary.prunable
    assert of_file.summary.metadata.level == 3
    assert of_file.cost.flops_dense is of_file.cost.flops_kept is None
    pruned = of_torch.cost.parameters - of_torch.cost.kept
    assert of_file.cost.parameters - of_file.cost.kept == pruned > 0
    assert of_file.cost.bytes_kept == of_file.cost.bytes_dense == Path(of_file.summary.file).stat().st_size


@needs_packages
def test_pictures_are_predicted_by_it(tickets: list[Path], exported: Path, image_folder: Path) -> None:
    options = PredictOptions(device="cpu", top=10)
    ours, theirs = (predict_pictures(file, [image_folder / "test"], options) for file in (tickets[3], exported))
    for file, guesses in ours.guesses.items():
        found = {guess.number: guess.probability for guess in theirs.guesses[file]}
        assert found == pytest.approx({guess.number: guess.probability for guess in guesses}, abs=1e-4)


@needs_packages
def test_a_file_of_another_program_needs_what_it_does_not_say(exported: Path, tmp_path: Path) -> None:
    import onnx

    proto = onnx.load(exported)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "a.onnx")
    summary = onnx_summary(tmp_path / "a.onnx")
    assert (summary.metadata.arch, summary.mask_source) == (None, "zeros")
    assert summary.density() == onnx_summary(exported).density()
    options = EvaluateOptions(dataset="digits", mean=(0.3,), std=(0.4,), device="cpu")
    (found,) = evaluate_files([tmp_path / "a.onnx"], options).files
    assert (found.arch, found.test.score.n) == ("onnx", 359)


@needs_packages
def test_images_that_it_does_not_take_are_one_line(exported: Path) -> None:
    options = EvaluateOptions(dataset="npz:a.npz", device="cpu")
    with pytest.raises(lptool.LptoolError, match=r"a\.npz"):
        evaluate_files([exported], options)
    model = OnnxNetwork(exported)
    with pytest.raises(Exception, match="Got invalid dimensions for input"):
        model(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ArchError, match="cannot take images of"):
        check_forward(model, (3, 8, 8), 10, "onnx")


def summarised_and_run(file: Path) -> None:
    """Of the empty file it is onnxruntime that says it."""
    onnx_summary(file)
    OnnxNetwork(file)


@needs_packages
@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"\x08\x07"])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.onnx: not an ONNX file that onnxruntime can run") as caught:
        summarised_and_run(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@needs_packages
def test_tensors_in_other_files_are_not_read(exported: Path, tmp_path: Path) -> None:
    import onnx

    onnx.save(onnx.load(exported), tmp_path / "a.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(CheckpointError, match=r"a\.onnx: .*tensors in other files; save it as one"):
        onnx_summary(tmp_path / "a.onnx")


@needs_packages
@pytest.mark.parametrize("where", ["attribute", "branch", "function"])
@pytest.mark.parametrize("read", [onnx_summary, OnnxNetwork])
def test_nor_where_onnxruntime_alone_would_find_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, read: Callable[[Path], object]
) -> None:
    """It opens what attributes and the branches of an If name: here a file that lies where the command runs."""
    from onnx import TensorProto, helper, numpy_helper

    monkeypatch.chdir(tmp_path)
    Path("elsewhere").write_bytes(bytes(64 * 10 * 4))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64, 10], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="elsewhere")
    constant = helper.make_node("Constant", [], ["w"], value=weight)
    product = helper.make_node("MatMul", ["flat", "w"], ["y"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    if where == "attribute":
        nodes = [constant, product]
    elif where == "branch":
        branch = helper.make_graph([product], "branch", [], [y], [weight])
        always = numpy_helper.from_array(np.array(True))
        nodes = [helper.make_node("Constant", [], ["always"], value=always)]
        nodes += [helper.make_node("If", ["always"], ["y"], then_branch=branch, else_branch=branch)]
    else:
        functions = [helper.make_function("own", "head", ["flat"], ["y"], [constant, product], opsets[:1])]
        nodes = [helper.make_node("head", ["flat"], ["y"], domain="own")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])
    graph = helper.make_graph([helper.make_node("Flatten", ["x"], ["flat"]), *nodes], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)
    Path("a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"a\.onnx: has tensors in other files; save it as one$"):
        read(Path("a.onnx"))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for other in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, other, None if other == package else sys)
    with pytest.raises(SetupError, match=rf"the package {package}, .* pip install 'lptool\[onnx\]'$"):
        check_packages()
    with pytest.raises(SetupError, match=rf"the package {package}, "):
        onnx_summary("a.onnx")


def test_names() -> None:
    assert is_onnx("some/a.onnx")
    assert not is_onnx("a.onnx.safetensors")
