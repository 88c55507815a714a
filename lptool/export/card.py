"""The model card of a ticket: the README.md of a folder or a Hub repository. Its words stand in `card.md.j2`.

A header may come from another program and lack any part, or hold what nobody expects there: such a part is left out.
Names come without the folders of the machine they were written on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from lptool.checkpoints.header import MEASURED_ON, ROWS, SavedScore, SearchRecord
from lptool.checkpoints.masks import Mask, density
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import Sizes
from lptool.errors import one_line, printable
from lptool.export.timm_config import is_timm, timm_loads
from lptool.networks.cifar import OWN_ARCHS
from lptool.pooling.verdict import recorded
from lptool.provenance import arch_name, base_name, command_without_folders, data_name
from lptool.scoring.metrics import wilson_interval
from lptool.tables import Table, markdown, percent

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_TEMPLATE = Path(__file__).with_name("card.md.j2")

# Data sets by our names, as the Hub calls them.
_ON_HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
}


def model_card(
    ticket: Ticket, *, command: str | None, sizes: Sizes | None, files: Collection[str], license: str | None = None
) -> str:
    """The text of README.md: YAML front matter as the Hub reads it, then Markdown.

    Folders that the ticket's header names are cut off, and so are those of absolute paths in the command.

    Args:
        ticket: as it is written.
        command: what made it, ready for a shell.
        sizes: of the files that it makes, in bytes.
        files: names of what lies in the folder.
        license: its identifier on the Hub; where none is given, none is claimed.
    """
    from huggingface_hub import ModelCard

    metadata, arch = ticket.metadata, ticket.metadata.arch or ""
    card = ModelCard.from_template(
        card_data(ticket, license),
        template_path=str(_TEMPLATE),
        code=code,
        block=block,
        table=table,
        base_name=base_name,
        title=title(ticket, code),
        metadata=metadata,
        pooled=_is_pooled(metadata),
        arch=arch_name(arch),
        data_name=data_name(metadata.data.name),
        kept=sum(int(mask.count_nonzero()) for mask in ticket.mask.values()),
        total=sum(mask.numel() for mask in ticket.mask.values()),
        results=_results(metadata),
        measured_on=MEASURED_ON.get(metadata.search.measured or ""),
        shipped=ROWS.get(metadata.search.shipped or "pooled", "pooled"),
        verdict=recorded(metadata.search),
        members=_members(metadata.search),
        coefficients=_coefficients(metadata.search),
        with_timm=timm_loads(ticket),
        with_lptool=not arch or ":" in arch or is_timm(arch),  # what nothing here knows, nothing here can build
        named=json.dumps(arch_name(arch)) if ":" in arch else "",  # its file may lie elsewhere here
        ours=arch in OWN_ARCHS,
        layers=_layers(ticket.mask),
        sizes=sizes,
        command=command_without_folders(printable(command or "")),
        files=sorted(set(files)),
    )
    return f"{card}\n"


# The YAML at its head


def card_data(ticket: Ticket, license: str | None = None) -> ModelCardData:
    """Library, task, tags, data and test accuracy, from which the Hub makes its filters, widgets and tables of results.

    What is not known is left out, and so is a licence that nobody gave.
    """
    from huggingface_hub import ModelCardData

    data, result = _data_id(ticket.metadata.data.name), _eval_result(ticket.metadata)
    pooled = ["lottery-pools", "model-averaging"] if _is_pooled(ticket.metadata) else []
    library = ["timm"] if timm_loads(ticket) else []
    return ModelCardData(
        license=license,
        library_name="timm" if library else "pytorch",
        pipeline_tag="image-classification",
        tags=["image-classification", *library, "pruning", "sparse", "lottery-ticket", *pooled, "lptool"],
        datasets=[data] if data else None,
        metrics=["accuracy"] if result else None,
        model_name=title(ticket) if result else None,
        eval_results=[result] if result else None,
    )


def _is_pooled(metadata: Metadata) -> bool:
    return metadata.kind == "pooled" and not metadata.search.is_control


def _eval_result(metadata: Metadata) -> EvalResult | None:
    """Accuracy on test of the weights in the file, as the Hub's `model-index` has it; None where it is not known."""
    from huggingface_hub import EvalResult

    held = "pooled" if _is_pooled(metadata) else metadata.search.shipped or "pooled"
    score = metadata.score("test", held)
    if score is None:
        return None
    name = data_name(metadata.data.name) or "unknown"
    return EvalResult(
        task_type="image-classification",
        task_name="Image classification",
        dataset_type=_data_id(metadata.data.name) or name,
        dataset_name=name,
        dataset_split="test",
        metric_type="accuracy",
        metric_name="Test accuracy",
        metric_value=score.accuracy,
    )


def _data_id(name: str | None) -> str | None:
    """The data set's id on the Hub, where it is known to be there."""
    found = name.removeprefix("hfds/") if name and name.startswith("hfds/") else _ON_HUB.get(name or "")
    return found if found and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", found, re.ASCII) else None


# Its tables


def _results(metadata: Metadata) -> str:
    head = ("", "val accuracy", "val NLL", "test accuracy [95 %]", "test NLL", "test images")
    rows = []
    for row, label in ROWS.items():
        val, test = metadata.score("val", row), metadata.score("test", row)
        if val or test:
            on_val = [percent(val.accuracy), _cell(val.nll, ".4f")] if val else ["–"] * 2
            on_test = [_interval(test), _cell(test.nll, ".4f"), f"{test.n:,}"] if test else ["–"] * 3
            rows.append([label, *on_val, *on_test])
    return table(head, rows)


def _interval(score: SavedScore) -> str:
    """The accuracy with its Wilson interval."""
    low, high = wilson_interval(round(score.accuracy * score.n), score.n)
    return f"{percent(score.accuracy)} [{100 * low:.2f}, {100 * high:.2f}]"


def _members(search: SearchRecord) -> str:
    """The candidates in the order in which the search took them."""
    verdicts = {True: "yes", False: "no", None: "–"}
    rows = [
        [code(base_name(m.file or "")), _cell(m.level, "d"), _cell(m.alpha, ".3g"), verdicts[m.accepted]]
        for m in search.members
    ]
    return table(("file", "level", "alpha", "accepted"), rows)


def _coefficients(search: SearchRecord) -> str:
    """What each group of tensors takes of each ticket, densest first; by level, where the search names them all."""
    found = search.coefficients
    if found is None:
        return ""
    count = len(found.values[0])
    levels = {ticket.level for ticket in (search.target, *search.members) if ticket.level is not None}
    names = [f"level {n}" for n in sorted(levels)] if len(levels) == count else [str(n + 1) for n in range(count)]
    rows = zip(found.groups, found.values, strict=True)
    return table(("group", *names), [[code(group), *(f"{value:.3f}" for value in row)] for group, row in rows])


def _layers(masks: Mask) -> str:
    head = ("tensor", "shape", "kept / total", "sparsity")
    return table(head, [_layer_row(name, mask) for name, mask in masks.items()])


def _layer_row(name: str, mask: Tensor) -> list[str]:
    kept = f"{int(mask.count_nonzero()):,} / {mask.numel():,}"
    return [code(name), "×".join(map(str, mask.shape)), kept, percent(1 - density({name: mask}))]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown; nothing where there are no rows."""
    return markdown(Table("", head, rows)) if rows else ""


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


# Names and code


def title(ticket: Ticket, shown: Callable[[str], str] = str) -> str:
    """What it is, in one line, with the name of the architecture as `shown` spells it."""
    arch = ticket.metadata.arch
    name = shown(arch_name(arch)) if arch else "A network"
    made = _is_pooled(ticket.metadata) and (ticket.metadata.search.shipped or "pooled") == "pooled"
    kind = "pooled" if made else "lottery ticket"
    return f"{name}, {kind}" + (f", {percent(1 - density(ticket.mask))} sparse" if ticket.mask else "")


def code(text: str) -> str:
    """As code, in which no character means anything to Markdown."""
    text = one_line(text)
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}" if text else "–"


def block(text: str, language: str) -> str:
    """Lines of code behind a fence that they do not hold."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"
