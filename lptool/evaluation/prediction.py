"""What `lptool predict` does: the classes of pictures, prepared as `evaluate` prepares those of the file's data set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lptool.checkpoints.finding import checkpoint_file
from lptool.checkpoints.summary import Summary, notes_of
from lptool.data.dataset import Data
from lptool.data.images import Streamed
from lptool.data.loose import LoosePictures, pictures_at
from lptool.data.sources import LARGEST_SIDE
from lptool.device import in_float64, pick_device, threads_on
from lptool.errors import DataError, first_ten, said_by
from lptool.evaluation.setting import (
    BATCH_SIZE,
    SettingOptions,
    check_normalisation,
    normalisation_of,
)
from lptool.evaluation.setup import (
    Subject,
    architecture_in,
    check_finite,
    networks_for,
    subject_of,
    summaries_of,
)
from lptool.networks.architecture import classes_and_channels
from lptool.networks.pretrained import class_names, images_said
from lptool.networks.running import check_forward
from lptool.scoring.batching import BatchSize
from lptool.scoring.score import for_each_batch

OnProgress = Callable[[int, int, str], None]
AS_HERE = {"interpolation": "bilinear", "crop_pct": 1.0}  # how pictures are scaled, in timm's words


@dataclass(frozen=True)
class PredictOptions(SettingOptions):
    """What to predict with: of `SettingOptions` all but the data set, and this.

    Attributes:
        top: how many classes to name for each picture, the likeliest first.
        image_size: side in pixels; None takes what the file says.

    >>> PredictOptions(top=3).batch_size is None
    True
    """

    top: int = 1
    image_size: int | None = None


@dataclass(frozen=True)
class Guess:
    """A class, its name where the file says it, and its probability in [0, 1]."""

    number: int
    name: str | None
    probability: float


@dataclass(frozen=True)
class Predictions:
    """The result.

    Attributes:
        summary: of the model. arch: of its network. num_classes: of its logits.
        names: of the classes, in the order of the logits; empty where the file does not say.
        guesses: picture → its likeliest classes, in the order of the pictures.
        unreadable: picture → why nothing is said of it.
        threads: of the CPU, where that is the device.
    """

    summary: Summary
    arch: str
    num_classes: int
    names: tuple[str, ...]
    guesses: dict[str, tuple[Guess, ...]]
    unreadable: dict[str, str]
    device: str
    threads: int | None
    seconds: float

    def check(self) -> None:
        """Raises DataError where a picture could not be read."""
        lines = [f"{file}: {reason}" for file, reason in self.unreadable.items()]
        if len(lines) > 1:
            every = len(lines) + len(self.guesses)
            raise DataError(f"{len(lines)} of {every} pictures are left out:\n  {first_ten(lines)}")
        if lines:
            raise DataError(lines[0])


@dataclass(frozen=True)
class PredictionPlan:
    """Network and pictures, all checked but the pictures themselves."""

    subject: Subject
    pictures: LoosePictures
    num_classes: int
    names: tuple[str, ...]
    unreadable: dict[str, str]
    top: int
    device: torch.device
    batch_size: BatchSize
    warnings: tuple[str, ...]


def predict_pictures(
    file: str | Path, pictures: Sequence[str | Path], options: PredictOptions | None = None
) -> Predictions:
    """The classes of pictures.

    Args:
        file: a checkpoint of any program, or a folder with one.
        pictures: files, and folders of them.

    Raises:
        LptoolError: the file cannot be used, or does not say how images become its network's input.

    >>> import lptool
    >>> from PIL import Image
    >>> options = lptool.TrainOptions(arch="resnet8_cifar", dataset="digits", epochs=1, rewind_epoch=0)
    >>> files = lptool.train_tickets(options, 1, "run", device="cpu")
    >>> Image.new("L", (20, 30)).save("a.png")
    >>> found = predict_pictures(files[1], ["a.png"], PredictOptions(top=2, device="cpu"))
    >>> len(found.guesses["a.png"]), found.names
    (2, ())
    """
    return carry_out(plan_prediction(file, pictures, options or PredictOptions()))


def plan_prediction(file: str | Path, pictures: Sequence[str | Path], options: PredictOptions) -> PredictionPlan:
    """Open and check everything but the pictures themselves. Raises LptoolError."""
    found = pictures_at(pictures)
    (summary,) = summaries_of([checkpoint_file(file)], options)
    check_finite([summary])
    arch, kwargs, guessed = architecture_in(summary, options)
    own = bool(options.arch and not kwargs)  # arguments may be a header's
    if own and ":" not in arch:  # of timm's, and no data set says how many classes there are
        kwargs = classes_and_channels(summary.shapes)
    device = pick_device(options.device)
    metadata = replace(summary.metadata, arch_kwargs=kwargs)
    said = images_said(metadata)
    shape = _shape(summary, kwargs, said, options)
    with said_by(summary.file):
        loose = LoosePictures(found.files, shape, whole=said.get("crop_mode") == "squash")
    data = _as_data(summary, loose, options)
    (network,) = networks_for([(arch, kwargs)], [summary], [own], data, device)
    classes = check_forward(network.model, shape, 1, arch, device)
    names = tuple(class_names(metadata, classes))
    return PredictionPlan(
        subject=subject_of(summary, network, data),
        pictures=loose,
        num_classes=classes,
        names=names,
        unreadable=found.unreadable,
        top=options.top,
        device=device,
        batch_size=BatchSize(options.batch_size or BATCH_SIZE),
        warnings=(
            *notes_of([summary]),
            *guessed,
            *_scaled_otherwise(summary, said),
            *_unnamed(summary, names),
            *found.notes,
        ),
    )


def _shape(
    summary: Summary, kwargs: dict[str, Any], said: dict[str, Any], options: PredictOptions
) -> tuple[int, int, int]:
    """Channels, height and width of the network's input. Raises DataError where nothing says its size."""
    known = said.get("input_size") or ()
    channels = known[0] if known else kwargs.get("in_chans") or classes_and_channels(summary.shapes)["in_chans"]
    size = (options.image_size,) * 2 if options.image_size else tuple(known[1:])
    if len(size) != 2:
        raise DataError(f"{summary.file}: does not say the size of its images; give their side with --image-size")
    if not all(1 <= side <= LARGEST_SIDE for side in size):
        raise DataError(f"{summary.file}: expected images of 1 to {LARGEST_SIDE} pixels a side, found {list(size)}")
    return channels, *size


def _as_data(summary: Summary, pictures: LoosePictures, options: PredictOptions) -> Data:
    """The pictures as a data set normalised as the file says. Raises DataError where nothing says it."""
    known = normalisation_of([summary], options.mean, options.std)
    if known is None:
        raise DataError(
            f"{summary.file}: does not say how its images are normalised; give the mean and standard deviation of its "
            "training with --mean and --std"
        )
    mean, std = map(tuple, known)
    images = Streamed(pictures, torch.arange(len(pictures)))
    data = Data("pictures", images, images, images, 1, pictures.shape, mean, std, {})
    with said_by(None if options.mean or options.std else summary.file):
        check_normalisation(data)
    return data


def _scaled_otherwise(summary: Summary, said: dict[str, Any]) -> list[str]:
    """A line where timm scaled the pictures in training in another way than is done here."""
    others = [f"{key} {said[key]}" for key, value in AS_HERE.items() if said.get(key, value) != value]
    here = "here they are scaled by their shorter side, bilinear, and the centre is cut out, as for evaluate"
    return [f"{summary.file}: its config.json prepares pictures with {' and '.join(others)}; {here}"] * bool(others)


def _unnamed(summary: Summary, names: Sequence[str]) -> list[str]:
    line = f"{summary.file}: does not say what its classes are called; they have numbers, in the order of the logits"
    return [] if names else [line]


def carry_out(plan: PredictionPlan, on_progress: OnProgress | None = None) -> Predictions:
    """The likeliest classes of every picture that can be read."""
    started, subject, pictures = time.perf_counter(), plan.subject, plan.pictures
    subject.load()

    def run(size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        done = 0

        def take(logits: Tensor, readable: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            nonlocal done
            done += len(logits)
            if on_progress is not None:
                on_progress(done, len(pictures), "predicting")
            return (*_likeliest(logits, plan.top), readable.bool().cpu())

        batches = subject.data.batches(subject.data.test, size, plan.device, even=False)
        return for_each_batch(subject.network.model, batches, take)

    rows = [row for batch in plan.batch_size.fit(run) for row in zip(*(part.tolist() for part in batch), strict=True)]
    found = dict(zip(pictures.files, rows, strict=True))
    reasons = {pictures.files[place]: pictures.reason(place) for place, row in enumerate(rows) if not row[2]}
    broken = [file for file, row in found.items() if file not in reasons and not all(map(math.isfinite, row[1]))]
    reasons |= dict.fromkeys(broken, "the logits of the network are not finite")
    return Predictions(
        summary=subject.summary,
        arch=subject.network.arch,
        num_classes=plan.num_classes,
        names=plan.names,
        guesses={file: _guesses(plan, *row[:2]) for file, row in found.items() if file not in reasons},
        unreadable={**plan.unreadable, **reasons},
        device=str(plan.device),
        threads=threads_on(plan.device),
        seconds=time.perf_counter() - started,
    )


def _likeliest(logits: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The `top` likeliest classes of each image, int64 [B, top], and their probabilities, float64 [B, top].

    Of classes that are equally likely the first comes first.
    """
    ordered = in_float64(logits).softmax(1).cpu().sort(dim=1, descending=True, stable=True)
    return ordered.indices[:, :top], ordered.values[:, :top]


def _guesses(plan: PredictionPlan, numbers: Sequence[int], probabilities: Sequence[float]) -> tuple[Guess, ...]:
    names = plan.names
    pairs = zip(numbers, probabilities, strict=True)
    return tuple(Guess(number, names[number] if names else None, probability) for number, probability in pairs)
