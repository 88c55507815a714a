"""What `lptool evaluate` finds out: each file on test, under corruptions, beside the others, and what it costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, count
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from lptool.checkpoints.summary import Summary
from lptool.data.corruptions import CorruptedSet
from lptool.data.images import Images
from lptool.device import threads_on
from lptool.errors import SetupError
from lptool.evaluation.setting import Normalisation
from lptool.evaluation.setup import EvaluateOptions, Plan, Subject, plan_evaluation
from lptool.ranks import ALONE, Ranks
from lptool.scoring.cost import Cost
from lptool.scoring.latency import Latency, measure_latency
from lptool.scoring.metrics import Comparison, Metrics, mcnemar, measure_graded
from lptool.scoring.score import graded

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class CorruptedScore:
    """One kind at one severity; `extra` ones are no part of the mean."""

    name: str
    severity: int
    metrics: Metrics
    extra: bool


@dataclass(frozen=True)
class FileResult:
    """All that is known of one file.

    Attributes:
        arch_kwargs: all that its network was built with.
        normalisation: mean and std per channel, of images scaled to [0, 1].
        runtime: what ran its network, `torch` or `onnxruntime`.
    """

    summary: Summary
    arch: str
    arch_kwargs: dict[str, Any]
    normalisation: Normalisation
    test: Metrics
    cost: Cost
    latency: Latency | None = None
    runtime: str = "torch"
    corrupted: list[CorruptedScore] = field(default_factory=list)

    @property
    def mean_corruption_accuracy(self) -> float:
        """Over all kinds and severities, each counting the same; the extra ones of CIFAR-C are left out."""
        return fmean(row.metrics.score.accuracy for row in self.corrupted if not row.extra)


@dataclass(frozen=True)
class Evaluation:
    """The result: files in the order given, and every pair of them compared.

    Attributes:
        comparisons: (index of a, index of b) → the comparison.
        source: where the corruptions come from; None without.
        threads: of the CPU, where that is the device.
    """

    dataset: str
    num_classes: int
    files: tuple[FileResult, ...]
    comparisons: dict[tuple[int, int], Comparison]
    source: str | None
    device: str
    threads: int | None
    seconds: float

    @property
    def warnings(self) -> list[str]:
        """A line for each file whose outputs are broken."""
        return [
            f"{result.summary.file}: logits of test images are not finite, so its NLL is not known; an image with NaN "
            "among them counts as wrong"
            for result in self.files
            if not math.isfinite(result.test.score.nll)
        ]


def evaluate_files(
    files: Sequence[str | Path], options: EvaluateOptions | None = None, on_progress: OnProgress | None = None
) -> Evaluation:
    """Score files on the test images, and compare every two of them.

    Args:
        files: checkpoints of any program; they need not fit together, but have to tell the same classes apart.
        options: by default those of the files.
        on_progress: called with (done, total, text).

    Raises:
        LptoolError: whatever would fail later fails before anything is computed: files, architectures, data.

    >>> import lptool
    >>> options = lptool.TrainOptions(arch="resnet8_cifar", dataset="digits", epochs=1, rewind_epoch=0)
    >>> files = lptool.train_tickets(options, 1, "run", device="cpu")
    >>> evaluation = lptool.evaluate_files(files)
    >>> [result.test.score.n for result in evaluation.files], list(evaluation.comparisons)
    ([359, 359], [(0, 1)])
    """
    return carry_out(plan_evaluation(files, options or EvaluateOptions()), on_progress)


def carry_out(plan: Plan, on_progress: OnProgress | None = None, ranks: Ranks = ALONE) -> Evaluation:
    """Every file on test, then every file under each corruption, then every two of them beside each other.

    Batches of test are spread over the ranks, corruptions are dealt out; every rank has the result of one.

    Raises:
        SetupError: latency is asked for of several ranks, which would slow one another down.
    """
    if plan.latency and ranks.count > 1:
        raise SetupError("latency is measured by one process alone; leave out --latency, or torchrun")
    started = time.perf_counter()
    sets = plan.corruptions.sets if plan.corruptions else ()
    steps, mine = count(1), len(range(ranks.rank, len(sets), ranks.count))

    def report(text: str) -> None:
        if on_progress is not None:
            on_progress(next(steps), len(plan.subjects) * (1 + mine), text)

    files = []
    for subject in plan.subjects:
        files.append(_on_test(plan, subject, ranks))
        report(f"test {Path(subject.summary.file).name}")
    tasks = {place: partial(_under, plan, part, report) for place, part in enumerate(sets)}
    for of_files in ranks.share(tasks).values():
        for result, corrupted in zip(files, of_files, strict=True):
            result.corrupted.append(corrupted)
    pairs = combinations(range(len(files)), 2)
    return Evaluation(
        dataset=plan.data.name,
        num_classes=plan.data.num_classes,
        files=tuple(files),
        comparisons={(i, j): mcnemar(files[i].test.right, files[j].test.right) for i, j in pairs},
        source=plan.corruptions.source if plan.corruptions else None,
        device=str(plan.device),
        threads=threads_on(plan.device),
        seconds=time.perf_counter() - started,
    )


def _on_test(plan: Plan, subject: Subject, ranks: Ranks) -> FileResult:
    ticket, network = subject.load(), subject.network
    metrics = measured(plan, subject, plan.data.test.to(plan.device), ranks)
    device = plan.device if network.runtime == "torch" else torch.device("cpu")
    latency = measure_latency(network.model, network.image_shape, device, plan.latency) if plan.latency else None
    return FileResult(
        summary=subject.summary,
        arch=network.arch,
        arch_kwargs=network.arch_kwargs,
        normalisation=(subject.data.mean, subject.data.std),
        test=metrics,
        cost=subject.cost(ticket),
        latency=latency,
        runtime=network.runtime,
    )


def _under(plan: Plan, part: CorruptedSet, report: Callable[[str], None]) -> list[CorruptedScore]:
    """Every file under one corruption."""
    images = part.images().to(plan.device)  # made once, for all files
    found = []
    for subject in plan.subjects:
        subject.load()  # again: files of one architecture share the network
        metrics = measured(plan, subject, images, ALONE)
        found.append(CorruptedScore(part.name, part.severity, metrics, part.extra))
        report(f"{part.name} {part.severity}")
    return found


def measured(plan: Plan, subject: Subject, images: Images, ranks: Ranks) -> Metrics:
    """Of the network with the weights it has, in float32; batches are spread over the ranks."""
    batches = partial(subject.data.batches, images, device=plan.device)
    return measure_graded(graded(subject.network.model, batches, plan.batch_size, ranks), plan.data.num_classes)
