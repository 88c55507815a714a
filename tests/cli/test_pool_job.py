"""What `lptool pool` leaves for each target: files in every form, and folders that are there whole or not at all."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lptool.checkpoints.containers import PACKED
from lptool.checkpoints.reading import file_sha256, load_ticket, open_checkpoint
from tests.helpers.commands import FAST, lptool, refused, refused_last


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
    assert (tmp_path / "short.safetensors").stat().st_size == document["bytes"]["written"] < document["bytes"]["packed"]


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


# The control beside it


def test_a_control_is_ticket_bn_and_evaluate_says_what_pool_says(tickets: list[Path], tmp_path: Path) -> None:
    out, control, alone = (tmp_path / f"{name}.safetensors" for name in ("a", "c", "alone"))
    command = ["pool", *tickets, "-o", out, "--control", control, *FAST]
    result = lptool(*command, "--json")
    assert result.exit_code == 0, result.output
    document, written = json.loads(result.stdout), control.read_bytes()
    assert document["control"] == {"output": str(control), "sha256": file_sha256(control), "holds": "ticket_bn"}
    assert lptool("pool", *tickets, "-o", alone, *FAST).exit_code == 0
    assert alone.read_bytes() == out.read_bytes()  # with a control or without
    found = json.loads(lptool("evaluate", out, control, "--device", "cpu", "--json").stdout)
    compared = next(each for each in document["comparisons"] if each["b"] == "ticket_bn")
    assert {key: found["comparisons"][0][key] for key in ("a_only", "b_only", "p")} == {
        key: compared[key] for key in ("a_only", "b_only", "p")
    }
    assert found["files"][1]["test"]["accuracy"] == document["test"]["ticket_bn"]["accuracy"]
    target = load_ticket(tickets[3])
    assert all(torch.equal(kept, target.mask[name]) for name, kept in load_ticket(control).mask.items())
    again = lptool(*command)
    assert again.exit_code == 0, again.output
    assert control.read_bytes() == written
    assert f"wrote {control} (ticket + BN, sha256 " in again.stdout


def test_a_control_among_tickets_is_no_ticket(tickets: list[Path], tmp_path: Path) -> None:
    folder, control = tmp_path / "run", tmp_path / "run" / "level_04.safetensors"
    shutil.copytree(tickets[0].parent, folder)
    command = ["pool", folder, "-o", tmp_path / "a.safetensors", "--control", control, *FAST]
    assert lptool(*command).exit_code == 0
    again = lptool("pool", folder, "-o", tmp_path / "b.safetensors", "--dry-run", *FAST)
    assert len(json.loads(again.stdout)["pool"]) == 4
    assert "level_04.safetensors is a pooled model and no ticket; left out" in again.stderr
    assert "pooled by" not in lptool("inspect", control).stdout


@pytest.mark.parametrize(
    ("control", "more", "message"),
    [
        ("a.safetensors", [], "a.safetensors: is the output or lies in it; choose another --control"),
        ("mine.safetensors", [], "mine.safetensors: exists; choose another output or add --overwrite"),
        ("a.pt", [], "a.pt: expected a name that ends in .safetensors"),
        ("level_01.safetensors", [], "level_01.safetensors: is also an input"),
        ("model/c.safetensors", ["-o", "model"], "model/c.safetensors: is the output or lies in it"),
        ("model", ["-o", "model", "--target", "all"], "level_00.safetensors: is the output or lies in it"),
    ],
)
def test_where_a_control_must_not_be_is_one_line_before_any_work(
    tickets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: str, more: list[str], message: str
) -> None:
    for ticket in tickets:
        shutil.copy(ticket, tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("mine.safetensors").write_text("precious")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    inputs = [ticket.name for ticket in tickets]
    assert message in refused(lptool("pool", *inputs, "-o", "a.safetensors", *more, "--control", control, *FAST))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_page_in_the_output_is_refused_before_any_work(
    tickets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """The folder is put into its place whole, and the next command would take the page for somebody's own file."""
    monkeypatch.chdir(tmp_path)
    said = refused(lptool("pool", *tickets, "-o", "model", *more, "--report", "model/a.html", *FAST))
    page = "a.html: is the output or lies in it; choose another --report"
    assert page in said
    assert os.listdir(tmp_path) == []


def test_with_all_targets_there_is_a_control_for_each(tickets: list[Path], tmp_path: Path) -> None:
    more = ["--target", "all", "--control", tmp_path / "controls", "--packed"]
    result = lptool("pool", *tickets[2:], "-o", tmp_path / "pooled", *more, *FAST, "--json")
    assert result.exit_code == 0, result.output
    written = [Path(document["control"]["output"]) for document in json.loads(result.stdout)["targets"]]
    assert written == [tmp_path / "controls" / f"level_0{level}.safetensors" for level in (2, 3)]
    assert [open_checkpoint(file).contents.format for file in written] == [PACKED] * 2


def test_without_recalibration_the_control_is_the_ticket(tickets: list[Path], tmp_path: Path) -> None:
    control = tmp_path / "c.safetensors"
    more = ["--control", control, "--bn-images", "none", "--json"]
    result = lptool("pool", *tickets, "-o", f"{tmp_path}/model/", *more, *FAST)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["control"]["holds"] == "ticket"
    assert all(torch.equal(tensor, load_file(tickets[3])[name]) for name, tensor in load_file(control).items())
    public = json.loads((tmp_path / "model" / "trace.json").read_text())
    assert str(tmp_path) not in json.dumps(public["control"])
