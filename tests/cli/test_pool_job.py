"""What `lptool pool` leaves for each target: files in every form, and folders that are there whole or not at all."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lptool.checkpoints.reading import file_sha256, load_ticket
from tests.helpers.commands import FAST, lptool, refused_last


def test_pool_all_json(tmp_path: Path, tickets: list[Path]) -> None:
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", "--json", "--target", "all", *FAST)
    documents = json.loads(result.stdout)["targets"]
    assert [d["target"]["level"] for d in documents] == [0, 1, 2, 3]
    assert all(Path(d["output"]).is_file() for d in documents)


def test_a_packed_file_keeps_what_the_dense_one_does(tickets: list[Path], tmp_path: Path) -> None:
    for name, more in (("dense", []), ("small", ["--packed"]), ("short", ["--packed", "--values", "bf16"])):
        result = lptool("pool", *tickets, "-o", tmp_path / f"{name}.safetensors", *FAST, *more, "--json")
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        assert document["bytes"]["dense"] == (tmp_path / "dense.safetensors").stat().st_size
        assert (document["rounded"] is None) == (name != "short")
    dense, small = (load_ticket(tmp_path / f"{name}.safetensors") for name in ("dense", "small"))
    assert all(torch.equal(t, small.state[name]) for name, t in dense.state.items())
    assert (tmp_path / "small.safetensors").stat().st_size == document["bytes"]["packed"]
    assert (tmp_path / "short.safetensors").stat().st_size < document["bytes"]["packed"]


def test_a_folder_holds_the_model_and_all_that_is_known_of_it(tickets: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "model"
    result = lptool("pool", *tickets, "-o", out, *FAST)
    assert result.exit_code == 0, result.output
    assert f"local-dir:{out}" in result.stdout
    assert {p.name for p in out.iterdir()} == {
        *("model.safetensors", "config.json", "README.md", "report.html", "trace.json")
    }
    trace = json.loads((out / "trace.json").read_text())
    assert trace["sha256"] == file_sha256(out / "model.safetensors")
    assert trace["references"]["members"]
    assert {p.name for p in tmp_path.iterdir()} == {"model", "model.search.jsonl"}
    lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", *FAST)
    assert (tmp_path / "a.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_folder_has_timms_names_whatever_the_tickets_have(tickets: list[Path], tmp_path: Path) -> None:
    wrapped = []
    for ticket in tickets[2:]:
        state = {f"module.{name}": tensor for name, tensor in load_file(ticket).items()}
        wrapped.append(tmp_path / ticket.with_suffix(".pt").name)
        torch.save({"state_dict": state}, wrapped[-1])
    out = f"{tmp_path}/v1.5/"  # the slash makes it a folder
    more = ["--dataset", "digits", "--mean", "0.3", "--std", "0.4"]
    result = lptool("pool", *wrapped, "-o", out, *FAST, *more)
    assert result.exit_code == 0, result.output
    assert f"timm.create_model('local-dir:{tmp_path / 'v1.5'}', pretrained=True)" in result.stdout
    document = json.loads((tmp_path / "v1.5" / "trace.json").read_text())
    weights = tmp_path / "v1.5" / "model.safetensors"
    assert (document["sha256"], document["bytes"]["dense"]) == (file_sha256(weights), weights.stat().st_size)
    assert "conv1.weight" in load_file(weights)


def test_a_folder_that_cannot_be_finished_is_not_there(
    tickets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lptool.export.folder.describe_weights", full)
    message = refused_last(lptool("pool", *tickets, "-o", tmp_path / "model", *FAST))
    assert message.startswith(f"Error: {tmp_path / 'model'}: cannot be written (No space left on device)")
    assert {p.name for p in tmp_path.iterdir()} == {"model.search.jsonl"}
