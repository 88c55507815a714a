"""Model cards, read back with huggingface_hub; whatever a header holds, there is a card."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import Sizes
from lptool.export.card import block, card_data, code, model_card, title
from lptool.networks.cifar import OWN_ARCHS
from lptool.scoring.metrics import wilson_interval
from lptool.tables import Table, markdown

FILES = ["config.json", "model.safetensors", "README.md", "trace.json"]
SHA = "0" * 64


def scores() -> dict[str, Any]:
    def score(correct: int, n: int) -> dict[str, Any]:
        return {"accuracy": correct / n, "nll": 0.25, "n": n}

    rows = {"ticket": 90, "ticket_bn": 91, "pooled": 93}
    return {
        "val": {name: score(correct, 100) for name, correct in rows.items()},
        "test": {name: score(correct * 20 + 7, 2000) for name, correct in rows.items()},
    }


def pooled(arch: str | None = "resnet8_cifar", **trace: Any) -> Ticket:
    members = [
        {"file": "level_03.safetensors", "sha256": SHA, "level": 3, "alpha": 0.25, "accepted": True},
        {"file": "level_02.safetensors", "sha256": SHA, "level": 2, "alpha": None, "accepted": False},
    ]
    target = {"file": "level_04.safetensors", "sha256": SHA, "level": 4}
    made = {"method": "auto", "chosen": "greedy", "target": target, "members": members, "shipped": "pooled"}
    data = {"name": "folder:/home/me/photos", "image_shape": [1, 8, 8], "mean": [0.3], "std": [0.35], "num_classes": 4}
    metadata = Metadata("pooled", arch, {"num_classes": 4}, 4, ("fc.weight",), data, {}, made | trace, scores())
    weight = torch.ones(4, 5)
    return Ticket({"fc.weight": weight}, {"fc.weight": torch.arange(20).view(4, 5) < 5}, metadata)


def card_of(ticket: Ticket, **given: Any) -> str:
    return model_card(ticket, **{"command": None, "sizes": None, "files": FILES} | given)


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


def test_huggingface_hub_reads_it_back() -> None:
    card = ModelCard(card_of(pooled()))
    assert card.data.library_name == "timm"
    [result] = card.data.eval_results
    assert result.metric_value == scores()["test"]["pooled"]["accuracy"]
    assert card.text.lstrip().startswith("# `resnet8_cifar`, pooled, 75.00 % sparse\n")


def test_it_tells_what_the_header_tells() -> None:
    text = card_of(pooled(), command="lptool pool runs -o out", sizes=Sizes(1234567, 2345))
    rows = rows_of(text)
    assert ["`level_03.safetensors`", "3", "0.25", "yes"] in rows
    assert ["`level_02.safetensors`", "2", "–", "no"] in rows
    assert ["`fc.weight`", "4×5", "5 / 20", "75.00 %"] in rows
    assert "5 of its 20 prunable weights" in text
    assert "`folder:photos`" in text
    assert "1×8×8" in text
    assert "0.3000" in text
    assert "```bash\nlptool pool runs -o out\n```" in text
    assert {"1,234,567", "2,345"} <= {row[-1] for row in rows}
    assert all(f"- `{name}`" in text for name in FILES)
    assert "report.html" not in text
    assert "@inproceedings{yin2023lottery," in text


def test_results_carry_the_wilson_interval() -> None:
    rows = {row[0]: row for row in rows_of(card_of(pooled()))}
    for label, correct in (("ticket", 1807), ("ticket + BN", 1827), ("pooled", 1867)):
        low, high = wilson_interval(correct, 2000)
        assert rows[label][3] == f"{correct / 20:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
        assert rows[label][5] == "2,000"


@pytest.mark.parametrize("shipped", ["ticket", "ticket_bn", "pooled"])
def test_it_says_when_a_control_was_written(shipped: str) -> None:
    text = card_of(pooled(shipped=shipped))
    nothing = shipped != "pooled"
    assert ("Pooling scored no better" in text) == ("found nothing better on val" in text) == nothing
    assert ("made by pooling" in text) == ("resnet8_cifar`, pooled" in text) == (not nothing)


def test_it_says_whether_pooling_helped() -> None:
    verdict = {"word": "hurt", "against": "ticket_bn", "gain": -0.01, "p": 0.003, "n_val": 100, "n_test": 2000}
    text = card_of(pooled(verdict=verdict | {"nll_rise": 0.2, "nll_error": 0.1}))
    assert "\n\nPooling hurt: -1.00 points over 'ticket + BN' on 2,000 test images (p = 0.003, exact McNemar" in text
    assert text.count("\n\nWarning: val ") == 2
    assert "the output is 'ticket' itself" in card_of(pooled(verdict=verdict, shipped="ticket"))
    assert "Pooling h" not in card_of(pooled(verdict=verdict | {"word": "**odd**"}))


def test_a_control_is_not_called_pooled() -> None:
    text = card_of(pooled(method="control", shipped="ticket_bn", members=[]))
    assert "nothing was pooled" in text
    assert "made by pooling" not in text
    assert "*ticket + BN* what this file holds" in text
    card = ModelCard(text).data
    assert "lottery-pools" not in card.tags
    assert card.eval_results[0].metric_value == scores()["test"]["ticket_bn"]["accuracy"]


def test_coefficients_are_named_by_level() -> None:
    found = {"groups": ["stem", "head"], "values": [[0.1, 0.2, 0.7], [0.0, 0.0, 1.0]]}
    rows = rows_of(card_of(pooled(coefficients=found)))
    assert ["group", "level 2", "level 3", "level 4"] in rows
    assert ["`stem`", "0.100", "0.200", "0.700"] in rows


@pytest.mark.parametrize("arch", ["resnet18", *OWN_ARCHS])
def test_timm_networks_load_with_timm(arch: str) -> None:
    text = card_of(pooled(arch))
    assert 'timm.create_model("local-dir:DIR", pretrained=True)' in text
    assert ("import lptool.networks" in text) == (arch in OWN_ARCHS)
    assert "safetensors.torch.load_file" not in text


def test_other_networks_load_their_tensors() -> None:
    text = card_of(pooled("/home/me/net.py:make"))
    assert "safetensors.torch.load_file" in text
    assert 'lptool.load_model("DIR", arch="net.py:make")' in text
    assert "timm.create_model" not in text
    unknown = card_of(pooled("resnet_from_mars"))
    assert "safetensors.torch.load_file" in unknown
    assert "lptool.load_model" not in unknown  # it could not be built
    renamed = replace(pooled(), own_names={"fc.weight": "model.fc.weight"})
    assert "timm.create_model" not in card_of(renamed)


def test_code_in_the_card_is_python() -> None:
    for arch in ("resnet18", "resnet8_cifar", "net.py:make", None):
        for part in card_of(pooled(arch)).split("```python\n")[1:]:
            compile(part.partition("```")[0], "<card>", "exec")


def test_an_empty_header_leaves_sections_out() -> None:
    text = model_card(Ticket({}, {}), command=None, sizes=None, files=[])
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## Load it", "## Limits", "## Citation"]
    assert ModelCard(text).data.library_name == "pytorch"


@pytest.mark.parametrize("name", ["a|b", "a\nb", "`", "---", "a: [b", "\ud800", "<b>", "/home/me/a", "C:\\me\\a", ""])
def test_odd_names_keep_tables_and_yaml_whole(name: str) -> None:
    member = {"file": name, "sha256": SHA, "level": 3, "alpha": 0.5, "accepted": True}
    ticket = pooled("resnet8_cifar", members=[member], target=member, method=name, chosen=name)
    odd = replace(ticket, mask={name: ticket.mask["fc.weight"]})
    text = card_of(odd, command=f"lptool pool {name!r}", files=[name])
    assert text.encode()
    assert ModelCard(text).data.eval_results
    metadata = replace(pooled(members=[member], target=member).metadata, arch=name, dataset={"name": name})
    text = card_of(replace(ticket, metadata=replace(metadata, trace={"members": [member], "target": member})))
    assert "/home" not in text
    assert "\\me" not in text
    assert ModelCard(text).data.pipeline_tag == "image-classification"


ODD: list[Any] = [None, True, 3, -1.5, math.nan, json.loads("1" * 400), "x", [], [3], {}, {"a": 1}, [{}], [[1], "x"]]


@pytest.mark.parametrize("odd", ODD)
def test_no_header_breaks_it(odd: Any) -> None:
    whole = pooled(coefficients={"groups": ["a"], "values": [[1.0, 2.0]]}, evaluations=5, bn_recalibration=True)
    metadata = whole.metadata
    for part in ("dataset", "trace", "scores"):
        document = getattr(metadata, part)
        for key in document:
            broken = replace(metadata, **{part: document | {key: odd}})
            assert ModelCard(card_of(replace(whole, metadata=broken)))
    for key in metadata.trace["members"][0]:
        member = metadata.trace["members"][0] | {key: odd}
        assert card_of(pooled(members=[member], target=member))
    for key in ("groups", "values"):
        assert card_of(pooled(coefficients={"groups": ["a"], "values": [[1.0]], key: odd}))


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        ({"bn_images": "augmented"}, "recalibrated on training images augmented as in training."),
        ({"bn_images": "plain"}, "recalibrated on training images as they are."),
        ({"bn_recalibration": True}, "recalibrated on training images as they are."),
        ({"bn_images": "none"}, None),
        ({"bn_images": "x"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_it_says_what_batchnorm_was_measured_on(trace: dict[str, Any], words: str | None) -> None:
    text = card_of(pooled(**trace))
    assert ("BatchNorm was recalibrated" in text) == (words is not None)
    assert words is None or words in text


# The YAML at its head, against PyYAML and huggingface_hub


SCORES = {"test": {"pooled": {"accuracy": 0.75, "nll": 0.5, "n": 400}}}


def known(arch: str | None = "resnet18", kind: str = "pooled", data: str = "cifar10") -> Ticket:
    mask = {"fc.weight": torch.tensor([True, False, False, False])}
    return Ticket({}, mask, Metadata(kind=kind, arch=arch, dataset={"name": data}, scores=SCORES))


def test_it_says_library_data_and_accuracy() -> None:
    document = yaml.safe_load(card_data(known()).to_yaml())
    card = ModelCardData(**document)
    assert (card.library_name, card.pipeline_tag, card.license) == ("timm", "image-classification", None)
    assert {"timm", "pruning", "sparse", "lottery-ticket", "lottery-pools"} <= set(card.tags or [])
    assert card.datasets == ["uoft-cs/cifar10"]
    assert card.eval_results is not None
    [result] = card.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.75, "test")
    assert result.dataset_type == "uoft-cs/cifar10"
    assert card.model_name == title(known()) == "resnet18, pooled, 75.00 % sparse"


def test_a_network_that_timm_lacks_is_pytorchs() -> None:
    document = yaml.safe_load(card_data(known(arch="/home/me/net.py:make", kind="ticket")).to_yaml())
    assert document["library_name"] == "pytorch"
    assert not {"timm", "lottery-pools"} & set(document["tags"])
    assert "/home" not in str(document)


def test_nothing_known_nothing_said() -> None:
    document = yaml.safe_load(card_data(Ticket({}, {})).to_yaml())
    assert set(document) == {"library_name", "pipeline_tag", "tags"}


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist", "hfds/user/set", "hfds/../x y", "digits", "folder:/a/b"])
def test_data_sets_are_ids_of_the_hub(name: str) -> None:
    for found in yaml.safe_load(card_data(known(data=name)).to_yaml()).get("datasets", []):
        validate_repo_id(found)


@pytest.mark.parametrize(
    "name", ["a: b", "- x", "---", "{", "'\"", "#", "\ud800", "\x00", "é: →", "\n---\n", "%", "!!a"]
)
def test_any_name_gives_yaml(name: str) -> None:
    text = card_data(known(arch=name, data=f"folder:/a/{name}")).to_yaml()
    assert text.encode()
    assert "\n---" not in text
    assert ModelCardData(**yaml.safe_load(text)).eval_results


# Names and code: what goes in is shown as it is, whatever characters it has


NAMES = ["plain", "a`b", "``", "`x", "*a*_b_<c>[d](e)", "a|b", "\\"]


@pytest.mark.parametrize("name", NAMES)
def test_code_shows_its_text(name: str) -> None:
    """As CommonMark reads a span: as many ticks at its end as at its beginning, and none such inside."""
    shown = code(name)
    ticks = re.match("`+", shown)
    assert ticks is not None
    assert shown.endswith(ticks[0])
    inside = shown[len(ticks[0]) : -len(ticks[0])]
    assert ticks[0] not in re.findall("`+", inside)
    assert inside.strip() == name


def test_code_is_one_line() -> None:
    assert code("a\nb") == "`a b`"
    assert code("") == "–"


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_keeps_its_place(name: str) -> None:
    lines = markdown(Table("", ("a", "b"), [[code(name), "1"]])).splitlines()
    assert len(lines) == 3
    assert [len(re.split(r"(?<!\\)\|", line)) for line in lines] == [4, 4, 4]


def test_a_block_ends_where_it_ends() -> None:
    lines = block("echo '```'\n", "bash").splitlines()
    assert lines[0] == "````bash"
    assert lines[-1] == "````"


@pytest.mark.parametrize("text", ["{{ title }}", "{% for %}", "{# x #}", "{{ metadata.__class__ }}", "a <b> & 'c'"])
def test_words_of_a_header_are_no_template(text: str) -> None:
    """Nothing in a header is run, and nothing is escaped as HTML would be."""
    member = {"file": text, "level": 3, "alpha": 0.5, "accepted": True}
    found = {"groups": [text], "values": [[1.0]]}
    ticket = pooled(members=[member], target=member, method=text, chosen=text + "2", coefficients=found)
    ticket = replace(ticket, metadata=replace(ticket.metadata, arch=text, dataset={"name": text}))
    shown = card_of(ticket, command=text, files=[text])
    assert f"trained on `{text}`" in shown
    assert f"Method: `{text}`, which chose `{text}2`." in shown
    assert f"- `{text}`\n" in shown
    assert f"```bash\n{text}\n```" in shown
    assert [text, "1.000"] in [[cell.strip("`") for cell in row] for row in rows_of(shown)]


def test_the_heading_is_no_markdown_of_the_header() -> None:
    arch = "net](http://x) <b>*_"
    card = model_card(
        replace(known(), metadata=replace(known().metadata, arch=arch)), command=None, sizes=None, files=[]
    )
    (heading,) = [line for line in card.splitlines() if line.startswith("# ")]
    assert heading.startswith("# `net](http:x) <b>*_`, pooled")
