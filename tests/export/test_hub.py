"""Uploads: what is checked before, what is asked of huggingface_hub, and how its failures read."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.utils import LocalTokenNotFoundError, OfflineModeIsEnabled
from safetensors.torch import save_file

from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.writing import save_packed, save_ticket
from lptool.errors import HubError, LptoolError
from lptool.export.hub import check_repo, plan_push, private_names, push
from tests.helpers.hub_folder import URL, stand_in, written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "folder")


def refused(folder: Path, repo: str = "me/net") -> str:
    with pytest.raises(HubError) as caught:
        push(folder, repo)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_plan_is_every_file_with_its_bytes(folder: Path) -> None:
    assert dict(plan_push(folder)) == {p.name: p.stat().st_size for p in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "not JSON"),
        ("config.json", "[]", "names no architecture"),
        ("config.json", '{"architecture": 3}', "names no architecture"),
        ("README.md", "---\na: [b\n---\n", "its YAML cannot be read"),
        ("README.md", "---\n- a\n---\n", "its YAML cannot be read"),
        ("model.safetensors", "", "not a whole safetensors file"),
        (".env", "HF_TOKEN=x", r"holds \.env, which lptool did not write"),
    ],
)
def test_what_is_not_as_written_is_refused(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(LptoolError, match=message) as caught:
        plan_push(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "README.md", "model.safetensors"])
def test_what_lacks_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(HubError, match=f"lacks {name}"):
        plan_push(folder)


def test_no_folder_and_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="not a folder"):
        plan_push(tmp_path / "nothing")
    weights = folder / "model.safetensors"
    cut = weights.read_bytes()[:-1]
    save_packed(load_ticket(weights), weights)
    with pytest.raises(HubError, match="packed, which timm cannot load"):
        plan_push(folder)
    save_file({"w": torch.tensor([float("nan")])}, weights)
    with pytest.raises(LptoolError, match="w holds NaN"):
        plan_push(folder)
    weights.write_bytes(cut)
    with pytest.raises(LptoolError, match="not a whole safetensors file"):
        plan_push(folder)


@pytest.mark.parametrize("repo", ["net", "", "a/b/c", "me/net.git", "me/a--b", "me/ö", "-me/net", "me/", "me/a b"])
def test_names_are_checked_offline(folder: Path, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch)
    assert "not the name of a repository" in refused(folder, repo)
    assert calls == []


def test_a_good_name() -> None:
    check_repo("me/resnet18.pooled_95")


def test_it_makes_the_repository_and_uploads_what_it_planned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch)
    assert push(folder, "me/net", private=True, message="why") == URL
    names = [name for name, _ in plan_push(folder)]
    assert calls == [
        ("create_repo", {"repo": "me/net", "private": True, "exist_ok": True}),
        (
            "upload_folder",
            {
                "repo_id": "me/net",
                "folder_path": folder,
                "revision": None,
                "commit_message": "why",
                "allow_patterns": names,
            },
        ),
    ]


@pytest.mark.parametrize(("revision", "made"), [("level-5", True), ("refs/pr/1", False)])
def test_a_branch_is_made_where_there_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, revision: str, made: bool
) -> None:
    calls = stand_in(monkeypatch)
    assert push(folder, "me/net", revision=revision) == f"{URL}/tree/{revision}"
    branch = ("create_branch", {"repo": "me/net", "branch": revision, "exist_ok": True})
    assert (branch in calls) == made
    assert calls[-1][1]["revision"] == revision


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalTokenNotFoundError("Token is required"), "run `hf auth login`"),
        (OfflineModeIsEnabled("offline"), "unset HF_HUB_OFFLINE"),
        (ConnectionError("refused"), "cannot be reached (refused); check the network"),
        (TimeoutError(), "cannot be reached (TimeoutError)"),
        (ValueError("what\nnobody expects"), "what; the folder is as it was"),
    ],
)
def test_failures_say_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    stand_in(monkeypatch, error)
    assert message in refused(folder)


@contextmanager
def hub_that_answers(status: int, document: dict[str, str]) -> Iterator[str]:
    """A server on this machine that refuses everything; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *given: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **given: HfApi(endpoint=address, token="hf_x", **given))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "you are not logged in to the Hub; run `hf auth login`"),
        (403, "your token may not write to me/net; run `hf auth login`"),
        (404, "no such repository, user or revision"),
        (500, "because of this; the folder is as it was"),
    ],
)
def test_what_the_hub_refuses_says_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    """Through huggingface_hub itself, as it turns answers into errors."""
    with hub_that_answers(status, {"error": "because of this"}) as address:
        at(address, monkeypatch)
        assert message in refused(folder)


def test_without_a_network_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_that_answers(200, {}) as address:
        pass  # nobody listens there any more
    at(address, monkeypatch)
    assert "the Hub cannot be reached" in refused(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
def test_no_link_is_followed(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(HubError, match=f"{name} is a symbolic link"):
        plan_push(folder)


@pytest.mark.parametrize("path", ["/home/me/net.py", "~/net.py", "C:\\\\Users\\\\me"])
def test_what_names_a_place_on_this_machine_is_not_uploaded(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert private_names(folder) == {}
    calls = stand_in(monkeypatch)
    (folder / "trace.json").write_text(f'{{"file": "{path}"}}')
    assert list(private_names(folder)) == ["trace.json"]
    assert "write the folder again: lptool convert" in refused(folder)
    assert calls == []


def test_an_old_header_is_searched_too(folder: Path) -> None:
    ticket = load_ticket(folder)
    save_ticket(
        replace(ticket, metadata=replace(ticket.metadata, arch="/home/me/net.py:net")), folder / "model.safetensors"
    )
    assert "/home/me/net.py" in private_names(folder)["model.safetensors"]


def test_a_card_may_say_what_its_author_likes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch)
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nPut it into /usr/share/nets.\n")
    assert list(private_names(folder)) == ["README.md"]
    push(folder, "me/net")
    assert calls
