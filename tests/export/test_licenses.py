"""Licences by the Hub's identifiers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.errors import HubError
from lptool.export.licenses import LICENSES, license_id, license_notes
from tests.helpers.commands import lptool, refused_usage
from tests.helpers.hub_folder import stand_in, written


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A ticket of a network that timm does not know, so that none has to be built."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    metadata = Metadata(arch="nets:make", prunable=("fc.weight",), dataset={"name": "digits", "mean": [0], "std": [1]})
    save_ticket(Ticket({"fc.weight": weight}, {"fc.weight": weight != 0}, metadata), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("known", LICENSES)
def test_every_identifier_is_one_and_says_nothing_more(known: str) -> None:
    assert license_id(known.upper()) == known
    assert (license_notes(known) == []) == (known != "other")


@pytest.mark.parametrize("text", ["", "the MIT license", "mit\nlibrary_name: x", "mit: yes", "-", "©"])
def test_what_cannot_be_an_identifier_is_refused(text: str) -> None:
    with pytest.raises(HubError, match=r"license: expected an identifier such as mit or apache-2.0, found"):
        license_id(text)


def test_an_identifier_that_is_not_known_is_taken_and_told() -> None:
    assert license_id("apache2.0") == "apache2.0"
    assert "Did you mean 'apache-2.0'?" in license_notes("apache2.0")[0]
    assert license_notes(None) == []


def test_a_card_says_the_licence_that_was_given_and_else_none(file: Path, tmp_path: Path) -> None:
    for name, given, expected in (("none", [], None), ("some", ["--license", "Apache-2.0"], "apache-2.0")):
        result = lptool("convert", file, f"{tmp_path / name}/", *given)
        assert result.exit_code == 0, result.output
        assert "license" not in result.stderr
        text = (tmp_path / name / "README.md").read_text()
        assert ModelCard(text).data.get("license") == expected
        assert bool(re.search("^license: ", text, re.M)) == (expected is not None)


def test_an_unknown_licence_is_told_once(file: Path, tmp_path: Path) -> None:
    result = lptool("convert", file, f"{tmp_path}/out/", "--license", "my-own")
    assert (result.exit_code, result.stderr.count("--license my-own: lptool does not know it")) == (0, 1)
    assert ModelCard((tmp_path / "out" / "README.md").read_text()).data.get("license") == "my-own"


def test_a_licence_that_is_none_or_of_a_file_is_refused_before_anything_is_written(file: Path, tmp_path: Path) -> None:
    said = refused_usage(lptool("convert", file, f"{tmp_path}/out/", "--license", "a b"))
    assert said.startswith(
        "Invalid value for '--license': expected an identifier such as mit or apache-2.0, found 'a b'"
    )
    said = refused_usage(lptool("convert", file, tmp_path / "b.safetensors", "--license", "mit"))
    assert said == "--license stands in the card of a folder; name a folder as the output (such as my-model/)"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_push_says_where_a_licence_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    folder = written(tmp_path / "folder")
    said = f"{folder}/README.md: gives no licence"
    assert said in lptool("push", folder, "me/net", "--dry-run").stderr
    assert said in lptool("push", folder, "me/net").stderr
    card = folder / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: mit\n", 1))
    assert "licence" not in lptool("push", folder, "me/net").stderr
