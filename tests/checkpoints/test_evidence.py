"""Masks of ones, constant tables and stray zeros prune nothing, in files as other programs write them."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lptool.checkpoints.evidence import of_pruning
from lptool.checkpoints.inspection import inspect_files
from lptool.checkpoints.reading import load_pool, load_ticket, summarise_file
from lptool.checkpoints.writing import Form, save_packed
from lptool.evaluation.setting import SettingOptions
from lptool.export.conversion import convert
from lptool.tables import percent
from tests.helpers.commands import lptool

_seeds = itertools.count()


def weights(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """No zeros among them, and others each time."""
    generator = torch.Generator().manual_seed(next(_seeds))
    return {name.replace("_", "."): torch.rand(shape, generator=generator) + 0.5 for name, shape in shapes.items()}


def keeping(count: int, *shape: int) -> Tensor:
    """A mask that keeps the first `count`."""
    mask = torch.zeros(shape).flatten()
    mask[:count] = 1
    return mask.view(shape)


def network() -> dict[str, Tensor]:
    return weights(conv_weight=(4, 1, 3, 3), bn_weight=(4,), bn_bias=(4,), fc_weight=(10, 4), fc_bias=(10,))


def write_openlth(folder: Path, level: int, masks: dict[str, Tensor]) -> Path:
    place = folder / f"level_{level}" / "main"
    place.mkdir(parents=True)
    torch.save({name: mask.int() for name, mask in masks.items()}, place / "mask.pth")
    torch.save(network(), place / "model_ep160_it0.pth")
    return place / "model_ep160_it0.pth"


def write_buffers(folder: Path, level: int, masks: dict[str, Tensor]) -> Path:
    """Synaptic-Flow: every module has buffers for the masks of its weight and bias."""
    state = network()
    torch.save({**state, **{f"{name}_mask": mask for name, mask in masks.items()}}, folder / f"{level}.pt")
    return folder / f"{level}.pt"


@pytest.mark.parametrize("write", [write_openlth, write_buffers])
def test_masks_of_ones_in_all_files_make_nothing_prunable(tmp_path: Path, write: type) -> None:
    """And nobody is told; masks of one dimension that do prune are honoured, in the ticket that is loaded too."""
    for level, kept in enumerate((36, 20, 9)):
        ones = {name: torch.ones_like(tensor) for name, tensor in network().items()}
        pruned = {"conv.weight": keeping(kept, 4, 1, 3, 3), "bn.weight": keeping(4 - level, 4)}
        write(tmp_path, level, {**ones, **pruned})
    pool = load_pool(tmp_path)
    assert pool.prunable == ("conv.weight", "bn.weight")
    assert [pool.kept(place) for place in range(3)] == [40, 23, 11]
    assert pool.warnings == ()
    for place, ticket in enumerate(pool):
        assert set(ticket.mask) == set(pool.prunable)
        assert int(ticket.state["bn.weight"].count_nonzero()) == 4 - place
        assert all(bool((ticket.state[name] != 0).all()) for name in ("bn.bias", "fc.weight", "fc.bias"))


def test_a_converted_ticket_calls_prunable_what_it_prunes(tmp_path: Path) -> None:
    masks = {"conv.weight": keeping(9, 4, 1, 3, 3), "fc.weight": torch.ones(10, 4)}
    file = write_openlth(tmp_path, 1, masks)
    options = SettingOptions()
    for packed in (False, True):
        made = convert(file, tmp_path / f"{packed}.safetensors", Form(packed=packed), options)
        assert made.metadata.prunable == ("conv.weight",)
        assert made.sparsity == 1 - 9 / 36
        assert summarise_file(made.output).prunable == ("conv.weight",)


def test_what_an_lptool_header_calls_prunable_stays_so(tickets: list[Path], tmp_path: Path) -> None:
    """Also in files that nothing is pruned in, dense or packed."""
    save_packed(load_ticket(tickets[0]), tmp_path / "packed.safetensors")
    for file in (tickets[0], tmp_path / "packed.safetensors"):
        summary = summarise_file(file)
        assert summary.prunable
        assert of_pruning([summary]) == [summary]


def test_a_table_that_is_the_same_in_all_files_is_not_pruned(tmp_path: Path) -> None:
    table = torch.outer(torch.arange(8.0), torch.arange(1, 6)).sin()  # its first row is 0
    for level, kept in enumerate((600, 300, 100)):
        state = weights(blocks_weight=(20, 30), pos=(1,))
        torch.save(
            {**state, "pos": table, "blocks.weight": state["blocks.weight"] * keeping(kept, 20, 30)},
            tmp_path / f"{level}.pt",
        )
    pool = load_pool(tmp_path)
    assert pool.prunable == ("blocks.weight",)
    assert [pool.density(place) for place in range(3)] == [1, 0.5, 1 / 6]
    assert all(torch.equal(ticket.state["pos"], table) for ticket in pool)
    assert len(pool.warnings) == 1
    assert "every exact zero counts as pruned" in pool.warnings[0]


def stray(folder: Path) -> list[Path]:
    """A dense ticket in which one weight of 6,000 is 0, and two that are pruned."""
    for level, share in enumerate((1, 0.5, 0.25)):
        state = weights(**{f"layer{i}_weight": (20, 30) for i in range(10)})
        state = {name: tensor * keeping(int(600 * share), 20, 30) for name, tensor in state.items()}
        if level == 0:
            state["layer4.weight"][3, 7] = 0
        torch.save(state, folder / f"{level}.pt")
    return [folder / f"{level}.pt" for level in range(3)]


def test_a_dense_ticket_with_a_stray_zero_is_dense(tmp_path: Path) -> None:
    dense, *_ = stray(tmp_path)
    pool = load_pool(tmp_path)
    assert [pool.density(place) for place in range(3)] == [1, 0.5, 0.25]
    assert pool[0].mask["layer4.weight"].all()
    assert not [line for line in pool.warnings if "no dense ticket" in line or "only in some" in line]
    (alone,) = inspect_files([dense]).findings
    assert (alone.density, alone.prunable, alone.summary.mask_source) == (1, (), "none")
    assert alone.warnings == (f"{dense}: 1 of 6,000 weights are 0, too few to be pruned; read as dense",)


def test_table_and_document_say_the_same_sparsity(tmp_path: Path) -> None:
    """Over what is prunable in any of the files, also where a file has fewer masks than others."""
    for level, names in enumerate(([], ["a"], ["a", "b"])):
        state = weights(a=(10, 10), b=(5, 5))
        masks = {f"{name}_mask": keeping(state[name].numel() // 2, *state[name].shape) for name in names}
        torch.save({**state, **masks}, tmp_path / f"{level}.pt")
    document = json.loads(lptool("inspect", tmp_path, "--json").stdout)
    shown = lptool("inspect", tmp_path).stdout
    kept = [125, 75, 62]
    assert [t["sparsity"] for t in document["tickets"]] == pytest.approx([1 - count / 125 for count in kept])
    for ticket, count in zip(document["tickets"], kept, strict=True):
        assert percent(ticket["sparsity"]) in shown
        assert f"{count} / 125" in shown
        assert [layer["name"] for layer in ticket["layers"]] == ["a", "b"]


def test_warnings_of_one_kind_are_one_line(tmp_path: Path) -> None:
    """Ten tickets of one density, with other masks each, some layers whole in all but one."""
    for number in range(10):
        state = weights(**{f"w{i}": (10, 10) for i in range(12)})
        masks = {f"{name}_mask": torch.rand(10, 10).argsort().view(10, 10) % 10 > 4 for name in state}
        if number:
            masks |= {f"w{i}_mask": torch.ones(10, 10) for i in range(6)}
        torch.save({"model": {**state, **masks}, "state_dict_ema": state}, tmp_path / f"{number}.pt")
    shown = lptool("inspect", tmp_path).stdout
    lines = [line for line in shown.splitlines() if line.startswith("warning")]
    assert len(lines) == len({line.rpartition(": ")[2][:20] for line in lines}) <= 6
    assert any("weights taken from `model`" in line and "9 more" in line for line in lines)
    assert any("as dense as" in line and "7 more" in line for line in lines)
