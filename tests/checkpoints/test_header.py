"""Headers of any program: what is sound comes through, the rest is None or empty, and nothing raises."""

from __future__ import annotations

import json
import math
from dataclasses import astuple
from typing import Any

import pytest

from lptool.checkpoints.header import (
    DataSet,
    Member,
    SavedScore,
    SearchRecord,
    Shares,
    Split,
    Verdict,
    score_in,
    typed,
    verdict_in,
    whole_number,
)

ODD: list[Any] = [None, True, "x", [], {}, [[]], {"a": 1}, math.nan, math.inf, json.loads("1" * 400), -1, 1.5]
DATASET = {
    "name": "folder:/home/me/photos",
    "num_classes": 3,
    "class_names": ["a", "b", "c"],
    "image_shape": [1, 8, 8],
    "mean": [0.3],
    "std": [1],
    "split": {"fraction": 0.25, "seed": 0, "hash": "abc", "labels": None},
}
VERDICT = {"word": "helped", "against": "ticket", "gain": 0.01, "p": 0.003, "n_val": 719, "n_test": 359}
VERDICT |= {"nll_rise": 0.1, "nll_error": None}
TRACE = {
    "method": "auto",
    "chosen": "greedy",
    "target": {"file": "level_03.safetensors", "sha256": "0f", "level": 3},
    "members": [{"file": "level_02.safetensors", "sha256": "0e", "level": 2, "alpha": 0.05, "accepted": True}],
    "coefficients": {"groups": ["stem", "head"], "values": [[0.5, 0.5], [0, 1]]},
    "shipped": "ticket_bn",
    "verdict": VERDICT,
    "evaluations": 24,
    "bn_recalibration": False,
}
EMPTY = {kind: typed(kind, {}) for kind in (DataSet, SearchRecord, Split, Member)}


def test_sound_documents_come_through() -> None:
    assert typed(DataSet, DATASET) == DataSet(
        *("folder:/home/me/photos", 3, ("a", "b", "c"), (1, 8, 8), (0.3,), (1,)), Split(0.25, 0, "abc", None)
    )
    assert typed(SearchRecord, TRACE) == SearchRecord(
        method="auto",
        chosen="greedy",
        target=Member("level_03.safetensors", "0f", 3, None, None),
        members=(Member("level_02.safetensors", "0e", 2, 0.05, True),),
        coefficients=Shares(("stem", "head"), ((0.5, 0.5), (0, 1))),
        shipped="ticket_bn",
        verdict=Verdict("helped", "ticket", 0.01, 0.003, 719, 359, 0.1, None),
        evaluations=24,
        bn_images=None,
        bn_recalibration=False,
    )


def test_the_tickets_of_a_pooled_model_are_its_target_and_its_members() -> None:
    assert typed(SearchRecord, TRACE).tickets == ["0e", "0f"]
    assert typed(SearchRecord, TRACE | {"members": [{"sha256": 3}, {}, {"sha256": "0f"}]}).tickets == ["0f"]
    assert typed(SearchRecord, {}).tickets == []


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2e7])
def test_a_share_that_holds_out_nothing_or_all_is_not_known(fraction: float) -> None:
    odd = DATASET | {"split": {"fraction": fraction, "seed": 3}}
    assert typed(DataSet, odd).split == Split(None, 3, None, None)


def test_an_empty_document_says_nothing() -> None:
    said = [value for document in EMPTY.values() for value in astuple(document)]
    assert all(value is None or value == () or not any(value) for value in said)


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_document_says_no_more_than_an_empty_one(odd: Any) -> None:
    assert {kind: typed(kind, odd) for kind in EMPTY} == EMPTY


@pytest.mark.parametrize("odd", [None, True, {}, {"a": 1}, math.nan, math.inf, json.loads("1" * 400), [[]], [None]])
@pytest.mark.parametrize(("kind", "sound"), [(DataSet, DATASET), (SearchRecord, TRACE)])
def test_an_odd_value_is_left_out_alone(kind: type[Any], sound: dict[str, Any], odd: Any) -> None:
    whole, nothing = typed(kind, sound), EMPTY[kind]
    for key in sound:
        found = typed(kind, sound | {key: odd})
        assert getattr(found, key) == (odd if odd is True and key == "bn_recalibration" else getattr(nothing, key))
        others = sound.keys() - {key}
        assert [getattr(found, other) for other in others] == [getattr(whole, other) for other in others]


@pytest.mark.parametrize(
    "odd",
    [[], "12", [1, "2"], {1: 2}, None, [True], [math.nan], [json.loads("1" * 400)]],
    ids=["empty", "text", "text in it", "object", "null", "true in it", "nan in it", "huge in it"],
)
def test_lists_of_numbers_are_whole_or_empty(odd: Any) -> None:
    found = typed(DataSet, DATASET | {"image_shape": odd, "mean": odd, "std": odd})
    assert (found.image_shape, found.mean, found.std) == ((), (), ())


def test_members_that_are_no_objects_are_left_out() -> None:
    assert typed(SearchRecord, {"members": [{"level": 3}, 3, None, [], "x"]}).members == (
        Member(None, None, 3, None, None),
    )
    assert typed(SearchRecord, {"members": {"level": 3}}).members == ()


@pytest.mark.parametrize(
    "odd",
    [
        {"groups": ["a"], "values": [[1.0], [2.0]]},
        {"groups": ["a", "b"], "values": [[1.0], [2.0, 3.0]]},
        {"groups": ["a", "b"], "values": [[1.0], ["2"]]},
        {"groups": ["a", "b"], "values": [[], []]},
        {"groups": [1], "values": [[1.0]]},
        {"groups": [], "values": []},
        {"groups": ["a"]},
    ],
    ids=str,
)
def test_coefficients_are_a_whole_table_or_none(odd: Any) -> None:
    assert typed(SearchRecord, {"coefficients": odd}).coefficients is None


@pytest.mark.parametrize("odd", [*ODD, 0.5, 10**20], ids=str)
@pytest.mark.parametrize("key", VERDICT)
def test_a_verdict_is_whole_or_none(key: str, odd: Any) -> None:
    """But for the NLL, which may not be known."""
    found = verdict_in(VERDICT | {key: odd})
    fits = {"gain": odd in (-1, 0.5), "p": odd == 0.5}.get(key, False) and odd is not True
    assert (found is not None) == (key.startswith("nll") or fits)
    assert verdict_in({name: value for name, value in VERDICT.items() if not name.startswith("nll")}) is not None


def test_a_sound_score_comes_through() -> None:
    score = {"accuracy": 0.5, "nll": None, "n": 10}
    assert score_in({"test": {"pooled": score}}, "test", "pooled") == SavedScore(0.5, None, 10)
    assert score_in({"test": {"pooled": score | {"nll": 0.25}}}, "test", "pooled") == SavedScore(0.5, 0.25, 10)


@pytest.mark.parametrize("odd", ODD)
def test_other_scores_are_none(odd: Any) -> None:
    assert score_in({"test": odd}, "test", "pooled") is None
    assert score_in({"test": {"pooled": odd}}, "test", "pooled") is None
    assert score_in({"test": {"pooled": {"accuracy": odd, "n": 3}}}, "test", "pooled") is None
    assert score_in({"test": {"pooled": {"accuracy": 0.5, "n": odd}}}, "test", "pooled") is None


def test_whole_numbers() -> None:
    assert [value for value in ODD if whole_number(value) is not None] == [-1]


@pytest.mark.parametrize(
    ("trace", "measured"),
    [
        ({}, None),
        ({"bn_recalibration": True}, "plain"),
        ({"bn_recalibration": False}, "none"),
        ({"bn_images": "augmented"}, "augmented"),
        ({"bn_images": 3}, None),
    ],
    ids=str,
)
def test_what_batchnorm_was_measured_on_is_read_from_older_files_too(
    trace: dict[str, Any], measured: str | None
) -> None:
    assert typed(SearchRecord, trace).measured == measured
