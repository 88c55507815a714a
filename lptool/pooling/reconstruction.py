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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lptool.checkpoints.masks import Mask, State
from lptool.device import in_float64
from lptool.pooling.catalogue import RIDGES
from lptool.pooling.layers import Layer, before_norm, inputs_at, normalised_at, side_by_side
from lptool.pooling.least_squares import Moments, System, best_ridge, thinned
from lptool.pooling.outcome import LayerFit, Rebuilt
from lptool.scoring.batchnorm import hooked, in_eval_mode
from lptool.scoring.score import recalibrated
from lptool.scoring.weights import put_weights

Images = Callable[[], Iterable[Tensor]]  # makes the calibration images, float [B, C, H, W], the same at each call
# Layer → its mean activations at the sampled positions, of each batch of images: float32 [B, positions, outputs].
Teacher = dict[str, list[Tensor]]


class _Reached(BaseException):
    """Ends a forward pass at a layer; no `except Exception` of a network stops it."""


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
        teacher: Teacher = {layer.name: [] for layer in self.layers}
        for share, state in tickets if self.layers else ():
            put_weights(self.model, state)
            self._add_activations(teacher, share)
        return teacher

    def recalibrated(self, state: State) -> State:
        """The state with BatchNorm statistics of its own weights on the calibration images."""
        return recalibrated(self.model, state, ((images, images) for images in self.images()))

    def rebuild(
        self,
        start: State,
        mask: Mask,
        teacher: Teacher,
        on_layer: Callable[[str], None] = lambda name: None,
        room: Mask | None = None,
    ) -> Rebuilt:
        """The start with its kept weights fitted, and BatchNorm statistics that go with them; and how well they fit.

        Args:
            start: what the weights are drawn to, and whose other tensors stay; as `recalibrated` gives it, since the
                gain of its BatchNorm layers is kept.
            mask: name → bool, True = kept.
            on_layer: called with the name of each layer before it is fitted.
            room: beside the mask, the weights that may be kept in place of others; as many stay in each layer.

        A layer, or an output of one, whose fit is not finite, or not in the type of the weights, stays as it is.
        """
        state, chosen, fits = dict(start), dict(mask), list[LayerFit]()
        for layer in self.layers:
            on_layer(layer.name)
            put_weights(self.model, state)
            moments = self._moments(layer, teacher[layer.name])
            kept = mask[layer.weight]
            wider = kept | room[layer.weight] if room is not None and kept.any() else kept
            changes, kept, found = fit(self.model, layer, moments, kept, wider, self.ridges, self.steps)
            typed = {name: value.to(state[name]) for name, value in changes.items()}
            if all(bool(value.isfinite().all()) for value in typed.values()):
                state |= typed
                chosen[layer.weight] = kept
            else:
                found = replace(found, ridge=None, after=found.before)
            fits.append(found)
        return Rebuilt(state, chosen, tuple(fits))

    def _add_activations(self, teacher: Teacher, share: float) -> None:
        """Add what the network as it is computes after each layer, times a share."""
        batch = 0

        def adding(layer: Layer) -> Callable[..., None]:
            norm, means = self._norm(layer), teacher[layer.name]

            def hook(module: nn.Module, _: object, made: Tensor) -> None:
                found = normalised_at(module, norm, made, self._places(layer, made, batch))
                if batch == len(means):
                    means.append(found.mul_(share))
                else:
                    means[batch].add_(found, alpha=share)

            return hook

        hooks = {self.model.get_submodule(layer.name): adding(layer) for layer in self.layers}
        with hooked(hooks), in_eval_mode(self.model), torch.no_grad():
            for batch, images in enumerate(self.images()):  # noqa: B007  (the hooks read it)
                self.model(images)

    def _moments(self, layer: Layer, teacher: Sequence[Tensor]) -> tuple[Moments, Moments]:
        """What a layer is given and shall give: of the images that it is fitted to, and of those held out."""
        module, norm, known, unseen = self.model.get_submodule(layer.name), self._norm(layer), Moments(), Moments()
        batch = 0

        def hook(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            places = self._places(layer, made, batch)
            wanted = before_norm(module, norm, made, places, teacher[batch])
            cut = math.ceil(len(made) * FITTED)
            for moments, part in ((known, slice(cut)), (unseen, slice(cut, None))):
                if len(made[part]):
                    inputs = inputs_at(module, given[0][part], places).float()
                    moments.add(inputs, wanted[part].flatten(0, 1))
            raise _Reached

        with hooked({module: hook}), in_eval_mode(self.model), torch.no_grad():
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
    room: Tensor,
    ridges: Sequence[float],
    steps: int,
) -> tuple[State, Tensor, LayerFit]:
    """The tensors of a layer and its BatchNorm that give what is wanted best; which weights are kept; and how well.

    As many are kept as before, of the room that these lie in.

    After BatchNorm only the weights' direction matters: they are fitted times the gain that BatchNorm gives them now,
    and divided by it again; its statistics and affine parameters are set such that the gain stays and the mean is the
    teacher's. Without BatchNorm the bias takes the mean; without a bias nothing is centred.
    """
    module: Any = model.get_submodule(layer.name)
    norm = model.get_submodule(layer.norm) if layer.norm else None
    batchnorm = norm if isinstance(norm, _BatchNorm) else None
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    weight = in_float64(module.weight.detach())
    start, mask, wider = (t.to(weight.device).reshape(groups, len(weight) // groups, -1) for t in (weight, kept, room))
    gain = _gain(batchnorm, start)
    usable = gain.abs() > 1e-6  # else BatchNorm shuts the channel, and its weights have no effect to be fitted by
    safe = torch.where(usable, gain, 1.0)
    centred = batchnorm is not None or module.bias is not None
    wider = torch.where(usable, wider, mask)
    ridge, whole, fitted, chosen = _solved(parts, start * safe, mask, wider, usable, ridges, steps, centred=centred)
    sound = usable & fitted.isfinite().all(-1, keepdim=True) & whole.targets.isfinite()[..., None]
    chosen = torch.where(sound, chosen, mask)
    if chosen.sum() != mask.sum():  # an output that could not be fitted has its own weights again
        return fit(model, layer, parts, kept, kept, ridges, steps)
    found = torch.where(sound, fitted / safe, start)
    shifts = _shifts(model, layer, batchnorm, gain.flatten(), found, whole)
    old = model.state_dict()
    shifts = {name: torch.where(sound.flatten(), value, in_float64(old[name])) for name, value in shifts.items()}
    before, after = (_relative_error(whole, each) for each in (start * safe, torch.where(sound, fitted, start * safe)))
    changes = {layer.weight: found.reshape(weight.shape), **shifts}
    return changes, chosen.reshape(kept.shape).to(kept.device), LayerFit(layer.name, ridge, before, after)


def _solved(
    parts: tuple[Moments, Moments],
    start: Tensor,
    kept: Tensor,
    room: Tensor,
    usable: Tensor,
    ridges: Sequence[float],
    steps: int,
    *,
    centred: bool,
) -> tuple[float | None, System, Tensor, Tensor]:
    """The best ridge, all samples together, the weights fitted to them, and which are kept.

    None and the start where no ridge is better. Outputs that are not usable have no part in the choice of weights.
    """
    known, unseen = parts
    best = best_ridge(known.system(centred=centred), unseen.system(centred=centred), start, room, ridges)
    whole = (known + unseen).system(centred=centred)  # after the others, which take as much memory
    if best is None:
        return None, whole, start * kept, kept
    ridge, first = best
    free = usable & whole.targets.isfinite()[..., None]
    return ridge, whole, *thinned(whole, start, room & free, int((kept & free).sum()), ridge, steps, first)


def _relative_error(system: System, weights: Tensor) -> float | None:
    error = float(system.error(weights).sum() / system.power.sum())
    return max(error, 0.0) if math.isfinite(error) else None


def _gain(batchnorm: _BatchNorm | None, weights: Tensor) -> Tensor:
    """What BatchNorm multiplies each output by, [groups, outputs, 1]."""
    if batchnorm is None or batchnorm.running_var is None:
        return torch.ones_like(weights[..., :1])
    deviation = (in_float64(batchnorm.running_var) + batchnorm.eps).sqrt()
    scale = 1.0 if batchnorm.weight is None else in_float64(batchnorm.weight.detach())
    return (scale / deviation).view_as(weights[..., :1])


def _shifts(
    model: nn.Module, layer: Layer, batchnorm: _BatchNorm | None, gain: Tensor, weights: Tensor, system: System
) -> State:
    """What goes with fitted weights: the bias, or statistics of BatchNorm and its affine parameters.

    With these the gain stays, and the mean is as wanted.
    """
    bias: Any = model.get_submodule(layer.name).bias
    means, wanted = (weights @ system.inputs[..., None]).flatten(), system.targets.flatten()
    if batchnorm is None:
        return {} if bias is None else {f"{layer.name}.bias": wanted - means}
    spread = ((weights @ system.products) * weights).sum(-1).flatten().clamp_min(0)
    shift = 0.0 if bias is None else in_float64(bias.detach())
    found = {"running_mean": means + shift, "running_var": spread}
    if batchnorm.weight is not None:
        found |= {"weight": gain * (spread + batchnorm.eps).sqrt(), "bias": wanted}
    return {f"{layer.norm}.{name}": value for name, value in found.items()}
