"""The options of `lptool pool`: their defaults, what is refused, what reaches the search."""

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import Result
from safetensors.torch import load_file, save_file

from lptool.cli import main
from lptool.cli.pool_options import USED_BY
from lptool.pooling.calibration import BN_IMAGES
from lptool.pooling.catalogue import MASKS, METHODS, PAPER_ALPHAS
from lptool.pooling.choice import SELECTS
from lptool.pooling.search import ALPHA_SEARCHES, LEARNING, PER
from lptool.pooling.setup import PoolOptions
from tests.helpers.commands import FAST, assert_clear_error, lptool, refused, refused_usage


def test_what_the_command_line_repeats_agrees_with_the_library() -> None:
    """The command line spells some of these out, so that `--help` need not import torch."""
    options = {option.name: option for option in main.commands["pool"].params}
    choices = {name: list(getattr(options[name].type, "choices", [])) for name in options}
    assert choices["method"] == [*METHODS, "auto"]
    assert all(f"{method}: " in str(options["method"].help) for method in choices["method"])
    assert choices["select"] == list(SELECTS)
    assert choices["per"] == list(PER)
    assert choices["alpha_search"] == list(ALPHA_SEARCHES)
    assert choices["bn_images"] == list(BN_IMAGES)
    assert choices["mask"] == list(MASKS)
    parsed = main.commands["pool"].make_context("pool", ["a", "-o", "b"]).params
    assert [parsed[name] for name in ("per", "learning_steps", "learning_rate")] == [*vars(LEARNING).values()]
    for field in dataclasses.fields(PoolOptions):
        default = getattr(PoolOptions(), field.name)
        assert field.name == "seed" or parsed[field.name] == default, field.name  # the seed is of training too


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
        ["--bn-images", "all"],
        ["--mask", "all"],
        ["--augment", "mixup"],
        ["--crop-padding", "-1"],
        ["--flip", "up"],
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


def test_the_options_of_the_search_reach_it(tmp_path: Path, tickets: list[Path]) -> None:
    options = ["--batch-size", 50, "--alpha-search", "coarse", "--calibration-size", 64, "--device", "cpu"]
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", *options, "--method", "greedy", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["evaluations"] < 2 + 3 * len(PAPER_ALPHAS)
    assert document["not_finite"] == 0
    header, *lines = map(json.loads, (tmp_path / "a.safetensors.search.jsonl").read_text().splitlines())
    assert (header["batch_size"], header["fingerprint"]["alpha_search"]) == (50, "coarse")
    assert len(lines) == document["evaluations"]
    assert lines[-1]["candidate"] == 0
    assert {line["alpha"] for line in lines} <= {None, *PAPER_ALPHAS}


VALUES = {
    "--alphas": ["0.5"],
    "--alpha-search": ["coarse"],
    "--passes": ["2"],
    "--decay": ["0.5"],
    "--per": ["block"],
    "--learning-steps": ["2"],
    "--learning-rate": ["0.1"],
    "--mask": ["refit"],
}


# Which methods try alphas, go through the candidates again, keep a running average, learn.
MEANT_FOR = {
    "--alphas": {"greedy"},
    "--alpha-search": {"greedy"},
    "--passes": {"greedy", "average"},
    "--decay": {"ema"},
    "--per": {"learned"},
    "--learning-steps": {"learned"},
    "--learning-rate": {"learned"},
    "--mask": {"reconstruct", "auto"},
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
    others = " or ".join(USED_BY[option])
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


def test_the_selection_reaches_the_search(tmp_path: Path, tickets: list[Path]) -> None:
    options = ["--select", "nll", "--passes", 2, "--json"]
    result = lptool("pool", *tickets[2:], "-o", tmp_path / "a.safetensors", *options, *FAST)
    assert result.exit_code == 0, result.output
    first, *_ = (tmp_path / "a.safetensors.search.jsonl").read_text().splitlines()
    search = json.loads(first)["fingerprint"]
    assert (search["select"], search["passes"]) == ("nll", 2)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], "auto"),
        (["--bn-recal"], "auto"),
        (["--no-bn-recal"], "none"),
        (["--bn-images", "augmented"], "augmented"),
        (["--no-bn-recal", "--bn-images", "none"], "none"),
        (["--bn-recal", "--bn-images", "plain"], "plain"),
    ],
    ids=str,
)
def test_the_short_option_is_an_alias(tmp_path: Path, tickets: list[Path], options: list[str], asked: str) -> None:
    result = lptool("pool", *tickets[2:], "-o", tmp_path / "a.safetensors", "--json", *options, *FAST)
    assert result.exit_code == 0, result.output
    header = json.loads((tmp_path / "a.safetensors.search.jsonl").read_text().splitlines()[0])
    assert header["fingerprint"]["bn_images"] == asked
    document = json.loads(result.stdout)
    assert document["bn_images"] == ("augmented" if asked == "auto" else asked)  # digits are cropped in training
    assert (document["val"]["ticket_bn"] is None) == (asked == "none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--no-bn-recal", "--bn-images", "plain"],
            "--no-bn-recal contradicts --bn-images plain; leave one of them out",
        ),
        (["--no-bn-recal", "--bn-images", "auto"], "--no-bn-recal contradicts --bn-images auto; leave one of them out"),
        (["--bn-recal", "--bn-images", "none"], "--bn-recal contradicts --bn-images none; leave one of them out"),
        (["--method", "greedy", "--no-bn-recal", "--flip", "no"], "--bn-images none does not use --flip; leave it out"),
        (
            ["--method", "greedy", "--bn-images", "plain", "--augment", "crop"],
            "--bn-images plain does not use --augment; leave it out",
        ),
    ],
    ids=str,
)
def test_contradictions_are_wrong_usage(tmp_path: Path, options: list[str], message: str) -> None:
    assert refused_usage(lptool("pool", tmp_path / "no", "-o", tmp_path / "a", *options)) == message


def test_errors_of_the_library_name_the_option_as_it_is_typed(tmp_path: Path, tickets: list[Path]) -> None:
    def run(*options: object) -> Result:
        return lptool("pool", *tickets, "-o", tmp_path / "a.safetensors", *options)

    assert_clear_error(run("--crop-padding", 99), "--crop-padding: expected at most 8 pixels")
    assert_clear_error(run("--augment", "resized-crop", "--crop-padding", 1), "--crop-padding: resized-crop does not")
    nothing = ("--crop-padding", 0, "--bn-images", "augmented")
    assert_clear_error(run(*nothing), "--bn-images: the tickets were trained on images as they are")


def test_where_nothing_is_known_one_line_says_what_is_taken(tmp_path: Path, tickets: list[Path]) -> None:
    for path in tickets[2:]:
        save_file(load_file(path), tmp_path / path.name)
    options = ["--dataset", "digits", "--val-fraction", 0.25, "--dry-run", "--bn-images", "augmented"]
    result = lptool("pool", tmp_path, "-o", tmp_path / "out" / "a.safetensors", *options)
    assert result.exit_code == 0, result.output
    assert [line for line in result.stderr.splitlines() if "were augmented is not known" in line] == [
        "Warning: how the tickets' images were augmented is not known; taking random crops with 1 pixels of padding "
        "without flips (name them with --augment, --crop-padding and --flip)"
    ]
