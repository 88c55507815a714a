"""Networks of all habits: what they take and give, and whether they run."""

from __future__ import annotations

import pytest
from torch import nn

from lptool.errors import ArchError
from lptool.networks.building import build_model
from lptool.networks.running import check_forward

# Whether it runs


def test_images_too_small_for_the_network_are_refused_before_training() -> None:
    model = build_model("vgg16_bn_cifar", 10, 1)
    check_forward(model, (1, 32, 32), 10, "vgg16_bn_cifar")
    with pytest.raises(ArchError, match=r"'vgg16_bn_cifar' cannot take images of \[1, 8, 8\]"):
        check_forward(model, (1, 8, 8), 10, "vgg16_bn_cifar")


def test_a_network_with_too_few_classes_is_refused_and_left_in_its_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).train()
    check_forward(model, (1, 2, 2), 3, "mine")
    with pytest.raises(ArchError, match=r"'mine' gives \[2, 3\] for 2 images, expected logits of 4 classes"):
        check_forward(model, (1, 2, 2), 4, "mine")
    assert model.training
