"""A ticket as a folder that timm loads and the Hub takes: there whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lptool.checkpoints.packed import PackError
from lptool.checkpoints.places import WEIGHTS
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import Sizes, save_ticket, sizes_of
from lptool.export.card import model_card
from lptool.export.timm_config import as_timm_config, for_timm, transformers_config


def for_folder(ticket: Ticket) -> Ticket:
    """The same ticket as a folder holds it: as timm loads it, and saying nothing of where files lie on this machine.

    Raises:
        ArchError: the ticket does not say its architecture, or does not fit it.
    """
    found = for_timm(ticket)
    return replace(found, metadata=found.metadata.without_folders())


def write_folder(
    ticket: Ticket, into: Path, *, command: str | None, documents: Mapping[str, str], license: str | None = None
) -> None:
    """Fill an empty folder: with the weights as `for_folder` has them, and with what `describe_weights` says of them.

    Raises:
        ArchError: the ticket does not say its architecture, or does not fit it.
        OutputError, OSError: a file cannot be written.
    """
    save_ticket(for_folder(ticket), into / WEIGHTS)
    describe_weights(into, made_from=ticket.file, command=command, documents=documents, license=license)


def describe_weights(
    into: Path,
    *,
    made_from: str | Path,
    command: str | None,
    documents: Mapping[str, str],
    license: str | None = None,
) -> None:
    """Write beside the weights of a folder timm's `config.json`, the card, and what else there is to say.

    Args:
        into: the folder, with a `model.safetensors` as `for_folder` has it.
        made_from: the checkpoint whose names the weights have, for what lies beside it (see `transformers_config`).
        command: what made the weights, for the card.
        documents: file name → text, such as `trace.json`.
        license: its identifier on the Hub, for the card.

    Raises:
        ArchError: the weights do not say their architecture.
        OSError: a file cannot be written.
    """
    ticket = load_ticket(into / WEIGHTS)  # what was written, so that no word differs from the file
    config = {**transformers_config(made_from), **as_timm_config(ticket)}
    texts = {"config.json": json.dumps(config, indent=2) + "\n", **documents}
    files = {WEIGHTS, "README.md", *texts}
    texts["README.md"] = model_card(ticket, command=command, sizes=_sizes(ticket), files=files, license=license)
    for name, text in texts.items():
        (into / name).write_text(text, encoding="utf-8", newline="\n")


def _sizes(ticket: Ticket) -> Sizes | None:
    """What the files weigh; None for the rare ticket that cannot be packed."""
    try:
        return sizes_of(ticket)
    except PackError:
        return None
