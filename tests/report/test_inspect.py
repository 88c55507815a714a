"""The document and tables of `inspect`, made from files that are easy to check by eye."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lptool.checkpoints.inspection import Inspection, inspect_files
from lptool.pooling.comparisons import Barrier
from lptool.pooling.result import PoolResult
from lptool.report import inspect as report
from lptool.scoring.score import Score
from tests.helpers.reading import text


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
    for part in (
        "layer1.0.conv1.weight",
        "pooled by greedy",
        "level_02.safetensors",
        "ticket + BN",
        "augmented as in training",
    ):
        assert part in shown


def test_a_dense_ticket_without_masks_is_counted_like_its_neighbours(tmp_path: Path) -> None:
    weight = torch.arange(1.0, 1001.0).reshape(10, 100)
    mask = (weight > 400).float()
    torch.save({"w.weight": weight, "b": torch.ones(3)}, tmp_path / "dense.pt")
    torch.save({"w.weight_orig": weight, "w.weight_mask": mask, "b": torch.ones(3)}, tmp_path / "pruned.pt")
    shown = text(report.inspect_view(inspect_files([tmp_path / "dense.pt", tmp_path / "pruned.pt"])))
    assert "1,000 / 1,000" in shown
    assert "600 / 1,000" in shown


def test_headers_of_other_writers_do_not_break_inspect(result: PoolResult) -> None:
    (finding,) = inspect_files([result.output]).findings
    for trace, scores in (({}, {}), ({"members": [{}]}, {"val": {}})):
        metadata = replace(finding.summary.metadata, trace=trace, scores=scores)
        strange = replace(finding, summary=replace(finding.summary, metadata=metadata))
        text(report.inspect_view(Inspection((strange,))))


def test_a_barrier_of_scores_that_are_not_finite_is_null_in_json_and_said_to_a_person() -> None:
    scores = tuple(Score(correct=1, nll=nll, n=2) for nll in (math.inf, 1.0, math.nan))
    barrier = Barrier("a.safetensors", "b.safetensors", scores)
    (document,) = report.barrier_documents([barrier])
    assert document["nll"] is None
    json.dumps(document, allow_nan=False)
    assert document["verdict"] == "no verdict: scores on the line between them are not finite"
    shown = text(report.barrier_view([barrier]))
    assert "not finite │" in shown
    assert "can be pooled" not in shown
    assert "BN recalibrated" in shown
    assert "BN" not in text(report.barrier_view([replace(barrier, recalibrated=False)]))
