"""From a folder to the Hugging Face Hub: everything that can be checked is checked before anything is sent.

huggingface_hub is imported inside functions: most of this tool does without it.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from lptool.checkpoints.containers import PACKED
from lptool.checkpoints.places import FILES, WEIGHTS, strangers
from lptool.checkpoints.reading import open_checkpoint
from lptool.errors import CheckpointError, HubError, first_line, first_ten, one_line

MESSAGE = "Upload a sparse model made with lptool"  # of a commit

_NEEDED = ("model.safetensors", "config.json", "README.md")
# A path from the root, a home or a drive, in the text of any file; not an address, nor the end of a tag.
_PRIVATE = re.compile(r"(?<![\w.:/<+=,-])(?:/[\w.-]+|~|[A-Za-z]:\\{1,2}[\w.-]+)(?:[\\/]{1,2}[\w.-]+)+")
_LOG_IN = "run `hf auth login` with a token that may write, or set HF_TOKEN"
# What is wrong with the connection, by the names of errors of httpx, requests and Python: which of the two first
# huggingface_hub uses depends on its version.
_UNREACHABLE = {"TransportError", "RequestException", "ConnectionError", "TimeoutError"}


def plan_push(folder: str | Path) -> list[tuple[str, int]]:
    """The files that a push would upload, with their bytes. Sends nothing.

    Raises:
        HubError: the folder is not one that this tool writes, or holds other files, which would be uploaded too.
        CheckpointError: the weights are damaged.
    """
    folder = Path(folder)
    try:
        _check_names(folder)
        _check_links(folder)
        _check_config(folder / "config.json")
        _check_card(folder / "README.md")
        _check_weights(folder / "model.safetensors")
        return [(name, (folder / name).stat().st_size) for name in FILES if (folder / name).exists()]
    except OSError as error:
        raise HubError(f"{folder}: cannot be read ({error.strerror or error}); check the name") from error


def private_names(folder: str | Path) -> dict[str, str]:
    """What the files of a checked folder say of where things lie on this machine: file name → a line that says so.

    `write_folder` writes no such thing; an older lptool did, and people do.
    """
    folder = Path(folder)
    texts = {name: (folder / name).read_text("utf-8", "replace") for name in FILES if (folder / name).exists()}
    texts[WEIGHTS] = open_checkpoint(folder / WEIGHTS).metadata.to_json(0)
    found = {name: _PRIVATE.search(text) for name, text in texts.items()}
    return {
        name: f"{folder / name}: names {one_line(path[0])}, a place on a machine, which all could read"
        for name, path in found.items()
        if path
    }


def missing_license(folder: str | Path) -> list[str]:
    """A line where the card of a checked folder gives no licence: then nobody may use the model."""
    from huggingface_hub import ModelCard

    card = Path(folder) / "README.md"
    if ModelCard(card.read_text(encoding="utf-8")).data.get("license"):
        return []
    again = shlex.join(["lptool", "convert", str(folder), "NEW/", "--license"])
    return [
        f"{card}: gives no licence, so others may not know what they may do; {again} ID writes one, or add it there"
    ]


def check_repo(repo: str) -> None:
    """Refuse what cannot be the name of a repository, without asking the Hub. Raises HubError."""
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except ValueError as error:
        raise HubError(f"{repo!r}: not the name of a repository: {first_line(error)}") from error
    if repo.count("/") != 1 or not repo.isascii():  # of which older huggingface_hub says nothing
        raise HubError(f"{repo!r}: not the name of a repository; expected user/name")


def push(
    folder: str | Path, repo: str, *, private: bool = False, revision: str | None = None, message: str = MESSAGE
) -> str:
    """Upload a folder; the repository is made where there is none.

    Args:
        folder: as `write_folder` fills it.
        repo: `user/name`.
        private: of a repository that is made; one that exists stays as it is.
        revision: branch to upload to, made where there is none; by default the main one.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        HubError: the folder or the name is not right, or the Hub does not take it; says what to do.
        CheckpointError: the weights are damaged.
    """
    check_repo(repo)
    files = [name for name, _ in plan_push(folder)]
    # The card may be in a person's own words; the others are lptool's.
    named = next((line for name, line in private_names(folder).items() if name != "README.md"), None)
    if named:
        again = shlex.join(["lptool", "convert", str(folder), "NEW/"])
        raise HubError(f"{named}; write the folder again: {again}")
    try:
        from huggingface_hub import HfApi

        api = HfApi(library_name="lptool")
        url = str(api.create_repo(repo, private=private, exist_ok=True))
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, revision=revision, commit_message=message, allow_patterns=files
        )
    except Exception as error:  # huggingface_hub's own, those of the library it sends with, and of the system
        raise HubError(f"{repo}: not uploaded: {_advice(error, repo)}") from error
    return url if revision is None else f"{url}/tree/{revision}"


def _check_names(folder: Path) -> None:
    if not folder.is_dir():
        raise HubError(f"{folder}: not a folder; expected one that `lptool pool … -o DIR` wrote")
    absent = [name for name in _NEEDED if not (folder / name).is_file()]
    if absent:
        raise HubError(f"{folder}: lacks {', '.join(absent)}; expected a folder that `lptool pool … -o DIR` wrote")
    others = strangers(folder)
    if others:
        raise HubError(f"{folder}: holds {first_ten(others, ', ')}, which lptool did not write; move it away first")


def _check_links(folder: Path) -> None:
    """A link would upload what lies elsewhere."""
    links = [name for name in FILES if (folder / name).is_symlink()]
    if links:
        raise HubError(f"{folder}: {first_ten(links, ', ')} is a symbolic link; put the file itself there")


def _check_config(file: Path) -> None:
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise HubError(f"{file}: not JSON ({first_line(error)}); write the folder again") from error
    if not isinstance(document, dict) or not isinstance(document.get("architecture"), str):
        raise HubError(f"{file}: names no architecture; write the folder again")


def _check_card(file: Path) -> None:
    """The Hub refuses a card whose front matter it cannot read; a person may have edited it."""
    from huggingface_hub import ModelCard

    try:
        ModelCard(file.read_text(encoding="utf-8"))
    except OSError:
        raise
    except Exception as error:  # of YAML, of UTF-8, or huggingface_hub's own
        raise HubError(f"{file}: its YAML cannot be read ({first_line(error)}); mend it") from error


def _check_weights(file: Path) -> None:
    """Read every tensor once. timm reads dense ones alone."""
    checkpoint = open_checkpoint(file)
    if checkpoint.contents.format == PACKED:
        raise HubError(f"{file}: packed, which timm cannot load; write the folder again, with dense weights")
    broken = [name for name in checkpoint.layout if not bool(checkpoint.tensor(name).isfinite().all())]
    if broken:
        raise CheckpointError(f"{file}: {first_ten(broken, ', ')} holds NaN or infinite values")


def _advice(error: Exception, repo: str) -> str:
    """What to do about whatever huggingface_hub raises."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "LocalTokenNotFoundError" in kinds or status == 401:
        return f"you are not logged in to the Hub; {_LOG_IN}"
    if status == 403:
        return f"your token may not write to {repo}; {_LOG_IN}"
    if status == 404:
        return f"the Hub knows no such repository, user or revision ({_reason(error)}); check the name, and {_LOG_IN}"
    if "OfflineModeIsEnabled" in kinds:
        return "huggingface_hub is told to stay offline; unset HF_HUB_OFFLINE"
    if status is None and kinds & _UNREACHABLE:  # requests counts answers with an error among its exceptions too
        return f"the Hub cannot be reached ({first_line(error)}); check the network and try again"
    return f"{_reason(error)}; the folder is as it was, try again"


def _reason(error: Exception) -> str:
    """What the Hub itself says, where it says something."""
    return str(getattr(error, "server_message", None) or first_line(error)).splitlines()[0]
