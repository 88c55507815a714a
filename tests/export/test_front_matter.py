"""Front matter against PyYAML and huggingface_hub."""

import pytest
import torch
import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.utils import validate_repo_id

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.export.front_matter import front_matter, title

SCORES = {"test": {"pooled": {"accuracy": 0.75, "nll": 0.5, "n": 400}}}


def ticket(arch: str | None = "resnet18", kind: str = "pooled", data: str = "cifar10") -> Ticket:
    mask = {"fc.weight": torch.tensor([True, False, False, False])}
    return Ticket({}, mask, Metadata(kind=kind, arch=arch, dataset={"name": data}, scores=SCORES))


def test_it_says_library_data_and_accuracy() -> None:
    document = yaml.safe_load(front_matter(ticket()))
    card = ModelCardData(**document)
    assert (card.library_name, card.pipeline_tag, card.license) == ("timm", "image-classification", None)
    assert {"timm", "pruning", "sparse", "lottery-ticket", "lottery-pools"} <= set(card.tags or [])
    assert card.datasets == ["uoft-cs/cifar10"]
    assert card.eval_results is not None
    [result] = card.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.75, "test")
    assert result.dataset_type == "uoft-cs/cifar10"
    assert card.model_name == title(ticket()) == "resnet18, pooled, 75.00 % sparse"


def test_a_network_that_timm_lacks_is_pytorchs() -> None:
    document = yaml.safe_load(front_matter(ticket(arch="/home/me/net.py:make", kind="ticket")))
    assert document["library_name"] == "pytorch"
    assert not {"timm", "lottery-pools"} & set(document["tags"])
    assert "/home" not in str(document)


def test_nothing_known_nothing_said() -> None:
    document = yaml.safe_load(front_matter(Ticket({}, {})))
    assert set(document) == {"library_name", "pipeline_tag", "tags"}


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist", "hfds/user/set", "hfds/../x y", "digits", "folder:/a/b"])
def test_data_sets_are_ids_of_the_hub(name: str) -> None:
    for found in yaml.safe_load(front_matter(ticket(data=name))).get("datasets", []):
        validate_repo_id(found)


@pytest.mark.parametrize(
    "name", ["a: b", "- x", "---", "{", "'\"", "#", "\ud800", "\x00", "é: →", "\n---\n", "%", "!!a"]
)
def test_any_name_gives_yaml(name: str) -> None:
    text = front_matter(ticket(arch=name, data=f"folder:/a/{name}"))
    assert text.encode()
    assert "\n---" not in text
    assert ModelCardData(**yaml.safe_load(text)).eval_results
