"""The function a search maximises on val, with the least work that leaves every decision as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lptool.checkpoints.summary import digest_of, digest_of_tensor
from lptool.errors import DataError
from lptool.pooling.choice import BY_ACCURACY, Choice
from lptool.scoring.batching import BatchSize
from lptool.scoring.batchnorm import bn_layers, in_eval_mode, recalibrate_bn
from lptool.scoring.score import Batches, Score, cast_forward, mark, scaled_nll_of
from lptool.scoring.weights import put_weights


class Scorer:
    """A `ScoreFunction` over one model instance, whose weights are overwritten for each state.

    It learns as it goes which val images are hard, and takes those first, so that a state that cannot reach the bar
    is found out early. But for rounding, a complete score does not depend on that order. A state scored before is not
    scored again.

    Args:
        model: the network; on the device of the batches.
        val: makes the batches to choose on; called with the order of the images.
        val_size: how many images those are.
        calibration: makes the batches for BN recalibration; None scores every state with the statistics it has.
        compute: see `cast_forward`.
        choice: what the bar of a scoring is a bar of.
        batch_size: of val. calibration_batch: of calibration; a part of the result, as statistics are per batch.
        calibration_name: of the kind of its images, for the keys of `known`.

    Attributes:
        known: what is known of each state, by its key.
        images: how many were forwarded so far, of `val` and of `calibration`.

    Raises:
        DataError: there is no image to score on.

    >>> images, labels = torch.eye(2)[:, :, None, None], torch.tensor([0, 1])
    >>> def val(batch_size, *, order=None):
    ...     yield images[order], labels[order]
    >>> score = Scorer(nn.Flatten(), val, val_size=2, calibration=None)  # its logits are the pixels
    >>> score({}).accuracy
    1.0
    """

    def __init__(
        self,
        model: nn.Module,
        val: Batches,
        val_size: int,
        calibration: Batches | None,
        compute: torch.dtype = torch.float32,
        *,
        choice: Choice = BY_ACCURACY,
        batch_size: BatchSize | None = None,
        calibration_batch: BatchSize | None = None,
        calibration_name: str = "bn",
    ) -> None:
        if val_size == 0:
            raise DataError("there is no image to score on; choose a data set or split that has some")
        self.model, self._val, self.val_size, self._compute = model, val, val_size, compute
        # A network without BatchNorm is not scored twice, as it is and recalibrated.
        self.choice, self._calibration = choice, calibration if bn_layers(model) else None
        self.batch_size, self._calibration_batch = batch_size or BatchSize(128), calibration_batch or BatchSize(256)
        self._calibration_name = calibration_name
        self._errors, self._losses = torch.zeros(val_size, dtype=torch.int64), torch.zeros(val_size)
        self._order = torch.arange(val_size)
        self.known: dict[str, Score] = {}
        self.images = {"val": 0, "calibration": 0}

    @property
    def recalibrates(self) -> bool:
        """Whether scores come with recalibrated BatchNorm: asked for, and the model has some."""
        return self._calibration is not None

    def __call__(self, state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
        """Score `state` on val after BN recalibration."""
        return self._score(state, bar, self._calibration)

    def as_is(self, state: Mapping[str, Tensor], bar: float = -math.inf) -> Score:
        """Score `state` on val with the BatchNorm statistics it has."""
        return self._score(state, bar, None)

    def _score(self, state: Mapping[str, Tensor], bar: float, calibration: Batches | None) -> Score:
        name = name_of(state)
        known = self.known.get(self._key(name, calibration))
        if known is not None and self.choice.answers(known, bar, self.val_size):
            return known
        put_weights(self.model, state)
        if calibration is not None:
            self._recalibrate(calibration)
        marks = self._mark(bar)
        if marks.seen == self.val_size:  # else only the hardest are known, which would stay the hardest
            self._learn(marks)
        key = self._key(name, calibration)  # now, because recalibration may have found that less fits in memory
        score = self.known[key] = marks.score(key)
        return score

    def _key(self, name: str, calibration: Batches | None) -> str:
        return name if calibration is None else f"{name}+{self._calibration_name}{self._calibration_batch.images}"

    def _recalibrate(self, calibration: Batches) -> None:
        def run(batch_size: int) -> int:
            images = (images for images, _ in calibration(batch_size))
            return recalibrate_bn(self.model, images, cast_forward(self.model, self._compute))

        self.images["calibration"] += self._calibration_batch.fit(run)

    def _mark(self, bar: float) -> Marks:
        """Forward val, the hardest images first, until `bar` is out of reach."""
        marks = Marks(self._order, self.choice)
        forward = cast_forward(self.model, self._compute)

        def go_on(batch_size: int) -> None:
            for images, labels in self._val(batch_size, order=self._order[marks.seen :]):
                logits = forward(images)
                marks.add(*mark(logits, labels))
                marks.keep(logits, labels)
                if self.choice.out_of_reach(bar, marks.lost(), self.val_size):
                    break

        with in_eval_mode(self.model), torch.no_grad():
            self.batch_size.fit(go_on)
        if not marks.seen:
            raise DataError(f"expected {self.val_size} images to score on, but the batches hold none")
        self.images["val"] += marks.seen
        return marks

    def _learn(self, marks: Marks) -> None:
        right, loss = marks.in_order_of_val()
        if bool(loss.isfinite().all()):  # a broken model errs everywhere, and says nothing of the images
            if self.choice.select == "accuracy":
                self._errors += ~right
            self._losses += loss
            self._order = hardest_first(self._errors, self._losses)


class Marks:
    """What is known of the val images under one state, as they are forwarded in `order`."""

    def __init__(self, order: Tensor, choice: Choice = BY_ACCURACY) -> None:
        self._order, self._choice, self._batches = order, choice, list[tuple[Tensor, Tensor]]()
        self._logits: list[tuple[Tensor, Tensor]] = []
        self.seen = 0
        self._lost: Tensor | None = None
        self._before: tuple[Tensor, torch.cuda.Event] | None = None

    def add(self, right: Tensor, loss: Tensor) -> None:
        """Take the next images: whether each is right, bool [B], and its loss, float [B]."""
        lost = self._choice.lost(right, loss)
        self._lost = lost if self._lost is None else self._lost + lost
        self._batches.append((right, loss))
        self.seen += len(right)

    def keep(self, logits: Tensor, labels: Tensor) -> None:
        """Keep the logits [B, C] and labels int64 [B] of the same images, for the NLL after temperature scaling."""
        self._logits.append((logits.float(), labels))

    def lost(self) -> float:
        """What they have lost so far, see `Choice`.

        On CUDA as of one batch ago, so that the device need not wait to be read.
        """
        assert self._lost is not None
        if not self._lost.is_cuda:
            return float(self._lost)
        before, self._before = self._before, (self._lost.to("cpu", non_blocking=True), torch.cuda.Event())
        self._before[1].record(torch.cuda.current_stream(self._lost.device))
        if before is None:
            return 0.0
        before[1].synchronize()
        return float(before[0])

    def in_order_of_val(self) -> tuple[Tensor, Tensor]:
        """Right, bool [N], and loss, float [N]; False and 0 where not seen. On the CPU."""
        right, loss = torch.zeros(len(self._order), dtype=torch.bool), torch.zeros(len(self._order))
        places = self._order[: self.seen]
        for whole, parts in zip((right, loss), zip(*self._batches, strict=True), strict=True):
            whole[places] = torch.cat(parts).cpu()
        return right, loss

    def score(self, state: str) -> Score:
        """Summed in the order of val, so that a complete score does not depend on the order of forwarding."""
        right, loss = self.in_order_of_val()
        nll, complete = float(loss.double().sum()) / self.seen, self.seen == len(self._order)
        scaled = self._scaled_nll() if complete and self._logits else None
        return Score(int(right.count_nonzero()), nll, self.seen, complete, state, scaled)

    def _scaled_nll(self) -> float | None:
        logits, labels = (torch.cat(parts) for parts in zip(*self._logits, strict=True))
        in_order = self._order.argsort().to(logits.device)  # else rounding would depend on the order
        return scaled_nll_of(logits[in_order], labels[in_order])


def hardest_first(errors: Tensor, losses: Tensor) -> Tensor:
    """An order of images in which a worse model is found out early: by how many models err, then by their loss.

    Args:
        errors: int [N], all 0 where only likelihood counts. losses: float [N], summed over the models.

    Returns:
        int64 [N], a permutation; ties keep their order.
    """
    by_loss = losses.argsort(descending=True, stable=True)
    return by_loss[errors[by_loss].argsort(descending=True, stable=True)]


def name_of(state: Mapping[str, Tensor]) -> str:
    """32 hex digits, the same for equal state dicts and for no others."""
    return digest_of({name: digest_of_tensor(t) for name, t in state.items()})[:32]  # short enough to read in a journal
