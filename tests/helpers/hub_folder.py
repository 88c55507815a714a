"""A folder as the tool writes it, and a Hub that notes what it is asked, for the tests of uploading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.export.folder import write_folder

URL = "https://hub.example/me/net"


def written(folder: Path) -> Path:
    """A network that timm does not know, so that none has to be built."""
    folder.mkdir()
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    metadata = Metadata(arch="nets:make", prunable=("fc.weight",))
    ticket = Ticket({"fc.weight": weight}, {"fc.weight": weight != 0}, metadata)
    write_folder(ticket, folder, command="lptool pool runs -o out", documents={"trace.json": "{}"})
    return folder


def stand_in(monkeypatch: pytest.MonkeyPatch, failing: Exception | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Put it in place of HfApi; its calls come back by name and arguments, and the upload raises what is given."""
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def __init__(self, **given: Any) -> None:
            pass

        def create_repo(self, repo: str, **given: Any) -> str:
            calls.append(("create_repo", {"repo": repo, **given}))
            return URL

        def create_branch(self, repo: str, **given: Any) -> None:
            calls.append(("create_branch", {"repo": repo, **given}))

        def upload_folder(self, **given: Any) -> None:
            calls.append(("upload_folder", given))
            if failing:
                raise failing

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return calls
