"""`lptool push`: a folder to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lptool.cli.ending import clear_errors
from lptool.cli.options import JSON, PATH, SectionedCommand, option, options_of
from lptool.cli.output import Document, print_result, warn

if TYPE_CHECKING:
    from rich.console import RenderableType

OPTIONS = {
    "Options": [
        option("--private", is_flag=True, help="Nobody else may see a repository that is made."),
        option("--revision", metavar="R", help="Branch to upload to, made where there is none. [main]"),
        option("-m", "--message", metavar="M", help="Of the commit. [that a sparse model is uploaded]"),
        option("--dry-run", is_flag=True, help="Check everything, say what would be uploaded, and send nothing."),
        JSON,
    ]
}


@click.command(cls=SectionedCommand)
@click.argument("folder", type=PATH, metavar="DIR")
@click.argument("repo", metavar="USER/REPO")
@options_of(OPTIONS)
@clear_errors
def push(
    folder: Path, repo: str, private: bool, revision: str | None, message: str | None, dry_run: bool, as_json: bool
) -> None:
    """Upload a folder with a model, its configuration and its card to the Hugging Face Hub.

    \b
    lptool push pooled-digits me/pooled-digits --dry-run
    lptool push pooled-digits me/pooled-digits --private
    lptool push pooled-digits me/pooled-digits --revision level-5 -m "Level 5"
    """
    from lptool.export import hub

    hub.check_repo(repo)
    files = hub.plan_push(folder)
    message = message or hub.MESSAGE
    warnings = [*hub.private_names(folder).values(), *hub.missing_license(folder)]
    url = None if dry_run else hub.push(folder, repo, private=private, revision=revision, message=message)
    warn(warnings)  # after what refuses most of them
    document: Document = {
        "folder": str(folder),
        "repo": repo,
        "revision": revision,
        "private": private,
        "message": message,
        "files": [{"file": name, "bytes": size} for name, size in files],
        "bytes": sum(size for _, size in files),
        "warnings": warnings,
        "uploaded": not dry_run,
        "url": url,
    }
    print_result(document, _views(document), as_json=as_json)


def _views(document: Document) -> Sequence[RenderableType]:
    from lptool.report.terminal import on_terminal
    from lptool.tables import Table

    rows = [[file["file"], f"{file['bytes']:,}"] for file in document["files"]]
    table = on_terminal(Table(document["folder"], ["file", "bytes"], [*rows, ["all", f"{document['bytes']:,}"]]))
    if document["uploaded"]:
        return table, f"uploaded to {document['url']}"
    kind = "private repository" if document["private"] else "repository"
    where = f"{kind} {document['repo']}, revision {document['revision'] or 'main'}"
    return table, f"nothing sent; would go to the {where}"
