"""A pool with the network and the images to judge it on, everything checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lptool.checkpoints.header import Training
from lptool.checkpoints.inspection import not_nested
from lptool.checkpoints.masks import State
from lptool.checkpoints.pool import Pool
from lptool.checkpoints.reading import load_pool
from lptool.checkpoints.summary import notes_of
from lptool.data.dataset import Data
from lptool.data.images import Images, decoded, digest_of_images, sample
from lptool.device import autocast_dtype, pick_device
from lptool.errors import PoolError, said_by
from lptool.evaluation.setting import BATCH_SIZE, SettingOptions, architecture
from lptool.networks.building import build_for
from lptool.networks.matching import differing_copies, fit_names
from lptool.networks.running import make_ready
from lptool.pooling.calibration import Calibration, calibration_of, check_training
from lptool.pooling.catalogue import PAPER_ALPHAS, needs
from lptool.pooling.choice import Choice
from lptool.pooling.gradient import Slope
from lptool.pooling.layers import Layer, fittable_layers
from lptool.pooling.reconstruction import Reconstruction
from lptool.pooling.scorer import Scorer
from lptool.pooling.search import Learning
from lptool.pooling.trained_on import data_of
from lptool.pooling.trial import try_search
from lptool.ranks import ALONE, Ranks
from lptool.scoring.batching import BatchSize, probe
from lptool.scoring.batchnorm import average_in_order, bn_layers, each_batch, in_eval_mode, set_statistics
from lptool.scoring.score import (
    Batch,
    Batches,
    Graded,
    Score,
    cast_forward,
    graded,
    predict,
    with_statistics_of,
)
from lptool.scoring.weights import put_weights

FINAL_IMAGES = 1024  # as good as all of them: benchmarks/calibration.py
NOISE = 0.3  # standard deviation, of images normalised to 1, that `learned` learns with


@dataclass(frozen=True, kw_only=True)
class PoolOptions(SettingOptions):
    """Everything that shapes a pooled model: besides `SettingOptions`, these.

    Attributes:
        target: `sparsest`, `matching` (the sparsest ticket as accurate on val as the densest), `all`, a level, or
            one of the files.
        sparsity: of the pooled model, in [0, 1); the target is then the nearest denser ticket. None takes the target's.
        method, alphas, alpha_search, passes, decay, mask: see `pool_tickets`.
        select: see `Choice`. per, learning_steps, learning_rate: see `Learning`.
        val_fraction, split_seed: None takes what the tickets were trained with, else 0.1 and 0.
        bn_images: what BatchNorm is recalibrated on, for scores and for the model written: training images as they
            are (`plain`) or `augmented` as in training; `none` leaves the statistics as they are mixed; `auto` takes
            what the tickets were trained with, and the best on val where that is not known.
        augment, crop_padding, flip: how training augmented its images; None takes what the tickets say.
        precision: of the search, `auto`, `fp32` or `bf16` (autocast); scores reported are always float32.
        calibration_size: training images for BN recalibration in the search.
        final_calibration_size: the same for the finished model and its control; None takes all.
        fit_images, fit_positions: see `Bench.rebuilder`.
        seed: of the choice of calibration images, and of their augmentation.
    """

    target: str = "sparsest"
    sparsity: float | None = None
    method: str = "auto"
    alphas: tuple[float, ...] = PAPER_ALPHAS
    alpha_search: str = "grid"
    passes: int = 1
    decay: float = 0.9
    select: str = "accuracy"
    per: str = "tensor"
    learning_steps: int = Learning.steps
    learning_rate: float = Learning.lr
    val_fraction: float | None = None
    split_seed: int | None = None
    precision: str = "auto"
    bn_images: str = "auto"
    augment: str | None = None
    crop_padding: int | None = None
    flip: str | None = None
    calibration_size: int = 1024  # the smallest that scores like 4,096: benchmarks/calibration.py
    final_calibration_size: int | None = FINAL_IMAGES
    mask: str = "start"
    fit_images: int = 2048
    fit_positions: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("fit_images", "fit_positions"):
            if getattr(self, name) < 1:
                raise PoolError(f"expected 1 or more, found {getattr(self, name)}", name)
        check_training(self.bn_images, self.augment, self.crop_padding, self.flip)


@dataclass(frozen=True)
class Bench:
    """A pool with the network and the images to judge it on, everything checked."""

    pool: Pool
    model: nn.Module
    data: Data
    device: torch.device
    options: PoolOptions
    arch: str
    arch_kwargs: dict[str, Any]
    calibration: Calibration
    layers: tuple[Layer, ...] = ()  # that `reconstruct` can fit
    inputs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def batches(self, images: Images, *, even: bool = True) -> Batches:
        """Makes the batches of some images, as they are."""
        return partial(self.data.batches, images, device=self.device, even=even)

    def training_sample(self, size: int | None) -> Images:
        """So many training images, all for None; a smaller sample is a part of a larger one."""
        return self.data.train if size is None else sample(self.data.train, size, self.options.seed)

    @property
    def choice(self) -> Choice:
        """How models are compared on val."""
        return Choice(self.options.select)

    @property
    def learning(self) -> Learning:
        """How `learned` learns."""
        return Learning(self.options.per, self.options.learning_steps, self.options.learning_rate)

    @property
    def compute(self) -> torch.dtype:
        """What the search computes in."""
        return autocast_dtype(self.options.precision, self.device)

    @cached_property
    def digests(self) -> dict[str, str | None]:
        """Of the images that a search sees; None where they stream."""
        return {"train": digest_of_images(self.data.train), "val": digest_of_images(self.data.val)}

    @cached_property
    def batch_size(self) -> BatchSize:
        """Of all that is not the scoring of the search."""
        return BatchSize(self.options.batch_size or BATCH_SIZE)

    @cached_property
    def scorer(self) -> Scorer:
        """The function the search maximises, over val."""
        return self.scorer_for(self.choice)

    def scorer_for(self, choice: Choice) -> Scorer:
        """A score function over val that stops early by a choice, perhaps another than that of the options."""
        calibration = None
        if self.calibration.used != "none":
            chosen = self.training_sample(self.options.calibration_size)
            # Augmented and decoded once, and not for each state.
            calibration = self.batches(decoded(self.calibration.images(chosen), self.device))
        return Scorer(
            self.model,
            self.batches(decoded(self.data.val, self.device), even=False),  # no statistics are taken of these
            len(self.data.val),
            calibration,
            self.compute,
            choice=choice,
            batch_size=BatchSize(self.options.batch_size or self._probed()),
            calibration_batch=BatchSize(self.batch_size.images),  # its own: it halves for itself
            calibration_name=self.calibration.used,
        )

    @cached_property
    def slope(self) -> Slope:
        """The gradient that `learned` goes by, on training images with noise, as the tickets fit them without."""
        train = self.data.train
        return Slope(self.model, self.batches(train), len(train), self.compute, noise=NOISE, seed=self.options.seed)

    @cached_property
    def rebuilder(self) -> Reconstruction:
        """What `reconstruct` fits layers with: `fit_images` training images, `fit_positions` positions of each.

        They are augmented as in training, where that is known: a network that fits its training images perfectly
        shows little of itself on them.
        """
        chosen = self.training_sample(self.options.fit_images)
        batches = self.batches(decoded(self.calibration.as_trained(chosen), self.device))
        size = self.batch_size.images  # now: positions are drawn batch by batch, so these must stay the same

        def images() -> Iterator[Tensor]:
            return (images for images, _ in batches(size))

        return Reconstruction(self.model, self.layers, images, self.options.fit_positions, seed=self.options.seed)

    def _probed(self) -> int:
        largest = len(self.data.val) // 8  # a scoring that takes all of val in few batches cannot stop early
        with in_eval_mode(self.model):
            return probe(cast_forward(self.model, self.compute), self.data.shape, self.device, largest)

    def score(self, state: State, images: Images) -> Score:
        """Score a state as it is on a part of the data."""
        return self.graded(state, images).score

    def predict(self, state: State, images: Images) -> tuple[Tensor, Tensor]:
        """Logits float32 [N, C] and labels [N] of a state as it is."""
        put_weights(self.model, state)
        return self.batch_size.fit(lambda size: predict(self.model, self.batches(images)(size)))

    def mine(self, images: Images, batch_size: int, ranks: Ranks) -> Iterable[Batch]:
        """The batches of some images that are this rank's."""
        return self.batches(images)(batch_size, part=(ranks.rank, ranks.count))

    def graded(self, state: State, images: Images, ranks: Ranks = ALONE) -> Graded:
        """What comes out for each image under a state as it is; batches are spread over the ranks, in float32."""
        put_weights(self.model, state)
        return graded(self.model, self.batches(images), self.batch_size, ranks)

    @property
    def recalibrates(self) -> bool:
        """Whether there is a control with BatchNorm recalibrated: also where val prefers statistics that are mixed."""
        return self.options.bn_images != "none" and bool(bn_layers(self.model))

    def recalibrated(self, state: State, ranks: Ranks = ALONE) -> State:
        """The state with the BatchNorm statistics of a finished model; batches are spread over the ranks."""
        put_weights(self.model, state)
        if not bn_layers(self.model):
            return state
        images = self.calibration.images(self.training_sample(self.options.final_calibration_size))

        def mine(size: int) -> list[Tensor]:
            found = list[Tensor]()
            batches = (batch for batch, _ in self.mine(images, size, ranks))
            each_batch(self.model, batches, lambda batch, statistics: found.append(statistics))
            return found

        set_statistics(self.model, average_in_order(self.batch_size.fit(mine, ranks), ranks))
        return with_statistics_of(self.model, state)


def open_bench(files: Sequence[str | Path], options: PoolOptions) -> Bench:
    """Load and check everything a search needs; nothing is computed on images yet.

    Raises:
        LptoolError: whatever would fail later fails here: files, pool, architecture, data, split.
    """
    pool = load_pool(files, options.keys)
    first = pool.summaries[0]  # the others have the same names and shapes
    shapes = first.shapes
    arch, arch_kwargs, guessed = architecture(pool.summaries, options)
    data, assumed = data_of(pool, options, options.val_fraction, options.split_seed)
    kwargs = {"num_classes": data.num_classes, "in_chans": data.shape[0], **arch_kwargs}
    saying = (
        None
        if options.arch and not arch_kwargs
        else next((s.file for s in pool.summaries if s.metadata.arch), first.file)
    )
    with said_by(saying):
        model = build_for(arch, kwargs, shapes)
    names = fit_names(model, shapes, arch, first.file)
    device = pick_device(options.device)
    with said_by(saying):
        recalibrates, descends = options.bn_images != "none", needs(options.method, "gradient")
        make_ready(
            model, device, partial(try_search, model, data, arch, device, recalibrates=recalibrates, descends=descends)
        )
    notes = notes_of(pool.summaries)
    extras = ", ".join(name for name in shapes if name not in names.of)
    carried = [f"{first.file}: {extras} is no part of the network; carried over from the target"] if extras else []
    training = Training(options.augment, options.crop_padding, options.flip)
    calibration, supposed = calibration_of(
        options.bn_images, training, pool.summaries, data, options.seed, has_bn=bool(bn_layers(model))
    )
    notes += differing_copies(pool.summaries, names)
    warnings = (*notes, *pool.warnings, *not_nested(pool.summaries), *guessed, *assumed, *carried, *supposed)
    # What no output may replace.
    inputs = (*map(str, files), *(file for s in pool.summaries for file in s.files), *_files_in(arch, data.name))
    pool = pool.for_model(names, device)
    fits = needs(options.method, "rebuilder")
    layers, left_out = fittable_layers(model, pool.prunable, data.shape, device) if fits else ((), ())
    moved = pool, model, data.to(device), device
    bench = Bench(*moved, options, arch, kwargs, calibration, layers, inputs, (*warnings, *left_out))
    _ = bench.choice, bench.learning  # refused here, before a journal of them is begun
    return bench


def _files_in(*names: str) -> list[str]:
    """The files that an architecture `file.py:callable` or a data set `npz:FILE` is read from."""
    parts = (part for name in names for part in (name.rpartition(":")[0], name.partition(":")[2]))
    return [part for part in parts if Path(part).is_file()]
