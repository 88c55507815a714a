"""FLOPs and bytes counted by hand."""

from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import lptool.networks  # noqa: F401  (registers resnet8_cifar)
from lptool.checkpoints.masks import apply_mask
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_packed
from lptool.scoring.cost import cost_of, count_flops, kept_bytes, kept_flops


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


def test_bytes_as_kept_are_values_positions_and_the_rest() -> None:
    state = {
        **Net().state_dict(),
        "twice.weight": torch.ones(1, 1, 3, 3, dtype=torch.float16) * masks()["twice.weight"],
    }
    rest = 4 * (18 + 2) + 4 * 4 * 2 + 8 + 4 * 5  # the convolution, BatchNorm with its int64 counter, the bias
    assert kept_bytes(state, masks()) == (2 * 3 + 2) + (4 * 5 + 2) + rest  # bitmasks of 2 bytes each
    assert kept_bytes(state, {}) == 2 * 9 + 4 * 10 + rest


def test_bytes_as_kept_are_what_a_packed_file_holds(tmp_path: Path) -> None:
    """Few kept weights, half of them, and all, which are written as they are; the header is not counted."""
    state = {"few": torch.ones(30, 40), "half": torch.ones(30, 40), "all": torch.ones(30, 40), "bias": torch.ones(3)}
    mask = {"few": torch.arange(1200) % 300 == 7, "half": torch.arange(1200) % 2 == 1, "all": torch.arange(1200) >= 0}
    mask = {name: kept.view(30, 40) for name, kept in mask.items()}
    state = apply_mask(state, mask)
    save_packed(Ticket(state, mask), tmp_path / "a")
    assert (
        kept_bytes(state, mask) == (4 * 4 + 4 + 4) + (4 * 600 + 150) + 4 * 1200 + 12
    )  # a gap and an escape for each of the few
    content = (tmp_path / "a").read_bytes()
    assert kept_bytes(state, mask) == len(content) - 8 - int.from_bytes(content[:8], "little")


def test_the_cost_of_a_network() -> None:
    net = Net().train()
    found = cost_of(net, apply_mask(net.state_dict(), masks()), masks(), count_flops(net, (1, 4, 4)))
    assert net.training
    assert net.bn.num_batches_tracked == 0  # counting is no training step
    assert (found.parameters, found.kept) == (9 + 18 + 2 + 4 + 10 + 5, 3 + 18 + 2 + 4 + 5 + 5)
    assert found.flops_dense == TWICE + PLAIN + FC + PRODUCT
    assert found.flops_kept == TWICE // 3 + PLAIN + FC // 2 + PRODUCT
    assert found.bytes_dense == 4 * found.parameters + 4 * 4 + 8
    assert found.bytes_kept == found.bytes_dense - 4 * (6 + 5) + 2 + 2


def test_a_network_that_is_one_layer() -> None:
    assert count_flops(nn.Linear(4, 3), (1, 2, 4)) == (2 * 2 * 4 * 3, {"": 2 * 2 * 4 * 3})


def test_resnet8_by_its_plan() -> None:
    """Multiplications with additions: the stem, then three stages of one block at 32, 16 and 8 pixels, the classes."""
    stem, classes = 9 * 3 * 16 * 32**2, 64 * 10
    blocks = 2 * 9 * 16 * 16 * 32**2 + 9 * (16 * 32 + 32 * 32) * 16**2 + 9 * (32 * 64 + 64 * 64) * 8**2
    dense, _ = count_flops(timm.create_model("resnet8_cifar", num_classes=10), (3, 32, 32))
    assert dense == 2 * (stem + blocks + classes)
