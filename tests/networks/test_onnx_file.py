"""ONNX files beside the networks that they were made of, and files that are none."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
    functions = []
    if where == "attribute":
        nodes = [constant, product]
    elif where == "branch":
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        branch = helper.make_graph([product], "branch", [], [y], [weight])
        always = numpy_helper.from_array(np.array(True))
        nodes = [helper.make_node("Constant", [], ["always"], value=always)]
        nodes += [helper.make_node("If", ["always"], ["y"], then_branch=branch, else_branch=branch)]
    else:
        opsets = [helper.make_opsetid("", 17)]
        functions = [helper.make_function("own", "head", ["flat"], ["y"], [constant, product], opsets)]
        nodes = [helper.make_node("head", ["flat"], ["y"], domain="own")]
    with pytest.raises(CheckpointError, match=r"a\.onnx: has tensors in other files; save it as one$"):
        read(saved(Path("a.onnx"), nodes, functions=functions))


def saved(
    file: Path,
    nodes: list[Any],
    batch: str | int = "batch",
    outputs: tuple[str, ...] = ("y",),
    functions: Sequence[Any] = (),
) -> Path:
    """A file of digits "x" made `flat`, then of these nodes, with weights "ones" [64, 10]."""
    from onnx import TensorProto, helper, numpy_helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 8, 8])
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    weights = [numpy_helper.from_array(np.ones((64, 10), np.float32), "ones")]
    graph = helper.make_graph([helper.make_node("Flatten", ["x"], ["flat"]), *nodes], "g", [x], found, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)
    file.write_bytes(model.SerializeToString())
    return file


def times(of: str, output: str) -> Any:
    from onnx import helper

    return helper.make_node("MatMul", [of, "ones"], [output])


@needs_packages
def test_a_file_of_one_image_gets_them_in_turn_and_one_of_more_is_refused(tmp_path: Path) -> None:
    model = OnnxNetwork(saved(tmp_path / "a.onnx", [times("flat", "y")], batch=1))
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model(images), images.flatten(1).sum(1, keepdim=True).expand(5, 10), atol=1e-5)
    with pytest.raises(CheckpointError, match=r"a\.onnx: takes batches of 4 images and no others; export"):
        OnnxNetwork(saved(tmp_path / "a.onnx", [times("flat", "y")], batch=4))


@needs_packages
def test_of_several_outputs_the_logits_have_to_be_called_so(tmp_path: Path) -> None:
    from onnx import helper

    nodes = [helper.make_node("Relu", ["flat"], ["features"]), times("features", "logits")]
    model = OnnxNetwork(saved(tmp_path / "a.onnx", nodes, outputs=("features", "logits")))
    assert model(torch.ones(2, 1, 8, 8)).tolist() == [[64.0] * 10] * 2
    for outputs, found in {("features", "y"): "features, y", (): "none"}.items():
        with pytest.raises(CheckpointError, match=rf"a\.onnx: expected one output, .* called logits, found {found}$"):
            OnnxNetwork(saved(tmp_path / "a.onnx", [nodes[0], times("features", "y")], outputs=outputs))


@needs_packages
def test_ctrl_c_ends_a_program_that_does_not_end(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    on, value = (helper.make_tensor_value_info(*each, None) for each in (("on", TensorProto.BOOL), ("v", 1)))
    still, same = (helper.make_tensor_value_info(*each, None) for each in (("still", TensorProto.BOOL), ("s", 1)))
    count = helper.make_tensor_value_info("k", TensorProto.INT64, [])
    steps = [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Identity", ["v"], ["s"])]
    body = helper.make_graph(steps, "body", [count, on, value], [still, same])
    numbers = {"most": np.array(2**62), "always": np.array(True)}
    nodes = [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(n)) for name, n in numbers.items()]
    nodes += [times("flat", "z"), helper.make_node("Loop", ["most", "always", "z"], ["y"], body=body)]
    model = OnnxNetwork(saved(tmp_path / "a.onnx", nodes))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            model(torch.zeros(1, 1, 8, 8))
    finally:
        signal.signal(signal.SIGINT, before)
    model._thread.shutdown()  # waits for the program, which ends too


@needs_packages
def test_onnxruntime_tells_its_makers_nothing(tmp_path: Path) -> None:
    """It would keep a file with what ran where, and an identifier of the machine, at home and for temporary files."""
    file = saved(tmp_path / "a.onnx", [times("flat", "y")])
    home = tmp_path / "home"
    home.mkdir()
    program = f"from lptool.networks.onnx_file import OnnxNetwork; OnnxNetwork({str(file)!r})"
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(home))
    subprocess.run([sys.executable, "-c", program], env=os.environ | places, check=True)
    assert os.listdir(home) == []


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
