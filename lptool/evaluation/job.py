"""What `lptool evaluate` finds out: each file on test, under corruptions, beside the others, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, count
from pathlib import Path
from statistics import fmean

from torch import Tensor

from lptool.checkpoints.summary import Summary
from lptool.data.images import Images
from lptool.device import threads_on
from lptool.evaluation.setup import EvaluateOptions, Plan, Subject, plan_evaluation
from lptool.scoring.cost import Cost, cost_of
from lptool.scoring.metrics import Comparison, Metrics, mcnemar, measure
from lptool.scoring.score import predict

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
    """All that is known of one file."""

    summary: Summary
    arch: str
    test: Metrics
    cost: Cost
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


def carry_out(plan: Plan, on_progress: OnProgress | None = None) -> Evaluation:
    """Every file on test, then every file under each corruption, then every two of them beside each other."""
    started = time.perf_counter()
    sets = plan.corruptions.sets if plan.corruptions else ()
    steps = count(1)

    def report(text: str) -> None:
        if on_progress is not None:
            on_progress(next(steps), len(plan.subjects) * (1 + len(sets)), text)

    files = []
    for subject in plan.subjects:
        files.append(_on_test(plan, subject))
        report(f"test {Path(subject.summary.file).name}")
    for part in sets:
        images = part.images().to(plan.device)  # made once, for all files
        for subject, result in zip(plan.subjects, files, strict=True):
            subject.load()  # again: files of one architecture share the network
            metrics = measure(*predicted(plan, subject, images), plan.data.num_classes)
            result.corrupted.append(CorruptedScore(part.name, part.severity, metrics, part.extra))
            report(f"{part.name} {part.severity}")
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


def _on_test(plan: Plan, subject: Subject) -> FileResult:
    ticket, network = subject.load(), subject.network
    logits, labels = predicted(plan, subject, plan.data.test.to(plan.device))
    cost = cost_of(network.model, ticket.state, ticket.mask, network.flops)
    return FileResult(subject.summary, network.arch, measure(logits, labels, plan.data.num_classes), cost)


def predicted(plan: Plan, subject: Subject, images: Images) -> tuple[Tensor, Tensor]:
    """Logits float [N, C] and labels int64 [N], on the CPU, of the network with the weights it has."""
    model, batches = subject.network.model, subject.data.batches
    logits, labels = plan.batch_size.fit(lambda size: predict(model, batches(images, size, plan.device)))
    return logits.cpu(), labels.cpu()
