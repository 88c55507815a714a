"""Scores: how many images a state dict gets right. The search sees only the function, never the model behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lptool.checkpoints.masks import State
from lptool.device import in_float64
from lptool.errors import DataError
from lptool.ranks import Ranks
from lptool.scoring.batching import BatchSize
from lptool.scoring.batchnorm import bn_layers, in_eval_mode, recalibrate_bn
from lptool.scoring.weights import put_weights

T = TypeVar("T")
Batch = tuple[Tensor, Tensor]


class Batches(Protocol):
    """Makes the batches of one part of the data: float images [B, C, H, W] and int64 labels [B], on the device."""

    def __call__(
        self, batch_size: int, *, order: Tensor | None = None, part: tuple[int, int] = (0, 1)
    ) -> Iterable[Batch]:
        """Of all images, or of those that `order` (int64 indices) names; of these batches every n-th from the k-th."""


NO_IMAGE = "there is no image to score on; choose a data set or split that has some"
_NEWTON_STEPS = 16  # a certain temperature is never far off; most networks need five


@dataclass(frozen=True)
class Score:
    """Images right out of `n`, and the mean negative log-likelihood (nats per image).

    `complete` is False where scoring stopped early because the bar could no longer be reached; `correct` and `nll`
    then speak of the `n` images seen until then. `state` names the state scored, where the score function does.
    `scaled_nll` is the NLL at the temperature that makes it least (see `scaled_nll_of`), where the function gives it.

    >>> Score(correct=9, nll=0.3, n=10).accuracy
    0.9
    """

    correct: int
    nll: float
    n: int
    complete: bool = True
    state: str = field(default="", compare=False)
    scaled_nll: float | None = field(default=None, compare=False)

    @property
    def accuracy(self) -> float:
        """Right over n, in [0, 1]."""
        return self.correct / self.n

    def to_json(self) -> dict[str, float | int | None]:
        """The form of every score in JSON documents and file headers."""
        nll = self.nll if math.isfinite(self.nll) else None  # JSON has no word for it
        scaled = {} if self.scaled_nll is None else {"scaled_nll": self.scaled_nll}
        return {"accuracy": self.accuracy, "nll": nll, **scaled, "n": self.n}


class ScoreFunction(Protocol):
    """Scores a state dict. May stop early, with `complete=False`, once its merit (see `Choice`) cannot reach `bar`."""

    def __call__(self, state: Mapping[str, Tensor], bar: float = -math.inf) -> Score: ...


def predict(model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Logits float32 [N, C] and labels int64 [N], on the device, of a model in eval mode.

    Args:
        model: left in the mode it came in.
        batches: pairs of float images [B, C, H, W] and int64 labels [B], on the model's device.

    Raises:
        DataError: there is no image.
    """
    found = for_each_batch(model, batches, lambda logits, labels: (logits, labels))
    if not found:
        raise DataError(NO_IMAGE)
    logits, labels = zip(*found, strict=True)
    return torch.cat(logits), torch.cat(labels)


def for_each_batch(model: nn.Module, batches: Iterable[Batch], take: Callable[[Tensor, Tensor], T]) -> list[T]:
    """What `take` makes of the float32 logits [B, C] and labels [B] of each batch, by a model in eval mode."""
    with in_eval_mode(model), torch.no_grad():
        return [take(model(images).float(), labels) for images, labels in batches]


def score_of(logits: Tensor, labels: Tensor) -> Score:
    """The score of logits [N, C] against labels int64 [N]."""
    right, loss = mark(logits, labels)
    return Score(int(right.count_nonzero()), float(loss.cpu().double().mean()), len(right))


def scaled_nll_of(logits: Tensor, labels: Tensor) -> float | None:
    """The mean NLL, in nats, of logits [N, C] divided by the one temperature that makes it least.

    It says how well a model tells classes apart, image by image, whatever it thinks of its own certainty: less noisy
    than counting right images, and not misled by a model that is merely less sure of itself. None where a logit is
    not finite.

    Source: Guo et al. 2017, section 4.2.

    >>> logits, labels = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0, 1])
    >>> round(scaled_nll_of(logits, labels), 4) == round(scaled_nll_of(9 * logits, labels), 4)
    True
    """
    if not bool(logits.isfinite().all()):
        return None
    right = in_float64(logits.gather(1, labels[:, None])[:, 0])
    inverse = 1.0
    for _ in range(_NEWTON_STEPS):
        chances = (logits * inverse).softmax(1)
        mean = (chances * logits).sum(1)
        spread = in_float64((chances * (logits - mean[:, None]).square()).sum(1)).mean()
        slope = (in_float64(mean) - right).mean()  # of the NLL, by the inverse temperature; it is convex in that
        step = float(slope / spread) if spread > 0 else 0.0
        inverse = min(max(inverse - step, inverse / 4), inverse * 4)  # where the curve is flat, Newton leaps too far
    return float(in_float64(F.cross_entropy(logits * inverse, labels, reduction="none")).mean())


@dataclass(frozen=True)
class Graded:
    """What came out for each of N images, on the CPU; of several batches it is put together in their order.

    Attributes:
        right: bool [N]. loss: float32 [N], negative log-likelihood in nats.
        confidence: float64 [N], probability of the likeliest class; NaN where a logit is not finite.
        among_five: bool [N], whether the right class is among the five likeliest.
    """

    right: Tensor
    loss: Tensor
    confidence: Tensor
    among_five: Tensor

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Graded:
        """From logits [N, C] and labels int64 [N]."""
        right, loss = mark(logits, labels)
        confidence = in_float64(logits).softmax(1).amax(1).cpu()
        broken = ~logits.isfinite().all(1).cpu()
        likeliest = logits.topk(min(5, logits.shape[1]), dim=1).indices
        among_five = ((likeliest == labels[:, None]).any(1) & ~logits.isnan().any(1)).cpu()
        return cls(right.cpu(), loss.cpu(), confidence.masked_fill(broken, math.nan), among_five)

    @classmethod
    def joined(cls, parts: Sequence[Graded]) -> Graded:
        """One after the other. Raises DataError where there is no image."""
        if not parts:
            raise DataError(NO_IMAGE)
        columns = zip(*((p.right, p.loss, p.confidence, p.among_five) for p in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))

    @classmethod
    def gathered(cls, mine: Sequence[Graded], ranks: Ranks) -> Graded:
        """Of all batches, where batch k of them was rank k mod `count`'s; the same on every rank."""
        found = zip_longest(*ranks.gather(list(mine)))
        return cls.joined([each for row in found for each in row if each is not None])

    @property
    def score(self) -> Score:
        """Images right, and the mean loss."""
        return Score(int(self.right.count_nonzero()), float(self.loss.double().mean()), len(self.right))


def graded(model: nn.Module, batches: Batches, batch_size: BatchSize, ranks: Ranks) -> Graded:
    """What comes out for each image under the weights that a model has; batches are spread over the ranks."""

    def mine(size: int) -> list[Graded]:
        return for_each_batch(model, batches(size, part=(ranks.rank, ranks.count)), Graded.of)

    return Graded.gathered(batch_size.fit(mine, ranks), ranks)


def merged(parts: Sequence[Score]) -> Score:
    """The score of all images, from those of some of them each: one part or more, all complete."""
    if len(parts) == 1:
        return parts[0]
    n = sum(part.n for part in parts)
    return Score(sum(part.correct for part in parts), sum(part.nll * part.n for part in parts) / n, n)


def mark(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image whether it is right, bool [B], and its negative log-likelihood in nats, float [B].

    NaN is never right, though torch takes it for the largest.
    """
    logits = logits.float()  # autocast gives bfloat16, in which a loss has two or three digits
    right = (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)
    return right, F.cross_entropy(logits, labels, reduction="none")


def cast_forward(model: nn.Module, compute: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The model's forward pass, under autocast where `compute`, bfloat16 or float32, is not float32."""

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, compute, enabled=compute != torch.float32):
            return model(images)  # type: ignore[no-any-return]

    return forward


def recalibrated(model: nn.Module, state: Mapping[str, Tensor], calibration: Iterable[Batch]) -> State:
    """`state` with BatchNorm statistics recalibrated on `calibration`; every other tensor is the same object.

    `num_batches_tracked` stays what it was: it counts training steps.
    """
    put_weights(model, state)
    recalibrate_bn(model, (images for images, _ in calibration))
    return with_statistics_of(model, state)


def with_statistics_of(model: nn.Module, state: Mapping[str, Tensor]) -> State:
    """`state` with the BatchNorm statistics that `model` has; every other tensor is the same object."""
    fresh = {
        f"{name}.{statistic}": getattr(module, statistic)
        # A layer that is used twice is in the state under both names.
        for name, module in model.named_modules(remove_duplicate=False)
        if module in set(bn_layers(model))
        for statistic in ("running_mean", "running_var")
    }
    # Cloned, because the next state that is loaded overwrites the model's own.
    return {name: fresh[name].to(t).clone() if name in fresh else t for name, t in state.items()}
