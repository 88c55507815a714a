"""What a file says, what is named instead, and what is guessed, in this order."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lptool.checkpoints.reading import summarise_file
from lptool.checkpoints.summary import Summary
from lptool.errors import DataError
from lptool.evaluation import setting
from lptool.evaluation.setting import SettingOptions


@pytest.fixture
def told(tickets: list[Path]) -> Summary:
    return summarise_file(tickets[0])


@pytest.fixture
def silent(tmp_path: Path, tickets: list[Path]) -> Summary:
    """The same weights without a header, and with a module that normalises."""
    extra = {"normalize.mean": torch.tensor([0.25]), "normalize.std": torch.tensor([0.5])}
    save_file({**load_file(tickets[0]), **extra}, tmp_path / "a.safetensors")
    return summarise_file(tmp_path / "a.safetensors")


def test_an_architecture_named_comes_before_the_files_and_a_guess_last(told: Summary, silent: Summary) -> None:
    kwargs = {"num_classes": 10, "in_chans": 1}
    assert setting.architecture([told], SettingOptions()) == ("resnet8_cifar", kwargs, [])
    assert setting.architecture([told], SettingOptions(arch="resnet8_cifar")) == ("resnet8_cifar", kwargs, [])
    assert setting.architecture([told], SettingOptions(arch="net.py:Net")) == ("net.py:Net", {}, [])
    assert setting.architecture([silent, told], SettingOptions()) == ("resnet8_cifar", kwargs, [])


def test_a_normalisation_named_comes_before_the_files(told: Summary, silent: Summary) -> None:
    mean, std = (tuple(told.metadata.dataset[key]) for key in ("mean", "std"))
    assert setting.normalisation_of([told], None, None) == (mean, std)
    assert setting.normalisation_of([told], (0.1,), None) == ((0.1,), std)
    assert setting.normalisation_of([silent], None, None) == ((0.25,), (0.5,))
    assert setting.normalisation_of([silent], (0.1,), (0.2,)) == ((0.1,), (0.2,))
    assert setting.normalisation_of([silent, told], None, None) == (mean, std)
    assert setting.normalisation_of([silent], (0.1,), None) == ((0.1,), (0.5,))


def folder_of_timm(tmp_path: Path, ticket: Path, mean: list[float]) -> Summary:
    """As timm writes one: no header of ours, and how images were normalised in `config.json`."""
    save_file(load_file(ticket), tmp_path / "model.safetensors")
    images = {"mean": mean, "std": [0.2] * len(mean), "input_size": [len(mean), 8, 8]}
    config = {"architecture": "resnet8_cifar", "num_classes": 10, "pretrained_cfg": images}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return summarise_file(tmp_path / "model.safetensors")


def test_timm_s_config_says_the_normalisation_of_as_many_channels_as_the_network_takes(
    tmp_path: Path, tickets: list[Path]
) -> None:
    folder = folder_of_timm(tmp_path, tickets[0], [0.1])
    assert setting.normalisation_of([folder], None, None) == ((0.1,), (0.2,))
    assert setting.normalisation_of([folder], None, (0.3,)) == ((0.1,), (0.3,))
    folder = folder_of_timm(tmp_path, tickets[0], [0.485, 0.456, 0.406])
    assert setting.normalisation_of([folder], None, None) is None


@pytest.mark.parametrize(("given", "lacking"), [("mean", "std"), ("std", "mean")])
def test_half_a_normalisation_is_refused_where_nothing_says_the_other_half(
    tmp_path: Path, tickets: list[Path], given: str, lacking: str
) -> None:
    """It is not passed over: what is measured would be neither what was asked for nor said."""
    save_file(load_file(tickets[0]), tmp_path / "a.safetensors")
    summary = summarise_file(tmp_path / "a.safetensors")
    assert setting.normalisation_of([summary], None, None) is None
    with pytest.raises(DataError, match=rf"a\.safetensors: .* so --{given} needs --{lacking} too$"):
        setting.normalisation_of([summary], **{"mean": None, "std": None, given: (0.1,)})


def test_the_split_is_that_of_the_files_unless_named(told: Summary, silent: Summary) -> None:
    data = setting.matching_data([silent, told], None, None, None)
    assert data.split == told.metadata.dataset["split"]
    assert len(setting.matching_data([told], None, None, None, 0.5, 3).val) == (1797 - 359) // 2
    with pytest.raises(DataError, match=r"^cannot hold out 5 of 1438"):  # the user's fraction: no word of the file
        setting.matching_data([told], None, None, None, 5.0)
    with pytest.raises(DataError, match=r"does not say its data set; name it with --dataset \(npz:FILE, "):
        setting.matching_data([silent], None, None, None)


def test_images_of_another_shape_are_refused(told: Summary, silent: Summary) -> None:
    data = setting.matching_data([silent], "digits", None, None)
    setting.check_image_shape(data, [silent, told])
    metadata = replace(told.metadata, dataset=told.metadata.dataset | {"image_shape": [3, 8, 8]})
    told = replace(told, metadata=metadata)
    with pytest.raises(DataError, match=r"images are \[1, 8, 8\], the tickets were trained on \[3, 8, 8\]"):
        setting.check_image_shape(data, [silent, told])


# What a header alone may not start


def said_to_be_of(summary: Summary, **dataset: object) -> Summary:
    return replace(summary, metadata=replace(summary.metadata, dataset=summary.metadata.dataset | dataset))


@pytest.mark.parametrize(
    "name",
    ["npz:/etc/shadow", "folder:/", "folder:photos", "wds//root", "torch/places365", "hfds/a/b", "tfds/x", "hfids/x"],
)
def test_a_data_set_that_a_header_alone_names_is_not_opened(
    name: str, told: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting, "load_data", lambda *given, **named: pytest.fail("opened"))
    with pytest.raises(DataError, match=rf"{told.file}: says that its data set is {name}, .* --dataset {name}"):
        setting.matching_data([said_to_be_of(told, name=name)], None, None, None)
    if name.startswith(("npz:", "folder:")):  # `--data-dir` names a folder, and this lies elsewhere
        with pytest.raises(DataError, match="which is read or downloaded only if you name it"):
            setting.matching_data([said_to_be_of(told, name=name)], None, tmp_path, None)


def test_what_lies_where_the_user_said_is_opened(
    told: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(setting, "load_data", lambda name, data_dir, **named: asked.append((name, named["download"])))
    for name in (f"folder:{tmp_path}", f"npz:{tmp_path}/x/a.npz", "wds/anything", "torch/mnist", "cifar10"):
        setting.matching_data([said_to_be_of(told, name=name)], None, tmp_path, None)
    setting.matching_data([said_to_be_of(told, name="cifar10")], None, None, None)
    setting.matching_data([said_to_be_of(told, name="cifar10")], "npz:a.npz", None, None)
    assert [download for _, download in asked] == [True] * 5 + [False, True]
    with pytest.raises(DataError, match="only if you name it"):
        setting.matching_data([said_to_be_of(told, name=f"npz:{tmp_path}/../a.npz")], None, tmp_path, None)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_nothing_is_downloaded_because_a_header_says_so(
    name: str, told: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    from lptool.data import sources

    def absent(root: Path, train: bool, download: bool) -> None:
        assert not download
        raise RuntimeError("Dataset not found")

    for attribute in ("CIFAR10", "CIFAR100", "FashionMNIST"):
        monkeypatch.setattr(datasets, attribute, absent)
    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", tmp_path / "no-such-package")
    with pytest.raises(DataError, match=rf"data set {name} not found: .* have them downloaded with --dataset {name}"):
        setting.matching_data([said_to_be_of(told, name=name)], None, None, None)


# Classes and normalisation


def test_files_of_other_classes_are_refused(told: Summary) -> None:
    one, other = (said_to_be_of(told, class_names=list(names)) for names in ("abcdefghij", "bacdefghij"))
    with pytest.raises(DataError, match="was trained on other classes than"):
        setting.matching_data([one, other], "digits", None, None)
    assert setting.matching_data([one, told], "digits", None, None).num_classes == 10


def test_data_with_more_classes_than_the_header_says_are_refused(told: Summary) -> None:
    with pytest.raises(
        DataError, match="digits: train_labels has the class 9, expected 0 to 6 as the network was trained"
    ):
        setting.matching_data([said_to_be_of(told, num_classes=7)], "digits", None, None)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((76.5,), (0.5,), "76.5; of a scale to 255, give 0.3"),
        ((0.3,), (63.75,), "give 0.25"),
        ((-0.5,), (0.5,), "-0.5;"),
    ],
)
def test_a_normalisation_of_another_scale_is_refused(
    mean: tuple[float, ...], std: tuple[float, ...], message: str, told: Summary
) -> None:
    data = setting.matching_data([told], None, None, (mean, std))
    with pytest.raises(DataError, match=rf"mean and std are of pixels scaled to \[0, 1\], found .*{message}"):
        setting.check_normalisation(data)
    setting.check_normalisation(replace(data, mean=(0.0,), std=(1.0,)))
    setting.check_normalisation(replace(data, mean=(0.5,), std=(1 / 255,)))
