"""The closed form, layer by layer: against ridge regression by itself, and what must not change."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lptool.checkpoints.masks import Mask, State
from lptool.networks.building import build_model
from lptool.pooling.layers import find_layers
from lptool.pooling.reconstruction import Reconstruction, Teacher
from lptool.scoring.score import recalibrated
from tests.pooling.test_layers import ODD, Masked, weights_of

# Smooth, as pictures are: what one weight misses, its neighbours can make up for.
IMAGES = F.interpolate(torch.randn(48, 3, 3, 3, generator=torch.Generator().manual_seed(0)), 8, mode="bicubic")


def network(seed: int = 0) -> nn.Module:
    """Convolutions with and without BatchNorm and bias, one of them grouped, and a linear layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.GroupNorm(2, 6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).eval()


def images() -> Iterable[Tensor]:
    return IMAGES.split(16)


def prunable(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.dim() > 1]


def ticket(seed: int, density: float = 0.5) -> tuple[State, Mask]:
    model = network(seed)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    draw = torch.Generator().manual_seed(seed + 100)
    mask = {name: torch.rand(state[name].shape, generator=draw) < density for name in prunable(model)}
    pruned = {name: t * mask[name] if name in mask else t for name, t in state.items()}
    return recalibrated(model, pruned, [(IMAGES, IMAGES)]), mask  # as after training


def reconstruction(model: nn.Module, **changes: int) -> Reconstruction:
    layers, left = find_layers(model, prunable(model), IMAGES[:2])
    assert left == []
    return Reconstruction(model, layers, images, **changes)


def errors(rebuilding: Reconstruction, state: State, teacher: Teacher) -> dict[str, float]:
    """The mean squared distance of a network's activations to a teacher's, by layer."""
    found = rebuilding.teach([(1.0, state)])
    return {name: float((torch.cat(parts) - torch.cat(teacher[name])).square().mean()) for name, parts in found.items()}


def test_a_ticket_that_teaches_itself_stays_as_it_is() -> None:
    model, (state, mask) = network(), ticket(3)
    rebuilding = reconstruction(model, positions=1000)
    start = rebuilding.recalibrated(state)
    rebuilt = rebuilding.rebuild(start, mask, rebuilding.teach([(1.0, start)]))
    found, fits = rebuilt.state, rebuilt.fits
    assert max(fit.after for fit in fits) < 1e-6
    model.load_state_dict(start)
    before = model(IMAGES)
    model.load_state_dict(found)
    torch.testing.assert_close(model(IMAGES), before, rtol=1e-3, atol=1e-3)


def test_a_rebuilt_ticket_computes_what_the_teacher_does_more_nearly() -> None:
    model = network()
    (state, mask), others = ticket(0), [ticket(0, density)[0] for density in (0.7, 1.0)]
    rebuilding = reconstruction(model)
    teacher = rebuilding.teach([(1 / 3, each) for each in (state, *others)])
    rebuilt = rebuilding.rebuild(rebuilding.recalibrated(state), mask, teacher)
    found, fits = rebuilt.state, rebuilt.fits
    assert all(fit.after < fit.before for fit in fits)
    assert [fit.name for fit in fits] == list(teacher)

    before, after = (errors(rebuilding, weights, teacher) for weights in (state, found))
    for layer, error in before.items():
        assert after[layer] < 0.8 * error, layer
    assert {name for name, t in state.items() if t.shape != found[name].shape} == set()
    for name, kept in mask.items():
        assert not found[name][~kept].any()


def masked() -> nn.Module:
    """The same network of a program whose convolutions keep their mask beside the weight."""
    model = network()
    for name, module in model.named_children():
        if isinstance(module, nn.Conv2d):
            sizes = (module.in_channels, module.out_channels, 3 if name != "5" else 1)
            given = {"stride": module.stride, "padding": module.padding, "groups": module.groups}
            setattr(model, name, Masked(*sizes, bias=module.bias is not None, **given))
    return model.eval()


def test_layers_that_keep_a_mask_are_fitted_as_those_of_torch() -> None:
    """Of tickets with different masks, and with room for others than the target's."""
    (state, mask), other = ticket(0), ticket(1)
    found = []
    for model in (network(), masked()):
        rebuilding = reconstruction(model)
        teacher = rebuilding.teach([(0.5, state), (0.5, other[0])])
        found.append(rebuilding.rebuild(rebuilding.recalibrated(state), mask, teacher, room=other[1]))
    plain, kept = found
    assert plain.mask["3.weight"].ne(mask["3.weight"]).any()  # the room was used
    for name in mask:
        assert torch.equal(plain.mask[name], kept.mask[name])
    for name, tensor in plain.state.items():
        torch.testing.assert_close(kept.state[name], tensor, rtol=1e-4, atol=1e-5)


def test_the_order_of_the_tickets_does_not_matter() -> None:
    model = network()
    rebuilding = reconstruction(model)
    shares = [(0.2, ticket(0)[0]), (0.3, ticket(1)[0]), (0.5, ticket(2)[0])]
    one, other = rebuilding.teach(shares), rebuilding.teach(shares[::-1])
    for name, values in one.items():
        torch.testing.assert_close(values, other[name])
        assert len(values) == 3  # batches of images


def test_inputs_are_left_alone_and_equal_calls_give_equal_bytes() -> None:
    model, (state, mask) = network(), ticket(0)
    before = {name: t.clone() for name, t in state.items()}
    rebuilding = reconstruction(model)
    teacher = rebuilding.teach([(0.5, ticket(1)[0]), (0.5, ticket(2)[0])])
    kept = {name: torch.cat(parts) for name, parts in teacher.items()}
    one, other = (rebuilding.rebuild(rebuilding.recalibrated(state), mask, teacher).state for _ in range(2))
    assert all(torch.equal(state[name], t) for name, t in before.items())
    assert all(torch.equal(torch.cat(teacher[name]), t) for name, t in kept.items())
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["pruned whole", "constant", "not finite", "few images"])
def test_odd_layers_end_well(kind: str) -> None:
    """The result is finite, and what could not be fitted is as it was."""
    model, (state, mask) = network(), ticket(0)
    teacher_state = ticket(1)[0]
    name = "3.weight"
    if kind == "pruned whole":
        mask[name] = torch.zeros_like(mask[name])
        state[name] = torch.zeros_like(state[name])
    if kind == "constant":
        state["0.weight"] = torch.zeros_like(state["0.weight"])  # what goes into the next layer is the same everywhere
    if kind == "not finite":
        teacher_state = teacher_state | {name: torch.full_like(state[name], 1e38)}
    layers, _ = find_layers(model, prunable(model), IMAGES[:2])
    few = IMAGES[:2].split(2) if kind == "few images" else IMAGES.split(16)
    rebuilding = Reconstruction(model, layers, lambda: few, positions=1 if kind == "few images" else 16)
    rebuilt = rebuilding.rebuild(rebuilding.recalibrated(state), mask, rebuilding.teach([(1.0, teacher_state)]))
    found, fits = rebuilt.state, rebuilt.fits
    json.dumps([asdict(fit) for fit in fits], allow_nan=False)  # as it goes into the header
    assert all(bool(t.isfinite().all()) for t in found.values())
    assert not found[name][~mask[name]].any()
    if kind == "not finite":
        assert torch.equal(found[name], state[name])


def test_a_linear_network_gets_the_ridge_solution_of_its_teacher() -> None:
    """One layer without normalisation, against torch's own solver, with each ridge by itself."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    x, mask = torch.randn(64, 3, 2, 2), {"1.weight": torch.rand(5, 12) < 0.6}
    start, other = ({name: torch.randn_like(t) for name, t in model.state_dict().items()} for _ in range(2))
    start["1.weight"] *= mask["1.weight"]
    layers, _ = find_layers(model, ["1.weight"], x[:2])
    wanted = x.flatten(1) @ other["1.weight"].T + other["1.bias"]
    z, u = x.flatten(1) - x.flatten(1).mean(0), wanted - wanted.mean(0)
    for ridge in (0.01, 1.0):
        rebuilding = Reconstruction(model, layers, lambda: x.split(32), ridges=(ridge,), steps=50)
        found = rebuilding.rebuild(start, mask, rebuilding.teach([(1.0, other)])).state
        pull = ridge * float(z.square().mean())
        for output in range(5):
            kept = mask["1.weight"][output]
            a = z[:, kept].T @ z[:, kept] / 64 + pull * torch.eye(int(kept.sum()))
            b = z[:, kept].T @ u[:, output] / 64 + pull * start["1.weight"][output, kept]
            torch.testing.assert_close(found["1.weight"][output, kept], torch.linalg.solve(a, b), rtol=1e-3, atol=1e-4)
        shift = wanted.mean(0) - x.flatten(1).mean(0) @ found["1.weight"].T
        torch.testing.assert_close(found["1.bias"], shift, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_keep_their_type(dtype: torch.dtype) -> None:
    model, (state, mask) = network(), ticket(0)
    typed = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
    rebuilding = reconstruction(model)
    found = rebuilding.rebuild(rebuilding.recalibrated(typed), mask, rebuilding.teach([(1.0, ticket(1)[0])])).state
    assert {name: t.dtype for name, t in found.items()} == {name: t.dtype for name, t in typed.items()}


@pytest.mark.parametrize("arch", ["resnet8_cifar", "mobilenetv2_035", "convnext_atto"])
def test_networks_of_timm_are_rebuilt(arch: str) -> None:
    torch.manual_seed(0)
    model = build_model(arch, num_classes=3).eval()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    teacher_state = {n: t + 0.1 * t.std() * torch.randn_like(t) if t.dim() > 1 else t for n, t in state.items()}
    names = [f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    mask = {name: torch.rand(state[name].shape) < 0.8 for name in names}
    start = {name: t * mask[name] if name in mask else t for name, t in state.items()}
    pictures = torch.randn(32, 3, 32, 32)
    layers, _ = find_layers(model, names, pictures[:2])
    rebuilding = Reconstruction(model, layers, lambda: pictures.split(16), ridges=(0.3,), steps=4)  # few, as it is slow
    teacher = rebuilding.teach([(1.0, teacher_state)])
    found = rebuilding.rebuild(rebuilding.recalibrated(start), mask, teacher).state
    before, after = (errors(rebuilding, weights, teacher)[layers[-1].name] for weights in (start, found))
    assert after < before


@pytest.mark.parametrize("kind", ODD)
def test_networks_of_any_make_end_well(kind: str) -> None:
    """Masks are kept, all is finite, types stay, and what cannot be fitted is as it was."""
    torch.manual_seed(0)
    model = ODD[kind][0]().eval()
    pictures, names = torch.randn(24, 4, 6, 6), weights_of(model)
    model(pictures[:2])  # what is compiled is compiled without hooks
    layers, left = find_layers(model, names, pictures[:2])
    teacher_state = {name: t.clone() for name, t in model.state_dict().items()}
    mask = {name: torch.rand(teacher_state[name].shape) < 0.8 for name in names}
    start = {name: t * mask[name] if name in mask else t for name, t in teacher_state.items()}
    rebuilding = Reconstruction(model, layers, lambda: pictures.split(8))
    start = rebuilding.recalibrated(start)
    rebuilt = rebuilding.rebuild(start, mask, rebuilding.teach([(1.0, teacher_state)]))
    found, fits = rebuilt.state, rebuilt.fits
    assert {name: (t.shape, t.dtype) for name, t in found.items()} == {n: (t.shape, t.dtype) for n, t in start.items()}
    assert all(bool(t.isfinite().all()) for t in found.values())
    assert not any(found[name][~kept].any() for name, kept in mask.items())
    assert all(torch.equal(found[name], start[name]) for name in left)
    assert [fit.name for fit in fits] == [layer.name for layer in layers]
    assert any(fit.ridge for fit in fits) or len(layers) < 2


def test_a_fit_that_the_type_of_the_weights_cannot_hold_is_not_made() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    start = {name: t.half() for name, t in model.state_dict().items()}
    teacher_state = {name: 1e6 * t for name, t in model.state_dict().items()}  # half goes to 65,504
    x = torch.randn(64, 3, 2, 2)
    mask = {"1.weight": torch.ones(5, 12, dtype=torch.bool)}
    layers, _ = find_layers(model, mask, x[:2])
    rebuilding = Reconstruction(model, layers, lambda: x.split(32), ridges=(0.01,))
    rebuilt = rebuilding.rebuild(start, mask, rebuilding.teach([(1.0, teacher_state)]))
    found, (fit,) = rebuilt.state, rebuilt.fits
    assert all(torch.equal(found[name], t) for name, t in start.items())
    assert fit.ridge is None
    assert fit.after == fit.before


@pytest.mark.parametrize("kind", ["sparse", "dense", "pruned whole", "a dead channel", "not finite"])
def test_a_mask_chosen_anew_keeps_as_many_weights_of_its_room_in_each_layer(kind: str) -> None:
    model, (state, mask), (teacher_state, room) = network(), ticket(0, 0.3), ticket(0, 0.8)
    if kind == "dense":
        mask = {name: torch.ones_like(kept) for name, kept in mask.items()}
    if kind == "pruned whole":
        mask["3.weight"] = torch.zeros_like(mask["3.weight"])
        state["3.weight"] = torch.zeros_like(state["3.weight"])
    if kind == "a dead channel":
        state["1.weight"][2] = 0
    if kind == "not finite":
        teacher_state = teacher_state | {"3.weight": torch.full_like(state["3.weight"], 1e38)}
    rebuilding = reconstruction(model)
    start, teacher = rebuilding.recalibrated(state), rebuilding.teach([(1.0, teacher_state)])
    one, other = (rebuilding.rebuild(start, mask, teacher, room=room) for _ in range(2))
    for name, kept in mask.items():
        assert int(one.mask[name].sum()) == int(kept.sum())
        assert not (one.mask[name] & ~(room[name] | kept)).any()
        assert not one.state[name][~one.mask[name]].any()
        assert torch.equal(one.mask[name], other.mask[name])
    assert all(torch.equal(other.state[name], t) and bool(t.isfinite().all()) for name, t in one.state.items())
    # What follows a layer without weights, or without a finite teacher, is given nothing that it could be fitted on.
    stay = {"dense": list(mask), "pruned whole": list(mask)[1:], "not finite": list(mask)[1:]}.get(kind, [])
    assert [name for name, kept in mask.items() if torch.equal(one.mask[name], kept)] == stay
    if kind == "a dead channel":
        assert torch.equal(one.mask["0.weight"][2], mask["0.weight"][2])
        assert torch.equal(one.state["0.weight"][2], start["0.weight"][2])


def test_a_teacher_of_as_many_weights_in_the_room_is_found() -> None:
    """A linear layer: no other weights of that number give what the teacher gives."""
    draw = torch.Generator().manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.randn(256, 3, 2, 2, generator=draw)
    truth, old = ((torch.rand(5 * 12, generator=draw).argsort() < 20).view(5, 12) for _ in range(2))
    rule = {"1.weight": truth * (1 + torch.rand(5, 12, generator=draw)), "1.bias": torch.randn(5, generator=draw)}
    start = {"1.weight": old * torch.randn(5, 12, generator=draw), "1.bias": torch.zeros(5)}
    layers, _ = find_layers(model, ["1.weight"], x[:2])
    rebuilding = Reconstruction(model, layers, lambda: x.split(64), ridges=(1e-6,), steps=50)
    found = rebuilding.rebuild(start, {"1.weight": old}, rebuilding.teach([(1.0, rule)]), room={"1.weight": truth})
    assert torch.equal(found.mask["1.weight"], truth)
    for name, wanted in rule.items():
        torch.testing.assert_close(found.state[name], wanted, rtol=1e-3, atol=1e-3)
