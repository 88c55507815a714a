"""`lptool pool`: from tickets to pooled models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lptool.cli.ending import clear_errors
from lptool.cli.options import PATH, POOLED, POOLED_ALL, TICKETS, SectionedCommand, options_of, refuse_values_alone
from lptool.cli.output import (
    Document,
    check_page,
    is_own_page,
    print_and_report,
    print_document,
    progress_bar,
    show,
    warn,
)
from lptool.cli.pool_options import OPTIONS, bn_images_of, refuse_idle_augmentation, refuse_odd_usage
from lptool.cli.threads import choose_threads
from lptool.cli.train_first import found_tickets, lacks_tickets, refuse_nothing, run_document, run_offered, run_to_make
from lptool.cli.train_options import quickstart_note, quickstart_unless_said

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lptool.checkpoints.ticket import Ticket
    from lptool.checkpoints.writing import Form
    from lptool.cli.train import RunToMake
    from lptool.pooling.job import PoolResult
    from lptool.pooling.outcome import Progress
    from lptool.pooling.setup import Bench, PoolOptions
    from lptool.ranks import Ranks


@click.command(cls=SectionedCommand)
@click.argument("checkpoints", nargs=-1, type=PATH, metavar="CKPT...")
@options_of(OPTIONS)
@clear_errors
def pool(
    checkpoints: tuple[Path, ...],
    out: str | None,  # with the slash that makes it a folder
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
    bn_images: str,
    bn_recal: bool | None,
    threads: int | None,
    cache_dir: Path | None,
    **given: Any,
) -> None:
    """Pool tickets into one sparse model, choosing on val, and report test once.

    \b
    lptool pool ckpts/*.safetensors
    lptool pool runs/digits -o pooled.safetensors --target all --method average
    lptool pool runs/digits -o pooled.safetensors --sparsity 0.9 --report pooled.html
    lptool pool runs/digits -o small.safetensors --packed
    lptool pool runs/digits -o my-model
    lptool pool --train --preset quickstart -o pooled.safetensors
    torchrun --standalone --nproc-per-node 8 -m lptool pool runs/c10 -o pooled.safetensors

    Each score goes to OUTPUT.search.jsonl: the same command goes on where a search was cut off. Pooled models that lie
    among the tickets are left out. Under torchrun the alphas, or with --target all the targets, are spread over the
    processes; with the same number of threads in each the result is the same as that of one.
    """
    refuse_nothing(checkpoints, train_first)
    bn_images = bn_images_of(bn_images, bn_recal)
    refuse_idle_augmentation(bn_images, given["method"], train_first)
    refuse_odd_usage(alphas, given["method"], train_first or not (preset or levels))
    refuse_values_alone(packed, values)
    from lptool.checkpoints.places import is_folder
    from lptool.checkpoints.writing import Form
    from lptool.pooling.outputs import outputs_of
    from lptool.pooling.setup import PoolOptions, open_bench
    from lptool.pooling.targets import choose_targets
    from lptool.ranks import join_ranks
    from lptool.report.pool import plan_document

    seed = given.pop("seed")  # None where it was not given: then tickets are trained by the seed of their preset
    options = PoolOptions(alphas=alphas, bn_images=bn_images, seed=seed or 0, **given)
    named, out = out, out or (POOLED_ALL if options.target == "all" else POOLED)
    folder = is_folder(out) and options.target != "all"
    if folder and packed:
        raise click.UsageError("a folder holds what timm loads, which is dense; name a FILE.safetensors with --packed")
    ranks = join_ranks()
    run = None
    if train_first:
        unsaid = quickstart_unless_said()
        checkpoints = checkpoints or (() if named else (TICKETS,))
        run = ranks.agree(lambda: run_to_make(checkpoints, Path(out), preset or unsaid, levels, seed, options))
        if run is None and ranks.rank == 0:
            click.echo("tickets found; nothing is trained", err=True)
        if run and unsaid and ranks.rank == 0:
            click.echo(quickstart_note(run.folder), err=True)
    elif not (as_json or dry_run):
        run = run_offered(checkpoints, seed, options)
    if run is not None and dry_run:  # without tickets there is nothing more to check
        print_document(run_document(run), ranks)
        return

    threads = choose_threads(threads, options.device, ranks)
    tickets, notes = ranks.agree(lambda: _tickets(checkpoints, run, out, options, ranks, threads, overwrite))
    warn(notes * (ranks.rank == 0))
    if run is not None:  # on what its tickets were trained on, which a header alone does not open
        options = replace(options, dataset=run.options.dataset)
    bench = ranks.agree(lambda: open_bench(tickets, options))
    warn(bench.warnings * (ranks.rank == 0))  # once, and not by each process
    scores_first = options.target == "matching" and not dry_run
    if scores_first:
        bench = _decoded(bench, ranks, cache_dir)
    targets = ranks.agree(lambda: choose_targets(bench, ranks))
    form = Form(packed, values)
    outputs = ranks.agree(lambda: outputs_of(bench, targets, out, form=form, overwrite=overwrite))
    again = ranks.agree(lambda: overwrite or is_own_page(page))
    ranks.agree(lambda: check_page(page, [*bench.inputs, *outputs], overwrite=again))
    if dry_run:
        print_document(plan_document(bench, targets, outputs), ranks)
        return
    if not scores_first:  # else only now, because an output that cannot be is refused before the pictures are decoded
        bench = _decoded(bench, ranks, cache_dir)
    # With --json, stdout is the document alone.
    job = Job(bench, form, ranks, threads, overwrite, shown=ranks.rank == 0 and not as_json)
    if folder:
        result = _pool_into_folder(job, targets[0], outputs[0])
    else:
        result = _pool_files(job, targets, outputs, with_references=with_references or page is not None)
    if ranks.rank == 0:
        print_and_report(*result, _draw, page=page, as_json=as_json, replace=again)


def _tickets(
    given: Sequence[Path],
    run: RunToMake | None,
    out: str,
    options: PoolOptions,
    ranks: Ranks,
    threads: int | None,
    overwrite: bool,
) -> tuple[list[Path], list[str]]:
    """The files to pool, made first where `--train` has to, and what a person should know of them."""
    from lptool.checkpoints.places import check_place, is_folder

    if run is not None:
        if options.target != "all" and lacks_tickets([run.folder]):  # before the hours that training may take
            check_place(Path(out), [], folder=is_folder(out), overwrite=overwrite)
        run.make(ranks, threads)
    return found_tickets(given, run, options.target)


def _decoded(bench: Bench, ranks: Ranks, cache_dir: Path | None) -> Bench:
    from lptool.pooling.decoding import decoded_once

    found, notes = ranks.agree(lambda: decoded_once(bench, ranks, cache_dir))
    warn(notes)
    return found


@dataclass(frozen=True)
class Job:
    """What all targets of one command share.

    Attributes:
        threads: see `choose_threads`. shown: a person reads along, and sees each result as it comes.
    """

    bench: Bench
    form: Form
    ranks: Ranks
    threads: int | None
    overwrite: bool
    shown: bool


Result = tuple[Document, "list[RenderableType]"]  # for a program, and for a person what was not shown on the way


def _pool_into_folder(job: Job, target: int, folder: Path) -> Result:
    """Pool one target into a folder in the Hugging Face layout, which appears whole."""
    from lptool.checkpoints.places import WEIGHTS, new_folder
    from lptool.export.folder import describe_weights, for_folder
    from lptool.pooling.comparisons import references
    from lptool.pooling.outputs import may_replace
    from lptool.provenance import command_line, without_folders
    from lptool.report import pool as report_pool
    from lptool.report.tables import to_json

    first = job.ranks.rank == 0
    again = first and may_replace(job.bench, target, folder, job.form, overwrite=job.overwrite)
    # One rank makes the folder, and fills it alone.
    with new_folder(folder, overwrite=again) if first else nullcontext(folder) as stage:
        written = _pool_one(job, target, stage / WEIGHTS, job.ranks, within=folder, fitted=for_folder)
        result = replace(written, output=folder)
        found = references(job.bench, job.ranks)
        document = report_pool.pool_document(result, found)
        if first:
            public = without_folders(document)  # it may go to the Hub
            documents = {"trace.json": to_json(public), "report.html": _draw(public)}
            describe_weights(stage, command=command_line(), documents=documents)
    return document, [report_pool.pool_view(result), report_pool.references_view(document)]


def _pool_files(job: Job, targets: Sequence[int], outputs: Sequence[Path], *, with_references: bool) -> Result:
    """Pool each target into a file, and sum up."""
    from lptool.pooling.comparisons import references
    from lptool.report import pool as report_pool

    results = _pool_all(job, targets, outputs)
    found = references(job.bench, job.ranks) if with_references else None
    documents = [report_pool.pool_document(result, found) for result in results]
    views = [report_pool.references_view(documents[0])] if found else []
    if job.bench.options.target != "all":
        return documents[0], views
    return report_pool.all_targets_document(documents), [report_pool.summary_view(documents), *views]


def _pool_all(job: Job, targets: Sequence[int], outputs: Sequence[Path]) -> list[PoolResult]:
    """Several targets are dealt out over the ranks, one at a time is searched by all of them together."""
    from lptool.ranks import ALONE
    from lptool.report import pool as report_pool

    dealt = job.ranks.count > 1 and len(targets) > 1
    ranks, pairs = ALONE if dealt else job.ranks, zip(targets, outputs, strict=True)
    tasks = {target: partial(_pool_one, job, target, file, ranks) for target, file in pairs}
    results = []
    # One at a time, where they are not dealt out: so each result is shown before the next search begins.
    for result in job.ranks.share(tasks).values() if dealt else (task() for task in tasks.values()):
        results.append(result)
        if job.shown:
            show(report_pool.pool_view(result))
    return results


def _pool_one(
    job: Job,
    target: int,
    file: Path,
    ranks: Ranks,
    *,
    within: Path | None = None,
    fitted: Callable[[Ticket], Ticket] = lambda ticket: ticket,
) -> PoolResult:
    """Pool one target under a progress bar; on Ctrl-C the user reads how far it came.

    The journal lies beside the file, or beside the folder `within` which the file will lie.
    """
    from lptool.pooling.job import pool_target
    from lptool.pooling.journal import journal_of

    bench, output = job.bench, within or file
    journal, reached = journal_of(output), "before the first scoring"
    with progress_bar("pooling", shown=job.ranks.rank == 0) as advance:

        def follow(progress: Progress) -> None:
            nonlocal reached
            reached = f"after {progress.done} of {progress.total} mixes"
            places = [scored.candidate for scored in progress.scored if scored.candidate is not None]
            candidate = f"candidate level {bench.pool.level(places[-1])}" if places else bench.options.method
            doing = progress.doing or candidate
            advance(progress.done, progress.total, f"{doing}, incumbent {100 * progress.incumbent.accuracy:.2f} %")

        try:
            return pool_target(
                *(bench, target, file),
                form=job.form,
                fitted=fitted,
                journal=journal,
                overwrite=job.overwrite,
                threads=job.threads,
                ranks=ranks,
                on_progress=follow,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Interrupted {reached} for {output}. The same command goes on from there; the scores are in {journal}"
            ) from None


def _draw(document: Document) -> str:
    from lptool.report.html.pool import pool_page  # draws with matplotlib, which takes long to import

    return pool_page(document)
