"""Masks that lie in a dictionary or list of the file, or in a file beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lptool.checkpoints.nested import Keys
from lptool.checkpoints.reading import load_pool, load_ticket, open_checkpoint
from lptool.errors import CheckpointError
from tests.helpers.commands import lptool


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))


MASK = {"0.weight": torch.rand(4, 1, 3, 3) < 0.5, "2.1.weight": torch.rand(3, 16) < 0.3}


def by_module(mask: dict[str, Tensor]) -> dict[str, Any]:
    return {name.removesuffix(".weight"): kept for name, kept in mask.items()}


def as_modules_are(mask: dict[str, Tensor]) -> dict[str, Any]:
    return {"0": {"weight": mask["0.weight"]}, "2": {"1": {"weight_mask": mask["2.1.weight"]}}}


def with_one_for_batchnorm(mask: dict[str, Tensor]) -> list[Any]:
    return [mask["0.weight"], torch.ones(4), mask["2.1.weight"]]


SPELLINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "weight names": dict,
    "with _mask": lambda mask: {f"{name}_mask": kept for name, kept in mask.items()},
    "with .mask": lambda mask: {f"{name}.mask": kept for name, kept in mask.items()},
    "module names": by_module,
    "nested": as_modules_are,
    "wrapped": lambda mask: {f"module.{name}": kept for name, kept in mask.items()},
    "list": lambda mask: list(mask.values()),
    "list of all weights": with_one_for_batchnorm,
    "uint8": lambda mask: {name: kept.to(torch.uint8) for name, kept in mask.items()},
    "float": lambda mask: {name: kept.float() for name, kept in mask.items()},
    "numpy": lambda mask: {name: kept.numpy().astype(np.float64) for name, kept in mask.items()},
    "with None": lambda mask: {**mask, "0.bias": None, "1.weight": None},
    "ones for others": lambda mask: {**mask, "0.bias": torch.ones(4), "1.weight": torch.ones(4)},
}


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_masks_in_a_dictionary(tmp_path: Path, spelling: str, wrap: bool) -> None:
    model = nn.DataParallel(network()) if wrap else network()
    torch.save({"model": model.state_dict(), "masks": SPELLINGS[spelling](MASK), "epoch": 3}, tmp_path / "a.pt")
    ticket = load_ticket(tmp_path / "a.pt")
    for name, kept in MASK.items():
        assert torch.equal(ticket.mask[name], kept)
        assert torch.equal(ticket.state[name], network().state_dict()[name] * kept)
    assert all(bool(kept.all()) for name, kept in ticket.mask.items() if name not in MASK)
    assert set(ticket.tensors()) == set(model.state_dict())  # its own program loads what comes out, strictly
    assert open_checkpoint(tmp_path / "a.pt").summary.mask_source == "masks"


def test_keys_say_where_weights_and_masks_lie(tmp_path: Path) -> None:
    for level in range(2):
        keep = {name: kept | (level == 0) for name, kept in MASK.items()}
        state = {name: t + level if t.is_floating_point() else t for name, t in network().state_dict().items()}
        torch.save({"run": {"params": [state], "keep": keep}, "epoch": 9}, tmp_path / f"{level}.pt")
    with pytest.raises(CheckpointError, match=r"--state-key \(masks: --mask-key\), see docs/checkpoints\.md"):
        load_ticket(tmp_path / "0.pt")
    keys = Keys("run.params.0", "run.keep")
    pool = load_pool(tmp_path, keys)
    assert pool.prunable == tuple(MASK)
    assert all(torch.equal(pool[1].mask[name], kept) for name, kept in MASK.items())
    shown = lptool("inspect", tmp_path, "--state-key", "run.params.0", "--mask-key", "run.keep").stdout
    assert f"{sum(int(kept.sum()) for kept in MASK.values())} / 84" in shown


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            {"0.weight": MASK["0.weight"], "gone.weight": torch.ones(2)},
            r"has masks for gone\.weight, which are no",
        ),
        ({"0.weight": torch.ones(2, 2)}, r"mask masks:0\.weight is \[2, 2\], expected \[4, 1, 3, 3\]"),
        ({"0.weight": torch.full((4, 1, 3, 3), 0.5)}, "36 values other than 0 and 1"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, masks: Any, message: str) -> None:
    torch.save({"model": network().state_dict(), "masks": masks}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        load_ticket(tmp_path / "a.pt")


@pytest.mark.parametrize("strange", [{"attention": torch.ones(3)}, [torch.ones(4)], {"a": 1}])
def test_what_is_called_masks_and_fits_nothing_is_left_aside(tmp_path: Path, strange: Any) -> None:
    torch.save({"model": network().state_dict(), "masks": strange}, tmp_path / "a.pt")
    summary = open_checkpoint(tmp_path / "a.pt").summary
    assert summary.mask_source == "none"
    assert summary.notes == ("what lies at `masks` fits no weights, and is not used as masks",)
    with pytest.raises(CheckpointError, match="say where with --mask-key"):
        load_ticket(tmp_path / "a.pt", Keys(mask="masks"))


@pytest.mark.parametrize("foreign", [{"other.weight": torch.ones(2)}, {"epoch": 3}, torch.ones(3)])
def test_a_foreign_mask_file_is_no_obstacle_for_its_neighbour(tmp_path: Path, foreign: Any) -> None:
    """Beside OpenLTH's own names it is, as its weights are not masked: see test_dialects."""
    torch.save(network().state_dict(), tmp_path / "resnet.pth")
    torch.save(foreign, tmp_path / "mask.pth")
    summary = open_checkpoint(tmp_path / "resnet.pth").summary
    assert summary.mask_source == "none"
    assert len(summary.notes) == 1
    assert "mask.pth" in summary.notes[0]
    torch.save(foreign, tmp_path / "model_ep9_it0.pth")
