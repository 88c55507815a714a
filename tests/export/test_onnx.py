"""ONNX files: the same logits for batches of any size, zeros kept, checked before they appear."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from lptool.checkpoints.masks import magnitude_prune
from lptool.errors import DataError, OutputError, SetupError
from lptool.export.onnx import PACKAGES, TOLERANCE, save_onnx
from lptool.networks.building import build_model, prunable_weights

# The suite passes without the extra; what it takes to refuse does not need it.
with_packages = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in PACKAGES), reason="needs pip install 'lptool[onnx]'"
)


class Forks(nn.Module):
    """Its forward depends on the values of the images: torch cannot export it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class Unlike(nn.Module):
    """Computes something else while it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * (2 if torch.compiler.is_compiling() else 1)


class Unstable(nn.Module):
    """Its logits are NaN where an image is negative."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sqrt()


def batches(*sizes: int, shape: tuple[int, int, int] = (3, 32, 32)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, *shape, generator=generator) for size in sizes]


def pruned() -> tuple[nn.Module, dict[str, Tensor]]:
    """A network with BatchNorm statistics of its own, and its mask."""
    torch.manual_seed(0)
    model = build_model("resnet8_cifar", num_classes=10)
    model.train()(torch.randn(16, 3, 32, 32))
    state, mask = magnitude_prune(model.state_dict(), prunable_weights(model, "all"), 9_000)
    model.load_state_dict(state)
    return model, mask


METADATA = {"lptool": '{"level": 3}', "mean": "[0.5, 0.4, 0.3]"}


@dataclass(frozen=True)
class Exported:
    """A pruned network, mostly in training mode, after it was written to a.onnx and b.onnx; what it was before."""

    model: nn.Module
    mask: dict[str, Tensor]
    before: dict[str, Tensor]
    file: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    model, mask = pruned()
    model.train()
    model.bn1.eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    for name in ("a.onnx", "b.onnx"):
        assert 0 <= save_onnx(model, folder / name, batches(4, 3), METADATA) <= TOLERANCE
    return Exported(model, mask, before, folder / "a.onnx")


def run(file: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("images", "tensor(float)", ["batch", *images.shape[1:]])
    ]
    assert [(o.name, o.type) for o in session.get_outputs()] == [("logits", "tensor(float)")]
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def assert_same_logits(model: nn.Module, file: Path, shape: tuple[int, int, int]) -> None:
    model.eval()
    for images in batches(1, 2, 5, shape=shape):
        with torch.inference_mode():
            assert (run(file, images) - model(images)).abs().max() <= TOLERANCE


@with_packages
@pytest.mark.parametrize(("arch", "shape"), [("test_resnet", (3, 40, 56)), ("test_vit", (3, 160, 160))])
def test_logits_are_the_networks_for_batches_of_any_size(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arch: str, shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=7)
    difference = save_onnx(model, tmp_path / "a.onnx", batches(4, 3, shape=shape))
    assert os.listdir(tmp_path) == ["a.onnx"]  # the weights are inside
    assert 0 <= difference <= TOLERANCE
    assert_same_logits(model, tmp_path / "a.onnx", shape)
    assert capfd.readouterr() == ("", "")


@with_packages
def test_logits_of_a_pruned_network_are_its_own(exported: Exported) -> None:
    assert_same_logits(pruned()[0], exported.file, (3, 32, 32))


@with_packages
def test_pruned_weights_are_exactly_zero_in_the_file(exported: Exported) -> None:
    import onnx

    proto = onnx.load(exported.file)
    onnx.checker.check_model(proto, full_check=True)
    weights = [onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if len(t.dims) >= 2]
    assert sorted(w.size for w in weights) == sorted(kept.numel() for kept in exported.mask.values())
    assert sum(np.count_nonzero(w == 0) for w in weights) >= sum(int((~k).sum()) for k in exported.mask.values())


@with_packages
def test_the_file_holds_the_metadata_and_nothing_of_this_machine(exported: Exported) -> None:
    import onnx

    assert {p.key: p.value for p in onnx.load(exported.file).metadata_props} == METADATA
    content = exported.file.read_bytes()
    assert content == exported.file.with_name("b.onnx").read_bytes()
    assert b".py" not in content


@with_packages
def test_the_network_is_left_as_it_was(exported: Exported) -> None:
    model = exported.model
    assert model.training
    assert not model.bn1.training
    assert all(torch.equal(t, exported.before[name]) for name, t in model.state_dict().items())


GOOD, BAD = torch.ones(2, 1, 8, 8), -torch.ones(2, 1, 8, 8)


@with_packages
def test_a_network_may_be_unstable_elsewhere(tmp_path: Path) -> None:
    """What makes the error below one of its second batch."""
    assert save_onnx(Unstable(), tmp_path / "a.onnx", [GOOD, GOOD]) == 0


@with_packages
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Forks(), r"a\.onnx: not written, because torch cannot export this network to ONNX \(Could not guard on"),
        (Unlike(), r"a\.onnx: not written, because its logits in onnxruntime differ from the network's by [0-9.]+, "),
        (Unstable(), r"a\.onnx: not written, because its logits in onnxruntime differ from the network's by nan, "),
    ],
)
def test_a_network_that_onnx_cannot_hold_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], model: nn.Module, message: str
) -> None:
    (tmp_path / "a.onnx").write_text("before")
    with pytest.raises(OutputError, match=message) as caught:
        save_onnx(model, tmp_path / "a.onnx", [GOOD, BAD])
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_text() == "before"
    assert capfd.readouterr() == ("", "")


@with_packages
def test_no_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images to check it on"):
        save_onnx(Unlike(), tmp_path / "a.onnx", [])


@with_packages
def test_what_is_wrong_with_the_images_is_said_as_it_is(tmp_path: Path) -> None:
    def damaged() -> Iterator[Tensor]:
        yield GOOD
        raise DataError("img.png: damaged")

    with pytest.raises(DataError, match=r"^img\.png: damaged$"):
        save_onnx(Unstable(), tmp_path / "a.onnx", damaged())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for other in PACKAGES:
        monkeypatch.setitem(sys.modules, other, None if other == package else sys)  # any module will do
    with pytest.raises(SetupError, match=rf"the package {package}, .* pip install 'lptool\[onnx\]'$"):
        save_onnx(Unlike(), tmp_path / "a.onnx", batches(2))
    assert os.listdir(tmp_path) == []
