"""Weights that reproduce the mean activations of a pool, layer after layer, in closed form.

    U ← mean over the tickets of what each computes after layer l and the normalisation that follows it
    Z ← what the network, rebuilt up to layer l, gives to layer l
    for each output of layer l, over its kept weights alone:
        w ← argmin ‖(Z − mean Z)·w − (U − mean U)‖² / n + ridge·d·‖w − w_start‖²,   d = mean variance of Z's columns

Later layers correct what earlier ones miss, because Z comes from the rebuilt network. Each layer takes the ridge that,
fitted to three quarters of the images, is best on the last quarter, and stays as it is where none is better than the
start; then it is fitted to all of them. Neither labels nor val are seen.

Least squares on activations prunes networks (AdaPrune: Hubara et al. 2021; SparseGPT: Frantar & Alistarh 2023) and
merges them (RegMean: Jin et al. 2023). Here the teacher is the mean of the tickets of one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lptool.checkpoints.masks import Mask, State
from lptool.pooling.catalogue import RIDGES
from lptool.pooling.layers import Layer, before_norm, hooked, inputs_at, normalised, outputs_at, side_by_side
from lptool.pooling.least_squares import Moments, System, best_ridge, conjugate_gradients
from lptool.pooling.outcome import LayerFit
from lptool.scoring.batchnorm import in_eval_mode
from lptool.scoring.score import recalibrated

Images = Callable[[], Iterable[Tensor]]  # makes the calibration images, float [B, C, H, W], the same at each call
Teacher = dict[str, Tensor]  # layer → its mean activations at the sampled positions, float [images·positions, outputs]


class _Reached(Exception):
    pass


FITTED = 3 / 4  # of the images; the others say which ridge is best


@dataclass(frozen=True)
class Reconstruction:
    """Fits the layers of one network, whose weights are overwritten meanwhile.

    Attributes:
        model: the network. layers: of `find_layers`. images: for calibration, on the model's device.
        positions: of each image that are looked at in a layer. seed: of the positions.
        ridges: how strongly weights are drawn to what they were, above 0; see `fit`. steps: of conjugate gradients.
    """

    model: nn.Module
    layers: Sequence[Layer]
    images: Images
    positions: int = 16
    ridges: tuple[float, ...] = RIDGES
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

    def rebuild(
        self, start: State, mask: Mask, teacher: Teacher, on_layer: Callable[[str], None] = lambda name: None
    ) -> tuple[State, tuple[LayerFit, ...]]:
        """The start with its kept weights fitted, and BatchNorm statistics that go with them; and how well they fit.

        Args:
            start: what the weights are drawn to, and whose other tensors stay; as `recalibrated` gives it, since the
                gain of its BatchNorm layers is kept.
            mask: name → bool, True = kept.
            on_layer: called with the name of each layer before it is fitted.

        A layer, or an output of one, whose fit is not finite stays as it is.
        """
        state, fits = dict(start), list[LayerFit]()
        for layer in self.layers:
            on_layer(layer.name)
            self.model.load_state_dict(state)
            moments = self._moments(layer, teacher[layer.name])
            changes, found = fit(self.model, layer, moments, mask[layer.weight], self.ridges, self.steps)
            state |= {name: value.to(state[name].dtype) for name, value in changes.items()}
            fits.append(found)
        return state, tuple(fits)

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

    def _moments(self, layer: Layer, teacher: Tensor) -> tuple[Moments, Moments]:
        """What a layer is given and shall give: of the images that it is fitted to, and of those held out."""
        module, norm, known, unseen = self.model.get_submodule(layer.name), self._norm(layer), Moments(), Moments()
        seen = batch = 0

        def hook(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            nonlocal seen
            places = self._places(layer, made, batch)
            count = len(made) * len(places)
            wanted = teacher[seen : seen + count].unflatten(0, (len(made), -1))
            seen += count
            wanted = before_norm(module, norm, made, places, wanted)
            cut = math.ceil(len(made) * FITTED)
            for moments, part in ((known, slice(cut)), (unseen, slice(cut, None))):
                if len(made[part]):
                    inputs = inputs_at(module, given[0][part], places).float()
                    moments.add(inputs, wanted[part].flatten(0, 1))
            raise _Reached

        with hooked({module: hook}), in_eval_mode(self.model), torch.inference_mode():
            for batch, images in enumerate(self.images()):  # noqa: B007
                try:
                    self.model(images)
                except _Reached:
                    continue
        return known, unseen if unseen.samples else known  # one image in a batch cannot be parted

    def _norm(self, layer: Layer) -> nn.Module | None:
        return self.model.get_submodule(layer.norm) if layer.norm else None

    def _places(self, layer: Layer, made: Tensor, batch: int) -> Tensor:
        """The positions that are looked at: random ones, the same for teacher and student."""
        count = side_by_side(self.model.get_submodule(layer.name), made).shape[1]
        place = self.layers.index(layer)
        own = torch.Generator().manual_seed((self.seed * 1_000 + place) * 100_000 + batch)
        return torch.randperm(count, generator=own)[: self.positions].to(made.device)


def fit(
    model: nn.Module,
    layer: Layer,
    parts: tuple[Moments, Moments],
    kept: Tensor,
    ridges: Sequence[float],
    steps: int,
) -> tuple[State, LayerFit]:
    """The tensors of a layer and its BatchNorm that give what is wanted best, and how well.

    After BatchNorm only the weights' direction matters: they are fitted times the gain that BatchNorm gives them now,
    and divided by it again; its statistics and affine parameters are set such that the gain stays and the mean is the
    teacher's. Without BatchNorm the bias takes the mean; without a bias nothing is centred.
    """
    module: Any = model.get_submodule(layer.name)
    norm = model.get_submodule(layer.norm) if layer.norm else None
    batchnorm = norm if isinstance(norm, _BatchNorm) else None
    shifts = batchnorm is not None or module.bias is not None
    known, unseen, whole = (moments.system(centred=shifts) for moments in (parts[0], parts[1], parts[0] + parts[1]))
    weight = module.weight.detach().double()
    start, mask = (t.reshape(*whole.targets.shape, -1) for t in (weight, kept))
    gain = _gain(batchnorm, whole.targets)
    usable = gain.abs() > 1e-6  # else BatchNorm shuts the channel, and its weights have no effect to be fitted by
    safe = torch.where(usable, gain, 1.0)
    begin = start * safe
    best = best_ridge(known, unseen, begin, mask, ridges)
    fitted = conjugate_gradients(whole, begin, mask, best[0], steps, best[1]) if best else begin * mask
    sound = usable & fitted.isfinite().all(-1, keepdim=True) & whole.targets.isfinite()[..., None]
    found = torch.where(sound, fitted / safe, start)
    means = (found @ whole.inputs[..., None]).flatten()
    spread = ((found @ whole.products) * found).sum(-1).flatten().clamp_min(0)
    changes: dict[str, Tensor] = {}
    if batchnorm is not None:
        changes = _batchnorm_for(batchnorm, module.bias, gain.flatten(), means, spread, whole.targets.flatten())
        changes = {f"{layer.norm}.{name}": value for name, value in changes.items()}
    elif module.bias is not None:
        changes = {f"{layer.name}.bias": whole.targets.flatten() - means}
    old = model.state_dict()
    kept_old = {name: torch.where(sound.flatten(), value, old[name].double()) for name, value in changes.items()}
    before, after = (_relative_error(whole, weights) for weights in (begin, torch.where(sound, fitted, begin)))
    found_fit = LayerFit(layer.name, best[0] if best else None, before, after)
    return {layer.weight: found.reshape(weight.shape), **kept_old}, found_fit


def _relative_error(system: System, weights: Tensor) -> float | None:
    error = float(system.error(weights).sum() / system.power.sum())
    return max(error, 0.0) if math.isfinite(error) else None


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
