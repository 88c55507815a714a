"""The document has the promised keys, and the tables say what it says."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from lptool.checkpoints.reading import file_sha256, load_ticket
from lptool.evaluation.job import Evaluation, evaluate_files
from lptool.evaluation.setup import EvaluateOptions
from lptool.pooling.result import PoolResult
from lptool.report.evaluate import evaluate_document, evaluate_view
from lptool.tables import percent
from tests.helpers.reading import text


@pytest.fixture(scope="module")
def plain(tickets: list[Path]) -> Evaluation:
    return evaluate_files([tickets[0], tickets[3]], EvaluateOptions(device="cpu"))


@pytest.fixture(scope="module")
def corrupted(tickets: list[Path]) -> Evaluation:
    return evaluate_files([tickets[3]], EvaluateOptions(device="cpu", corruptions=True))


def keys(document: Mapping[str, object]) -> set[str]:
    return set(document)


def test_the_document_has_the_promised_keys(plain: Evaluation, tickets: list[Path]) -> None:
    document = evaluate_document(plain)
    json.dumps(document, allow_nan=False)
    assert keys(document) == {
        *("dataset", "n", "classes", "files", "comparisons", "seconds", "command", "versions", "device", "threads")
    }
    assert (document["dataset"], document["n"], document["classes"], document["device"]) == ("digits", 359, 10, "cpu")
    for found, path, level in zip(document["files"], (tickets[0], tickets[3]), (0, 3), strict=True):
        assert keys(found) == {
            *("file", "sha256", "kind", "arch", "level", "method", "sparsity", "test", "cost", "layers", "corruptions"),
            *("shipped", "runtime", "latency", "arch_kwargs", "normalisation", "tickets"),
        }
        assert (found["file"], found["sha256"], found["level"]) == (str(path), file_sha256(path), level)
        assert (found["kind"], found["arch"], found["method"]) == ("ticket", "resnet8_cifar", None)
        assert (found["arch_kwargs"], found["tickets"]) == ({"num_classes": 10, "in_chans": 1}, [])
        said = load_ticket(path).metadata.data
        assert found["normalisation"] == {"mean": list(said.mean), "std": list(said.std)}
        assert keys(found["test"]) == {"accuracy", "interval", "nll", "ece", "top5", "n"}
        low, high = found["test"]["interval"]
        assert low < found["test"]["accuracy"] < high
        assert found["test"]["top5"] is None
        assert keys(found["cost"]) == {
            "parameters",
            "kept",
            *(f"{w}_{h}" for w in ("flops", "bytes") for h in ("dense", "kept")),
        }
        assert found["corruptions"] is None
    layer = document["files"][1]["layers"][0]
    assert keys(layer) == {"name", "shape", "density"}
    assert 0 < layer["density"] <= 1
    (comparison,) = document["comparisons"]
    assert keys(comparison) == {"a", "b", "a_only", "b_only", "p"}
    assert (comparison["a"], comparison["b"]) == (str(tickets[0]), str(tickets[3]))
    right = [round(found["test"]["accuracy"] * 359) for found in document["files"]]
    assert comparison["a_only"] - comparison["b_only"] == right[0] - right[1]


def test_a_pooled_model_says_its_tickets_and_what_was_named_on_the_way_in(
    result: PoolResult, tickets: list[Path]
) -> None:
    """So that `compare` tells runs and settings apart: the normalisation used, not the header's."""
    options = EvaluateOptions(device="cpu", mean=(0.25,), std=(0.5,))
    (found,) = evaluate_document(evaluate_files([result.output], options))["files"]
    assert found["tickets"] == sorted(map(file_sha256, tickets))
    assert found["arch_kwargs"] == {"num_classes": 10, "in_chans": 1}
    assert found["normalisation"] == {"mean": [0.25], "std": [0.5]}


def test_the_sparsity_is_that_of_the_layers(plain: Evaluation) -> None:
    found = evaluate_document(plain)["files"][1]
    sizes = [(layer["density"], _product(layer["shape"])) for layer in found["layers"]]
    kept, total = sum(d * n for d, n in sizes), sum(n for _, n in sizes)
    assert found["sparsity"] == pytest.approx(1 - kept / total)
    assert found["sparsity"] == pytest.approx(1 - 0.5**3, abs=1e-3)


def _product(shape: list[int]) -> int:
    result = 1
    for length in shape:
        result *= length
    return result


def test_the_document_of_corruptions(corrupted: Evaluation) -> None:
    document = evaluate_document(corrupted)
    json.dumps(document, allow_nan=False)
    assert document["comparisons"] == []
    found = document["files"][0]["corruptions"]
    assert keys(found) == {"source", "rows", "mean_accuracy"}
    assert found["source"] == "C-style, torchvision v2"
    for row in found["rows"]:
        assert keys(row) == {"name", "severity", "accuracy", "nll", "ece", "n"}
    accuracies = [row["accuracy"] for row in found["rows"]]
    assert found["mean_accuracy"] == pytest.approx(sum(accuracies) / len(accuracies))


def test_what_is_not_finite_is_null(plain: Evaluation) -> None:
    score = replace(plain.files[0].test.score, nll=float("nan"))
    broken = replace(plain.files[0], test=replace(plain.files[0].test, score=score, ece=float("nan")))
    document = evaluate_document(replace(plain, files=(broken, plain.files[1])))
    assert (document["files"][0]["test"]["nll"], document["files"][0]["test"]["ece"]) == (None, None)
    json.dumps(document, allow_nan=False)


def test_the_tables_say_what_the_document_says(plain: Evaluation) -> None:
    shown, document = text(evaluate_view(plain)), evaluate_document(plain)
    for found in document["files"]:
        test, cost = found["test"], found["cost"]
        low, high = test["interval"]
        assert Path(found["file"]).name in shown
        assert f"{percent(test['accuracy'])} [{100 * low:.2f}, {100 * high:.2f}]" in shown
        assert f"{test['nll']:.4f} │ {test['ece']:.4f}" in shown
        assert f"{cost['flops_dense']:,} → {cost['flops_kept']:,}" in shown
        assert f"{cost['bytes_dense']:,} → {cost['bytes_kept']:,}" in shown
    (comparison,) = document["comparisons"]
    assert f"{comparison['a_only']} │" in shown
    assert f"{comparison['p']:.3g}" in shown
    assert "top-5" not in shown


def test_top5_has_a_column_where_it_is_measured(plain: Evaluation) -> None:
    measured = replace(plain.files[0], test=replace(plain.files[0].test, top5=0.987))
    shown = text(evaluate_view(replace(plain, files=(measured, plain.files[1]))))
    assert "top-5" in shown
    assert "98.70 %" in shown


def test_the_table_of_corruptions(corrupted: Evaluation) -> None:
    shown, found = text(evaluate_view(corrupted)), evaluate_document(corrupted)["files"][0]["corruptions"]
    assert "under corruptions (C-style, torchvision v2)" in shown
    noise = [percent(row["accuracy"]) for row in found["rows"] if row["name"] == "gaussian_noise"]
    assert f"gaussian_noise │ {' │ '.join(noise)} │" in shown
    assert shown.rstrip().endswith(percent(found["mean_accuracy"]))


def test_kinds_outside_the_mean_are_in_brackets(corrupted: Evaluation) -> None:
    rows = [replace(row, extra=row.name == "jpeg") for row in corrupted.files[0].corrupted]
    shown = text(evaluate_view(replace(corrupted, files=(replace(corrupted.files[0], corrupted=rows),))))
    assert "(jpeg)" in shown
    assert "(elastic)" not in shown


def test_files_of_the_same_name_are_told_apart(plain: Evaluation) -> None:
    there = [
        replace(f, summary=replace(f.summary, file=f"{d}/a.safetensors"))
        for f, d in zip(plain.files, "xy", strict=True)
    ]
    shown = text(evaluate_view(replace(plain, files=tuple(there))))
    assert "x/a.safetensors" in shown
    assert "y/a.safetensors" in shown
