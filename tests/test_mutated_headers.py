"""Headers in which any one value is replaced by any other: each command ends well, or with one clear error."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

from lptool.checkpoints.inspection import inspect_files
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.safetensors_file import SafetensorsFile
from lptool.errors import CheckpointError
from lptool.export.card import model_card
from lptool.pooling.result import PoolResult
from lptool.report.inspect import inspect_document, inspect_view
from lptool.report.tables import to_json
from tests.helpers.commands import lptool
from tests.helpers.reading import text
from tests.reliability.mutations import VALUES, Place, mutated, places


def mutations(document: Any) -> list[tuple[Place, Any]]:
    return [(at, value) for at in places(document) for value in VALUES]


@pytest.fixture(params=["ticket", "pooled"])
def file(request: pytest.FixtureRequest, tickets: list[Path], result: PoolResult) -> Path:
    """A sound file of either kind."""
    return tickets[2] if request.param == "ticket" else result.output


def document_of(file: Path) -> Any:
    """The header; of a pooled file with coefficients too, which only some methods write."""
    document = json.loads(SafetensorsFile(file).header["lptool"])
    if document["trace"]:
        document["trace"]["coefficients"] = {"groups": ["stem", "head"], "values": [[0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1]]}
    return document


def parsed(document: Any) -> Metadata | None:
    """As it is read; None where it is refused, in one line."""
    try:
        return Metadata.from_json(json.dumps(document), "a.safetensors")
    except CheckpointError as error:
        refusal = str(error)
    assert refusal.startswith("a.safetensors: ")
    assert refusal.isprintable()
    return None


def test_any_header_is_read_or_refused_in_one_line_and_is_written_as_it_was(file: Path) -> None:
    whole = document_of(file)
    read = 0
    for at, value in mutations(whole):
        document = mutated(whole, at, value)
        metadata = parsed(document)
        if metadata is None:
            continue
        read += 1
        _ = metadata.data, metadata.search, metadata.image_size, metadata.score("test", "pooled")
        if at[0] in ("dataset", "train", "trace", "scores"):
            written = json.loads(metadata.to_json(0.5))[at[0]]
            assert json.dumps(written, sort_keys=True) == json.dumps(document[at[0]], sort_keys=True)
    assert read > 100


def test_any_header_has_a_card_and_a_view(file: Path) -> None:
    whole, ticket, inspection = document_of(file), load_ticket(file), inspect_files([file])
    (finding,) = inspection.findings
    chosen = random.Random(0).sample(mutations(whole), 150)
    found = [metadata for at, value in chosen if (metadata := parsed(mutated(whole, at, value)))]
    assert len(found) > 30
    for metadata in found[:30]:
        assert ModelCard(model_card(replace(ticket, metadata=metadata), command=None, sizes=None, files=[])).data
        seen = replace(finding, summary=replace(finding.summary, metadata=metadata))
        assert text(inspect_view(replace(inspection, findings=(seen,)))).encode()
        assert to_json(inspect_document(replace(inspection, findings=(seen,)))).encode()


COMMANDS = {
    "inspect": ["inspect", "FILE"],
    "pool": ["pool", "FILE", "OTHER", "-o", "OUT.safetensors", "--dry-run", "--device", "cpu"],
    "evaluate": ["evaluate", "FILE", "--device", "cpu"],
    "predict": ["predict", "FILE", "PICTURE", "--device", "cpu"],
    "folder": ["convert", "FILE", "OUT", "--overwrite"],
    "packed": ["convert", "FILE", "OUT.safetensors", "--packed", "--overwrite"],
}
READ = ("version", "kind", "arch", "level", "dataset", "prunable")  # what commands go by; people read the rest


@pytest.mark.parametrize("command", COMMANDS)
def test_any_header_ends_a_command_well_or_with_one_clear_error(
    command: str, file: Path, tickets: list[Path], tmp_path: Path
) -> None:
    whole, tensors = document_of(file), load_file(file)
    path = tmp_path / "odd.safetensors"
    words = {"FILE": path, "OTHER": tickets[3], "OUT": tmp_path / "out", "OUT.safetensors": tmp_path / "o.safetensors"}
    Image.new("L", (8, 9)).save(tmp_path / "a.png")
    words["PICTURE"] = tmp_path / "a.png"
    read = [(at, value) for at, value in mutations(whole) if command == "inspect" or (at and at[0] in READ)]
    for at, value in random.Random(command).sample(read, 10):
        save_file(tensors, path, {"format": "pt", "lptool": json.dumps(mutated(whole, at, value))})
        ended = lptool(*(words.get(word, word) for word in COMMANDS[command]))
        lines = [line for line in ended.stderr.splitlines() if not line.startswith("Warning: ")]
        if ended.exit_code == 0:
            continue
        assert ended.exit_code == 1, (at, value, ended.exception)
        assert isinstance(ended.exception, SystemExit), (at, value, ended.exception)
        assert lines[0].startswith("Error: "), (at, value)
        assert "odd.safetensors" in ended.stderr, (at, value)
        assert all(line.startswith("  ") for line in lines[1:]), (at, value)  # a list of problems
