"""What a file says, what is named instead, and what is guessed, in this order."""

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
    assert setting.normalisation_of([silent], (0.1,), None) is None


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
