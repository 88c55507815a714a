"""A ticket as timm reads it: the `config.json` of a folder or a Hub repository, and tensors under timm's names.

Transformers reads a file of the same name. Their keys are different ones, so one document serves both.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lptool.checkpoints.files import content_of
from lptool.checkpoints.metadata import Metadata, check_depth
from lptool.checkpoints.ticket import Ticket
from lptool.device import import_timm
from lptool.errors import ArchError, said_by
from lptool.networks.building import build_for
from lptool.networks.matching import fit_names
from lptool.networks.pretrained import class_names, own_config, pretrained_config
from lptool.provenance import without_folders

timm = import_timm()


def is_timm(arch: str | None) -> bool:
    """Whether timm, with our networks registered, knows an architecture of this name."""
    return arch is not None and ":" not in arch and bool(timm.is_model(arch))


def timm_loads(ticket: Ticket) -> bool:
    """Whether the file of a ticket holds the tensors of a network that timm knows, under its names and no others."""
    return ticket.plain_names and is_timm(ticket.metadata.arch)


def as_timm_config(ticket: Ticket) -> dict[str, Any]:
    """The document of `config.json`, with which timm loads the ticket from a folder or the Hub.

    It holds JSON values alone. Of an architecture that timm does not know nothing is built, and the document says only
    what the ticket does.

    Raises:
        ArchError: the ticket does not say its architecture, or it cannot be built.

    >>> import lptool
    >>> from lptool.networks.building import build_model
    >>> model = build_model("resnet8_cifar", num_classes=10)
    >>> ticket = lptool.Ticket(model.state_dict(), {}, Metadata(arch="resnet8_cifar", arch_kwargs={"num_classes": 10}))
    >>> config = lptool.as_timm_config(ticket)
    >>> config["architecture"], config["num_classes"], config["pretrained_cfg"]["input_size"]
    ('resnet8_cifar', 10, [3, 32, 32])
    """
    arch = _arch_of(ticket)
    if not is_timm(arch):
        return _foreign_config(arch, ticket.metadata)
    model: Any = _empty_network(ticket)
    return {
        "architecture": arch.partition(".")[0],  # a tag, as in `resnet18.a1_in1k`, names weights of timm's
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        **_model_args(ticket.metadata),
        **_labels(ticket.metadata, model.num_classes),
        "pretrained_cfg": pretrained_config(own_config(model), model.num_classes, ticket.metadata),
    }


def for_timm(ticket: Ticket) -> Ticket:
    """The same ticket as timm loads it: under the network's own names, and without tensors that are no part of it.

    So timm loads the ticket whatever program it came from. A ticket of another program's network comes back as it is.

    Raises:
        ArchError: the ticket does not say its architecture, or does not fit it.
    """
    arch = _arch_of(ticket)
    if not is_timm(arch):
        return ticket
    found = ticket.renamed(fit_names(_empty_network(ticket), ticket.shapes, arch, ticket.file))
    metadata = replace(found.metadata, prunable=tuple(found.mask))
    return replace(found, metadata=metadata, own_names={}, extras={})


_BY_TRANSFORMERS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")
_LABELS = ("id2label", "label2id")  # a class may be named as a file is


def transformers_config(checkpoint: str | Path) -> dict[str, Any]:
    """What transformers says of a network in the folder of its checkpoint, so that it loads the pooled one as well.

    Without what it says of a machine or a download (`_name_or_path`), and without the folders of files. Empty where no
    such `config.json` lies there; what cannot be read says nothing.
    """
    checkpoint = Path(checkpoint)
    if not _BY_TRANSFORMERS.fullmatch(checkpoint.name):
        return {}
    try:
        document = json.loads(content_of(checkpoint.with_name("config.json")))
        check_depth(document)
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict) or not isinstance(document.get("model_type"), str):
        return {}
    public = {name: value for name, value in document.items() if not name.startswith("_")}
    return {name: value if name in _LABELS else without_folders(value) for name, value in public.items()}


def _arch_of(ticket: Ticket) -> str:
    if ticket.metadata.arch is None:
        raise ArchError(f"{ticket.file}: does not say its architecture; name it with --arch")
    return ticket.metadata.arch


def _empty_network(ticket: Ticket) -> nn.Module:
    """The network with its names and shapes, and no memory for its weights."""
    with torch.device("meta"), said_by(ticket.file):
        return build_for(_arch_of(ticket), ticket.metadata.arch_kwargs, ticket.shapes)


def _model_args(metadata: Metadata) -> dict[str, Any]:
    """What to build the network with, beside the classes, which timm reads elsewhere."""
    kwargs = {name: value for name, value in metadata.arch_kwargs.items() if value is not None}
    kwargs.pop("num_classes", None)
    return {"model_args": kwargs} if kwargs else {}


def _foreign_config(arch: str, metadata: Metadata) -> dict[str, Any]:
    classes = metadata.arch_kwargs.get("num_classes", metadata.data.num_classes)
    known = {"num_classes": classes} if classes is not None else {}
    said = {**known, **_model_args(metadata), **_labels(metadata, classes)}
    return {"architecture": arch, **said, "pretrained_cfg": pretrained_config({}, classes, metadata)}


def _labels(metadata: Metadata, num_classes: int | None) -> dict[str, list[str]]:
    names = class_names(metadata, num_classes)
    return {"label_names": names} if names else {}
