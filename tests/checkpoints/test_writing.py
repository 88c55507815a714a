"""Files as written: bit-exact, loadable by others, whole or absent."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune

from lptool.checkpoints.masks import magnitude_prune
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_packed, save_prune_keys, save_ticket, sizes_of
from lptool.errors import CheckpointError, OutputError
from lptool.networks.architecture import load_model
from lptool.networks.building import build_model, prunable_weights


def ticket(dtype: torch.dtype = torch.float32) -> Ticket:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator).to(dtype)
    state = {"fc.weight": weight, "bn.num_batches_tracked": torch.tensor(7), "fc.bias": torch.zeros(4, dtype=dtype)}
    mask = {"fc.weight": torch.rand(4, 3, generator=generator) < 0.5}
    return Ticket(state, mask, Metadata(arch="resnet18", level=3, prunable=("fc.weight",)))


def large_ticket(dtype: torch.dtype = torch.float32, density: float = 0.3) -> Ticket:
    """With one tensor that is worth packing, one kept whole, and what else a network holds."""
    generator = torch.Generator().manual_seed(0)
    conv = torch.randn(16, 8, 3, 3, generator=generator).to(dtype)
    kept = torch.rand(conv.shape, generator=generator) < density
    conv.flatten()[:3] = torch.tensor([-0.0, 0.0, -1.0], dtype=dtype)
    kept.flatten()[:3] = True
    state = {
        "conv.weight": torch.where(kept, conv, 0),
        "fc.weight": torch.randn(4, 16, generator=generator).to(dtype),
        "fc.bias": torch.tensor([0.0, 1.0, -0.0, 2.0], dtype=dtype),
        "bn.num_batches_tracked": torch.tensor(7),
        "scale": torch.tensor(0.5, dtype=dtype),
    }
    mask = {"conv.weight": kept, "fc.weight": torch.ones(4, 16, dtype=torch.bool)}
    metadata = Metadata(arch="resnet18", arch_kwargs={"num_classes": 4}, level=3, prunable=tuple(mask))
    return Ticket(state, mask, metadata, extras={"normalize.mean": torch.tensor([0.3, -0.0])})


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in type, shape and every bit."""
    as_bytes = [t.contiguous().flatten().view(torch.uint8) for t in (a, b)]
    return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(*as_bytes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_ticket_survives_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    before = ticket(dtype)
    save_ticket(before, tmp_path / "a.safetensors")
    after = load_ticket(tmp_path / "a.safetensors")
    assert after.metadata == before.metadata
    assert torch.equal(after.mask["fc.weight"], before.mask["fc.weight"])
    for name, tensor in before.state.items():
        kept = torch.where(before.mask[name], tensor, 0) if name in before.mask else tensor
        assert after.state[name].dtype == tensor.dtype
        assert torch.equal(after.state[name], kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("density", [0.0, 0.002, 0.5, 0.97, 1.0])
def test_a_packed_ticket_survives_bit_for_bit(tmp_path: Path, dtype: torch.dtype, density: float) -> None:
    before = large_ticket(dtype, density)
    save_packed(before, tmp_path / "a.safetensors")
    after = load_ticket(tmp_path / "a.safetensors")
    expected = {**before.state, **before.extras}
    assert after.metadata == before.metadata
    assert after.state.keys() == expected.keys()
    assert all(same(after.state[name], tensor) for name, tensor in expected.items())
    assert after.mask.keys() == before.mask.keys()
    assert all(torch.equal(after.mask[name], kept) for name, kept in before.mask.items())


@pytest.mark.parametrize("names", [lambda n: f"module.{n}", lambda n: f"module.model.{n}"])
def test_a_packed_ticket_goes_back_under_its_own_names(tmp_path: Path, names: Callable[[str], str]) -> None:
    before = large_ticket()
    before = replace(before, own_names={name: names(name) for name in (*before.state, *before.extras)})
    save_packed(before, tmp_path / "a.safetensors")
    assert f"{names('conv.weight')}.bitmask" in load_file(tmp_path / "a.safetensors")
    after = load_ticket(tmp_path / "a.safetensors")
    assert after.own_names == before.own_names
    assert same(after.state["conv.weight"], before.state["conv.weight"])
    assert torch.equal(after.mask["conv.weight"], before.mask["conv.weight"])


def test_a_ticket_of_torchs_own_pruning_can_be_packed(tmp_path: Path) -> None:
    """Its weights are `X_orig` and `X_mask`, with values where it is pruned; the packed file has `X`."""
    whole = torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
    kept = whole.abs() > 1
    torch.save({"module.fc.weight_orig": whole, "module.fc.weight_mask": kept.float()}, tmp_path / "a.pt")
    save_packed(load_ticket(tmp_path / "a.pt"), tmp_path / "b.safetensors")
    assert set(load_file(tmp_path / "b.safetensors")) == {"module.fc.weight.values", "module.fc.weight.bitmask"}
    assert same(load_ticket(tmp_path / "b.safetensors").state["fc.weight"], torch.where(kept, whole, 0))


def test_same_packed_ticket_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_packed(large_ticket(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_smaller_values_for_what_is_packed(tmp_path: Path) -> None:
    """`fc.weight` is kept whole, so half of its bytes are saved too; biases and buffers are never touched."""
    before = large_ticket()
    for values, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        save_packed(before, tmp_path / "a.safetensors", values)
        after = load_ticket(tmp_path / "a.safetensors")
        for name, tensor in before.state.items():
            assert same(after.state[name], tensor.to(dtype).to(tensor.dtype) if name in before.mask else tensor)
        assert all(torch.equal(after.mask[name], kept) for name, kept in before.mask.items())


def test_values_too_large_for_fp16_leave_nothing(tmp_path: Path) -> None:
    before = large_ticket()
    before.state["conv.weight"].flatten()[2] = -65_520  # the first that rounds to infinity
    with pytest.raises(OutputError, match=r"a\.safetensors: not written: conv.weight: 65520 is too large for F16"):
        save_packed(before, tmp_path / "a.safetensors", "fp16")
    assert os.listdir(tmp_path) == []
    before.state["conv.weight"].flatten()[2] = -65_519
    save_packed(before, tmp_path / "a.safetensors", "fp16")
    assert load_ticket(tmp_path / "a.safetensors").state["conv.weight"].flatten()[2] == -65_504


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    before = large_ticket()
    before.state["fc.bias"][0] = float("nan")
    for write in (save_ticket, save_packed):
        with pytest.raises(OutputError, match=r"not written, because fc\.bias holds NaN"):
            write(before, tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    before = large_ticket()
    found = sizes_of(before)
    save_ticket(before, tmp_path / "dense")
    save_packed(before, tmp_path / "packed")
    assert found.dense == (tmp_path / "dense").stat().st_size
    assert found.packed == (tmp_path / "packed").stat().st_size
    assert found.packed < found.dense


def test_the_file_holds_the_names_of_the_state_and_says_pt(tmp_path: Path) -> None:
    save_ticket(ticket(), tmp_path / "a.safetensors")
    assert set(load_file(tmp_path / "a.safetensors")) == set(ticket().state)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        header = file.metadata()
    assert header["format"] == "pt"
    document = json.loads(header["lptool"])
    assert document["arch"] == {"name": "resnet18", "kwargs": {}}
    assert document["sparsity"] == 1 - int(ticket().mask["fc.weight"].sum()) / 12


def test_pruned_weights_are_plus_zero(tmp_path: Path) -> None:
    """-0.0 times a mask would leave a sign bit that compresses badly and compares unequal bytewise."""
    state, mask = {"w": torch.tensor([[-1.0, -0.0], [2.0, -3.0]])}, {"w": torch.tensor([[False, False], [True, True]])}
    save_ticket(Ticket(state, mask, Metadata(prunable=("w",))), tmp_path / "a.safetensors")
    assert not torch.signbit(load_file(tmp_path / "a.safetensors")["w"][0]).any()


def test_same_ticket_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_ticket(ticket(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tensors_that_share_memory_or_have_strides_are_written(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    save_ticket(Ticket({"a": shared, "b": shared, "c": shared.t()}, {}), tmp_path / "a")
    assert torch.equal(load_file(tmp_path / "a")["c"], shared.t())


def test_a_stock_timm_network_loads_in_one_line_without_lptool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("test_resnet", num_classes=7)
    state = model.state_dict()
    mask = {"conv1.0.weight": torch.rand(state["conv1.0.weight"].shape) < 0.5}
    metadata = Metadata(arch="test_resnet", arch_kwargs={"num_classes": 7}, prunable=tuple(mask))
    save_ticket(Ticket(state, mask, metadata), tmp_path / "a.safetensors")
    for name in [name for name in sys.modules if name.split(".")[0] == "lptool"]:
        monkeypatch.setitem(sys.modules, name, None)  # so that it cannot be imported
    loaded = timm.create_model("test_resnet", num_classes=7, checkpoint_path=str(tmp_path / "a.safetensors"))
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[name] * mask[name] if name in mask else state[name])


# Files for `torch.nn.utils.prune`: loaded with strict where it was called, and read back as the ticket they are of


def network_ticket(prune_what: str = "conv") -> Ticket:
    torch.manual_seed(0)
    model = build_model("resnet8_cifar", num_classes=10)
    prunable = prunable_weights(model, prune_what)
    state, mask = magnitude_prune(model.state_dict(), prunable, 9_000)
    metadata = Metadata(arch="resnet8_cifar", arch_kwargs={"num_classes": 10}, prunable=prunable)
    return Ticket(state, mask, metadata)


def going_on(path: Path) -> nn.Module:
    """What a person writes who goes on pruning: a network, its modules under prune, and the file."""
    tensors = torch.load(path, weights_only=True)
    model = build_model("resnet8_cifar", num_classes=10)
    for name, module in model.named_modules():
        if f"{name}.weight_orig" in tensors:
            prune.identity(module, "weight")
    model.load_state_dict(tensors, strict=True)
    return model.eval()


@pytest.mark.parametrize("prune_what", ["conv", "all"])
def test_a_network_under_prune_loads_it_and_computes_what_the_dense_one_does(tmp_path: Path, prune_what: str) -> None:
    before = network_ticket(prune_what)
    save_prune_keys(before, tmp_path / "a.pt")
    save_ticket(before, tmp_path / "a.safetensors")
    model = going_on(tmp_path / "a.pt")
    for name, kept in before.mask.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        assert module.weight_mask.dtype == module.weight_orig.dtype
        assert torch.equal(module.weight_mask.bool(), kept)
        assert not module.weight_orig[~kept].any()
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(images), load_model(tmp_path / "a.safetensors")(images))


def test_keys_for_pruning_say_of_themselves_what_a_dense_file_says(tmp_path: Path) -> None:
    """In a record that torch passes over, and that makes the bytes no others from one time to the next."""
    before = network_ticket()
    for name in ("a.pt", "b.pt"):
        save_prune_keys(before, tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert load_ticket(tmp_path / "a.pt").metadata == before.metadata
    for mapped in (False, True):
        assert "conv1.weight_orig" in torch.load(tmp_path / "a.pt", weights_only=True, mmap=mapped)


def test_a_damaged_document_beside_keys_for_pruning_is_one_line(tmp_path: Path) -> None:
    save_prune_keys(network_ticket(), tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content.replace(b'{"arch"', b'<"arch"'))
    with pytest.raises(CheckpointError, match=r"a\.pt: the `lptool` metadata in its header is damaged"):
        load_ticket(tmp_path / "a.pt")


def test_pruning_goes_on_from_its_mask(tmp_path: Path) -> None:
    """A further round takes its share of the kept weights, not of all."""
    save_prune_keys(network_ticket(), tmp_path / "a.pt")
    model = going_on(tmp_path / "a.pt")
    before = model.conv1.weight_mask.clone()
    prune.l1_unstructured(model.conv1, "weight", amount=0.5)
    assert model.conv1.weight_mask.sum() == before.sum() - round(int(before.sum()) * 0.5)
    assert not model.conv1.weight_mask[before == 0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_it_reads_back_bit_for_bit_kept_zeros_included(tmp_path: Path, dtype: torch.dtype) -> None:
    weight = torch.tensor([[1.0, 0.0, -2.0], [0.0, 3.0, -0.0]], dtype=dtype)
    kept = torch.tensor([[True, True, True], [False, False, True]])
    state = {"fc.weight": weight, "fc.bias": torch.ones(2, dtype=dtype), "bn.num_batches_tracked": torch.tensor(7)}
    save_prune_keys(Ticket(state, {"fc.weight": kept}), tmp_path / "a.pt")
    after = load_ticket(tmp_path / "a.pt")
    assert list(after.mask) == ["fc.weight"]
    assert torch.equal(after.mask["fc.weight"], kept)
    for name, tensor in {**state, "fc.weight": torch.where(kept, weight, 0)}.items():
        assert after.state[name].dtype == tensor.dtype
        assert torch.equal(after.state[name], tensor)
        assert torch.equal(after.state[name].signbit(), tensor.signbit())


def test_the_names_are_those_of_the_tickets_own_program(tmp_path: Path) -> None:
    own = {"fc.weight": "module.fc.weight", "fc.bias": "module.fc.bias"}
    state, mask = {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}, {"fc.weight": torch.eye(2) == 1}
    save_prune_keys(Ticket(state, mask, own_names=own, extras={"norm.mean": torch.zeros(3)}), tmp_path / "a.pt")
    assert list(torch.load(tmp_path / "a.pt", weights_only=True)) == [
        "module.fc.weight_orig",
        "module.fc.weight_mask",
        "module.fc.bias",
        "norm.mean",
    ]


def test_views_take_no_more_room_than_they_show_and_same_ticket_gives_same_bytes(tmp_path: Path) -> None:
    view = torch.zeros(1_000_000)[:10]
    for name in ("a", "b"):
        save_prune_keys(Ticket({"w": view}, {"w": view == 0}), tmp_path / name)
    assert (tmp_path / "a").stat().st_size < 10_000
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.pt: not written, because w holds NaN"):
        save_prune_keys(Ticket({"w": torch.tensor([[float("nan")]])}, {}), tmp_path / "a.pt")
    assert os.listdir(tmp_path) == []
