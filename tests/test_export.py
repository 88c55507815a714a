"""Files as written: bit-exact, loadable by others, whole or absent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lptool.checkpoints import load_ticket
from lptool.errors import DataError, OutputError
from lptool.export import check_output, save_ticket, write_atomically
from lptool.tickets import Metadata, Ticket


def ticket(dtype: torch.dtype = torch.float32) -> Ticket:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator).to(dtype)
    state = {"fc.weight": weight, "bn.num_batches_tracked": torch.tensor(7), "fc.bias": torch.zeros(4, dtype=dtype)}
    mask = {"fc.weight": torch.rand(4, 3, generator=generator) < 0.5}
    return Ticket(state, mask, Metadata(arch="resnet18", level=3, prunable=("fc.weight",)))


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


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")

    def fail(file: Path) -> None:
        file.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"a: cannot be written .No space left on device"):
        write_atomically(tmp_path / "a", fail)
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def test_what_a_writer_finds_is_handed_on(tmp_path: Path) -> None:
    """What it returns, and an error that already says what is wrong, as it is."""

    def refuse(file: Path) -> None:
        raise DataError("img.png: damaged")

    assert write_atomically(tmp_path / "a", lambda file: file.write_text("four")) == 4
    with pytest.raises(DataError, match=r"^img\.png: damaged$"):
        write_atomically(tmp_path / "b", refuse)
    assert os.listdir(tmp_path) == ["a"]


def test_interrupting_a_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(file: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", interrupt)
    assert os.listdir(tmp_path) == []


def test_check_output(tmp_path: Path) -> None:
    there = tmp_path / "there.safetensors"
    there.write_text("")
    (tmp_path / "link").symlink_to(there)
    (tmp_path / "broken.safetensors").symlink_to(tmp_path / "nowhere")
    check_output(tmp_path / "new" / "folder" / "file.safetensors", [there], overwrite=False)
    check_output(there, [], overwrite=True)
    for output, inputs, overwrite, message in [
        (there, [], False, "exists"),
        (there, [tmp_path / "link"], True, "also an input"),
        (tmp_path / "broken.safetensors", [], False, "exists"),
        (there / "below.safetensors", [], False, "cannot be written"),
        (Path("/proc/file.safetensors"), [], False, "cannot be written"),
        (tmp_path / f"{'a' * 300}.safetensors", [], False, "cannot be written"),
        (tmp_path, [], True, r"expected a name that ends in \.safetensors"),
        (tmp_path / "a.pt", [], True, r"expected a name that ends in \.safetensors"),
    ]:
        with pytest.raises(OutputError, match=message):
            check_output(output, inputs, overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == ["broken.safetensors", "link", "there.safetensors"]


def test_a_stock_timm_network_loads_in_one_line_without_lptool(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=7)
    state = model.state_dict()
    mask = {"conv1.0.weight": torch.rand(state["conv1.0.weight"].shape) < 0.5}
    metadata = Metadata(arch="test_resnet", arch_kwargs={"num_classes": 7}, prunable=tuple(mask))
    save_ticket(Ticket(state, mask, metadata), tmp_path / "a.safetensors")
    code = (
        "import sys, timm\n"
        "model = timm.create_model('test_resnet', num_classes=7, checkpoint_path=sys.argv[1])\n"
        "assert 'lptool' not in sys.modules\n"
        "print(int(model.conv1[0].weight.count_nonzero()))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.safetensors"], capture_output=True, text=True, check=True
    ).stdout
    assert int(shown) == int((state["conv1.0.weight"] * mask["conv1.0.weight"]).count_nonzero())
