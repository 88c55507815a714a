"""The commands as a person or a script meets them: exit codes, streams, one clear line for each bad input."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file

from lptool.bench import PoolOptions
from lptool.checkpoints import file_sha256, load_ticket
from lptool.choice import SELECTS
from lptool.cli import _ALPHAS, _USED_BY, main
from lptool.containers import read_header
from lptool.corruptions import STANDARD
from lptool.methods import METHODS
from lptool.presets import PRESETS
from lptool.search import ALPHA_SEARCHES, LEARNING, PAPER_ALPHAS, PER
from lptool.window import RATIOS

FAST = ["--alphas", "0.5", "--calibration-size", "64", "--device", "cpu"]


def lptool(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def assert_clear_error(result: Result, message: str) -> None:
    """One line on stderr, exit 1, no traceback."""
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def refused(result: Result, code: int = 1) -> str:
    """The message of an expected failure: `Error: …` on stderr, nothing on stdout, no traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: "), result.stderr
    return result.stderr.removeprefix("Error: ").rstrip("\n")


def test_train_pool_inspect(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out.safetensors"
    trained = lptool("train", "-o", run, "--preset", "quickstart", "--levels", 2, "--epochs", 4, "--device", "cpu")
    assert trained.exit_code == 0, trained.output
    assert trained.stdout.startswith("3 tickets in ")
    pooled = lptool("pool", run, "-o", out, *FAST)
    assert pooled.exit_code == 0, pooled.output
    assert f"wrote {out}" in pooled.stdout
    inspected = lptool("inspect", out, run)
    assert inspected.exit_code == 0, inspected.output
    assert "4 tickets" in inspected.stdout


def test_pool_json_is_one_document_and_nothing_else(tmp_path: Path, tickets: list[Path]) -> None:
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", "--json", *FAST)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["output"] == str(tmp_path / "a.safetensors")
    assert document["evaluations"] == 2 + 3


def test_pool_all_json(tmp_path: Path, tickets: list[Path]) -> None:
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", "--json", "--target", "all", *FAST)
    documents = json.loads(result.stdout)["targets"]
    assert [d["target"]["level"] for d in documents] == [0, 1, 2, 3]
    assert all(Path(d["output"]).is_file() for d in documents)


def test_dry_run_writes_nothing(tmp_path: Path, tickets: list[Path]) -> None:
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", "--dry-run")
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


def test_inspect_json(tickets: list[Path]) -> None:
    document = json.loads(lptool("inspect", *tickets, "--json").stdout)
    assert [t["level"] for t in document["tickets"]] == [0, 1, 2, 3]
    assert document["pool"]["aligned"] is True


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


def test_errors_of_train_and_inspect(tmp_path: Path) -> None:
    assert "unknown preset 'quick'" in refused(lptool("train", "-o", tmp_path / "r", "--preset", "quick"))
    assert "rate: expected in (0, 1), found 2.0" in refused(lptool("train", "-o", tmp_path / "r", "--rate", 2))
    assert "cannot be read" in refused(lptool("inspect", tmp_path / "none.safetensors"))
    assert "no checkpoint in it" in refused(lptool("inspect", tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["pool"], ["pool", "-o", "a"], ["pool", "x", "-o", "a", "--alphas", "2"], ["inspect"], ["train"], ["nothing"]],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    result = lptool(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_ctrl_c_is_one_line_and_130(tmp_path: Path, tickets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lptool.pipeline.pool_tickets", interrupt)
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors")
    assert result.exit_code == 130
    told = result.stderr.rstrip().splitlines()[-1]
    assert told.startswith("Interrupted before the first scoring for ")
    assert told.endswith(f"the scores are in {tmp_path / 'a.safetensors.search.jsonl'}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors.search.jsonl"]


def test_what_the_command_line_repeats_agrees_with_the_library() -> None:
    """The command line spells these out, so that `--help` need not import torch."""
    assert tuple(float(a) for a in _ALPHAS.split(",")) == PAPER_ALPHAS
    options = {option.name: option for option in main.commands["pool"].params}
    choices = {name: list(getattr(options[name].type, "choices", [])) for name in options}
    assert choices["method"] == [*METHODS, "auto"]
    assert choices["select"] == list(SELECTS)
    assert choices["per"] == list(PER)
    assert choices["alpha_search"] == list(ALPHA_SEARCHES)
    parsed = main.commands["pool"].make_context("pool", ["a", "-o", "b"]).params
    assert [parsed[name] for name in ("per", "learning_steps", "learning_rate")] == [*vars(LEARNING).values()]
    for field in dataclasses.fields(PoolOptions):
        assert field.name == "seed" or parsed[field.name] == field.default, field.name  # the seed is of training too


def test_every_command_and_option_has_help() -> None:
    for command in main.commands.values():
        assert command.help
        for option in command.params:
            assert option.param_type_name == "argument" or getattr(option, "help", None) or option.name == "method"


def test_the_module_runs() -> None:
    shown = subprocess.run([sys.executable, "-m", "lptool", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("lptool, version ")


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


def refused_last(result: Result) -> str:
    """The error of a command that warned before it."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    return result.stderr.rstrip().splitlines()[-1]


def test_two_tickets_of_one_level_cannot_share_an_output(tmp_path: Path, copies: list[Path]) -> None:
    run, out = copies[0].parent, tmp_path / "a.safetensors"
    pooled = lptool("pool", *copies, "-o", run / "pooled.safetensors", "--target", 1, *FAST, "--json")
    assert json.loads(pooled.stdout)["improved"]  # else it would be dropped, as a duplicate of its target
    result = lptool("pool", run, "-o", out, "--target", "all", *FAST)
    assert "two tickets have this level" in refused_last(result)
    plan = lptool("pool", run, "-o", out, "--dry-run")
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


@pytest.mark.parametrize(
    "options",
    [
        ["--sparsity", "0.6", "--target", "2"],
        ["--passes", "0"],
        ["--decay", "1.5", "--method", "ema"],
        ["--learning-steps", "0", "--method", "learned"],
        ["--learning-rate", "0", "--method", "learned"],
        ["--per", "layer", "--method", "learned"],
        ["--select", "loss"],
        ["--method", "mean"],
        ["--alpha-search", "fine"],
        ["--calibration-size", "0"],
        ["--batch-size", "0"],
        ["--preset", "quickstart"],
        ["--levels", "3"],
        ["--mean", "nan"],
        ["--seed", "-1"],
        ["--split-seed", "99999999999999999999"],
    ],
)
def test_options_that_would_do_nothing_or_harm_are_wrong_usage(tickets: list[Path], options: list[str]) -> None:
    assert lptool("pool", *tickets, "-o", "a.safetensors", *options).exit_code == 2


def test_a_normalisation_that_divides_by_nothing(tmp_path: Path, tickets: list[Path]) -> None:
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", "--std", "0")
    assert "standard deviations above 0" in refused(result)


def test_inspect_says_why_it_measures_no_barrier(tickets: list[Path]) -> None:
    assert "no barrier is measured" in lptool("inspect", tickets[0], "--data", "digits").stderr


def test_images_that_are_not_square_are_scored_as_they_were_trained(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = {"train": 80, "test": 20}
    arrays = {f"{part}_images": rng.integers(0, 256, (n, 8, 16, 3), np.uint8) for part, n in parts.items()}
    labels = {f"{part}_labels": np.arange(n) % 2 for part, n in parts.items()}
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    shape = ["--arch", "resnet8_cifar", "--epochs", 2, "--rewind-epoch", 1, "--levels", 1, "--batch-size", 32]
    run = tmp_path / "run"
    assert lptool("train", "-o", run, "--dataset", f"npz:{tmp_path}/a.npz", *shape, "--device", "cpu").exit_code == 0
    out = tmp_path / "a.safetensors"
    assert lptool("pool", run, "-o", out, *FAST).exit_code == 0
    assert load_ticket(out).metadata.dataset["image_shape"] == [3, 8, 16]
    labels["train_labels"] = labels["train_labels"][::-1].copy()  # another data set of the same size
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    result = lptool("pool", run, "-o", tmp_path / "b.safetensors", *FAST)
    assert "was trained on another split" in refused(result)


def test_the_options_of_the_search_reach_it(tmp_path: Path, tickets: list[Path]) -> None:
    options = ["--batch-size", 50, "--alpha-search", "coarse", "--calibration-size", 64, "--device", "cpu"]
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", *options, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["evaluations"] < 2 + 3 * len(PAPER_ALPHAS)
    assert document["not_finite"] == 0
    header, *lines = map(json.loads, (tmp_path / "a.safetensors.search.jsonl").read_text().splitlines())
    assert (header["batch_size"], header["fingerprint"]["alpha_search"]) == (50, "coarse")
    assert len(lines) == document["evaluations"]
    assert lines[-1]["candidate"] == 0
    assert {line["alpha"] for line in lines} <= {None, *PAPER_ALPHAS}


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
    shape = ["--arch", "resnet8_cifar", "--epochs", 2, "--rewind-epoch", 1, "--levels", 1, "--batch-size", 32]
    run, out = tmp_path / "run", tmp_path / "a.safetensors"
    assert lptool("train", "-o", run, "--dataset", f"npz:{tmp_path}/a.npz", *shape, "--device", "cpu").exit_code == 0
    assert lptool("pool", run, "-o", out, *FAST).exit_code == 0
    out.unlink()
    np.savez(tmp_path / "a.npz", **arrays | {"train_images": arrays["train_images"] + 1})
    assert "another search (it differs in images" in refused(lptool("pool", run, "-o", out, *FAST))


def test_not_finite_scores_are_counted_and_said(tmp_path: Path, copies: list[Path]) -> None:
    """Huge weights in one candidate: every mix with it overflows."""
    state = load_file(copies[1])
    state["fc.weight"] = torch.full_like(state["fc.weight"], 3e38)
    header = {"format": "pt", "lptool": read_header(copies[1])["lptool"]}
    save_file(state, copies[1], header)
    options = [*copies, "--target", 2, *FAST, "--precision", "fp32"]
    document = json.loads(lptool("pool", *options, "-o", tmp_path / "a.safetensors", "--json").stdout)
    assert document["not_finite"] == 1
    assert not next(m for m in document["members"] if m["level"] == 1)["accepted"]
    shown = lptool("pool", *options, "-o", tmp_path / "b.safetensors").stdout
    assert "1 mixes had scores that are not finite, and were rejected" in shown


def test_evaluate_says_what_its_document_says(tickets: list[Path]) -> None:
    files = [tickets[0], tickets[3]]
    shown = lptool("evaluate", *files, "--device", "cpu")
    assert shown.exit_code == 0, shown.output
    result = lptool("evaluate", *files, "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [f["file"] for f in document["files"]] == [str(path) for path in files]
    for found in document["files"]:
        assert f"{100 * found['test']['accuracy']:.2f} % [" in shown.stdout
    assert f"{document['comparisons'][0]['p']:.3g}" in shown.stdout
    assert "digits, 359 test images" in shown.stdout


def test_evaluate_expands_folders_and_reads_other_programs(tmp_path: Path, tickets: list[Path]) -> None:
    for path in tickets[:2]:
        torch.save({"state_dict": load_file(path)}, tmp_path / path.with_suffix(".pth").name)
    options = ["--dataset", "digits", "--arch", "resnet8_cifar", "--mean", 0.3, "--std", 0.4, "--batch-size", 100]
    result = lptool("evaluate", tmp_path, *options, "--corruptions", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [Path(f["file"]).name for f in document["files"]] == ["level_00.pth", "level_01.pth"]
    assert all(f["corruptions"]["source"] == "C-style, torchvision v2" for f in document["files"])


def other_classes(folder: Path, files: list[Path]) -> list[object]:
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 3
    np.savez(folder / "a.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    options = ["--dataset", f"npz:{folder}/a.npz", "--arch", "resnet8_cifar", "--epochs", 2, "--rewind-epoch", 1]
    trained = lptool("train", "-o", folder / "three", *options, "--levels", 1, "--batch-size", 16, "--device", "cpu")
    assert trained.exit_code == 0, trained.output
    return [files[0], folder / "three" / "level_00.safetensors"]


def no_test_images(folder: Path, files: list[Path]) -> list[object]:
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 10
    none = {"test_images": images[:0], "test_labels": labels[:0]}
    np.savez(folder / "a.npz", train_images=images, train_labels=labels, **none)
    return [files[0], "--dataset", f"npz:{folder}/a.npz"]


def no_test_files(folder: Path, files: list[Path]) -> list[object]:
    for part in ("train", "test"):
        for name in map(str, range(10)):
            (folder / "images" / part / name).mkdir(parents=True)
            if part == "train":
                Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "images" / part / name / "a.png")
    return [files[0], "--dataset", f"folder:{folder}/images"]


def cifar_data(folder: Path) -> list[object]:
    """A file and a data set of CIFAR's shape, and an empty folder for the standard corruptions."""
    images, labels = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 10
    np.savez(folder / "a.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    state = timm.create_model("resnet8_cifar", num_classes=10).state_dict()
    save_file(state, folder / "a.safetensors")
    (folder / "CIFAR-10-C").mkdir()
    options = ["--dataset", f"npz:{folder}/a.npz", "--arch", "resnet8_cifar", "--mean", "0,0,0", "--std", "1,1,1"]
    return [folder / "a.safetensors", *options, "--corruptions", "--data-dir", folder / "CIFAR-10-C"]


def missing_npy(folder: Path, files: list[Path]) -> list[object]:
    arguments = cifar_data(folder)
    np.save(folder / "CIFAR-10-C" / "labels.npy", np.zeros(50_000, np.uint8))
    return arguments


def short_npy(folder: Path, files: list[Path]) -> list[object]:
    arguments = missing_npy(folder, files)
    for name in STANDARD:
        np.save(folder / "CIFAR-10-C" / f"{name}.npy", np.zeros((10_000, 32, 32, 3), np.uint8))
    return arguments


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (other_classes, r"level_00\.safetensors: tells 3 classes apart, but .*level_00\.safetensors tells 10"),
        (no_test_images, r"a\.npz: expected test_images .* found uint8 \[0, 8, 8\] and int64 \[0\], which is no image"),
        (no_test_files, r"images: test: Found no valid file for the classes 0, 1"),
        (missing_npy, r"CIFAR-10-C: lacks gaussian_noise\.npy, shot_noise\.npy, .*expected labels\.npy and the 15"),
        (short_npy, r"gaussian_noise\.npy: expected uint8 \[50000, 32, 32, 3\], found uint8 \[10000, 32, 32, 3\]"),
        (lambda folder, files: [folder / "none.safetensors"], "No such file or directory"),
        (lambda folder, files: [folder], "no checkpoint in it"),
        (lambda folder, files: [files[0], "--dataset", "digit"], "Did you mean 'digits'"),
        (lambda folder, files: [files[0], "--device", "abacus"], "device 'abacus' cannot be used here"),
        (lambda folder, files: [files[0], "--mean", "0.1,0.2"], "have 1 channels, but the normalisation has 2 means"),
    ],
)
def test_what_evaluate_cannot_work_with_is_one_clear_line(
    tmp_path: Path, tickets: list[Path], prepare: Callable[[Path, list[Path]], list[object]], message: str
) -> None:
    for extra in ([], ["--json"]):
        (tmp_path / str(len(extra))).mkdir()
        told = refused(lptool("evaluate", *prepare(tmp_path / str(len(extra)), tickets), *extra))
        assert re.search(message, told)
        assert "\n" not in told


@pytest.mark.parametrize("options", [[], ["a.safetensors", "--batch-size", "0"], ["a.safetensors", "--std", "x"]])
def test_wrong_usage_of_evaluate(options: list[str]) -> None:
    result = lptool("evaluate", *options)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


# Methods, sparsity and choice

VALUES = {
    "--alphas": ["0.5"],
    "--alpha-search": ["coarse"],
    "--passes": ["2"],
    "--folds": [],
    "--decay": ["0.5"],
    "--per": ["block"],
    "--learning-steps": ["2"],
    "--learning-rate": ["0.1"],
}
# Which methods try alphas, go through the candidates again, accept or reject, keep a running average, learn.
MEANT_FOR = {
    "--alphas": {"greedy", "auto"},
    "--alpha-search": {"greedy", "auto"},
    "--passes": {"greedy", "average", "auto"},
    "--folds": {"greedy", "average", "soup", "auto"},
    "--decay": {"ema", "auto"},
    "--per": {"learned"},
    "--learning-steps": {"learned"},
    "--learning-rate": {"learned"},
}


@pytest.mark.parametrize("option", VALUES)
@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_an_option_that_a_method_does_not_use_is_wrong_usage(tmp_path: Path, option: str, method: str) -> None:
    """Said before any file is looked at; where it is used, the first complaint is of the missing file."""
    result = lptool("pool", tmp_path / "no", "-o", tmp_path / "a", "--method", method, option, *VALUES[option])
    if method in MEANT_FOR[option]:
        assert "cannot be read" in refused(result)
        return
    assert result.exit_code == 2
    others = " or ".join(_USED_BY[option])
    expected = f"Error: --method {method} does not use {option}; leave it out, or use --method {others}"
    assert " ".join(result.stderr.split()).endswith(expected)


def test_an_option_at_its_default_is_an_option_given_too(tmp_path: Path) -> None:
    result = lptool("pool", tmp_path / "no", "-o", tmp_path / "a", "--method", "swa", "--passes", "1")
    assert result.exit_code == 2
    assert "--method swa does not use --passes" in result.stderr


def test_sparsity_and_target_exclude_each_other(tmp_path: Path) -> None:
    result = lptool("pool", tmp_path / "no", "-o", tmp_path / "a", "--sparsity", "0.6", "--target", "sparsest")
    assert result.exit_code == 2
    assert "--sparsity takes the nearest denser ticket as its target; leave out --target" in result.stderr


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
        ("1", "sparsity 1: expected a number in [0, 1), such as 0.9 for 90 %"),
        ("-0.5", "sparsity -0.5: expected a number in [0, 1)"),
        ("nan", "sparsity nan: expected a number in [0, 1)"),
        ("0.4", "sparsity 0.4: expected at least 0.5"),
        ("0.9999999", "would be left; expected less"),
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


def test_selection_and_folds_reach_the_search(tmp_path: Path, tickets: list[Path]) -> None:
    options = ["--select", "nll", "--folds", "--passes", 2, "--json"]
    result = lptool("pool", *tickets[2:], "-o", tmp_path / "a.safetensors", *options, *FAST)
    assert result.exit_code == 0, result.output
    header, *lines = map(json.loads, (tmp_path / "a.safetensors.search.jsonl").read_text().splitlines())
    search = header["fingerprint"]
    assert (search["select"], search["folds"], search["passes"]) == ("nll", True, 2)
    assert [len(line["folds"]) for line in lines] == [2 * line["complete"] for line in lines]


def test_a_report_is_written_of_what_the_document_says(tmp_path: Path, tickets: list[Path]) -> None:
    page, out = tmp_path / "a.html", tmp_path / "a.safetensors"
    result = lptool("pool", *tickets[:3], "-o", out, "--report", page, "--json", *FAST)
    assert result.exit_code == 0, result.output
    document, html = json.loads(result.stdout), page.read_text()
    assert len(document["references"]["members"]) == 3
    for scores in (document["test"]["pooled"], document["test"]["ticket"], document["references"]["ensemble"]["test"]):
        assert f"{100 * scores['accuracy']:.2f}" in html
    assert html.startswith("<!DOCTYPE html>")
    assert "lptool" in document["command"]
    again = lptool("pool", *tickets[:3], "-o", tmp_path / "b.safetensors", "--report", page, *FAST)
    assert_clear_error(again, "a.html: exists; choose another output or add --overwrite")
    assert not (tmp_path / "b.safetensors").exists()
    shown = lptool("pool", *tickets[:3], "-o", out, "--references", "--overwrite", *FAST)
    assert "ensemble of 3" in shown.stdout


def test_a_report_of_all_targets_and_one_of_evaluate(tmp_path: Path, tickets: list[Path]) -> None:
    page, out = tmp_path / "a.html", tmp_path / "a.safetensors"
    result = lptool("pool", *tickets[:2], "-o", out, "--target", "all", "--report", page, *FAST)
    assert result.exit_code == 0, result.output
    assert f"report: {page}" in result.stdout
    html = page.read_text()
    assert "level 0" in html
    assert "level 1" in html
    other = tmp_path / "e.html"
    result = lptool("evaluate", *tickets[:2], "--report", other, "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    accuracy = json.loads(result.stdout)["files"][1]["test"]["accuracy"]
    assert f"{100 * accuracy:.2f}" in other.read_text()


@pytest.mark.parametrize("command", [["pool", "-o", "x.safetensors"], ["evaluate"]])
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_scored(
    command: list[str], tmp_path: Path, tickets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *options = command
    for page, message in (
        ("a.pdf", "expected a name that ends in .html"),
        (f"{tickets[0]}/a.html", "cannot be written"),
    ):
        result = lptool(name, *tickets[:2], *options, "--report", page, "--device", "cpu")
        assert_clear_error(result, message)
    assert not list(tmp_path.iterdir())
