"""Networks that have several names for one tensor, or masks of their own: each tensor has one value and one mask.

The programs that write the tickets here are plain torch. What lptool writes has to load into their networks with
`strict`, and to be then what lptool says it is.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn
from torch.nn.utils import prune

import lptool
from lptool.checkpoints.masks import magnitude_mask
from lptool.checkpoints.writing import Form
from lptool.evaluation.job import evaluate_files
from lptool.evaluation.setting import SettingOptions
from lptool.evaluation.setup import EvaluateOptions
from lptool.export.conversion import convert
from lptool.pooling.job import pool_target
from lptool.pooling.outputs import outputs_of
from lptool.pooling.result import PoolResult
from lptool.pooling.setup import PoolOptions, open_bench
from lptool.training.job import train_tickets
from lptool.training.options import TrainOptions
from tests.helpers.commands import lptool as command
from tests.helpers.shared_networks import write_networks
from tests.helpers.training import DATA

KINDS = ["Shared", "Masked", "SynFlow", "Hooked"]
MASKS = {"Masked": ".mask", "SynFlow": "_mask", "Hooked": "_mask"}


class World:
    """A folder with images, networks, and tickets that a program of its own wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, write_networks(folder)
        spec = importlib.util.spec_from_file_location("networks_of_a_test", self.file)
        assert spec is not None
        assert spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        draw = np.random.default_rng(0)
        labels = draw.integers(4, size=160)
        images = draw.integers(0, 120, size=(160, 8, 8, 1)) + 30 * labels[:, None, None, None]
        parts = {"train": slice(0, 100), "test": slice(100, 160)}
        arrays = {f"{part}_images": images[rows].astype(np.uint8) for part, rows in parts.items()}
        np.savez(folder / "data.npz", **arrays, **{f"{part}_labels": labels[rows] for part, rows in parts.items()})
        self.data = f"npz:{folder / 'data.npz'}"
        self.x = torch.from_numpy(images[:100]).float().permute(0, 3, 1, 2) / 255
        self.y = torch.from_numpy(labels[:100])

    def arch(self, kind: str) -> str:
        return f"{self.file}:{kind}"

    def network(self, kind: str) -> nn.Module:
        net: nn.Module = getattr(self.module, kind)(num_classes=4)
        return net

    def setting(self, kind: str) -> dict[str, Any]:
        """What has to be named of files without a header."""
        return {"arch": self.arch(kind), "dataset": self.data, "mean": (0.0,), "std": (1.0,), "device": "cpu"}

    def tickets(self, kind: str, save: Callable[[nn.Module, Path], None], folder: Path) -> list[Path]:
        """Three levels of a few steps each, each half as dense, saved as their program would."""
        torch.manual_seed(0)
        net, mask = self.network(kind), dict[str, Tensor]()
        files = []
        for level in range(3):
            optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
            for _ in range(4):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net.train()(self.x), self.y).backward()
                optimizer.step()
                self.prune(net, mask)
            files.append(folder / f"{kind}_{level}.{'pt' if save is save_torch else 'safetensors'}")
            save(net, files[-1])
            weights = {n: p.detach() for n, p in net.named_parameters() if p.dim() == 4}
            mask = magnitude_mask(weights, sum(p.numel() for p in weights.values()) // 2 ** (level + 1), mask or None)
            self.prune(net, mask)
        return files

    @staticmethod
    def prune(net: nn.Module, mask: dict[str, Tensor]) -> None:
        """Weights and, where the network has them, its masks."""
        buffers = dict(net.named_buffers())
        with torch.no_grad():
            for name, kept in mask.items():
                net.get_parameter(name).mul_(kept)
                for of_network in mask_names(name):
                    if of_network in buffers:
                        buffers[of_network].copy_(kept)

    def pooled(self, kind: str, files: list[Path], out: Path, method: str = "window") -> PoolResult:
        options = PoolOptions(
            method=method, alphas=(0.5,), learning_steps=2, val_fraction=0.3, fit_images=32, **self.setting(kind)
        )
        return pool_target(open_bench(files, options), 2, out)

    def right(self, net: nn.Module) -> int:
        """Test images right, by plain torch."""
        with np.load(self.folder / "data.npz") as arrays:
            x = torch.from_numpy(arrays["test_images"]).float().permute(0, 3, 1, 2) / 255
            y = torch.from_numpy(arrays["test_labels"])
        with torch.no_grad():
            return int((net.eval()(x).argmax(1) == y).sum())


def mask_names(weight: str) -> tuple[str, ...]:
    """What the programs here call the mask of a weight."""
    return weight.replace("weight", "mask"), f"{weight}_mask", weight.replace("_orig", "_mask")


def save_torch(net: nn.Module, path: Path) -> None:
    torch.save(net.state_dict(), path)


def save_safetensors(net: nn.Module, path: Path) -> None:
    """As safetensors does with shared tensors: under one of their names."""
    save_model(net, str(path))


def zeros_of(net: nn.Module) -> int:
    """Of all weights of convolutions, each tensor once."""
    return sum(int((p == 0).sum()) for p in net.parameters() if p.dim() == 4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


# Whether a file has a tensor under one name or two is nothing that a method sees.
@pytest.mark.parametrize(
    ("save", "method"),
    [(save_safetensors, "greedy"), *((save_torch, method) for method in ("window", "learned", "reconstruct", "ema"))],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_pooled_file_is_what_its_own_program_loads(
    world: World, tmp_path: Path, kind: str, save: Callable[[nn.Module, Path], None], method: str
) -> None:
    result = world.pooled(kind, world.tickets(kind, save, tmp_path), tmp_path / "out.safetensors", method)
    net = world.network(kind)
    net.load_state_dict(load_file(result.output))
    assert world.right(net) == result.test["pooled"].correct
    prunable = sum(p.numel() for p in net.parameters() if p.dim() == 4)
    assert zeros_of(net) / prunable == pytest.approx(result.sparsity) == pytest.approx(0.75)
    for name, weight in net.named_parameters():
        kept = [b for n, b in net.named_buffers() if n in mask_names(name) and n != name]
        assert kept == [] or torch.equal(kept[0] != 0, weight != 0 if weight.dim() == 4 else weight == weight)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rerun_goes_on_and_all_else_reads_the_output(world: World, tmp_path: Path, kind: str) -> None:
    files = world.tickets(kind, save_torch, tmp_path)
    result, named = world.pooled(kind, files, tmp_path / "out.safetensors"), world.arch(kind)
    again = open_bench(files, replace(PoolOptions(**world.setting(kind)), method="window", alphas=(0.5,), **SAME))
    assert outputs_of(again, [2], result.output, overwrite=False) == [result.output]
    (found,) = evaluate_files([result.output], EvaluateOptions(**world.setting(kind))).files
    net = world.network(kind)
    parameters = sum(p.numel() for p in net.parameters())
    assert (found.cost.parameters, found.cost.kept) == (parameters, parameters - zeros(result))
    assert found.test.score.correct == result.test["pooled"].correct
    assert world.right(lptool.load_model(result.output, arch=named)) == result.test["pooled"].correct
    for form in (Form(packed=True), Form()):
        convert(result.output, tmp_path / "other.safetensors", form, SettingOptions(arch=named), overwrite=True)
        assert world.right(lptool.load_model(tmp_path / "other.safetensors", arch=named)) == world.right(
            net_of(world, kind, result)
        )
    net.load_state_dict(load_file(tmp_path / "other.safetensors"))
    convert(result.output, tmp_path / "prune.pt", Form(), SettingOptions(arch=named))
    if kind in ("Shared", "Masked"):  # the others have such masks already
        for module in {m for m in net.modules() if isinstance(m, nn.Conv2d)}:
            prune.identity(module, "weight")
    net.load_state_dict(torch.load(tmp_path / "prune.pt", weights_only=True))
    assert world.right(net) == result.test["pooled"].correct


SAME = {"learning_steps": 2, "val_fraction": 0.3, "fit_images": 32}


def zeros(result: PoolResult) -> int:
    return sum(round((1 - layer.after) * int(np.prod(layer.shape))) for layer in result.layers)


def net_of(world: World, kind: str, result: PoolResult) -> nn.Module:
    net = world.network(kind)
    net.load_state_dict(load_file(result.output))
    return net


@pytest.mark.parametrize("kind", ["Shared", "Masked", "SynFlow"])
def test_trained_tickets_load_into_their_network(world: World, tmp_path: Path, kind: str) -> None:
    options = TrainOptions(arch=world.arch(kind), dataset="random", epochs=2, rewind_epoch=1, rate=0.5, batch_size=48)
    files = train_tickets(options, 2, tmp_path / "run", data=DATA, device="cpu")
    for file, sparsity in zip(files, (0, 0.5, 0.75), strict=True):
        net = world.network(kind)
        net.load_state_dict(load_file(file))
        prunable = sum(p.numel() for p in net.parameters() if p.dim() == 4)
        assert zeros_of(net) / prunable == pytest.approx(sparsity, abs=1e-3)
        assert json.loads(lptool.load_ticket(file).metadata.to_json(0))["prunable"] == [
            name for name, p in net.named_parameters() if p.dim() == 4
        ]


def test_copies_that_differ_count_as_torch_loads_them_and_are_told(world: World, tmp_path: Path) -> None:
    files = world.tickets("Shared", save_torch, tmp_path)
    odd = torch.load(files[2], weights_only=True)
    odd["b.weight"] = odd["b.weight"] + 0.01  # the last that torch loads: none of it is 0
    torch.save(odd, files[2])
    net = world.network("Shared")
    net.load_state_dict(odd)
    evaluation = command("evaluate", files[2], "--json", *flags(world, "Shared"))
    assert evaluation.exit_code == 0, evaluation.output
    found = json.loads(evaluation.stdout)["files"][0]
    assert round(found["test"]["accuracy"] * 60) == world.right(net)
    assert "a.weight and b.weight are one tensor of the network and differ" in evaluation.stderr
    loaded = lptool.load_model(files[2], arch=world.arch("Shared"))
    assert torch.equal(loaded.get_parameter("a.weight"), odd["b.weight"])


def flags(world: World, kind: str) -> list[str]:
    return ["--arch", world.arch(kind), "--dataset", world.data, "--mean", "0", "--std", "1", "--device", "cpu"]


def test_a_file_without_either_name_of_a_shared_tensor_is_refused_once(world: World, tmp_path: Path) -> None:
    state = {n: t.clone() for n, t in world.network("Shared").state_dict().items() if n not in ("a.weight", "b.weight")}
    save_file(state, tmp_path / "a.safetensors")
    result = command("evaluate", tmp_path / "a.safetensors", *flags(world, "Shared"))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1:] == ["  a.weight: missing in the file"]


def test_a_file_of_before_batches_were_counted_is_read(world: World, tmp_path: Path) -> None:
    files = world.tickets("Masked", save_torch, tmp_path)
    for file in files:
        state = torch.load(file, weights_only=True)
        torch.save({n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}, file)
    result = world.pooled("Masked", files, tmp_path / "out.safetensors")
    assert world.right(net_of(world, "Masked", result)) == result.test["pooled"].correct
