"""BN recalibration, against torch.optim.swa_utils.update_bn on the same network without dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchvision.ops import FrozenBatchNorm2d

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


def test_instance_norm_that_tracks_its_statistics_is_recalibrated() -> None:
    """To the mean over images of each image's own mean and unbiased variance, and over batches."""
    net, images = nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True)).eval(), image_batches(4, 4)
    assert recalibrate_bn(net, images) == 8
    whole = torch.cat(images)
    torch.testing.assert_close(net[0].running_mean, whole.mean((0, 2, 3)))
    torch.testing.assert_close(net[0].running_var, whole.flatten(2).var(2).mean(0))


class OwnNorm(nn.Module):
    """No BatchNorm by class; puts new tensors in the place of its statistics. `momentum` is the share of the old."""

    def __init__(self, shape: tuple[int, ...], *, newer: bool = False) -> None:
        super().__init__()
        self.momentum, self.newer = 0.9, newer
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return (x - self.running_mean.view(-1, 1, 1)) / self.running_var.view(-1, 1, 1).sqrt()
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
        share = self.momentum if self.newer else 1 - self.momentum
        self.running_mean = (1 - share) * self.running_mean + share * mean.view_as(self.running_mean)
        self.running_var = (1 - share) * self.running_var + share * var.view_as(self.running_var)
        return (x - mean.view(-1, 1, 1)) / var.view(-1, 1, 1).sqrt()


class CountingNorm(nn.BatchNorm2d):
    """As torch before 1.13 counted batches."""

    def forward(self, x: Tensor) -> Tensor:
        self.num_batches_tracked = self.num_batches_tracked + 1  # type: ignore[assignment,operator]
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum or 0.0
        )


@pytest.mark.parametrize(
    "norm",
    [
        lambda: OwnNorm((3,)),
        lambda: OwnNorm((3,), newer=True),
        lambda: OwnNorm((1, 3, 1, 1)),
        lambda: CountingNorm(3),
        lambda: BatchNormAct2d(3, act_layer=nn.Identity),
    ],
    ids=["own", "share of the new", "four dimensions", "counting", "timm"],
)
def test_copies_of_batch_norm_are_recalibrated_as_it_is(norm: Callable[[], nn.Module]) -> None:
    """Whatever their momentum is the share of; and what they leave can be loaded into."""
    net, twin, images = nn.Sequential(norm()), nn.Sequential(nn.BatchNorm2d(3)), image_batches(8, 4)
    before, momentum = snapshot(net), net[0].momentum
    recalibrate_bn(net, images)
    recalibrate_bn(twin, images)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(net[0].get_buffer(name).flatten(), twin[0].get_buffer(name))
    assert net[0].momentum == momentum
    net.load_state_dict(before)
    net.train()(images[0].requires_grad_()).sum().backward()


def test_frozen_statistics_stay() -> None:
    net = nn.Sequential(FrozenBatchNorm2d(3), nn.BatchNorm2d(3))
    before = snapshot(net)
    recalibrate_bn(net, image_batches(4))
    assert bn_layers(net) == [net[1]]
    assert all(torch.equal(before[name], t) for name, t in net[0].state_dict(prefix="0.").items())


def test_a_layer_used_twice_takes_the_mean_of_both_and_one_not_used_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.spare = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
            self.spare.running_mean.fill_(7.0)  # type: ignore[union-attr]

        def forward(self, x: Tensor) -> Tensor:
            self.norm(x)
            return self.norm(x + 4)  # type: ignore[no-any-return]

    net = Twice()
    recalibrate_bn(net, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [9.0]])])
    assert net.norm.running_mean.tolist() == [(2 + 6 + 7 + 11) / 4]  # type: ignore[union-attr]
    assert net.norm.running_var.tolist() == [(2 + 2 + 8 + 8) / 4]  # type: ignore[union-attr]
    assert net.spare.running_mean.tolist() == [7.0]  # type: ignore[union-attr]
