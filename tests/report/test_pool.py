"""The document and tables of pooled models, made from results that are easy to check by eye."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from lptool.checkpoints.header import ROWS, Verdict
from lptool.checkpoints.reading import file_sha256
from lptool.pooling.comparisons import References
from lptool.pooling.outcome import Coefficients
from lptool.pooling.result import PoolResult
from lptool.report import pool as report_pool
from lptool.scoring.metrics import Comparison
from lptool.scoring.score import Score
from lptool.tables import percent
from tests.helpers.reading import text


def test_the_pool_document_has_the_promised_keys(result: PoolResult, tickets: list[Path]) -> None:
    document = report_pool.pool_document(result)
    promised = ("output", "method", "target", "sparsity", "members", "evaluations", "seconds", "val", "test")
    assert set(promised) <= set(document)
    digests = [file_sha256(ticket) for ticket in tickets]
    sparsity = document["sparsity"]
    assert document["target"] == {"file": str(tickets[3]), "level": 3, "sparsity": sparsity, "sha256": digests[3]}
    assert (document["dataset"], document["arch"], document["tickets"]) == ("digits", "resnet8_cifar", digests)
    assert document["arch_kwargs"] == {"num_classes": 10, "in_chans": 1}
    assert document["normalisation"] == {"mean": list(result.metadata.data.mean), "std": list(result.metadata.data.std)}
    assert document["options"].items() >= {"passes": 1, "bn_images": "auto", "calibration_size": 64}.items()
    assert not document["options"].keys() & {"seed", "device", "target", "sparsity", "method", "dataset", "batch_size"}
    assert [m["level"] for m in document["members"]] == [2, 1, 0]
    assert all({"file", "level", "alpha", "accepted"} == set(member) for member in document["members"])
    for part in ("val", "test"):
        assert set(document[part]) == {"ticket", "ticket_bn", "pooled"}
        for score in document[part].values():
            assert set(score) == {"accuracy", "nll", "n"}
            assert round(score["accuracy"] * score["n"]) == pytest.approx(score["accuracy"] * score["n"])


def test_the_table_says_what_the_document_says(result: PoolResult) -> None:
    shown = text(report_pool.pool_view(result))
    for row, label in ROWS.items():
        assert label in shown
        assert percent(result.test[row].accuracy) in shown
    assert str(result.output) in shown
    assert "timm.create_model('resnet8_cifar', num_classes=10, in_chans=1, checkpoint_path=" in shown


def test_it_says_what_batchnorm_was_measured_on(result: PoolResult) -> None:
    assert report_pool.pool_document(result)["bn_images"] == "augmented"
    words = "BatchNorm recalibrated on training images augmented as in training"
    assert words in text(report_pool.pool_view(result))
    trace = result.metadata.trace | {"bn_images": "none"}
    without = replace(result, metadata=replace(result.metadata, trace=trace))
    assert "BatchNorm recalibrated" not in text(report_pool.pool_view(without))


def test_steps_without_an_alpha_of_their_own(result: PoolResult) -> None:
    """As of coefficients that were learned, one for each group of tensors."""
    steps = tuple(replace(step, alpha=None, accepted=True) for step in result.trace.steps)
    found = Coefficients(("conv", "fc"), ((0.25, 0.25, 0.25, 0.25), (0.0, 0.0, 0.0, 1.0)))
    trace = replace(result.trace, steps=steps, coefficients=found)
    learned = replace(result, trace=trace, shipped="pooled")
    told = "mixed 4 tickets with a coefficient for each of 2 groups"
    assert told in text(report_pool.pool_view(learned))
    one = replace(learned, trace=replace(trace, coefficients=Coefficients(("all",), ((0.125, 0.0, 0.5, 0.375),))))
    assert "with the coefficients 0.12, 0.00, 0.50, 0.38, in the order" in text(report_pool.pool_view(one))
    document = report_pool.pool_document(learned)
    assert {member["alpha"] for member in document["members"]} == {None}
    values = [list(row) for row in found.values]
    assert document["coefficients"] == {
        "groups": ["conv", "fc"],
        "members": [m.level for m in result.members],
        "values": values,
    }


def test_the_document_tells_the_search_attempt_by_attempt(result: PoolResult) -> None:
    document = report_pool.pool_document(result)
    assert len(document["search"]["steps"]) == len(result.trace.steps)
    for told, step in zip(document["search"]["steps"], result.trace.steps, strict=True):
        assert told["level"] == result.members[step.candidate].level
        assert [(a["alpha"], a["n"], a["complete"]) for a in told["attempts"]] == [
            (alpha, score.n, score.complete) for alpha, score in step.attempts
        ]
    best = max(result.trace.ticket, result.trace.ticket_bn or result.trace.ticket, key=lambda score: score.correct)
    assert document["search"]["start"]["accuracy"] == best.accuracy
    assert document["methods"] == {"greedy": {part: document[part]["pooled"] for part in ("val", "test")}}
    assert [layer["name"] for layer in document["layers"]] == list(result.metadata.prunable)
    kept = sum(layer["after"] * math.prod(layer["shape"]) for layer in document["layers"])
    size = sum(math.prod(layer["shape"]) for layer in document["layers"])
    assert 1 - kept / size == pytest.approx(result.sparsity)


def test_references_are_told_and_shown(result: PoolResult) -> None:
    assert report_pool.pool_document(result)["references"] is None
    scores = [{"val": Score(i, 1.0, 10), "test": Score(i + 1, 1.0, 10)} for i in range(4)]
    found = References({"val": Score(8, 0.5, 10), "test": Score(9, 0.5, 10)}, tuple(scores))
    document = report_pool.pool_document(result, found)
    told = document["references"]
    assert (told["ensemble"]["val"]["accuracy"], told["ensemble"]["test"]["accuracy"]) == (0.8, 0.9)
    assert [(m["level"], m["val"]["accuracy"], m["test"]["accuracy"]) for m in told["members"]] == [
        (0, 0.0, 0.1), (1, 0.1, 0.2), (2, 0.2, 0.3), (3, 0.3, 0.4)
    ]  # fmt: skip
    assert [m["sparsity"] for m in told["members"]] == sorted(m["sparsity"] for m in told["members"])
    shown = text(report_pool.references_view(document))
    assert "ensemble of 4" in shown
    assert "90.00 %" in shown


def test_no_improvement_is_said_in_words(result: PoolResult) -> None:
    rejected = replace(result.trace, steps=tuple(replace(step, accepted=False) for step in result.trace.steps))
    accepted = replace(result.trace, steps=tuple(replace(step, accepted=True) for step in result.trace.steps))
    for trace, why in ((rejected, False), (accepted, True)):
        shown = text(report_pool.pool_view(replace(result, trace=trace, shipped="ticket")))
        assert "the output is 'ticket' itself" in shown
        assert ("the search accepted 3, but the model made of them is no better on val" in shown) is why
    assert report_pool.pool_document(replace(result, trace=rejected))["improved"] is False


def test_all_targets_in_one_table(result: PoolResult) -> None:
    document = report_pool.all_targets_document([result, result])
    shown = text(report_pool.summary_view(document))
    assert shown.count(percent(result.sparsity)) == 4  # scores and verdicts
    assert shown.count(result.verdict.word) >= 2
    assert document["combined"]["levels"] == len(document["targets"]) == 2
    assert document["combined"]["p"] == pytest.approx(result.verdict.p)  # of the same gains twice
    assert f"all 2 levels together: {document['combined']['word']}" in shown


def test_it_says_whether_pooling_helped(result: PoolResult) -> None:
    n = result.test["pooled"].n
    helped = Verdict("helped", "ticket", 10 / n, 0.0129, 199, n, 0.2, 0.1)
    judged = replace(result, shipped="pooled", verdict=helped)
    shown = " ".join(text(report_pool.pool_view(judged)).split())
    assert f"pooling helped: {1000 / n:+.2f} points over 'ticket' on {n} test images (p = 0.013, exact" in shown
    document = report_pool.pool_document(judged)
    assert document["verdict"] == {
        "word": "helped",
        "against": "ticket",
        "gain": 10 / n,
        "p": 0.0129,
        "n_val": 199,
        "n_test": n,
        "nll_rise": 0.2,
        "nll_error": 0.1,
    }
    assert len(document["warnings"]) == 2
    assert all(f"warning: {line}" in shown for line in document["warnings"])


def test_where_pooling_hurt_it_says_how_to_get_the_control(result: PoolResult) -> None:
    how = "the same command with --control FILE also writes 'ticket + BN'"
    for word, against, told in (("hurt", "ticket_bn", True), ("hurt", "ticket", False), ("helped", "ticket_bn", False)):
        judged = replace(result, shipped="pooled", verdict=Verdict(word, against, -0.1, 0.01, 719, 359, 0.0, 0.1))
        assert (how in text(report_pool.pool_view(judged))) is told


def test_every_control_is_compared(result: PoolResult) -> None:
    against = {"ticket": Comparison(12, 2, 0.0129), "ticket_bn": Comparison(3, 4, 1.0)}
    judged, n = replace(result, against=against), result.test["pooled"].n
    rows = report_pool.pool_document(judged)["comparisons"]
    assert [(row["a"], row["b"], row["verdict"], row["gain"], row["p"], row["n"]) for row in rows] == [
        ("pooled", "ticket", "helped", 10 / n, 0.0129, n),
        ("pooled", "ticket_bn", "within chance", -1 / n, 1.0, n),
    ]
