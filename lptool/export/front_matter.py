"""The YAML at the head of a model card, from which the Hub makes its filters, widgets and tables of results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lptool.checkpoints.masks import density
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.export.header import arch_name, data_name, score_in
from lptool.export.timm_config import timm_loads
from lptool.tables import percent

# Data sets by our names, as the Hub calls them.
_ON_HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
}


def front_matter(ticket: Ticket) -> str:
    """Library, task, tags, data and test accuracy, where they are known; no licence, which is its author's to give."""
    from huggingface_hub import ModelCardData

    metadata = ticket.metadata
    data = _data_id(metadata.dataset)
    result = _eval_result(metadata)
    card = ModelCardData(
        library_name="timm" if timm_loads(ticket) else "pytorch",
        pipeline_tag="image-classification",
        tags=_tags(ticket),
        datasets=[data] if data else None,
        metrics=["accuracy"] if result else None,
        model_name=title(ticket),
        eval_results=[result] if result else None,
    )
    if not result:
        card.pop("model_name")
    text: str = card.to_yaml()
    return text


def _tags(ticket: Ticket) -> list[str]:
    pooled = ["lottery-pools", "model-averaging"] if ticket.metadata.kind == "pooled" else []
    library = ["timm"] if timm_loads(ticket) else []
    return ["image-classification", *library, "pruning", "sparse", "lottery-ticket", *pooled, "lptool"]


def _eval_result(metadata: Metadata) -> Any:
    """Accuracy on test of the weights in the file, as the Hub's `model-index` has it; None where it is not known."""
    from huggingface_hub import EvalResult

    score = score_in(metadata.scores, "test", "pooled")
    if score is None:
        return None
    name = data_name(metadata.dataset) or "unknown"
    return EvalResult(
        task_type="image-classification",
        task_name="Image classification",
        dataset_type=_data_id(metadata.dataset) or name,
        dataset_name=name,
        dataset_split="test",
        metric_type="accuracy",
        metric_name="Test accuracy",
        metric_value=score["accuracy"],
    )


def _data_id(dataset: Mapping[str, Any]) -> str | None:
    """The data set's id on the Hub, where it is known to be there."""
    name = dataset.get("name")
    if not isinstance(name, str):
        return None
    found = name.removeprefix("hfds/") if name.startswith("hfds/") else _ON_HUB.get(name)
    return found if found and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", found, re.ASCII) else None


def title(ticket: Ticket) -> str:
    """What it is, in one line."""
    arch = arch_name(ticket.metadata.arch) or "A network"
    kind = "pooled" if ticket.metadata.kind == "pooled" else "lottery ticket"
    return f"{arch}, {kind}" + (f", {percent(1 - density(ticket.mask))} sparse" if ticket.mask else "")
