"""`lptool pool`: from tickets to pooled models."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lptool.cli.options import PATH, SectionedCommand, options_of, refuse_values_alone
from lptool.cli.output import Document, check_page, clear_errors, progress_bar, show, tell_and_report, warn
from lptool.cli.pool_options import OPTIONS, refuse_odd_usage
from lptool.cli.train_first import found_tickets, run_to_make

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lptool.bench import Bench
    from lptool.export import Form
    from lptool.pipeline import PoolResult
    from lptool.ranks import Ranks
    from lptool.references import References
    from lptool.trace import Progress


@click.command(cls=SectionedCommand)
@click.argument("checkpoints", nargs=-1, type=PATH, metavar="CKPT...")
@options_of(OPTIONS)
@clear_errors
def pool(
    checkpoints: tuple[Path, ...],
    out: Path,
    preset: str | None,
    levels: int | None,
    train_first: bool,
    with_references: bool,
    page: Path | None,
    as_json: bool,
    overwrite: bool,
    dry_run: bool,
    packed: bool,
    values: str | None,
    alphas: tuple[float, ...],
    **given: Any,
) -> None:
    """Pool tickets into one sparse model, choosing on val, and report test once.

    \b
    lptool pool runs/digits/*.safetensors -o pooled.safetensors
    lptool pool runs/digits -o pooled.safetensors --target all --method average
    lptool pool runs/digits -o pooled.safetensors --sparsity 0.9 --report pooled.html
    lptool pool runs/digits -o small.safetensors --packed
    lptool pool runs/digits -o my-model
    lptool pool --train --preset quickstart -o pooled.safetensors
    torchrun --standalone --nproc-per-node 8 -m lptool pool runs/c10 -o pooled.safetensors

    Each score goes to OUTPUT.search.jsonl: the same command goes on where a search was cut off. Under torchrun the
    alphas, or with --target all the targets, are spread over the processes; with the same number of threads in each
    the result is the same as that of one.
    """
    refuse_odd_usage(alphas, given["method"], train_first or not (preset or levels))
    refuse_values_alone(packed, values)
    from lptool import report, report_pool
    from lptool.bench import PoolOptions, open_bench
    from lptool.export import Form, check_output
    from lptool.folder import check_folder, describe_weights, new_folder
    from lptool.plan import evaluations_at_most, is_folder, outputs_of
    from lptool.provenance import command_line
    from lptool.ranks import join_ranks
    from lptool.references import references
    from lptool.targets import choose_targets

    seed, form = given.pop("seed"), Form(packed, values)
    options = PoolOptions(alphas=alphas, seed=seed or 0, **given)
    as_folder = is_folder(out) and options.target != "all"
    if as_folder and packed:
        raise click.UsageError("a folder holds what timm loads, which is dense; name a FILE.safetensors with --packed")
    ranks = join_ranks()
    first = ranks.rank == 0
    run = run_to_make(checkpoints, out, preset, levels, seed, options) if train_first else None
    if run is not None and dry_run:
        if first:
            click.echo(report.to_json(run.document()))
        return

    def tickets() -> list[Path]:
        if run is not None:
            if options.target != "all":  # before the hours that training may take
                (check_folder if as_folder else check_output)(out, [], overwrite=overwrite)
            run.make(options, ranks)
        return found_tickets(checkpoints, run)

    bench = ranks.agree(lambda: open_bench(tickets(), options))
    warn(bench.warnings * first)
    targets = ranks.agree(lambda: choose_targets(bench, ranks))
    outputs = ranks.agree(lambda: outputs_of(bench, targets, out, overwrite=overwrite))
    ranks.agree(lambda: check_page(page, [*bench.inputs, *outputs], overwrite=overwrite))
    if dry_run:
        evaluations = evaluations_at_most(options, len(bench.pool))
        if first:
            click.echo(report.to_json(report_pool.plan_document(bench, targets, outputs, evaluations)))
        return
    with new_folder(out, overwrite=overwrite) if as_folder and first else nullcontext() as stage:
        job = Job(bench, form, stage, overwrite, shown=first and not as_json)
        results = _pool_all(job, targets, outputs, ranks)
        found = ranks.on_first(lambda: references(bench)) if with_references or page or as_folder else None
        if not first:
            return
        document = _document(results, found, options.target)
        if stage is not None:
            documents = {"trace.json": report.to_json(document), "report.html": _draw(document)}
            describe_weights(stage, command=command_line(), documents=documents)
    views = [report_pool.pool_view(results[0])] * as_folder + _views(results, found, options.target)
    tell_and_report(document, views, _draw, page=page, as_json=as_json)


@dataclass(frozen=True)
class Job:
    """What all targets of one command have in common.

    Attributes:
        stage: the folder in the making, that the weights go into; None where each output is a file.
        shown: whether results are told as they come.
    """

    bench: Bench
    form: Form
    stage: Path | None
    overwrite: bool
    shown: bool


def _pool_all(job: Job, targets: Sequence[int], outputs: Sequence[Path], ranks: Ranks) -> list[PoolResult]:
    """Pool each target: several are dealt out over the ranks, one at a time is searched by all of them together."""
    from lptool import report_pool
    from lptool.ranks import ALONE

    dealt = ranks.count > 1 and len(targets) > 1
    together = ALONE if dealt else ranks
    at_once = job.shown and not dealt and job.stage is None

    def run(target: int, output: Path) -> PoolResult:
        result = _pool_one(job, target, output, together, shown=ranks.rank == 0)
        if at_once:
            show(report_pool.pool_view(result))
        return result

    tasks = {i: functools.partial(run, *pair) for i, pair in enumerate(zip(targets, outputs, strict=True))}
    results = list(ranks.share(tasks).values()) if dealt else [task() for task in tasks.values()]
    for result in results * (job.shown and dealt):
        show(report_pool.pool_view(result))
    return results


def _pool_one(job: Job, target: int, output: Path, ranks: Ranks, *, shown: bool) -> PoolResult:
    """Pool one target under a progress bar; Ctrl-C tells how far it came."""
    from lptool.folder import WEIGHTS
    from lptool.journal import journal_of
    from lptool.pipeline import pool_target

    bench, journal, reached = job.bench, journal_of(output), "before the first scoring"
    with progress_bar("pooling", shown=shown) as advance:

        def follow(progress: Progress) -> None:
            nonlocal reached
            reached = f"after {progress.done} of {progress.total} mixes"
            places = [scored.candidate for scored in progress.scored if scored.candidate is not None]
            doing = f"candidate level {bench.pool.level(places[-1])}" if places else bench.options.method
            advance(progress.done, progress.total, f"{doing}, incumbent {100 * progress.incumbent.accuracy:.2f} %")

        file = output if job.stage is None else job.stage / WEIGHTS
        try:
            result = pool_target(
                *(bench, target, file),
                form=job.form,
                journal=journal,
                overwrite=job.overwrite,
                ranks=ranks,
                on_progress=follow,
            )
            return replace(result, output=output, sha256=_sha256_in(job.stage) if job.stage else result.sha256)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Interrupted {reached} for {output}. The same command goes on from there; the scores are in {journal}"
            ) from None


def _sha256_in(stage: Path) -> str:
    """Of the weights of a folder, under the names that timm gives them."""
    from lptool.checkpoints import file_sha256, load_ticket
    from lptool.folder import WEIGHTS, write_weights

    write_weights(load_ticket(stage / WEIGHTS), stage)
    return file_sha256(stage / WEIGHTS)


def _document(results: Sequence[PoolResult], found: References | None, target: str) -> Document:
    from lptool import report_pool

    documents = [report_pool.pool_document(result, found) for result in results]
    return report_pool.all_targets_document(documents) if target == "all" else documents[0]


def _views(results: Sequence[PoolResult], found: References | None, target: str) -> list[RenderableType]:
    """What is told when all targets are done, after each target's own result."""
    from lptool import report_pool

    views = [report_pool.summary_view(results)] if target == "all" else []
    return views if found is None else [*views, report_pool.references_view(results[0], found)]


def _draw(document: Document) -> str:
    from lptool.pool_page import pool_page  # draws with matplotlib, which takes long to import

    return pool_page(document)
