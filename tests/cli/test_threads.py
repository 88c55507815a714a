"""How many threads a command takes: as told, as begun, or as are fastest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from lptool import device
from lptool.checkpoints.reading import file_sha256
from lptool.cli.threads import choose_threads, go_on_with
from lptool.pooling.journal import journal_of
from lptool.ranks import Ranks
from lptool.training.folder import RunFolder
from tests.helpers.commands import FAST, lptool, refused_usage

T = TypeVar("T")


@pytest.fixture(autouse=True)
def nobody_says(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On four cores, of which all are torch's; and as before afterwards."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(device, "usable_cores", lambda: 4)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def fastest(monkeypatch: pytest.MonkeyPatch, threads: int) -> list[int]:
    """A machine on which so many are fastest; gives out of how many that was asked."""
    asked: list[int] = []
    monkeypatch.setattr(device, "fastest_threads", lambda most: asked.append(most) or min(most, threads))
    return asked


def test_what_is_fastest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fastest(monkeypatch, 2)
    assert choose_threads(None, "cpu") == torch.get_num_threads() == 2
    assert asked == [4]


@pytest.mark.parametrize(("cores", "most"), [(1, 1), (3, 3), (64, 4)])
def test_no_more_than_there_are_cores_and_torch_has(monkeypatch: pytest.MonkeyPatch, cores: int, most: int) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: cores)
    asked = fastest(monkeypatch, 64)
    assert choose_threads(None, "cpu") == torch.get_num_threads() == most
    assert asked == [most]


def test_what_is_said_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fastest(monkeypatch, 2)
    assert choose_threads(3, "cpu") is None
    assert torch.get_num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert choose_threads(None, "cpu") is None
    assert torch.get_num_threads() == 3  # as it was
    assert choose_threads(1, "cpu") is None
    assert torch.get_num_threads() == 1
    assert asked == []


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    fastest(monkeypatch, 2)
    assert choose_threads(None, "cpu") == 2


def test_on_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fastest(monkeypatch, 2)
    monkeypatch.setattr(device, "usable_cores", lambda: 3)
    assert choose_threads(None, "cuda:0") is None
    assert (torch.get_num_threads(), asked) == (3, [])


class Peers(Ranks):
    """One of three, of which another found one thread fewer to be fastest."""

    def gather(self, value: T) -> list[T]:
        assert isinstance(value, int)
        return [value, value - 1, value]  # type: ignore[list-item]


def test_processes_come_to_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though torchrun sets the variable."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fastest(monkeypatch, 4)
    assert choose_threads(None, "cpu", Peers(0, 3)) == torch.get_num_threads() == 3
    assert choose_threads(2, "cpu", Peers(0, 3)) is None
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("begun", "threads", "expected"), [(2, 3, 2), (None, 3, 3), (2, None, 4), (None, None, 4)])
def test_what_was_begun_goes_on_unless_something_was_said(
    begun: int | None, threads: int | None, expected: int
) -> None:
    go_on_with(begun, threads)
    assert torch.get_num_threads() == expected


# The commands.


def document(*arguments: object) -> dict[str, Any]:
    result = lptool(*arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def begun_with(output: Path) -> object:
    return json.loads(journal_of(output).read_text().splitlines()[0])["threads"]


def test_pool_goes_on_with_the_threads_that_its_journal_was_begun_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tickets: list[Path]
) -> None:
    out = tmp_path / "a.safetensors"
    command = ("pool", *tickets, "-o", out, *FAST, "--json")
    fastest(monkeypatch, 2)
    first = document(*command)
    assert (first["threads"], begun_with(out)) == (2, 2)
    fastest(monkeypatch, 1)
    again = document(*command)
    assert (again["threads"], again["sha256"]) == (2, first["sha256"])
    assert document(*command, "--threads", 3)["threads"] == 3
    assert begun_with(out) == 2
    anew = document(*command, "--overwrite", "--seed", 1)
    assert (anew["threads"], begun_with(out)) == (1, 1)


def test_pool_says_threads_beside_the_digest_that_depends_on_them(tmp_path: Path, tickets: list[Path]) -> None:
    for threads, said in ((1, "1 thread"), (2, "2 threads")):
        out = tmp_path / f"{threads}.safetensors"
        result = lptool("pool", *tickets, "-o", out, *FAST, "--threads", threads)
        assert f"kB, sha256 {file_sha256(out)[:16]}…, {said})" in result.stdout


def test_each_target_goes_on_with_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tickets: list[Path]) -> None:
    fastest(monkeypatch, 1)
    command = ("pool", *tickets, "-o", tmp_path / "all", "--target", "all", *FAST, "--json")
    document(*command)
    journal_of(tmp_path / "all" / "level_02.safetensors").unlink()
    torch.set_num_threads(4)
    fastest(monkeypatch, 2)
    assert [found["threads"] for found in document(*command)["targets"]] == [1, 1, 2, 1]


TRAIN = ("--preset", "quickstart", "--epochs", 1, "--rewind-epoch", 0, "--device", "cpu")


def test_train_goes_on_with_the_threads_that_its_folder_was_begun_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = ("train", "-o", tmp_path, *TRAIN)
    fastest(monkeypatch, 2)
    assert document(*command, "--levels", 1, "--dry-run")["computing"]["threads"] == 2
    assert lptool(*command, "--levels", 1).exit_code == 0
    assert (RunFolder(tmp_path).threads, torch.get_num_threads()) == (2, 2)
    fastest(monkeypatch, 1)
    assert document(*command, "--levels", 2, "--dry-run")["computing"]["threads"] == 2
    assert document(*command, "--levels", 2, "--dry-run", "--threads", 3)["computing"]["threads"] == 3
    assert lptool(*command, "--levels", 2).exit_code == 0
    assert (RunFolder(tmp_path).threads, torch.get_num_threads()) == (2, 2)


def test_evaluate_says_how_many(monkeypatch: pytest.MonkeyPatch, tickets: list[Path]) -> None:
    fastest(monkeypatch, 2)
    assert document("evaluate", tickets[0], "--device", "cpu", "--json")["threads"] == 2
    assert document("evaluate", tickets[0], "--device", "cpu", "--json", "--threads", 3)["threads"] == 3


def test_inspect_and_convert_measure_only_where_they_score(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tickets: list[Path]
) -> None:
    asked = fastest(monkeypatch, 2)
    for arguments in (("inspect", *tickets), ("convert", tickets[0], tmp_path / "a.safetensors", "--packed")):
        assert lptool(*arguments).exit_code == 0
    assert asked == []
    values = ("--packed", "--values", "bf16", "--device", "cpu")
    for arguments in (
        ("inspect", *tickets[:2], "--data", "digits", "--device", "cpu"),
        ("convert", tickets[0], tmp_path / "b.safetensors", *values),
    ):
        torch.set_num_threads(4)
        assert lptool(*arguments).exit_code == 0
        assert torch.get_num_threads() == 2
    assert asked == [4, 4]


@pytest.mark.parametrize("name", ["pool", "train", "evaluate", "inspect", "convert"])
@pytest.mark.parametrize("value", ["0", "-1", "1025", "x"])
def test_a_number_that_cannot_be_is_refused(name: str, value: str) -> None:
    assert "--threads" in refused_usage(lptool(name, "a", "b", "--threads", value))
