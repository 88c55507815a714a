"""From checkpoints on disk to one pooled file: the straight line that `lptool pool` walks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lptool.checkpoints import file_sha256, load_pool
from lptool.data import Data, load_data
from lptool.device import pick_device
from lptool.errors import ArchError, DataError, PoolError
from lptool.evaluate import Batches, Score, Scorer, evaluate, recalibrated
from lptool.export import check_output, save_ticket
from lptool.images import Images, sample
from lptool.masks import State
from lptool.models import build_model, check_fits
from lptool.search import METHODS, PAPER_ALPHAS, OnProgress, SearchTrace, pool_tickets
from lptool.tickets import Metadata, Pool, Summary, Ticket

BATCH_SIZE = 512


@dataclass(frozen=True)
class PoolOptions:
    """Everything that shapes a pooled model.

    Attributes:
        target: `sparsest`, `matching` (the sparsest ticket as accurate on val as the densest), `all`, a level, or
            one of the files.
        method, alphas: see `pool_tickets`.
        arch, dataset, data_dir: None takes what the tickets say.
        val_fraction, split_seed: None takes what the tickets were trained with, else 0.1 and 0.
        recalibrate: BN recalibration; False scores and writes every model with the statistics it has.
        calibration_size: training images for BN recalibration in the search; at the end all are used.
        seed: of the choice of those images.
    """

    target: str = "sparsest"
    method: str = "greedy"
    alphas: tuple[float, ...] = PAPER_ALPHAS
    arch: str | None = None
    dataset: str | None = None
    data_dir: Path | None = None
    device: str = "auto"
    val_fraction: float | None = None
    split_seed: int | None = None
    recalibrate: bool = True
    calibration_size: int = 2048
    seed: int = 0


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
    out: Path
    warnings: tuple[str, ...] = ()

    def output_for(self, target: int) -> Path:
        """Where the pooled model of a target goes."""
        return _output_for(self.out, self.pool.level(target), self.options.target)

    def batches(self, images: Images) -> Batches:
        """Makes the batches of one part of the data, un-augmented and in order."""
        return partial(self.data.batches, images, BATCH_SIZE, self.device)

    def scorer(self) -> Scorer:
        """The function the search maximises."""
        calibration = sample(self.data.train, self.options.calibration_size, self.options.seed)
        chosen = self.batches(calibration) if self.options.recalibrate else None
        return Scorer(self.model, self.batches(self.data.val), len(self.data.val), chosen)

    def score(self, state: State, images: Images) -> Score:
        """Score a state as it is on a part of the data."""
        self.model.load_state_dict(state)
        return evaluate(self.model, self.batches(images)(), len(images))


@dataclass(frozen=True)
class PoolResult:
    """One pooled model, as written.

    Attributes:
        val, test: scores of `ticket` (the target as it is), `ticket_bn` (recalibrated on all training images; absent
            without BN recalibration) and `pooled` (the file written).
        shipped: `pooled`, or the control written in its place because it scores better on val.
    """

    output: Path
    sha256: str
    ticket: Ticket
    trace: SearchTrace
    pool: Pool
    shipped: str
    seconds: float
    val: dict[str, Score]
    test: dict[str, Score]

    @property
    def improved(self) -> bool:
        """Whether the output is made of more than the target."""
        return self.shipped == "pooled" and bool(self.trace.accepted)


def prepare(files: Sequence[str | Path], out: str | Path, options: PoolOptions, *, overwrite: bool = False) -> Bench:
    """Load and check everything a search needs; nothing is computed on images yet.

    Args:
        files: the checkpoints of one run.
        out: the file to write; with target `all` one file per level, `STEM_level_NN.safetensors` beside it, or
            `level_NN.safetensors` in it where it is a folder.
        options: see `PoolOptions`.
        overwrite: replace outputs that exist.

    Raises:
        LptoolError: whatever would fail later fails here: files, pool, architecture, data, split.
    """
    pool = load_pool(files)
    out = Path(out)
    for place in range(len(pool)) if options.target == "all" else [0]:
        check_output(_output_for(out, pool.level(place), options.target), files, overwrite=overwrite)
    data, warnings = _load_matching_data(pool, options)
    device = pick_device(options.device)
    known = next((s.metadata for s in pool.summaries if s.metadata.arch), Metadata())
    arch = options.arch or known.arch
    if arch is None:
        raise ArchError(f"{pool.summaries[0].file}: does not say its architecture; name it with --arch")
    kwargs = {"num_classes": data.num_classes, "in_chans": data.shape[0]}
    if arch == known.arch:
        kwargs |= known.arch_kwargs
    model = build_model(arch, **kwargs)
    first = pool.summaries[0]  # the others have the same names and shapes
    check_fits(model, first.shapes, arch, first.file)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Bench(pool, model, data.to(device), device, options, arch, kwargs, out, warnings)


def _output_for(out: Path, level: int, target: str) -> Path:
    if target != "all":
        return out
    if out.suffix == ".safetensors":
        return out.with_name(f"{out.stem}_level_{level:02d}.safetensors")
    return out / f"level_{level:02d}.safetensors"


def _load_matching_data(pool: Pool, options: PoolOptions) -> tuple[Data, tuple[str, ...]]:
    """The data the tickets were trained on, split as it was then; val must hold no image that they were trained on."""
    told = [s for s in pool.summaries if s.metadata.dataset]
    if not told and options.dataset is None:
        raise DataError(f"{pool.summaries[0].file}: does not say its data set; name it with --dataset")
    trained_on = told[0].metadata.dataset if told else {}
    split = trained_on.get("split", {})
    mean, std = trained_on.get("mean"), trained_on.get("std")
    shape = trained_on.get("image_shape")
    data = load_data(
        options.dataset or trained_on["name"],
        options.data_dir,
        val_fraction=_first(options.val_fraction, split.get("fraction"), 0.1),
        split_seed=_first(options.split_seed, split.get("seed"), 0),
        image_size=shape[-1] if shape else None,
        normalisation=(mean, std) if mean and std else None,
    )
    for summary in told:
        if summary.metadata.dataset.get("split", {}).get("hash") != data.split["hash"]:
            raise DataError(
                f"{summary.file}: was trained on another split of {summary.metadata.dataset.get('name')}, so val would "
                "hold images it has seen; use its data set and leave out --val-fraction and --split-seed"
            )
    warnings = [
        f"{s.file} does not say which images it was trained on; if val's are among them, its scores are flattered"
        for s in pool.summaries
        if not s.metadata.dataset
    ]
    return data, tuple(warnings[:1])


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def choose_targets(bench: Bench) -> list[int]:
    """Places in the pool of the tickets to improve. `matching` scores tickets on val. Raises PoolError."""
    pool, target = bench.pool, bench.options.target
    if target == "all":
        return list(range(len(pool)))
    if target == "sparsest":
        return [_sparsest(pool, range(len(pool)))]
    if target == "matching":
        correct = [bench.score(ticket.state, bench.data.val).correct for ticket in pool]
        return [_sparsest(pool, [i for i, right in enumerate(correct) if right >= correct[0]])]
    for i, summary in enumerate(pool.summaries):
        if target == str(pool.level(i)) or Path(target).resolve() == Path(summary.file).resolve():
            return [i]
    levels = ", ".join(str(pool.level(i)) for i in range(len(pool)))
    raise PoolError(f"no target {target!r}: expected sparsest, matching, all, a level ({levels}) or one of the files")


def _sparsest(pool: Pool, places: Sequence[int] | range) -> int:
    return max(places, key=lambda i: (-pool.kept(i), i))


def evaluations_at_most(options: PoolOptions, tickets: int) -> int:
    """States that one search scores: the target twice (once without BN recalibration) and every mix."""
    alphas = METHODS[options.method] or options.alphas
    return 1 + options.recalibrate + (tickets - 1) * len(alphas)


def pool_target(bench: Bench, target: int, on_progress: OnProgress = lambda progress: None) -> PoolResult:
    """Search, recalibrate on the whole training set, score once on test, and write the file."""
    started = time.perf_counter()
    output = bench.output_for(target)
    options, pool = bench.options, bench.pool
    scorer = bench.scorer()
    best, trace = pool_tickets(
        pool,
        scorer,
        target=target,
        method=options.method,
        alphas=options.alphas,
        score_as_is=scorer.as_is if scorer.recalibrates else None,
        on_progress=on_progress,
    )

    def finished(state: State) -> State:
        return recalibrated(bench.model, state, bench.batches(bench.data.train))

    ticket = pool[target]
    states = {"ticket": ticket.state, "pooled": finished(best.state) if best.recalibrated else best.state}
    if scorer.recalibrates:
        states["ticket_bn"] = finished(ticket.state)
    val = {name: bench.score(state, bench.data.val) for name, state in states.items()}
    # The search saw fewer calibration images than the finished model: never write less than a control gives on val.
    shipped = max(("pooled", "ticket", "ticket_bn"), key=lambda name: val[name].correct if name in val else -1)
    states["pooled"], val["pooled"] = states[shipped], val[shipped]
    mask = best.mask if shipped == "pooled" else ticket.mask
    test = {name: bench.score(state, bench.data.test) for name, state in states.items()}
    metadata = _pooled_metadata(bench, trace, shipped, val, test)
    pooled = Ticket(states["pooled"], mask, metadata, str(output))
    save_ticket(pooled, output)
    seconds = time.perf_counter() - started
    return PoolResult(output, file_sha256(output), pooled, trace, pool, shipped, seconds, val, test)


def _pooled_metadata(
    bench: Bench, trace: SearchTrace, shipped: str, val: dict[str, Score], test: dict[str, Score]
) -> Metadata:
    """Everything that made the file and nothing that changes from run to run, so that equal runs give equal bytes."""
    options, pool = bench.options, bench.pool
    origin = pool.summaries[trace.target]
    document = {
        "method": trace.method,
        "target": _named(origin, pool.level(trace.target)),
        "alphas": list(trace.alphas),
        "members": [
            _named(pool.summaries[s.candidate], pool.level(s.candidate)) | {"alpha": s.alpha, "accepted": s.accepted}
            for s in trace.steps
        ],
        "shipped": shipped,
        "bn_recalibration": options.recalibrate,
        "calibration_size": options.calibration_size,
        "seed": options.seed,
        "evaluations": trace.evaluations,
    }
    scores = {"val": {k: s.to_json() for k, s in val.items()}, "test": {k: s.to_json() for k, s in test.items()}}
    return replace(
        origin.metadata,
        kind="pooled",
        arch=bench.arch,
        arch_kwargs=bench.arch_kwargs,
        level=pool.level(trace.target),
        prunable=pool.prunable,
        dataset=bench.data.describe(),
        trace=document,
        scores=scores,
    )


def _named(summary: Summary, level: int) -> dict[str, Any]:
    return {"file": Path(summary.file).name, "sha256": summary.sha256, "level": level}
