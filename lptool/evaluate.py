"""Scores: how many images a state dict gets right. The search sees only the function, never the model behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lptool.errors import DataError
from lptool.masks import State
from lptool.recalibrate import bn_layers, in_eval_mode, recalibrate_bn

Batch = tuple[Tensor, Tensor]
Batches = Callable[[], Iterable[Batch]]


@dataclass(frozen=True)
class Score:
    """Images right out of `n`, and the mean negative log-likelihood (nats per image).

    `complete` is False where scoring stopped early because the bar could no longer be reached; `correct` and `nll`
    then speak of the `n` images seen until then.
    """

    correct: int
    nll: float
    n: int
    complete: bool = True

    @property
    def accuracy(self) -> float:
        """Right over n, in [0, 1]."""
        return self.correct / self.n

    def to_json(self) -> dict[str, float | int | None]:
        """The form of every score in JSON documents and file headers."""
        nll = self.nll if math.isfinite(self.nll) else None  # JSON has no word for it
        return {"accuracy": self.accuracy, "nll": nll, "n": self.n}


class ScoreFunction(Protocol):
    """Scores a state dict. May stop early, with `complete=False`, once `correct` cannot reach `bar`."""

    def __call__(self, state: Mapping[str, Tensor], bar: int = 0) -> Score: ...


def evaluate(
    model: nn.Module, batches: Iterable[Batch], total: int, bar: int = 0, compute: torch.dtype = torch.float32
) -> Score:
    """Score a model in eval mode on `batches`, which hold `total` images together.

    Args:
        model: left in the mode it came in.
        batches: pairs of float images [B, C, H, W] and int64 labels [B], on the model's device.
        total: number of images in all batches, at least 1.
        bar: stop as soon as fewer than `bar` images can still be right.
        compute: bfloat16 runs the model under autocast; float32 as it is.

    Raises:
        DataError: there is no image.
    """
    if total == 0:
        raise DataError("there is no image to score on; choose a data set or split that has some")
    correct = seen = 0
    loss = 0.0
    forward = cast_forward(model, compute)
    with in_eval_mode(model), torch.inference_mode():
        for images, labels in batches:
            logits = forward(images).float()
            correct += int((logits.argmax(dim=1) == labels).count_nonzero())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            seen += len(labels)
            if correct + (total - seen) < bar:
                break
    if seen == 0:
        raise DataError(f"expected {total} images to score on, but the batches hold none")
    return Score(correct, loss / seen, seen, complete=seen == total)


def cast_forward(model: nn.Module, compute: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The model's forward pass, under autocast where `compute` is not float32."""

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, compute, enabled=compute != torch.float32):
            return model(images)  # type: ignore[no-any-return]

    return forward


def margins(model: nn.Module, batches: Iterable[Batch], compute: torch.dtype = torch.float32) -> Tensor:
    """How far each image is on the right side: its label's logit minus the largest other one; float [N], on the CPU."""
    found = []
    forward = cast_forward(model, compute)
    with in_eval_mode(model), torch.inference_mode():
        for images, labels in batches:
            logits = forward(images).float()
            own = logits.gather(1, labels[:, None])
            others = logits.scatter(1, labels[:, None], float("-inf")).amax(dim=1, keepdim=True)
            found.append((own - others).flatten().cpu())
    return torch.cat(found)


def hardest_first(margins: Tensor) -> Tensor:
    """An order of images in which a worse model is found out early: by how many models err, then by mean margin.

    Args:
        margins: float [models, N].

    Returns:
        int64 [N], a permutation; ties keep their order.
    """
    by_margin = margins.mean(dim=0).argsort(stable=True)
    errors = (margins < 0).sum(dim=0)
    return by_margin[errors[by_margin].argsort(descending=True, stable=True)]


class Scorer:
    """A `ScoreFunction` over one model instance, whose weights are overwritten for each state.

    Args:
        model: the network; on the device of the batches.
        val: makes the batches to choose on.
        val_size: how many images those are.
        calibration: makes the batches for BN recalibration; None scores every state with the statistics it has.
        compute: see `evaluate`.
    """

    def __init__(
        self,
        model: nn.Module,
        val: Batches,
        val_size: int,
        calibration: Batches | None,
        compute: torch.dtype = torch.float32,
    ) -> None:
        self.model, self._val, self._val_size, self._compute = model, val, val_size, compute
        self._calibration = calibration if bn_layers(model) else None
        self.evaluations = 0

    @property
    def recalibrates(self) -> bool:
        """Whether scores come with recalibrated BatchNorm: asked for, and the model has some."""
        return self._calibration is not None

    def __call__(self, state: Mapping[str, Tensor], bar: int = 0) -> Score:
        """Score `state` on val after BN recalibration."""
        self.model.load_state_dict(state)
        if self._calibration is not None:
            images = (images for images, _ in self._calibration())
            recalibrate_bn(self.model, images, cast_forward(self.model, self._compute))
        return self._evaluate(bar)

    def as_is(self, state: Mapping[str, Tensor], bar: int = 0) -> Score:
        """Score `state` on val with the BatchNorm statistics it has."""
        self.model.load_state_dict(state)
        return self._evaluate(bar)

    def _evaluate(self, bar: int) -> Score:
        self.evaluations += 1
        return evaluate(self.model, self._val(), self._val_size, bar, self._compute)


def recalibrated(model: nn.Module, state: Mapping[str, Tensor], calibration: Batches) -> State:
    """`state` with BatchNorm statistics recalibrated on `calibration`; every other tensor is the same object.

    `num_batches_tracked` stays what it was: it counts training steps.
    """
    model.load_state_dict(state)
    recalibrate_bn(model, (images for images, _ in calibration()))
    fresh = {
        f"{name}.{statistic}": getattr(module, statistic)
        for name, module in model.named_modules(remove_duplicate=False)
        if module in set(bn_layers(model))
        for statistic in ("running_mean", "running_var")
    }
    return {name: fresh[name].to(t).clone() if name in fresh else t for name, t in state.items()}
