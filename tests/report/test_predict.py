"""The document and the table of predictions."""

import json

from rich.console import Console

from lptool.checkpoints.summary import Summary
from lptool.checkpoints.ticket import Ticket
from lptool.evaluation.prediction import Guess, Predictions
from lptool.report.predict import predict_document, predict_view

GUESSES = {"a.png": (Guess(1, "cat", 0.75), Guess(0, "dog", 0.25)), "b.png": (Guess(0, "dog", 1.0),)}


def predictions(names: tuple[str, ...] = ("dog", "cat")) -> Predictions:
    summary = Summary.of(Ticket({}, {}, file="m.safetensors"))
    unreadable = {"c.png": "is a folder, expected a file"}
    return Predictions(summary, "resnet18", 2, names, GUESSES, unreadable, "cpu", 1, 0.5)


def test_the_document_has_classes_by_number_and_name() -> None:
    document = json.loads(json.dumps(predict_document(predictions()), allow_nan=False))
    assert document["pictures"] == [
        {
            "file": "a.png",
            "top": [
                {"class": 1, "name": "cat", "probability": 0.75},
                {"class": 0, "name": "dog", "probability": 0.25},
            ],
        },
        {"file": "b.png", "top": [{"class": 0, "name": "dog", "probability": 1.0}]},
    ]
    assert document["unreadable"] == [{"file": "c.png", "reason": "is a folder, expected a file"}]
    assert (document["file"], document["classes"], document["class_names"]) == ("m.safetensors", 2, ["dog", "cat"])
    assert predict_document(predictions(()))["class_names"] is None


def test_the_table_names_each_picture_once() -> None:
    console = Console(width=80)
    with console.capture() as shown:
        console.print(predict_view(predictions()))
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in shown.get().splitlines() if "│" in line]
    assert rows == [["a.png", "cat", "75.00 %"], ["", "dog", "25.00 %"], ["b.png", "dog", "100.00 %"]]
