"""Documents read back: what they say of each pair, and one clear line for each that does not fit."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lptool.errors import DocumentError
from lptool.pooling.choice import Choice
from lptool.pooling.verdict import better_control
from lptool.report.runs import Gain, Pair, gains_in
from lptool.scoring.score import Score
from tests.helpers.runs import evaluated, target, written


def gains(folder: Path, *documents: Any) -> list[Gain]:
    return gains_in(written(folder, documents))


def test_a_target_is_compared_with_each_control_and_with_the_better_one(tmp_path: Path) -> None:
    found = gains(tmp_path, target(0, 2, (900, 910, 930)))
    assert [(g.against, g.control) for g in found] == [
        ("ticket", "ticket"),
        ("ticket_bn", "ticket_bn"),
        ("better", "ticket"),
    ]
    assert [g.points for g in found] == pytest.approx([0.03, 0.02, 0.03])
    assert [g.pair for g in found] == [Pair(80, 50, 1000), Pair(70, 50, 1000), Pair(80, 50, 1000)]
    assert {(g.dataset, g.arch, g.method, g.level, g.n, g.pooled) for g in found} == {
        ("npz:d.npz", "net.py:Net", "greedy", 2, 1000, True)
    }
    assert found[0].density == pytest.approx(0.64)


@pytest.mark.parametrize(
    ("ticket", "ticket_bn", "better"),
    [
        ((0.5, 1.0), (0.6, 2.0), "ticket_bn"),  # more val images right, whatever its NLL
        ((0.5, 1.0), (0.5, 0.9), "ticket_bn"),
        ((0.6, None), (0.5, 0.9), "ticket_bn"),  # an NLL that is not finite
        ((0.5, 1.0), (0.5, 1.0), "ticket"),
        ((0.6, 1.0), (0.5, 1.0), "ticket"),
    ],
)
@pytest.mark.parametrize("select", ["accuracy", "nll"])
def test_the_better_control_is_chosen_on_val_alone(
    tmp_path: Path, ticket: tuple[float, float], ticket_bn: tuple[float, float], better: str, select: str
) -> None:
    """As the search itself orders them."""
    document = target(0, 2, (500, 499, 501), select=select)
    for name, (accuracy, nll) in {"ticket": ticket, "ticket_bn": ticket_bn}.items():
        document["val"][name] |= {"accuracy": accuracy, "nll": nll}
    controls = {"ticket": ticket, "ticket_bn": ticket_bn}
    scores = {
        name: Score(round(1000 * accuracy), math.inf if nll is None else nll, 1000)
        for name, (accuracy, nll) in controls.items()
    }
    expected = better_control(scores, Choice(select))
    assert expected == better or select == "nll"
    assert gains(tmp_path, document)[-1].control == expected


def test_a_control_that_was_not_scored_is_left_out(tmp_path: Path) -> None:
    document = target(0, 2, (900, None, 930))
    document["val"]["ticket_bn"] = None
    assert [(g.against, g.control) for g in gains(tmp_path, document)] == [("ticket", "ticket"), ("better", "ticket")]


def test_all_targets_of_a_run_are_one_run(tmp_path: Path) -> None:
    both = {"targets": [target(0, level, (900, 910, 930)) for level in (1, 2)]}
    alone = target(0, 3, (900, 910, 930))
    assert len({g.run for g in gains(tmp_path, both, alone)}) == 1
    assert len({g.run for g in gains(tmp_path, both, target(1, 3, (900, 910, 930)))}) == 2


def test_an_older_document_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    document = target(0, 2, (900, 910, 930), bn_images="plain", passes=2)
    for key in ("dataset", "arch", "tickets", "options", "comparisons"):
        del document[key]
    (first, *_) = gains(tmp_path, document)
    assert (first.dataset, first.arch, first.pair, first.run) == (None, None, None, first.file)
    assert json.loads(first.options) == {"select": None, "passes": 2, "bn_images used": "plain"}


def test_a_written_control_says_which_of_the_two_it_is(tmp_path: Path) -> None:
    """So that runs beside another control are another series; an older document does not say it."""
    documents = [evaluated(seed, (930, 900), 40, swapped=seed == 1) for seed in range(3)]
    for document, shipped in zip(documents, ("ticket", "ticket_bn", None), strict=True):
        control, pooled = sorted(document["files"], key=lambda file: file["kind"] == "pooled")
        control |= {"kind": "pooled", "method": "control", "shipped": shipped}
        pooled["shipped"] = "ticket"  # of a pooled model it is what the search had to write
    found = gains(tmp_path, *documents)
    assert {gain.method for gain in found} == {"greedy"}
    assert [gain.against for gain in found] == ["control (ticket)", "control (ticket + BN)", "control"]


@pytest.mark.parametrize("swapped", [False, True])
def test_files_that_evaluate_compared_come_in_one_order(tmp_path: Path, swapped: bool) -> None:
    (found,) = gains(tmp_path, evaluated(0, (930, 900), 40, swapped=swapped))
    assert (found.method, found.against, found.level, found.pooled) == ("greedy", "ticket", 2, False)
    assert (found.points, found.pair) == (pytest.approx(0.03), Pair(40, 10, 1000))


def test_files_of_other_levels_say_their_level_and_those_of_one_kind_their_name(tmp_path: Path) -> None:
    document = evaluated(0, (930, 900), 40)
    document["files"][1]["level"] = 1
    (found,) = gains(tmp_path, document)
    assert (found.method, found.against) == ("greedy level 2", "ticket level 1")
    document["files"][1] |= {"kind": "pooled", "method": "greedy", "level": 2}
    (found,) = gains(tmp_path, document)
    assert {found.method, found.against} == {"pooled.safetensors", "ticket.safetensors"}


def without(*path: str) -> Any:
    document = target(0, 2, (900, 910, 930))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return document


def with_value(value: Any, *path: str) -> Any:
    document = target(0, 2, (900, 910, 930))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


BAD = {
    "another program's": ({"a": 1}, "found a"),
    "a list": ([1, 2], "found list"),
    "a number": (3, "found int"),
    "of inspect": ({"tickets": [], "pool": {}}, "found tickets, pool"),
    "of a dry run": ({"pool": [], "targets": [{"file": "a", "output": "b"}]}, "has no 'test'"),
    "no targets": ({"targets": []}, "'targets' is [], expected a pooled model or more"),
    "targets that are none": ({"targets": 3}, "'targets' is 3, expected a list"),
    "no scores on test": (without("test", "pooled"), "has no 'test.pooled'"),
    "no scores on val": (without("val"), "has no 'val'"),
    "no control": (without("test", "ticket"), "has no 'test.ticket'"),
    "an accuracy in percent": (with_value(91.2, "test", "pooled", "accuracy"), "expected a number from 0 to 1"),
    "an accuracy without end": (with_value(10**400, "test", "pooled", "accuracy"), "expected a number from 0 to 1"),
    "an accuracy that is none": (with_value("x", "test", "pooled", "accuracy"), "expected a number from 0 to 1"),
    "an accuracy that is true": (with_value(True, "test", "pooled", "accuracy"), "expected a number from 0 to 1"),
    "no images": (with_value(0, "test", "pooled", "n"), "expected a whole number from 1 up"),
    "a sparsity that is not finite": (with_value(float("nan"), "sparsity"), "NaN is no finite number"),
    "an option that is not finite": (with_value(math.inf, "options", "decay"), "Infinity is no finite number"),
    "a method that is none": (with_value(None, "method"), "'method' is null, expected a text"),
    "options that are none": (with_value([], "options"), "'options' is [], expected an object"),
    "one file alone": ({"files": [], "comparisons": []}, "compares nothing"),
    "a file that is not there": (evaluated(0, (9, 8), 1) | {"files": []}, "which is not among its files"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_one_clear_line(tmp_path: Path, name: str) -> None:
    document, message = BAD[name]
    with pytest.raises(DocumentError) as error:
        gains(tmp_path, document)
    assert str(error.value).startswith(f"{tmp_path}/0.json: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"{", "not a whole JSON document"),
        (b"\xff\xfe", "not a whole"),
        (b"[" * 99999, "not a whole"),
    ],
)
def test_what_is_no_json_is_one_too(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DocumentError, match=message):
        gains_in([tmp_path / "a.json"])
    with pytest.raises(DocumentError, match="cannot be read"):
        gains_in([tmp_path / "b.json"])
    with pytest.raises(DocumentError, match="is a folder, expected a file"):
        gains_in([tmp_path])
