"""Documents and tables made from results that are easy to check by eye."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from lptool import report
from lptool.bench import PoolOptions, open_bench
from lptool.inspection import Inspection, inspect_files
from lptool.pipeline import PoolResult, pool_target


def text(view: RenderableType) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def result(tickets: list[Path], tmp_path_factory: pytest.TempPathFactory) -> PoolResult:
    options = PoolOptions(alphas=(0.5,), calibration_size=64, device="cpu")
    return pool_target(open_bench(tickets, options), 3, tmp_path_factory.mktemp("out") / "a.safetensors")


def test_the_pool_document_has_the_promised_keys(result: PoolResult, tickets: list[Path]) -> None:
    document = report.pool_document(result)
    promised = ("output", "method", "target", "sparsity", "members", "evaluations", "seconds", "val", "test")
    assert set(promised) <= set(document)
    assert document["target"] == {"file": str(tickets[3]), "level": 3, "sparsity": document["sparsity"]}
    assert [m["level"] for m in document["members"]] == [2, 1, 0]
    assert all({"file", "level", "alpha", "accepted"} == set(member) for member in document["members"])
    for part in ("val", "test"):
        assert set(document[part]) == {"ticket", "ticket_bn", "pooled"}
        for score in document[part].values():
            assert set(score) == {"accuracy", "nll", "n"}
            assert round(score["accuracy"] * score["n"]) == pytest.approx(score["accuracy"] * score["n"])


def test_the_table_says_what_the_document_says(result: PoolResult) -> None:
    shown = text(report.pool_view(result))
    for row, label in report.ROWS.items():
        assert label in shown
        assert report.percent(result.test[row].accuracy) in shown
    assert str(result.output) in shown
    assert "timm.create_model('resnet8_cifar', num_classes=10, in_chans=1, checkpoint_path=" in shown


def test_steps_without_an_alpha_of_their_own(result: PoolResult) -> None:
    """As of coefficients that were learned, one for each group of tensors."""
    steps = tuple(replace(step, alpha=None, accepted=True) for step in result.trace.steps)
    learned = replace(result, trace=replace(result.trace, steps=steps), shipped="pooled")
    assert "accepted 3 of 3 candidates: level 2, level 1, level 0" in text(report.pool_view(learned))
    mixed = replace(learned, trace=replace(learned.trace, steps=(replace(steps[0], alpha=0.5), steps[1])))
    assert "accepted 2 of 2 candidates: level 2 (alpha 0.5), level 1" in text(report.pool_view(mixed))
    assert {member["alpha"] for member in report.pool_document(learned)["members"]} == {None}


def test_no_improvement_is_said_in_words(result: PoolResult) -> None:
    rejected = replace(result.trace, steps=tuple(replace(step, accepted=False) for step in result.trace.steps))
    assert "no candidate improved" in text(report.pool_view(replace(result, trace=rejected)))
    assert "no candidate improved" in text(report.pool_view(replace(result, shipped="ticket")))
    assert report.pool_document(replace(result, trace=rejected))["improved"] is False


def test_all_targets_in_one_table(result: PoolResult) -> None:
    shown = text(report.summary_view([result, result]))
    assert shown.count(report.percent(1 - report.pool_document(result)["sparsity"])) == 2


def test_the_inspect_document_has_the_promised_keys(tickets: list[Path]) -> None:
    document = report.inspect_document(inspect_files(tickets))
    promised = ["file", "format", "level", "sparsity", "density", "parameters", "nonzero", "mask_source", "nested"]
    promised += ["warnings", "layers"]
    assert document["pool"] == {"aligned": True, "problems": [], "warnings": []}
    for ticket in document["tickets"]:
        assert set(promised) <= set(ticket)
        assert ticket["sparsity"] == pytest.approx(1 - ticket["density"])
        assert {"name", "shape", "sparsity"} == set(ticket["layers"][0])


def test_inspect_shows_layers_of_one_file_and_members_of_a_pooled_one(result: PoolResult, tickets: list[Path]) -> None:
    assert "layer1.0.conv1.weight" not in text(report.inspect_view(inspect_files(tickets)))
    shown = text(report.inspect_view(inspect_files([result.output])))
    for part in ("layer1.0.conv1.weight", "pooled by greedy", "level_02.safetensors", "ticket + BN"):
        assert part in shown


def test_headers_of_other_writers_do_not_break_inspect(result: PoolResult) -> None:
    (finding,) = inspect_files([result.output]).findings
    for trace, scores in (({}, {}), ({"members": [{}]}, {"val": {}})):
        metadata = replace(finding.summary.metadata, trace=trace, scores=scores)
        strange = replace(finding, summary=replace(finding.summary, metadata=metadata))
        text(report.inspect_view(Inspection((strange,))))
