"""What timm is told of a network's weights, its `pretrained_cfg`: the images that they take, and their classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket

# What timm says of a network whatever its weights are; the rest of its own configuration (source, tag, licence, labels,
# sizes to test at) speaks of weights that are not ours.
_OF_NETWORK = ("fixed_input_size", "first_conv", "classifier")
# And of the images, where a ticket does not say what it was trained on.
_OF_IMAGES = ("interpolation", "crop_pct", "crop_mode", "mean", "std")


def pretrained_config(own: Mapping[str, Any], num_classes: int | None, metadata: Metadata) -> dict[str, Any]:
    """The `pretrained_cfg` of a network with the weights of a file, in values of JSON.

    Args:
        own: that of the network without weights; empty where timm does not know it.
        num_classes: of its logits; None where that is not known.
        metadata: of the file. `arch_kwargs` are what the network was built with.

    Returns:
        `input_size` (channels, height, width), `mean`, `std`, `interpolation`, `crop_pct` and `crop_mode` as the file
        says them; of what it does not say, what timm assumes for the network, which may be wrong; nothing of what
        neither says.

    >>> metadata = Metadata(dataset={"image_shape": [1, 8, 8], "mean": [0.3], "std": [0.4]})
    >>> pretrained_config({}, 10, metadata)["input_size"]
    [1, 8, 8]
    """
    said = {key: own[key] for key in (*_OF_NETWORK, *_OF_IMAGES, "input_size") if own.get(key) is not None}
    said = json.loads(json.dumps(said))  # lists, no tuples
    # No loader of the architecture's own: those read the files of its first authors.
    of_network = {**{key: said.get(key) for key in _OF_NETWORK}, "custom_load": False} if own else {}
    channels = metadata.arch_kwargs.get("in_chans") or 3
    classes = {} if num_classes is None else {"num_classes": num_classes}
    return {**of_network, **_assumed_images(said, channels), **images_said(metadata), **classes}


def own_config(model: nn.Module) -> Mapping[str, Any]:
    """What timm says of a network that it built; nothing for others."""
    found = getattr(model, "pretrained_cfg", None)
    return found if isinstance(found, Mapping) else {}


def describe_network(model: nn.Module, ticket: Ticket) -> None:
    """Say on a network what its weights are, as timm does: `pretrained_cfg`, `default_cfg` and `num_classes`.

    So `timm.data.resolve_model_data_config` prepares images as the file says, also for a network that timm does not
    know, and `pretrained_cfg["label_names"]` are the classes in the order of the logits, where the file names them.

    Args:
        ticket: as it fits the network.
    """
    metadata = _with_normalising_module(ticket)
    classes = getattr(model, "num_classes", None)
    if not isinstance(classes, int):
        classes = metadata.arch_kwargs.get("num_classes", metadata.data.num_classes)
    names = class_names(metadata, classes)
    config = {
        "architecture": (metadata.arch or "").partition(".")[0] if own_config(model) else metadata.arch,
        **pretrained_config(own_config(model), classes, metadata),
        **({"label_names": names} if names else {}),
    }
    known = {} if classes is None else {"num_classes": classes}
    for name, value in {"pretrained_cfg": config, "default_cfg": config, **known}.items():
        with suppress(AttributeError):  # a network of a user's own may have a property of that name
            setattr(model, name, value)


def _with_normalising_module(ticket: Ticket) -> Metadata:
    """What a file says, with the mean and std of a module that the network lacks, where nothing else says them."""
    metadata, names = ticket.metadata, ("normalize.mean", "normalize.std")
    if metadata.data.mean or metadata.data.std or not set(names) <= set(ticket.extras):
        return metadata
    mean, std = (ticket.extras[name].flatten().tolist() for name in names)
    return replace(metadata, dataset={**metadata.dataset, "mean": mean, "std": std})


def class_names(metadata: Metadata, num_classes: int | None) -> list[str]:
    """The names of the classes in the order of the logits; none where the file does not name that many."""
    names = metadata.data.class_names or metadata.timm_images.label_names
    return list(names) if len(names) == num_classes else []


def images_said(metadata: Metadata) -> dict[str, Any]:
    """How a file says that images become its network's input; empty where it says nothing.

    A file of ours: whole, scaled to their side, normalised. A folder of timm's: as its `config.json` has it.
    """
    data = metadata.data
    given = {"input_size": data.image_shape, "mean": data.mean, "std": data.std}
    found = {key: _plain(values) for key, values in given.items() if values}
    if not found:
        said = asdict(metadata.timm_images)
        return {key: _plain(said[key]) for key in ("input_size", *_OF_IMAGES) if said[key]}
    # `--image-size` scales arrays of pixels whole, and pictures by their shorter side.
    squashed = data.is_of_arrays and metadata.image_size is not None
    mode = "squash" if squashed else "center"
    return {**found, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": mode}


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def _assumed_images(own: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """What timm assumes of images for a network; of another number of channels it knows no mean and std."""
    found = {key: own[key] for key in _OF_IMAGES if key in own and (channels == 3 or key not in ("mean", "std"))}
    return {"input_size": [channels, *own["input_size"][1:]], **found} if "input_size" in own else found
