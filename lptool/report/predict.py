"""What a person or a program reads of predictions: a table, and the JSON document."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from lptool.evaluation.prediction import Guess, Predictions
from lptool.provenance import command_line, versions
from lptool.report.terminal import on_terminal
from lptool.tables import Table, percent


def predict_document(found: Predictions) -> dict[str, Any]:
    """The `--json` document of `predict`."""
    return {
        "file": found.summary.file,
        "sha256": found.summary.sha256,
        "arch": found.arch,
        "classes": found.num_classes,
        "class_names": list(found.names) or None,
        "pictures": [
            {"file": file, "top": [_guess_document(guess) for guess in guesses]}
            for file, guesses in found.guesses.items()
        ],
        "unreadable": [{"file": file, "reason": reason} for file, reason in found.unreadable.items()],
        "seconds": round(found.seconds, 3),
        "command": command_line(),
        "versions": versions(),
        "device": found.device,
        "threads": found.threads,
    }


def _guess_document(guess: Guess) -> dict[str, Any]:
    return {"class": guess.number, "name": guess.name, "probability": guess.probability}


def predict_view(found: Predictions) -> RenderableType:
    """The same for a person: a row for each class of each picture."""
    rows = [
        ["" if place else file, guess.name or str(guess.number), percent(guess.probability)]
        for file, guesses in found.guesses.items()
        for place, guess in enumerate(guesses)
    ]
    headings = ["picture", "class", "probability"]
    return on_terminal(Table(found.summary.file, headings, rows, words=["class"] if found.names else []))
