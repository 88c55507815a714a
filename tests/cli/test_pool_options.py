"""The options of `lptool pool`: their defaults, what is refused, what reaches the search."""

import dataclasses
import json
from pathlib import Path

import pytest

from lptool.cli import main
from lptool.cli.pool_options import USED_BY
from lptool.pooling.catalogue import METHODS, PAPER_ALPHAS
from lptool.pooling.choice import SELECTS
from lptool.pooling.search import ALPHA_SEARCHES, LEARNING, PER
from lptool.pooling.setup import PoolOptions
from tests.helpers.commands import FAST, lptool, refused


def test_what_the_command_line_repeats_agrees_with_the_library() -> None:
    """The command line spells some of these out, so that `--help` need not import torch."""
    options = {option.name: option for option in main.commands["pool"].params}
    choices = {name: list(getattr(options[name].type, "choices", [])) for name in options}
    assert choices["method"] == [*METHODS, "auto"]
    assert all(f"{method}: " in str(options["method"].help) for method in choices["method"])
    assert choices["select"] == list(SELECTS)
    assert choices["per"] == list(PER)
    assert choices["alpha_search"] == list(ALPHA_SEARCHES)
    parsed = main.commands["pool"].make_context("pool", ["a", "-o", "b"]).params
    assert [parsed[name] for name in ("per", "learning_steps", "learning_rate")] == [*vars(LEARNING).values()]
    for field in dataclasses.fields(PoolOptions):
        assert field.name == "seed" or parsed[field.name] == field.default, field.name  # the seed is of training too


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
}


# Which methods try alphas, go through the candidates again, keep a running average, learn.
MEANT_FOR = {
    "--alphas": {"greedy", "auto"},
    "--alpha-search": {"greedy", "auto"},
    "--passes": {"greedy", "average", "auto"},
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
