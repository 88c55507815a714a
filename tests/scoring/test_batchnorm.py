"""BN recalibration, against torch.optim.swa_utils.update_bn on the same network without dropout."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lptool.checkpoints.masks import State
from lptool.errors import DataError
from lptool.scoring.batchnorm import bn_layers, recalibrate_bn


class Broken(RuntimeError):
    pass


def network() -> nn.Sequential:
    """Two BatchNorm layers with a dropout between them, with statistics, momenta and modes that differ."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 5),
        nn.BatchNorm1d(5, momentum=None),
    )
    for layer in bn_layers(net):
        nn.init.uniform_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 1, 2)
        layer.num_batches_tracked.fill_(17)
    net[1].eval()
    return net


def image_batches(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [3 + 2 * torch.randn(size, 3, 6, 6, generator=generator) for size in sizes]


def habits(net: nn.Module) -> tuple[list[bool], list[float | None]]:
    """What recalibration must put back: the mode of every module, the momentum of every BatchNorm layer."""
    return [module.training for module in net.modules()], [layer.momentum for layer in bn_layers(net)]


def snapshot(net: nn.Module) -> State:
    return {name: t.clone() for name, t in net.state_dict().items()}


@pytest.mark.parametrize("sizes", [(8,), (8, 8, 8), (8, 8, 3)])
def test_statistics_are_those_of_update_bn_without_dropout(sizes: tuple[int, ...]) -> None:
    net, images = network(), image_batches(*sizes)
    oracle = deepcopy(net)
    oracle[3] = nn.Identity()
    update_bn(images, oracle)
    assert recalibrate_bn(net, images) == sum(sizes)
    for ours, theirs in zip(bn_layers(net), bn_layers(oracle), strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
        assert ours.num_batches_tracked.item() == len(sizes)


def test_update_bn_with_dropout_awake_gives_other_statistics() -> None:
    """So that the test above would notice a dropout that woke up."""
    net, images = network(), image_batches(8, 8)
    oracle = deepcopy(net)
    update_bn(images, oracle)
    recalibrate_bn(net, images)
    assert not torch.allclose(net[6].running_var, oracle[6].running_var, rtol=1e-2)


def test_by_hand_mean_and_unbiased_variance_of_one_batch() -> None:
    net = nn.Sequential(nn.BatchNorm1d(1))
    recalibrate_bn(net, [torch.tensor([[1.0], [2.0], [6.0]])])
    assert net[0].running_mean.tolist() == [3.0]
    assert net[0].running_var.tolist() == [7.0]


def test_only_statistics_change() -> None:
    net = network()
    before = snapshot(net)
    recalibrate_bn(net, image_batches(8, 8))
    changed = {name for name, t in net.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {f"{i}.{s}" for i in (1, 6) for s in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_momenta_are_restored(training: bool) -> None:
    net = network().train(training)
    net[1].train(not training)
    before = habits(net)
    recalibrate_bn(net, image_batches(8))
    assert habits(net) == before


@pytest.mark.parametrize("where", ["forward", "images"])
def test_modes_and_momenta_are_restored_after_an_exception(where: str) -> None:
    net = network()
    before = habits(net)

    def images() -> Iterator[Tensor]:
        yield from image_batches(8)
        raise Broken

    def forward(batch: Tensor) -> Tensor:
        raise Broken

    with pytest.raises(Broken):
        recalibrate_bn(net, images(), forward if where == "forward" else None)
    assert habits(net) == before


def test_zero_batches_are_refused_and_nothing_is_touched() -> None:
    net = network()
    state, before = snapshot(net), habits(net)
    with pytest.raises(DataError, match="at least one calibration image"):
        recalibrate_bn(net, iter([]))
    assert habits(net) == before
    assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())


def test_a_model_without_batch_norm_is_left_alone() -> None:
    """Nor are images asked for; a BatchNorm that keeps no running statistics has nothing to renew."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2, track_running_stats=False))
    state, before = snapshot(net), habits(net)
    assert recalibrate_bn(net, []) == 0
    assert recalibrate_bn(net, [torch.ones(4, 2)]) == 0
    assert habits(net) == before
    assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())


def test_forward_is_what_is_called_and_no_gradient_is_kept() -> None:
    net, images, outputs = network(), image_batches(8, 8), []
    recalibrate_bn(net, images, lambda batch: outputs.append(net(batch)))
    assert len(outputs) == 2
    assert not any(output.requires_grad for output in outputs)


def test_layers_are_found_in_module_order_and_only_with_running_statistics() -> None:
    net = nn.Sequential(
        nn.BatchNorm2d(2),
        nn.Sequential(nn.GroupNorm(1, 2), nn.BatchNorm1d(2)),
        nn.BatchNorm1d(2, track_running_stats=False),
    )
    assert bn_layers(net) == [net[0], net[1][1]]


def test_a_batch_without_a_variance_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with pytest.raises(DataError, match="needs more than one image in a batch"):
        recalibrate_bn(net, [torch.ones(1, 2)])
    assert net.training
