"""`lptool pool` as a person or a script meets it: exit codes, streams, one clear line for each bad input."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lptool.checkpoints.reading import file_sha256, load_ticket
from lptool.checkpoints.safetensors_file import SafetensorsFile
from lptool.pooling.catalogue import RATIOS
from lptool.training.presets import PRESETS
from tests.helpers.commands import FAST, assert_clear_error, lptool, refused, refused_last, refused_usage


def test_pool_json_is_one_document_and_nothing_else(tmp_path: Path, tickets: list[Path]) -> None:
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", "--json", *FAST)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["output"] == str(tmp_path / "a.safetensors")
    assert document["evaluations"] == 2 + 3


def test_dry_run_writes_nothing(tmp_path: Path, tickets: list[Path]) -> None:
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", "--dry-run", "--method", "greedy")
    plan = json.loads(result.stdout)
    assert plan["targets"] == [{"file": str(tickets[3]), "output": str(tmp_path / "a.safetensors")}]
    assert plan["evaluations_at_most"] == 2 + 3 * 11
    assert list(tmp_path.iterdir()) == []


def test_pool_train_makes_the_tickets_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", _tiny())
    out = tmp_path / "a.safetensors"
    result = lptool("pool", "--train", "--preset", "tiny", "-o", out, *FAST)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "a_tickets").glob("level_*.safetensors"))) == 2
    assert out.is_file()
    named = ["pool", tmp_path / "elsewhere", "--train", "--preset", "tiny", *FAST]
    again = lptool(*named, "-o", tmp_path / "b.safetensors")
    assert again.exit_code == 0, again.output
    tickets = sorted((tmp_path / "elsewhere").glob("level_*.safetensors"))
    assert len(tickets) == 2
    written = tickets[0].stat().st_mtime_ns
    assert lptool(*named, "-o", tmp_path / "c.safetensors").exit_code == 0
    assert tickets[0].stat().st_mtime_ns == written  # found, so not trained again


def _tiny() -> object:
    from dataclasses import replace

    preset = PRESETS["quickstart"]
    return replace(preset, options=replace(preset.options, epochs=2, rewind_epoch=1), levels=1)


@pytest.fixture
def copies(tmp_path: Path, tickets: list[Path]) -> list[Path]:
    """Tickets that a test may damage."""
    (tmp_path / "in").mkdir()
    return [Path(shutil.copy(path, tmp_path / "in")) for path in tickets]


def damage_nothing(files: list[Path]) -> list[Path]:
    return files


def add_missing(files: list[Path]) -> list[Path]:
    return [*files, files[0].with_name("nowhere.safetensors")]


def truncate(files: list[Path]) -> list[Path]:
    files[1].write_bytes(files[1].read_bytes()[:-100])
    return files


def replace_by_text(files: list[Path]) -> list[Path]:
    files[1].write_text("not weights at all, whatever the name says")
    return files


def only_one(files: list[Path]) -> list[Path]:
    return files[:1]


def put_nan(files: list[Path]) -> list[Path]:
    state = load_file(files[1])
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, files[1])
    return files


BAD = [
    (add_missing, [], r"nowhere\.safetensors: cannot be read \(No such file or directory\)"),
    (truncate, [], r"level_01\.safetensors: not a whole safetensors file"),
    (replace_by_text, [], r"level_01\.safetensors: not a"),
    (only_one, [], "a pool needs at least two tickets, found 1"),
    (put_nan, [], r"level_01\.safetensors: layer1\.0\.conv1\.weight holds NaN or infinite values"),
    (damage_nothing, ["--arch", "resnet20_cifar"], r"does not fit architecture 'resnet20_cifar' \(72 tensors\)"),
    (damage_nothing, ["--arch", "resnet8_cifer"], "unknown architecture 'resnet8_cifer'.*Did you mean 'resnet8_cifar'"),
    (damage_nothing, ["--dataset", "digit"], "unknown data set 'digit'.*Did you mean 'digits'"),
    (damage_nothing, ["--split-seed", "5"], "was trained on another split"),
    (damage_nothing, ["--target", "9"], "no target '9'"),
    (damage_nothing, ["--device", "abacus"], "device 'abacus' cannot be used here"),
]


@pytest.mark.parametrize(("damage", "options", "message"), BAD)
def test_bad_input_is_one_clear_error(
    tmp_path: Path, copies: list[Path], damage: object, options: list[str], message: str
) -> None:
    files = damage(copies)  # type: ignore[operator]
    before = {path: file_sha256(path) for path in copies}
    out = tmp_path / "out" / "a.safetensors"
    assert re.search(message, refused(lptool("pool", *files, "-o", out, *options)), re.DOTALL)
    assert not out.parent.exists()
    assert {path: file_sha256(path) for path in copies} == before


def test_outputs_that_must_not_be_touched(tmp_path: Path, copies: list[Path]) -> None:
    there = tmp_path / "there.safetensors"
    there.write_text("precious")
    for out, extra, message in [
        (there, [], "exists; choose another output or add --overwrite"),
        (copies[0], ["--overwrite"], "is also an input"),
        (there / "below.safetensors", [], "cannot be written"),
    ]:
        assert message in refused(lptool("pool", *copies, "-o", out, *extra))
    assert there.read_text() == "precious"


def test_overwrite(tmp_path: Path, tickets: list[Path]) -> None:
    out = tmp_path / "a.safetensors"
    out.write_text("old")
    assert lptool("pool", *tickets, "-o", out, "--overwrite", *FAST).exit_code == 0
    assert load_file(out)


def test_a_state_dict_of_another_program_pools(tmp_path: Path, tickets: list[Path]) -> None:
    for path in tickets:
        torch.save({"state_dict": load_file(path), "epoch": 3}, tmp_path / path.with_suffix(".pth").name)
    files = sorted(tmp_path.glob("*.pth"))
    out = tmp_path / "a.safetensors"
    result = lptool("pool", *files, "-o", out, "--arch", "resnet8_cifar", "--dataset", "digits", *FAST)
    assert result.exit_code == 0, result.output
    assert "Warning: " in result.stderr
    assert set(load_file(out)) == set(load_file(tickets[0]))


def test_every_file_that_was_read_is_an_input(tmp_path: Path, copies: list[Path]) -> None:
    """Also one dropped as a duplicate, and the file that holds the network."""
    twin = Path(shutil.copy(copies[1], tmp_path / "twin.safetensors"))
    assert "is also an input" in refused_last(lptool("pool", *copies, twin, "-o", twin, "--overwrite"))
    assert twin.read_bytes() == copies[1].read_bytes()


def test_two_tickets_of_one_level_cannot_share_an_output(tmp_path: Path, copies: list[Path]) -> None:
    run, out = copies[0].parent, tmp_path / "a.safetensors"
    pooled = lptool("pool", *copies, "-o", tmp_path / "pooled.safetensors", "--target", 1, *FAST, "--json")
    assert json.loads(pooled.stdout)["improved"]  # else it would be dropped, as a duplicate of its target
    result = lptool("pool", run, tmp_path / "pooled.safetensors", "-o", out, "--target", "all", *FAST)
    assert "two tickets have this level" in refused_last(result)
    plan = lptool("pool", run, tmp_path / "pooled.safetensors", "-o", out, "--dry-run")
    assert "pooled.safetensors: is a pooled model and not a ticket" in plan.stderr
    assert json.loads(plan.stdout)["targets"][0]["file"] == str(copies[-1])


def test_train_first_checks_the_output_before_it_trains(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    for out in ("a.safetensors", "."):
        assert refused(lptool("pool", "--train", "--preset", "quickstart", "-o", tmp_path / out))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_dry_run_does_not_train(tmp_path: Path) -> None:
    result = lptool("pool", "--train", "--preset", "quickstart", "--dry-run", "-o", tmp_path / "a.safetensors")
    plan = json.loads(result.stdout)["train"]
    assert (plan["levels"], plan["dataset"]) == (PRESETS["quickstart"].levels, "digits")
    assert list(tmp_path.iterdir()) == []


def test_a_normalisation_that_divides_by_nothing(tmp_path: Path, tickets: list[Path]) -> None:
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", "--std", "0")
    assert "standard deviations above 0" in refused(result)


def test_images_that_are_not_square_are_scored_as_they_were_trained(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = {"train": 80, "test": 20}
    arrays = {f"{part}_images": rng.integers(0, 256, (n, 8, 16, 3), np.uint8) for part, n in parts.items()}
    labels = {f"{part}_labels": np.arange(n) % 2 for part, n in parts.items()}
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    data = ["--dataset", f"npz:{tmp_path}/a.npz"]
    shape = ["--arch", "resnet8_cifar", "--epochs", 2, "--rewind-epoch", 1, "--levels", 1, "--batch-size", 32]
    run = tmp_path / "run"
    assert lptool("train", "-o", run, *data, *shape, "--device", "cpu").exit_code == 0
    out = tmp_path / "a.safetensors"
    assert lptool("pool", run, "-o", out, *data, *FAST).exit_code == 0
    assert load_ticket(out).metadata.dataset["image_shape"] == [3, 8, 16]
    labels["train_labels"] = labels["train_labels"][::-1].copy()  # another data set of the same size
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    result = lptool("pool", run, "-o", tmp_path / "b.safetensors", *data, *FAST)
    assert "was trained on another split" in refused(result)


def test_the_journal_of_another_search_is_refused_before_any_work(tmp_path: Path, tickets: list[Path]) -> None:
    out = tmp_path / "a.safetensors"
    assert lptool("pool", *tickets, "-o", out, *FAST).exit_code == 0
    out.unlink()
    journal = tmp_path / "a.safetensors.search.jsonl"
    before = journal.read_bytes()
    for extra in ([], ["--dry-run"]):
        message = refused(lptool("pool", *tickets, "-o", out, *FAST, "--seed", "7", *extra))
        assert message.startswith(f"{journal}: is the journal of another search (it differs in seed: 0, now 7)")
    message = refused(lptool("pool", *tickets[:3], "-o", out, *FAST))
    assert "differs in tickets" in message
    assert journal.read_bytes() == before
    assert lptool("pool", *tickets, "-o", out, *FAST, "--seed", "7", "--overwrite").exit_code == 0
    assert json.loads(journal.read_text().splitlines()[0])["fingerprint"]["seed"] == 7


def test_other_images_under_the_same_labels_are_another_search(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"{p}_images": rng.integers(0, 256, (n, 8, 8), np.uint8) for p, n in {"train": 80, "test": 20}.items()}
    arrays |= {"train_labels": np.arange(80) % 2, "test_labels": np.arange(20) % 2}
    np.savez(tmp_path / "a.npz", **arrays)
    data = ["--dataset", f"npz:{tmp_path}/a.npz"]
    shape = ["--arch", "resnet8_cifar", "--epochs", 2, "--rewind-epoch", 1, "--levels", 1, "--batch-size", 32]
    run, out = tmp_path / "run", tmp_path / "a.safetensors"
    assert lptool("train", "-o", run, *data, *shape, "--device", "cpu").exit_code == 0
    assert lptool("pool", run, "-o", out, *data, *FAST).exit_code == 0
    out.unlink()
    np.savez(tmp_path / "a.npz", **arrays | {"train_images": arrays["train_images"] + 1})
    assert "another search (it differs in images" in refused(lptool("pool", run, "-o", out, *data, *FAST))


def test_a_pool_of_two_seeds_is_said_in_document_and_page(tmp_path: Path, copies: list[Path]) -> None:
    document = json.loads(SafetensorsFile(copies[1]).header["lptool"])
    document["train"]["seed"] = 77
    save_file(load_file(copies[1]), copies[1], {"format": "pt", "lptool": json.dumps(document)})
    outputs = ["-o", tmp_path / "a.safetensors", "--report", tmp_path / "a.html"]
    result = lptool("pool", *copies, *outputs, "--json", *FAST)
    (line,) = [line for line in json.loads(result.stdout)["warnings"] if "different runs: seeds 0, 77" in line]
    assert line in result.stderr
    assert line in (tmp_path / "a.html").read_text()


def test_not_finite_scores_are_counted_and_said(tmp_path: Path, copies: list[Path]) -> None:
    """Huge weights in one candidate: every mix with it overflows."""
    state = load_file(copies[1])
    state["fc.weight"] = torch.full_like(state["fc.weight"], 3e38)
    header = {"format": "pt", "lptool": SafetensorsFile(copies[1]).header["lptool"]}
    save_file(state, copies[1], header)
    options = [*copies, "--target", 2, *FAST, "--precision", "fp32"]
    document = json.loads(lptool("pool", *options, "-o", tmp_path / "a.safetensors", "--json").stdout)
    assert document["not_finite"] == 1
    assert not next(m for m in document["members"] if m["level"] == 1)["accepted"]
    shown = lptool("pool", *options, "-o", tmp_path / "b.safetensors").stdout
    assert "1 mixes had scores that are not finite, and were rejected" in shown


def test_a_sparsity_between_two_tickets(tmp_path: Path, tickets: list[Path]) -> None:
    """The target is of level 1, which keeps half; the file keeps exactly what was asked for."""
    out = tmp_path / "a.safetensors"
    result = lptool("pool", *tickets, "-o", out, "--sparsity", "0.6", "--json", *FAST)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    whole, kept = (load_ticket(path).mask for path in (tickets[1], out))
    total = sum(t.numel() for t in whole.values())
    assert sum(int(t.sum()) for t in kept.values()) == round(total * 0.4)
    assert (document["target"]["level"], document["target"]["file"]) == (1, str(tickets[1]))
    assert document["sparsity"] == 1 - round(total * 0.4) / total
    assert document["target"]["sparsity"] == pytest.approx(0.5, abs=1e-3)
    shown = json.loads(lptool("inspect", out, "--json").stdout)["tickets"][0]
    assert shown["sparsity"] == pytest.approx(document["sparsity"])


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        ("1", "--sparsity: expected a number in [0, 1), such as 0.9 for 90 %, found 1"),
        ("-0.5", "--sparsity: expected a number in [0, 1), such as 0.9 for 90 %, found -0.5"),
        ("nan", "--sparsity: expected a number in [0, 1), such as 0.9 for 90 %, found nan"),
        ("0.4", "--sparsity: expected at least 0.5"),
        ("0.9999999", "would leave none of the"),
    ],
)
def test_a_sparsity_that_cannot_be_is_one_line(
    tmp_path: Path, tickets: list[Path], sparsity: str, message: str
) -> None:
    """The tickets begin at one half."""
    result = lptool("pool", *tickets[1:], "-o", tmp_path / "a.safetensors", f"--sparsity={sparsity}", *FAST)
    said = refused_last(result)
    assert said.startswith("Error: ")
    assert message in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["nan", "inf", "1e39"])
def test_a_learning_rate_that_is_none_is_one_line(tmp_path: Path, tickets: list[Path], value: str) -> None:
    options = ["--method", "learned", "--learning-rate", value, "--device", "cpu"]
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", *options)
    assert "the learning rate must be above 0 and at most 1000" in refused_last(result)
    assert list(tmp_path.iterdir()) == []  # no journal, which would refuse the rate that is meant


def test_learned_from_one_end_to_the_other(tmp_path: Path, tickets: list[Path]) -> None:
    out = tmp_path / "a.safetensors"
    options = ["--method", "learned", "--learning-steps", 3, "--per", "block", "--learning-rate", 0.02]
    options += ["--calibration-size", 64, "--device", "cpu"]
    shown = lptool("pool", *tickets, "-o", out, *options)
    assert shown.exit_code == 0, shown.output
    assert f"wrote {out}" in shown.stdout
    fingerprint = json.loads((tmp_path / "a.safetensors.search.jsonl").read_text().splitlines()[0])["fingerprint"]
    assert (fingerprint["method"], fingerprint["learning"]) == ("learned", ["block", 3, 0.02])
    again = lptool("pool", *tickets, "-o", tmp_path / "b.safetensors", *options, "--json")
    document = json.loads(again.stdout)
    assert document["sha256"] == file_sha256(out)
    assert (document["method"], document["evaluations"]) == ("learned", 2 + len(RATIOS) + 1)
    assert [(m["level"], m["alpha"], m["accepted"]) for m in document["members"]] == [
        (i, None, True) for i in (2, 1, 0)
    ]
    masks = [load_ticket(path).mask for path in (tickets[3], out)]
    assert len({sum(int(t.sum()) for t in mask.values()) for mask in masks}) == 1


def test_a_report_is_written_of_what_the_document_says(
    tmp_path: Path, tickets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, out = tmp_path / "a.html", tmp_path / "a.safetensors"
    result = lptool("pool", *tickets[:3], "-o", out, "--report", page, "--json", *FAST)
    assert result.exit_code == 0, result.output
    document, html = json.loads(result.stdout), page.read_text()
    assert len(document["references"]["members"]) == 3
    for scores in (document["test"]["pooled"], document["test"]["ticket"], document["references"]["ensemble"]["test"]):
        assert f"{100 * scores['accuracy']:.2f}" in html
    assert html.startswith("<!DOCTYPE html>")
    assert "lptool" in document["command"]
    monkeypatch.setattr("sys.argv", ["lptool", "another command"])
    again = lptool("pool", *tickets[:3], "-o", tmp_path / "b.safetensors", "--report", page, *FAST)
    assert_clear_error(again, "a.html: exists; choose another output or add --overwrite")
    assert not (tmp_path / "b.safetensors").exists()
    shown = lptool("pool", *tickets[:3], "-o", out, "--references", "--overwrite", *FAST)
    assert "ensemble of 3" in shown.stdout


def test_what_cannot_be_packed_is_refused_as_usage(tickets: list[Path], tmp_path: Path) -> None:
    for more, text in ((["--packed"], "a folder holds what timm loads"), (["--values", "fp16"], "add --packed")):
        result = lptool("pool", *tickets, "-o", tmp_path / "model", *FAST, *more)
        assert (result.exit_code, text in result.stderr) == (2, True)
    assert not list(tmp_path.iterdir())


def test_a_file_that_fits_a_size(tickets: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    for again in range(2):  # the same command finds its own file, and writes it again
        result = lptool("pool", *tickets, "-o", out, "--max-size", "60kB", "--json", *FAST)
        assert result.exit_code == 0, (again, result.output)
        assert out.stat().st_size <= 60_000
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("chosen to fit 60,000 bytes: level ")]
        assert f"level {json.loads(result.stdout)['target']['level']}, " in line
    level = lptool("pool", *tickets, "-o", tmp_path / "b.safetensors", "--max-size", "80kB", "--target", "1", *FAST)
    assert "level 1, 50.00 % sparse, as packed, int8" in level.stderr
    assert (tmp_path / "b.safetensors").stat().st_size <= 80_000
    before = sorted(tmp_path.iterdir())
    message = refused_last(lptool("pool", *tickets, "-o", tmp_path / "c.safetensors", "--max-size", "9kB", *FAST))
    assert "no pooled file is likely to have 9,000 bytes or less; that of level 3 as packed, int8 has" in message
    assert sorted(tmp_path.iterdir()) == before


def test_a_size_goes_with_one_file(tickets: list[Path], tmp_path: Path) -> None:
    for words, message in (
        (["-o", tmp_path / "a", "--max-size", "1MB"], "name a FILE.safetensors with --max-size"),
        (["--target", "all", "--max-size", "1MB"], "leave out --target all"),
        (["-o", tmp_path / "a.safetensors", "--max-size", "much"], "expected a size such as 500kB"),
    ):
        assert message in refused_usage(lptool("pool", *tickets, *words, *FAST))
    assert not list(tmp_path.iterdir())
