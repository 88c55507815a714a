"""`lptool evaluate`: what files are worth on test, and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lptool.cli import options as shared
from lptool.cli.ending import clear_errors
from lptool.cli.options import SectionedCommand, option, options_of
from lptool.cli.output import Document, check_page, print_and_report, progress_bar, warn
from lptool.cli.threads import choose_threads

OPTIONS = {
    "Data": [
        shared.dataset_option("Whose test images: as for train. [as the files say, where lptool knows it by name]"),
        shared.data_dir_option("; with --corruptions also the CIFAR-10-C or CIFAR-100-C folder"),
        shared.arch_option(f"{shared.ARCHITECTURES}. [as each file says]"),
        shared.ARCH_KWARGS,
        *shared.KEYS,
        shared.MEAN,
        shared.STD,
        option(
            "--corruptions",
            is_flag=True,
            help="Also under corruptions at five severities: the standard .npy files if --data-dir is or holds their "
            "folder, else C-style ones made of the test images.",
        ),
        option(
            "--latency",
            is_flag=True,
            help="Also how long a dense forward pass takes here: of one image, and of --batch-size, else 32.",
        ),
    ],
    "Output": [shared.report_option(), shared.overwrite_option("Replace the report where it exists."), shared.JSON],
    "Computing": [
        shared.DEVICE,
        shared.THREADS,
        shared.BATCH_SIZE,
    ],
}


@click.command(cls=SectionedCommand)
@shared.FILES
@options_of(OPTIONS)
@clear_errors
def evaluate(
    files: tuple[Path, ...], page: Path | None, overwrite: bool, as_json: bool, threads: int | None, **given: Any
) -> None:
    """Score tickets and pooled models on test, compare every two of them, and count what they cost.

    \b
    lptool evaluate pooled.safetensors runs/digits/level_05.safetensors
    lptool evaluate runs/digits --corruptions --report digits.html
    lptool evaluate pooled.safetensors --corruptions --data-dir data/CIFAR-10-C
    lptool evaluate pooled.safetensors pooled.onnx --latency --threads 1
    torchrun --standalone --nproc-per-node 8 -m lptool evaluate pooled.safetensors

    ONNX files are run by onnxruntime on the CPU: pip install 'lptool[onnx]'.
    Under torchrun the batches of test, and the corruptions, are spread over the processes.
    """
    from lptool.checkpoints.finding import find_tickets
    from lptool.evaluation.job import carry_out
    from lptool.evaluation.setup import EvaluateOptions, plan_evaluation
    from lptool.ranks import join_ranks
    from lptool.report.evaluate import evaluate_document, evaluate_view

    ranks = join_ranks()
    found, left_out = ranks.agree(lambda: find_tickets(files))
    warn(left_out * (ranks.rank == 0))
    ranks.agree(lambda: check_page(page, found, overwrite=overwrite))
    choose_threads(threads, given["device"], ranks)
    plan = ranks.first_ahead(lambda: plan_evaluation(found, EvaluateOptions(**given)))
    warn(plan.warnings * (ranks.rank == 0))
    with progress_bar("evaluating", shown=ranks.rank == 0) as advance:
        evaluation = carry_out(plan, advance, ranks)
    if ranks.rank == 0:
        warn(evaluation.warnings)
        document, views = evaluate_document(evaluation), [evaluate_view(evaluation)]
        print_and_report(document, views, _draw, page=page, as_json=as_json, replace=overwrite)


def _draw(document: Document) -> str:
    from lptool.report.html.evaluate import evaluate_page  # draws with matplotlib, which takes long to import

    return evaluate_page(document)
