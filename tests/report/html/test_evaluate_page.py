"""Pages of `evaluate`: for any document whole, safe, and without a score left out."""

import pytest

from lptool.report.html.evaluate_page import evaluate_page
from lptool.report.html.wording import nll, percent
from tests.helpers.documents import HOSTILE, SEEDS, evaluate_document
from tests.helpers.reading import check_page


@pytest.mark.parametrize("seed", SEEDS)
def test_any_document_makes_a_whole_page_with_every_score_in_a_table(seed: int) -> None:
    document = evaluate_document(seed)
    html = evaluate_page(document)
    cells = check_page(html).cells
    for file in document["files"]:
        test = file["test"]
        low, high = map(percent, test["interval"])
        for shown in (percent(test["accuracy"]), f"{low} to {high}", nll(test["nll"]), percent(test["ece"])):
            assert shown in cells
        assert test["top5"] is None or percent(test["top5"]) in cells
        for layer in file["layers"]:
            assert percent(layer["density"]) in cells
        for row in (file["corruptions"] or {"rows": []})["rows"]:
            assert percent(row["accuracy"]) in cells
        assert file["sha256"] in cells


def test_hostile_names_are_text() -> None:
    document = evaluate_document(1, files=3)
    document["files"][0]["file"] = HOSTILE
    document["comparisons"] = []
    html = evaluate_page(document)
    assert HOSTILE.replace("\x07", "\ufffd").replace("\udc80", "\ufffd") in check_page(html).cells
    assert "<script" not in html


@pytest.mark.parametrize(
    ("p", "a_only", "b_only", "said"),
    [
        (0.3, 5, 9, "no difference beyond chance"),
        (0.02, 9, 5, "0/level is better, with some evidence"),
        (0.004, 5, 9, "1/level is better, with good evidence"),
        (1e-9, 5, 9, "1/level is better"),
    ],
)
def test_comparisons_are_said_in_words(p: float, a_only: int, b_only: int, said: str) -> None:
    document = evaluate_document(1, files=2)
    for number, file in enumerate(document["files"]):
        file["file"] = f"{number}/level.safetensors"
    names = [file["file"] for file in document["files"]]
    document["comparisons"] = [{"a": names[0], "b": names[1], "a_only": a_only, "b_only": b_only, "p": p}]
    assert said in check_page(evaluate_page(document)).cells


def test_cost_is_shown_from_dense_to_kept() -> None:
    document = evaluate_document(1, files=1)
    document["files"][0]["cost"] |= {"parameters": 272474, "kept": 27247, "flops_kept": 0}
    cells = check_page(evaluate_page(document)).cells
    assert "272 k → 27.2 k (10.0×)" in cells
    assert "41 M → 0 (–)" in cells


def test_equal_documents_make_equal_bytes() -> None:
    assert evaluate_page(evaluate_document(3)) == evaluate_page(evaluate_document(3))
