"""Weights that reproduce the mean activations of a pool, layer after layer, in closed form.

    U ← mean over the tickets of what each computes after layer l and the normalisation that follows it
    Z ← what the network, rebuilt up to layer l, gives to layer l
    for each output of layer l, over its kept weights alone:
        w ← argmin ‖(Z − mean Z)·w − (U − mean U)‖² / n + ridge·d·‖w − w_start‖²,   d = mean variance of Z's columns

Later layers correct what earlier ones miss, because Z comes from the rebuilt network. Neither labels nor val are seen.

Least squares on activations prunes networks (AdaPrune: Hubara et al. 2021; SparseGPT: Frantar & Alistarh 2023) and
merges them (RegMean: Jin et al. 2023). Here the teacher is the mean of the tickets of one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lptool.checkpoints.masks import Mask, State
from lptool.pooling.layers import Layer, before_norm, hooked, inputs_at, normalised, outputs_at, side_by_side
from lptool.scoring.batchnorm import in_eval_mode
from lptool.scoring.score import recalibrated

Images = Callable[[], Iterable[Tensor]]  # makes the calibration images, float [B, C, H, W], the same at each call
Teacher = dict[str, Tensor]  # layer → its mean activations at the sampled positions, float [images·positions, outputs]


class _Reached(Exception):
    pass


@dataclass(frozen=True)
class Reconstruction:
    """Fits the layers of one network, whose weights are overwritten meanwhile.

    Attributes:
        model: the network. layers: of `find_layers`. images: for calibration, on the model's device.
        positions: of each image that are looked at in a layer. steps: of conjugate gradients. seed: of the positions.
    """

    model: nn.Module
    layers: Sequence[Layer]
    images: Images
    positions: int = 16
    steps: int = 20
    seed: int = 0

    def teach(self, tickets: Iterable[tuple[float, Mapping[str, Tensor]]]) -> Teacher:
        """The mean of what tickets compute after each layer, by shares that add up to 1; one ticket at a time."""
        teacher: Teacher = {}
        for share, state in tickets:
            self.model.load_state_dict(state)
            for name, found in self._activations().items():
                teacher[name] = teacher[name].add_(found, alpha=share) if name in teacher else found.mul_(share)
        return teacher

    def recalibrated(self, state: State) -> State:
        """The state with BatchNorm statistics of its own weights on the calibration images."""
        return recalibrated(self.model, state, ((images, images) for images in self.images()))

    def rebuild(self, start: State, mask: Mask, teacher: Teacher, ridge: float) -> State:
        """The start with its kept weights fitted, and BatchNorm statistics that go with them.

        Args:
            start: what the weights are drawn to, and whose other tensors stay; as `recalibrated` gives it, since the
                gain of its BatchNorm layers is kept.
            mask: name → bool, True = kept. ridge: how strongly they are drawn, above 0.

        A layer, or an output of one, whose fit is not finite stays as it is.
        """
        state = dict(start)
        for layer in self.layers:
            self.model.load_state_dict(state)
            moments = self._moments(layer, teacher[layer.name])
            fitted = fit(self.model, layer, moments, mask[layer.weight], ridge, self.steps)
            state |= {name: value.to(state[name].dtype) for name, value in fitted.items()}
        return state

    def _activations(self) -> Teacher:
        found: dict[str, list[Tensor]] = {layer.name: [] for layer in self.layers}
        batch = 0

        def keeping(layer: Layer) -> Callable[..., None]:
            norm = self._norm(layer)

            def hook(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
                places = self._places(layer, made, batch)
                found[layer.name].append(
                    outputs_at(module, normalised(module, norm, made), places).flatten(0, 1).float()
                )

            return hook

        hooks = {self.model.get_submodule(layer.name): keeping(layer) for layer in self.layers}
        with hooked(hooks), in_eval_mode(self.model), torch.inference_mode():
            for batch, images in enumerate(self.images()):  # noqa: B007  (the hooks read it)
                self.model(images)
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _moments(self, layer: Layer, teacher: Tensor) -> Moments:
        """Means over the samples of a layer's inputs, of what it shall give, and of their products."""
        module, norm, moments = self.model.get_submodule(layer.name), self._norm(layer), Moments()
        seen = batch = 0

        def hook(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            nonlocal seen
            places = self._places(layer, made, batch)
            count = len(made) * len(places)
            wanted = teacher[seen : seen + count].unflatten(0, (len(made), -1))
            seen += count
            wanted = before_norm(module, norm, made, places, wanted).flatten(0, 1)
            moments.add(inputs_at(module, given[0], places).float(), wanted)
            raise _Reached

        with hooked({module: hook}), in_eval_mode(self.model), torch.inference_mode():
            for batch, images in enumerate(self.images()):  # noqa: B007
                try:
                    self.model(images)
                except _Reached:
                    continue
        return moments

    def _norm(self, layer: Layer) -> nn.Module | None:
        return self.model.get_submodule(layer.norm) if layer.norm else None

    def _places(self, layer: Layer, made: Tensor, batch: int) -> Tensor:
        """The positions that are looked at: random ones, the same for teacher and student."""
        count = side_by_side(self.model.get_submodule(layer.name), made).shape[1]
        place = self.layers.index(layer)
        own = torch.Generator().manual_seed((self.seed * 1_000 + place) * 100_000 + batch)
        return torch.randperm(count, generator=own)[: self.positions].to(made.device)


class Moments:
    """Means over samples, batch after batch; in float64, as sums of many float32 lose what is small."""

    def __init__(self) -> None:
        self.samples = 0
        self._sums: list[Tensor] = []

    def add(self, inputs: Tensor, wanted: Tensor) -> None:
        """Inputs [groups, samples, inputs of a group] and what they shall give, [samples, outputs]."""
        targets = wanted.unflatten(1, (len(inputs), -1)).transpose(0, 1)  # [groups, samples, outputs of a group]
        across = inputs.transpose(1, 2)
        parts = [across @ inputs, targets.transpose(1, 2) @ inputs, inputs.sum(1), targets.sum(1)]
        parts = [part.double() for part in parts]
        self._sums = [a + b for a, b in zip(self._sums, parts, strict=True)] if self._sums else parts
        self.samples += inputs.shape[1]

    def means(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of inputs × inputs [g, i, i], targets × inputs [g, o, i], inputs [g, i] and targets [g, o]."""
        products, cross, inputs, targets = (part / self.samples for part in self._sums)
        return products, cross, inputs, targets


def fit(model: nn.Module, layer: Layer, moments: Moments, kept: Tensor, ridge: float, steps: int) -> State:
    """The tensors of a layer and its BatchNorm that give what is wanted best.

    After BatchNorm only the weights' direction matters: they are fitted times the gain that BatchNorm gives them now,
    and divided by it again; its statistics and affine parameters are set such that the gain stays and the mean is the
    teacher's. Without BatchNorm the bias takes the mean; without a bias nothing is centred.
    """
    module: Any = model.get_submodule(layer.name)
    norm = model.get_submodule(layer.norm) if layer.norm else None
    batchnorm = norm if isinstance(norm, _BatchNorm) else None
    products, cross, inputs, wanted = moments.means()
    if batchnorm is not None or module.bias is not None:
        products = products - inputs[:, :, None] * inputs[:, None, :]
        cross = cross - wanted[:, :, None] * inputs[:, None, :]
    weight = module.weight.detach().double()
    start, mask = (t.reshape(*wanted.shape, -1) for t in (weight, kept))
    gain = _gain(batchnorm, wanted)
    usable = gain.abs() > 1e-6  # else BatchNorm shuts the channel, and its weights have no effect to be fitted by
    safe = torch.where(usable, gain, 1.0)
    found = conjugate_gradients(products, cross, start * safe, mask, ridge, steps) / safe
    sound = usable & found.isfinite().all(-1, keepdim=True) & wanted.isfinite()[..., None]
    found = torch.where(sound, found, start)
    means = (found @ inputs[..., None]).flatten()
    spread = ((found @ products) * found).sum(-1).flatten().clamp_min(0)
    changes: dict[str, Tensor] = {}
    if batchnorm is not None:
        changes = _batchnorm_for(batchnorm, module.bias, gain.flatten(), means, spread, wanted.flatten())
        changes = {f"{layer.norm}.{name}": value for name, value in changes.items()}
    elif module.bias is not None:
        changes = {f"{layer.name}.bias": wanted.flatten() - means}
    old = model.state_dict()
    kept_old = {name: torch.where(sound.flatten(), value, old[name].double()) for name, value in changes.items()}
    return {layer.weight: found.reshape(weight.shape), **kept_old}


def _gain(batchnorm: _BatchNorm | None, wanted: Tensor) -> Tensor:
    """What BatchNorm multiplies each output by, [groups, outputs, 1]."""
    if batchnorm is None or batchnorm.running_var is None:
        return torch.ones_like(wanted)[..., None]
    deviation = (batchnorm.running_var.double() + batchnorm.eps).sqrt()
    scale = 1.0 if batchnorm.weight is None else batchnorm.weight.detach().double()
    return (scale / deviation).view_as(wanted)[..., None]


def _batchnorm_for(
    batchnorm: _BatchNorm, bias: Tensor | None, gain: Tensor, means: Tensor, spread: Tensor, wanted: Tensor
) -> dict[str, Tensor]:
    """Statistics of the fitted outputs, and the affine parameters with which gain stays and the mean is as wanted."""
    shift = 0.0 if bias is None else bias.detach().double()
    found = {"running_mean": means + shift, "running_var": spread}
    if batchnorm.weight is not None:
        found |= {"weight": gain * (spread + batchnorm.eps).sqrt(), "bias": wanted}
    return found


def conjugate_gradients(
    products: Tensor, cross: Tensor, start: Tensor, mask: Tensor, ridge: float, steps: int
) -> Tensor:
    """For each output the kept weights w that minimise ½·wᵀGw − bᵀw + ½·ridge·mean(diag G)·‖w − start‖².

    Outputs are independent of each other; all of them take their steps together.

    Args:
        products: G, float64 [groups, inputs, inputs]. cross: b, [groups, outputs, inputs].
        start: [groups, outputs, inputs]; the first guess too. mask: likewise, bool.
        steps: as many as a group has inputs give the exact minimum, but for rounding.
    """
    keep, diagonal = mask.to(start.dtype), products.diagonal(dim1=1, dim2=2)
    pull = (ridge * diagonal.mean(1)).clamp_min(1e-12)[:, None, None]
    scale = 1 / (diagonal[:, None] + pull)  # Jacobi's preconditioner
    w = start * keep
    residual = (cross - w @ products + pull * (start - w)) * keep
    direction = scaled = residual * scale
    size = (residual * scaled).sum(-1, keepdim=True)
    for _ in range(steps):
        moved = (direction @ products + pull * direction) * keep
        step = size / (direction * moved).sum(-1, keepdim=True).clamp_min(1e-30)  # 0 / 0 where nothing is left to do
        w, residual = w + step * direction, residual - step * moved
        scaled, before = residual * scale, size
        size = (residual * scaled).sum(-1, keepdim=True)
        direction = scaled + size / before.clamp_min(1e-30) * direction
    return w
