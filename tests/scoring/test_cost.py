"""FLOPs and bytes counted by hand."""

from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import lptool.networks  # noqa: F401  (registers resnet8_cifar)
from lptool.checkpoints.masks import apply_mask
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_packed, save_ticket
from lptool.scoring.cost import cost_of, count_flops, kept_flops


class Net(nn.Module):
    """A convolution used twice, one without a mask, a linear layer, and a product that no layer does."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.plain = nn.Conv2d(1, 2, 3, padding=1)
        self.bn = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.plain(self.twice(self.twice(x))))
        x = x.mean((2, 3))
        return self.fc(x @ torch.eye(2))


TWICE, PLAIN, FC, PRODUCT = 2 * 2 * 9 * 16, 2 * 9 * 2 * 16, 2 * 2 * 5, 2 * 2 * 2


def masks() -> dict[str, Tensor]:
    third = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    third[..., 0] = True
    return {"twice.weight": third, "fc.weight": torch.tensor([[True, False]] * 5)}


def test_flops_are_two_for_each_product_with_its_addition() -> None:
    dense, layers = count_flops(Net(), (1, 4, 4))
    assert layers == {"twice": TWICE, "plain": PLAIN, "bn": 0, "fc": FC}
    assert dense == TWICE + PLAIN + FC + PRODUCT


def test_flops_as_kept_are_those_of_each_layer_times_its_density() -> None:
    dense, layers = count_flops(Net(), (1, 4, 4))
    assert kept_flops(dense, layers, masks()) == TWICE // 3 + PLAIN + FC // 2 + PRODUCT
    assert kept_flops(dense, layers, {}) == dense


def test_bytes_are_those_of_the_files(tmp_path: Path) -> None:
    net = nn.Linear(40, 30)
    mask = {"weight": torch.arange(1200).view(30, 40) % 300 == 7}
    ticket = Ticket(apply_mask(net.state_dict(), mask), mask)
    save_ticket(ticket, tmp_path / "dense")
    save_packed(ticket, tmp_path / "packed")
    found = cost_of(net, ticket, (0, {}))
    assert found.bytes_dense == (tmp_path / "dense").stat().st_size
    assert found.bytes_kept == (tmp_path / "packed").stat().st_size < found.bytes_dense


def test_what_cannot_be_packed_is_kept_dense() -> None:
    """Its parts would have the name of another tensor."""
    net = nn.Linear(40, 30)
    mask = {"weight": torch.arange(1200).view(30, 40) % 300 == 7}
    state = {**apply_mask({"weight": net.weight.detach()}, mask), "weight.mask": torch.ones(1)}
    found = cost_of(net, Ticket(state, mask), (0, {}))
    assert found.bytes_kept == found.bytes_dense > 4 * 1200


def test_the_cost_of_a_network() -> None:
    net = Net().train()
    ticket = Ticket(apply_mask(net.state_dict(), masks()), masks())
    found = cost_of(net, ticket, count_flops(net, (1, 4, 4)))
    assert net.training
    assert net.bn.num_batches_tracked == 0  # counting is no training step
    assert (found.parameters, found.kept) == (9 + 18 + 2 + 4 + 10 + 5, 3 + 18 + 2 + 4 + 5 + 5)
    assert found.flops_dense == TWICE + PLAIN + FC + PRODUCT
    assert found.flops_kept == TWICE // 3 + PLAIN + FC // 2 + PRODUCT


def test_a_network_that_is_one_layer() -> None:
    assert count_flops(nn.Linear(4, 3), (1, 2, 4)) == (2 * 2 * 4 * 3, {"": 2 * 2 * 4 * 3})


def test_resnet8_by_its_plan() -> None:
    """Multiplications with additions: the stem, then three stages of one block at 32, 16 and 8 pixels, the classes."""
    stem, classes = 9 * 3 * 16 * 32**2, 64 * 10
    blocks = 2 * 9 * 16 * 16 * 32**2 + 9 * (16 * 32 + 32 * 32) * 16**2 + 9 * (32 * 64 + 64 * 64) * 8**2
    dense, _ = count_flops(timm.create_model("resnet8_cifar", num_classes=10), (3, 32, 32))
    assert dense == 2 * (stem + blocks + classes)
