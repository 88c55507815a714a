"""Programs of torch.export: the network's logits for batches of any size, by torch alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from lptool.errors import DataError, OutputError
from lptool.export.program import save_program
from lptool.networks.building import build_model

METADATA = {"lptool": '{"level": 3}', "mean": "[0.5]"}


class Forks(nn.Module):
    """Its forward depends on the values of the images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class Fixed(nn.Module):
    """Takes batches of two alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


class Unlike(nn.Module):
    """Computes something else while it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * (2 if torch.compiler.is_compiling() else 1)


def batches(*sizes: int, shape: tuple[int, int, int] = (1, 8, 8)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, *shape, generator=generator) for size in sizes]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A network in training mode with statistics of its own, and its file."""
    torch.manual_seed(0)
    model = build_model("resnet8_cifar", num_classes=10, in_chans=1)
    model.train()(torch.cat(batches(16)))
    file = tmp_path_factory.mktemp("program") / "a.pt2"
    assert save_program(model, file, batches(4, 3), METADATA) <= 1e-4
    return model, file


def test_logits_are_the_networks_for_batches_of_any_size(written: tuple[nn.Module, Path]) -> None:
    model, file = written
    assert model.training
    program, own = torch.export.load(file).module(), timm.create_model("resnet8_cifar", num_classes=10, in_chans=1)
    own.load_state_dict(model.state_dict())
    own.eval()
    with torch.no_grad():
        for images in batches(1, 2, 5, 33):
            assert (program(images) - own(images)).abs().max() <= 1e-4


def test_the_file_holds_the_metadata_and_nothing_of_this_machine(written: tuple[nn.Module, Path]) -> None:
    found = dict.fromkeys(METADATA, "")
    torch.export.load(written[1], extra_files=found)
    assert found == METADATA
    with zipfile.ZipFile(written[1]) as archive:
        assert not [name for name in archive.namelist() if b".py" in archive.read(name)]
    assert os.listdir(written[1].parent) == ["a.pt2"]


def test_no_code_of_ours_is_needed(written: tuple[nn.Module, Path]) -> None:
    code = (
        "import sys, torch\n"
        f"model = torch.export.load({str(written[1])!r}).module()\n"
        "assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)\n"
        "assert not {'lptool', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=written[1].parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Forks(), r"a\.pt2: not written, because torch cannot export this network \("),
        (Fixed(), r"a\.pt2: not written, because torch cannot export this network \("),
        (Unlike(), r"a\.pt2: not written, because its logits in torch differ from the network's by [0-9.]+, expected"),
    ],
)
def test_a_network_that_no_program_can_hold_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], model: nn.Module, message: str
) -> None:
    (tmp_path / "a.pt2").write_text("before")
    with pytest.raises(OutputError, match=message) as caught:
        save_program(model, tmp_path / "a.pt2", batches(2))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["a.pt2"]
    assert (tmp_path / "a.pt2").read_text() == "before"
    assert capfd.readouterr() == ("", "")


def test_no_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images to check it on"):
        save_program(Unlike(), tmp_path / "a.pt2", [])
