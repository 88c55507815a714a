"""Reading files that are ours, others', damaged or hostile."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lptool.checkpoints.reading import file_sha256, load_pool, load_ticket, open_checkpoint, summarise_file
from lptool.checkpoints.safetensors_file import SafetensorsFile
from lptool.checkpoints.writing import save_packed
from lptool.errors import CheckpointError, PoolError
from lptool.networks.building import build_model

STATE = {"conv.weight": torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "conv.bias": torch.tensor([0.0, 1.0])}


class Payload:
    """What a hostile checkpoint would do when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


def damaged(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    save_file(STATE, tmp_path / "whole.safetensors")
    torch.save(STATE, tmp_path / "whole.pth")
    files = {
        "missing": (None, "cannot be read"),
        "empty.safetensors": (b"", "not a whole safetensors file"),
        "cut.safetensors": ((tmp_path / "whole.safetensors").read_bytes()[:-3], "not a whole safetensors file"),
        "cut.pth": ((tmp_path / "whole.pth").read_bytes()[:-30], "not a"),
        "text.pth": (b"these are not the weights you are looking for", "not a checkpoint"),
        "model.onnx": (b"\x08\x08", "ONNX, which `lptool evaluate` and `predict` read"),
        "text.safetensors": (b"neither are these", "not a whole safetensors file"),
    }
    for name, (content, _) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    torch.save({"epoch": 3, "results": [1, 2]}, tmp_path / "none.pth")
    save_file({}, tmp_path / "none.safetensors")
    save_file(STATE, tmp_path / "header.safetensors", {"lptool": "{"})
    others = {
        "none.pth": "no state dict in it.*found epoch, results",
        "none.safetensors": "holds no tensor",
        "header.safetensors": "metadata in its header is damaged",
        ".": r"holds \d+ checkpoints, expected one; name the file",
    }
    return {name: (tmp_path / name, text) for name, text in {**{n: t for n, (_, t) in files.items()}, **others}.items()}


def test_zeros_of_two_or_more_dimensions_make_the_mask(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    ticket = load_ticket(tmp_path / "a.safetensors")
    assert list(ticket.mask) == ["conv.weight"]
    assert ticket.mask["conv.weight"].tolist() == [[True, False], [False, True]]
    assert summarise_file(tmp_path / "a.safetensors").mask_source == "zeros"


@pytest.mark.parametrize("content", [STATE, {"state_dict": STATE, "epoch": 3}, {"model": STATE}])
def test_pytorch_state_dicts(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    ticket = load_ticket(tmp_path / "a.pth")
    assert all(torch.equal(ticket.state[name], tensor) for name, tensor in STATE.items())


def test_our_tickets_say_what_they_are(tickets: list[Path]) -> None:
    ticket = load_ticket(tickets[2])
    assert (ticket.metadata.level, ticket.metadata.arch) == (2, "resnet8_cifar")
    assert set(ticket.mask) == {name for name in ticket.state if "conv" in name}
    summary = summarise_file(tickets[2])
    assert (summary.mask_source, summary.sha256) == ("metadata", file_sha256(tickets[2]))
    assert summary.density() == summary.kept() / sum(m.numel() for m in ticket.mask.values())


def test_a_pool_orders_by_level_whatever_the_order_given(tickets: list[Path]) -> None:
    pool = load_pool([tickets[i] for i in (2, 0, 3, 1)])
    assert [s.file for s in pool.summaries] == [str(path) for path in tickets]
    assert [t.metadata.level for t in pool] == [0, 1, 2, 3]


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, protocol: str) -> None:
    content = {"state_dict": STATE, "extra": Payload(tmp_path / "ran")}
    file = tmp_path / "a.pth"
    torch.save(content, file) if protocol == "torch" else file.write_bytes(pickle.dumps(content))
    if protocol == "torch":
        assert load_ticket(file).state.keys() == STATE.keys()  # what is not needed is left out
    else:
        with pytest.raises(CheckpointError, match=r"a\.pth"):
            load_ticket(file)
    assert not (tmp_path / "ran").exists()


def test_damaged_files_give_one_clear_error(tmp_path: Path) -> None:
    for name, (path, expected) in damaged(tmp_path).items():
        with pytest.raises(CheckpointError, match=expected) as error:
            load_ticket(path)
        assert str(path) in str(error.value), name


def test_a_packed_file_has_the_summary_of_the_dense_one(tmp_path: Path, tickets: list[Path]) -> None:
    for file in tickets:
        packed = tmp_path / file.name
        save_packed(load_ticket(file), packed)
        a, b = summarise_file(file), summarise_file(packed)
        assert (b.format, b.mask_source) == ("safetensors, packed", "packed")
        assert b.weights == a.weights
        assert list(b.tensors.items()) == list(a.tensors.items())
        assert b.prunable == a.prunable
        assert b.metadata == a.metadata
        assert b.sha256 == file_sha256(packed)
        assert (list(load_ticket(packed).state), list(load_ticket(packed).mask)) == (list(a.tensors), list(a.prunable))


def test_a_pool_takes_packed_and_dense_files_alike(tmp_path: Path, tickets: list[Path]) -> None:
    packed = [tmp_path / file.name for file in tickets]
    for file, place in zip(tickets, packed, strict=True):
        save_packed(load_ticket(file), place)
    for ours, theirs in zip(load_pool([tickets[0], *packed[1:]]), load_pool(tickets), strict=True):
        assert all(torch.equal(ours.state[name], tensor) for name, tensor in theirs.state.items())
        assert all(torch.equal(ours.mask[name], kept) for name, kept in theirs.mask.items())


def test_a_tensor_of_a_packed_file_that_is_not_prunable_is_kept_whole(tmp_path: Path, tickets: list[Path]) -> None:
    save_packed(load_ticket(tickets[3]), tmp_path / "a")
    checkpoint = open_checkpoint(tmp_path / "a")
    assert "bn1.bias" not in checkpoint.prunable
    assert checkpoint.mask("bn1.bias").all()


def test_a_header_that_names_absent_tensors_is_refused(tmp_path: Path, tickets: list[Path]) -> None:
    document = json.loads(SafetensorsFile(tickets[1]).header["lptool"]) | {"prunable": ["nowhere.weight"]}
    save_file(STATE, tmp_path / "a.safetensors", {"lptool": json.dumps(document)})
    with pytest.raises(CheckpointError, match=r"calls nowhere.weight prunable, but the file lacks it"):
        load_ticket(tmp_path / "a.safetensors")


def test_all_mismatches_of_a_pool_come_at_once(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    save_file({"conv.weight": torch.ones(3, 2), "other": torch.ones(1)}, tmp_path / "b.safetensors")
    save_file({**STATE, "conv.bias": torch.tensor([float("nan"), 0])}, tmp_path / "c.safetensors")
    with pytest.raises(PoolError) as error:
        load_pool([tmp_path / f"{name}.safetensors" for name in "abc"])
    message = str(error.value)
    for part in ("lacks conv.bias", "has other", "conv.weight is [3, 2], expected [2, 2]", "conv.bias holds NaN"):
        assert part in message


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"in_chans": 3}, r"conv1.weight is \[16, 3, 3, 3\], expected \[16, 1, 3, 3\]"),
        ({"num_classes": 7}, r"fc.weight is \[7, 64\], expected \[10, 64\].*\n.*fc.bias is \[7\], expected \[10\]"),
        ({"arch": "resnet20_cifar"}, r"has layer1.1.conv1.weight, layer1.1.bn1.weight"),
    ],
)
def test_pools_of_two_networks_are_refused_tensor_by_tensor(
    tmp_path: Path, tickets: list[Path], other: dict[str, object], message: str
) -> None:
    kwargs: dict[str, Any] = {"arch": "resnet8_cifar", "num_classes": 10, "in_chans": 1, **other}
    torch.save(build_model(kwargs.pop("arch"), **kwargs).state_dict(), tmp_path / "other.pth")
    with pytest.raises(PoolError, match=message):
        load_pool([tickets[0], tmp_path / "other.pth"])


def test_ties_are_broken_by_names_in_natural_order(tmp_path: Path) -> None:
    for name in ("run_10", "run_9"):
        save_file({"w": torch.tensor([[float(name[4:]), 0.0]])}, tmp_path / f"{name}.safetensors")
    pool = load_pool([tmp_path / "run_10.safetensors", tmp_path / "run_9.safetensors"])
    assert [Path(s.file).stem for s in pool.summaries] == ["run_9", "run_10"]
