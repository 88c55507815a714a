"""The gradient of a step: against BatchNorm, dropout and the loss written out, and autograd."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from lptool.checkpoints.masks import State
from lptool.pooling.gradient import Slope
from lptool.scoring.batchnorm import recalibrate_bn
from tests.pooling.test_scorer import Part, labelled_images, network

TOTAL = 30


def part() -> Part:
    return Part(*labelled_images(3, TOTAL))


def by_hand(state: State, images: Tensor, labels: Tensor) -> State:
    """The gradient through the network of test_scorer: convolution, BatchNorm of this batch, ReLU, linear layer."""
    leaf = {name: t.double().requires_grad_() for name, t in state.items() if t.is_floating_point()}
    x = nn.functional.conv2d(images.double(), leaf["0.weight"], leaf["0.bias"])
    mean, variance = x.mean(dim=(0, 2, 3), keepdim=True), x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    x = (x - mean) / (variance + 1e-5).sqrt() * leaf["1.weight"].view(1, -1, 1, 1) + leaf["1.bias"].view(1, -1, 1, 1)
    logits = x.clamp(min=0).flatten(1) @ leaf["5.weight"].T + leaf["5.bias"]
    loss = (logits.logsumexp(dim=1) - logits.gather(1, labels[:, None])[:, 0]).mean()
    names = [name for name in leaf if "running" not in name]
    return dict(zip(names, torch.autograd.grad(loss, [leaf[name] for name in names]), strict=True))


@pytest.mark.parametrize("batch_size", [7, TOTAL, 999])
@pytest.mark.parametrize("step", [0, 5])
def test_the_gradient_is_that_written_out(step: int, batch_size: int) -> None:
    """Dropout sleeps, BatchNorm sees this batch; the statistics of the state do not count."""
    train, state = part(), network(1).state_dict()
    slope = Slope(network(0), train, TOTAL, batch_size=batch_size)
    found = slope(state, step)
    places = torch.tensor(train.places)
    assert len(set(train.places)) == len(places) == min(batch_size, TOTAL)
    expected = by_hand(state, train.images[places], train.labels[places])
    assert set(found) == set(expected)
    for name, t in found.items():
        torch.testing.assert_close(t.double(), expected[name], rtol=1e-4, atol=1e-6)
        assert not t.requires_grad
    shaken = {n: t + 3.0 if "running" in n else t for n, t in state.items()}
    for name, t in slope(shaken, step).items():
        assert torch.equal(t, found[name])


@pytest.mark.parametrize("training", [True, False])
def test_the_state_is_not_changed_and_modes_are_restored(training: bool) -> None:
    net, state = network(0).train(training), network(1).state_dict()
    net[1].train(not training)
    modes, before = [module.training for module in net.modules()], deepcopy(state)
    Slope(net, part(), TOTAL, batch_size=8)(state, 0)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(t, before[name]) for name, t in state.items())
    assert all(p.grad is None for p in net.parameters())


def test_modes_are_restored_after_an_exception() -> None:
    train, net = part(), network(0).train()
    train.labels[:] = 99
    with pytest.raises(IndexError):
        Slope(net, train, TOTAL)(net.state_dict(), 0)
    assert all(module.training for module in net.modules())


def places_of(seed: int, step: int, batch_size: int = 8) -> list[int]:
    train = part()
    Slope(network(0), train, TOTAL, batch_size=batch_size, seed=seed)(network(1).state_dict(), step)
    return train.places


def test_equal_steps_are_of_equal_images_and_others_of_others() -> None:
    """Whatever was computed between them, and whatever the global generator did."""
    first = places_of(0, 0)
    torch.manual_seed(123)
    assert places_of(0, 0) == first
    drawn = {tuple(places_of(seed, step)) for seed in (0, 1, 2**32 - 1) for step in (0, 1, 2)}
    assert len(drawn) == 9
    train = part()
    slope = Slope(network(0), train, TOTAL, batch_size=8)
    for step in (3, 0):
        slope(network(1).state_dict(), step)
    assert train.places[8:] == first
    assert train.sizes == [8, 8]


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    state, before = network(1).state_dict(), torch.get_rng_state()
    slope = Slope(deepcopy(network(0)), part(), TOTAL)
    torch.set_rng_state(before)
    slope(state, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_images_of_many_steps_are_all_of_train() -> None:
    assert {place for step in range(40) for place in places_of(0, step)} == set(range(TOTAL))


class Partly(nn.Module):
    """A network with a parameter that its output does not depend on, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(16, 4), nn.Linear(16, 4)
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x.flatten(1)) * self.frozen  # type: ignore[no-any-return]


def test_what_the_loss_does_not_depend_on_has_no_gradient() -> None:
    net = Partly()
    found = Slope(net, part(), TOTAL)(net.state_dict(), 0)
    assert set(found) == {"used.weight", "used.bias"}


def test_noise_is_added_that_a_step_draws_again_the_same() -> None:
    net, state, seen = network(0), network(1).state_dict(), list[Tensor]()
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    quiet = Slope(net, part(), TOTAL, batch_size=9)
    noisy = Slope(net, part(), TOTAL, batch_size=9, noise=0.5)
    for slope, step in ((quiet, 4), (noisy, 4), (noisy, 4), (noisy, 5), (quiet, 5)):
        slope(state, step)
    plain, first, again, other, plain_other = seen
    assert torch.equal(first, again)
    drawn = torch.cat([first - plain, other - plain_other])
    assert not torch.equal(*drawn.chunk(2))
    assert drawn.std().item() == pytest.approx(0.5, rel=0.2)
    assert abs(drawn.mean().item()) < 0.1


def test_it_computes_in_the_type_asked_for_and_where_no_gradient_is_wanted() -> None:
    net, state, seen = network(0), network(1).state_dict(), list[torch.dtype]()
    recalibrate_bn(net, [part().images])  # as a search does before
    net.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.no_grad():
        found = Slope(net, part(), TOTAL, torch.bfloat16)(state, 0)
    assert seen == [torch.bfloat16]
    exact = Slope(net, part(), TOTAL)(state, 0)
    assert {t.dtype for t in found.values()} == {torch.float32}
    assert found["5.weight"].flatten().tolist() == pytest.approx(exact["5.weight"].flatten().tolist(), abs=0.02)
