"""Optimizer steps against torch's plain ones, with the mask put on by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lptool.errors import TrainError
from lptool.training.options import TrainOptions
from lptool.training.steps import Part, make_optimizer, multipliers, optimizer_state, restore_optimizer, run_steps

CPU = torch.device("cpu")
RATES = [0.1, 0.1, 0.05, 0.02]

OPTIMIZERS: dict[str, tuple[dict[str, Any], Any]] = {
    "sgd": ({"momentum": 0.9, "weight_decay": 1e-2}, torch.optim.SGD),
    "nesterov": ({"momentum": 0.8, "nesterov": True, "weight_decay": 1e-3}, torch.optim.SGD),
    "plain": ({"momentum": 0.0, "weight_decay": 0.0}, torch.optim.SGD),
    "adamw": ({"weight_decay": 0.3}, torch.optim.AdamW),  # torch's own is 0.01
}


def options_of(name: str) -> TrainOptions:
    arguments, _ = OPTIMIZERS[name]
    return TrainOptions(optimizer="adamw" if name == "adamw" else "sgd", lr=0.1, **arguments)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = (8, 8, 7, 8)
    return [(torch.randn(n, 5, generator=generator), torch.randint(3, (n,), generator=generator)) for n in sizes]


def parts() -> Iterator[Part]:
    return (Part(images, labels, len(labels)) for images, labels in batches())


def run(model: nn.Module, optimizer: torch.optim.Optimizer, kept: Tensor | None = None, **more: Any) -> Any:
    weight = model[0].weight  # type: ignore[index]
    pruned = {} if kept is None else {"0.weight": (weight, kept)}
    settings = {"compute": torch.float32, "label_smoothing": 0.0, "processes": 1, "on_step": lambda: None}
    return run_steps(model, optimizer, parts(), RATES, pruned, **(settings | more))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_torchs_with_the_mask_after_each(name: str, smoothing: float) -> None:
    arguments, kind = OPTIMIZERS[name]
    model = network()
    plain = copy.deepcopy(model)
    kept = (torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    totals = run(model, make_optimizer(model, options_of(name), CPU), kept, label_smoothing=smoothing)

    optimizer = kind(plain.parameters(), lr=0.1, **arguments)
    losses = []
    for rate, (images, labels) in zip(RATES, batches(), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        loss = F.cross_entropy(plain(images), labels, label_smoothing=smoothing)
        losses.append(float(loss.detach()) * len(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            plain[0].weight *= kept
    torch.testing.assert_close(model.state_dict(), plain.state_dict())
    assert not model[0].weight[kept == 0].any()  # type: ignore[index]
    assert float(totals.loss) == pytest.approx(sum(losses), rel=1e-5)
    assert totals.seen == 31


def test_right_answers_are_counted() -> None:
    model = nn.Sequential(nn.Linear(5, 3))
    still = make_optimizer(model, TrainOptions(lr=1e-30, weight_decay=0.0), CPU)
    settings: dict[str, Any] = {"compute": torch.float32, "label_smoothing": 0.0, "on_step": lambda: None}
    totals = run_steps(model, still, parts(), [1e-30] * 4, {}, processes=1, **settings)
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches())
    assert int(totals.correct) == right


def test_every_step_is_told() -> None:
    told: list[int] = []
    run(model := network(), make_optimizer(model, options_of("sgd"), CPU), on_step=lambda: told.append(1))
    assert len(told) == len(RATES)


def test_bf16_computes_in_bf16() -> None:
    model, seen = network(), list[torch.dtype]()
    model[0].register_forward_hook(lambda *call: seen.append(call[2].dtype))  # type: ignore[operator]
    run(model, make_optimizer(model, options_of("sgd"), CPU), compute=torch.bfloat16)
    assert set(seen) == {torch.bfloat16}
    assert model[0].weight.dtype == torch.float32  # type: ignore[index]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_put_back_goes_on_to_the_bit(name: str) -> None:
    whole = network()
    optimizer = make_optimizer(whole, options_of(name), CPU)
    run(whole, optimizer)
    again, remembered = copy.deepcopy(whole), optimizer_state(whole, optimizer)
    remembered = {key: value.clone() for key, value in remembered.items()}
    run(whole, optimizer)
    fresh = make_optimizer(again, options_of(name), CPU)
    restore_optimizer(again, fresh, remembered)
    run(again, fresh)
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in whole.state_dict().items())


def test_momentum_comes_back_in_the_layout_of_its_weight() -> None:
    model = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, options_of("sgd"), CPU)
    restore_optimizer(model, optimizer, {"weight|momentum_buffer": torch.ones(4, 4, 3, 3)})
    buffer = optimizer.state[model.weight]["momentum_buffer"]
    assert buffer.stride() == model.weight.stride()


def test_multipliers_are_masks_in_the_type_and_layout_of_their_weights() -> None:
    model = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last, dtype=torch.bfloat16)  # type: ignore[call-overload]
    kept = torch.rand(model.weight.shape) < 0.5
    ((weight, factor),) = multipliers(model, {"weight": kept}).values()
    assert weight is model.weight
    assert (factor.dtype, factor.stride(), factor.requires_grad) == (torch.bfloat16, weight.stride(), False)
    assert torch.equal(factor != 0, kept)


def test_frozen_weights_stay() -> None:
    model = network()
    model[0].weight.requires_grad_(False)  # type: ignore[index]
    before = model[0].weight.clone()  # type: ignore[index]
    run(model, make_optimizer(model, options_of("sgd"), CPU))
    assert torch.equal(model[0].weight, before)  # type: ignore[index]


@pytest.mark.parametrize("processes", [1, 3])
def test_a_part_counts_by_its_share_of_the_whole_batch(processes: int) -> None:
    """The mean over processes of their gradients is the gradient of the whole batch's mean loss."""
    images, labels = batches()[0]
    whole = torch.ones(3, 5, requires_grad=True)
    F.cross_entropy(images @ whole.T, labels).backward()
    gradients = []
    for rows in torch.arange(len(labels)).tensor_split(processes):  # of unequal size
        model = nn.Linear(5, 3, bias=False)
        nn.init.ones_(model.weight)
        optimizer = make_optimizer(model, TrainOptions(momentum=0.0, weight_decay=0.0, lr=1.0), CPU)
        settings: dict[str, Any] = {"compute": torch.float32, "label_smoothing": 0.0, "on_step": lambda: None}
        part = Part(images[rows], labels[rows], len(labels))
        run_steps(model, optimizer, [part], [1.0], {}, processes=processes, **settings)
        gradients.append(1 - model.weight.detach())
    torch.testing.assert_close(torch.stack(gradients).mean(0), whole.grad)


def test_what_an_optimizer_remembers_of_another_network_is_refused() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(TrainError, match=r"has other\.weight\|momentum_buffer, which the network lacks"):
        restore_optimizer(model, optimizer, {"other.weight|momentum_buffer": torch.ones(1)})
