"""Networks of all habits: what they take and give, and whether they run."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lptool.errors import ArchError
from lptool.networks.building import build_model
from lptool.networks.running import CPU, blank_images, check_forward, make_ready
from tests.helpers.networks import GOOD, SOURCE

SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("networks") / "zoo.py"
    file.write_text(SOURCE)
    return str(file)


def ready(arch: str) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(arch, 3, 3).eval()
    make_ready(model, CPU, partial(check_forward, model, SHAPE, 3, arch))
    return model


@pytest.mark.parametrize("kind", GOOD)
def test_any_network_gives_logits_whatever_the_layout_of_images(kind: str, zoo: str) -> None:
    """And those of a network that nobody made ready, on images as torch makes them."""
    model = ready(f"{zoo}:{kind}")
    images = torch.randn(5, *SHAPE)
    with torch.no_grad():
        found = [model(images), model(images.contiguous(memory_format=torch.channels_last))]
    bare = build_model(f"{zoo}:{kind}", 3, 3).eval()
    with torch.no_grad():
        bare(images)  # lazy modules
        bare.load_state_dict(model.state_dict())
        plain = bare(images)
    logits = plain if isinstance(plain, Tensor) else plain["logits"] if isinstance(plain, dict) else plain.logits
    for each in found:
        torch.testing.assert_close(each, logits)


@pytest.mark.parametrize(("kind", "layout"), [("Plain", torch.channels_last), ("Views", torch.contiguous_format)])
def test_weights_are_in_the_layout_that_is_fastest_where_the_network_takes_it(
    kind: str, layout: torch.memory_format, zoo: str
) -> None:
    weight = ready(f"{zoo}:{kind}").get_parameter("body.0.weight")
    assert weight.is_contiguous(memory_format=layout)
    assert weight.is_contiguous() == (layout == torch.contiguous_format)


def test_what_fails_in_any_layout_is_raised_as_it_is(zoo: str) -> None:
    with pytest.raises(ArchError, match=r"cannot take images of \[3, 8, 8\]: mat1 and mat2"):
        ready(f"{zoo}:OfAnotherSize")


def test_first_of_several_counts_in_training_alone(zoo: str) -> None:
    model, images = ready(f"{zoo}:Auxiliary"), blank_images(SHAPE, CPU, 4)
    assert [tuple(model.train(mode)(images).shape) for mode in (True, False)] == [(4, 3), (4, 3)]
    with pytest.raises(ArchError, match="gives a tuple for 2 images, expected logits of 3 classes: let its forward"):
        ready(f"{zoo}:Pair")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_a_script_is_tried_as_it_is() -> None:
    """It takes no hooks."""
    model = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))  # type: ignore[no-untyped-call]
    make_ready(model, CPU, partial(check_forward, model, SHAPE, 3, "script"))
    assert model(torch.zeros(1, *SHAPE)).shape == (1, 3)


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
