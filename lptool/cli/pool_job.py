"""The targets of one `lptool pool`, each pooled into its file or folder, under a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from lptool.cli.logs import SUFFIX, Log, Record, log_to
from lptool.cli.output import Document, progress_bar, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lptool.checkpoints.ticket import Ticket
    from lptool.checkpoints.writing import Form
    from lptool.pooling.outcome import Progress
    from lptool.pooling.result import PoolResult
    from lptool.pooling.setup import Bench
    from lptool.ranks import Ranks


@dataclass(frozen=True)
class Job:
    """What all targets of one command share.

    Attributes:
        threads: see `choose_threads`. shown: a person reads along, and sees each result as it comes.
        log: see `log_to`. license: for the card of a folder.
    """

    bench: Bench
    form: Form
    ranks: Ranks
    threads: int | None
    overwrite: bool
    shown: bool
    log: str | None = None
    license: str | None = None


Result = tuple[Document, "list[RenderableType]"]  # for a program, and for a person what was not shown on the way


Place = tuple[int, Path, "Path | None"]  # a target, where its pooled model goes, and where its control


def pool_into_folder(job: Job, target: int, folder: Path, control: Path | None) -> Result:
    """Pool one target into a folder in the Hugging Face layout, which appears whole."""
    from lptool.checkpoints.places import WEIGHTS, new_folder
    from lptool.export.folder import describe_weights, for_folder
    from lptool.pooling.comparisons import references
    from lptool.pooling.fingerprint import fingerprint, key_of
    from lptool.pooling.outputs import may_replace
    from lptool.provenance import command_line, without_folders
    from lptool.report import pool as report_pool
    from lptool.report.tables import to_json

    first = job.ranks.rank == 0
    key = key_of(fingerprint(job.bench, target), job.bench.options)
    again = first and may_replace(folder, key, job.form, overwrite=job.overwrite)
    # One rank makes the folder, and fills it alone.
    with new_folder(folder, overwrite=again) if first else nullcontext(folder) as stage:
        written = _pool_one(job, target, stage / WEIGHTS, control, job.ranks, within=folder, fitted=for_folder)
        result = replace(written, output=folder)
        found = references(job.bench, job.ranks)
        document = report_pool.pool_document(result, found)
        if first:
            public = without_folders(document)  # it may go to the Hub
            documents = {"trace.json": to_json(public), "report.html": draw(public)}
            source = job.bench.pool.summaries[target].file
            describe_weights(stage, made_from=source, command=command_line(), documents=documents, license=job.license)
    return document, [report_pool.pool_view(result), report_pool.references_view(document)]


def pool_files(job: Job, places: Sequence[Place], *, with_references: bool) -> Result:
    """Pool each target into a file, and sum up."""
    from lptool.pooling.comparisons import references
    from lptool.report import pool as report_pool

    results = _pool_all(job, places)
    found = references(job.bench, job.ranks) if with_references else None
    document = first = report_pool.pool_document(results[0], found)
    views = [report_pool.references_view(first)] if found else []
    if job.bench.options.target == "all":
        document = report_pool.all_targets_document(results, found)
        views.insert(0, report_pool.summary_view(document))
    return document, views


def _pool_all(job: Job, places: Sequence[Place]) -> list[PoolResult]:
    """Several targets are dealt out over the ranks, one at a time is searched by all of them together."""
    from lptool.ranks import ALONE
    from lptool.report import pool as report_pool

    dealt = job.ranks.count > 1 and len(places) > 1
    ranks = ALONE if dealt else job.ranks
    tasks = {target: partial(_pool_one, job, target, file, control, ranks) for target, file, control in places}
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
    control: Path | None,
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
    journal, reached, steps = journal_of(output), "before the first scoring", count(1)
    with _log(job, output, journal, ranks) as log, progress_bar("pooling", shown=job.ranks.rank == 0) as advance:

        def follow(progress: Progress) -> None:
            nonlocal reached
            for record in _scored_records(progress, bench):
                log({"step": next(steps), **record})
            reached = f"after {progress.done} of {progress.total} mixes"
            places = [each.candidate for each in progress.scored if each.candidate is not None]
            candidate = f"candidate level {bench.pool.level(places[-1])}" if places else bench.options.method
            doing = progress.doing or candidate
            advance(progress.done, progress.total, f"{doing}, incumbent {100 * progress.incumbent.accuracy:.2f} %")

        try:
            result = pool_target(
                *(bench, target, file),
                form=job.form,
                fitted=fitted,
                control=control,
                journal=journal,
                overwrite=job.overwrite,
                threads=job.threads,
                ranks=ranks,
                on_progress=follow,
            )
            log({"step": next(steps), **_final_record(result)})
            return result
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Interrupted {reached} for {output}. The same command goes on from there; the scores are in {journal}"
            ) from None


def _log(job: Job, output: Path, journal: Path, ranks: Ranks) -> AbstractContextManager[Log]:
    """The log of one search, in a folder beside the output, by the process that writes that."""
    from lptool.provenance import command_line

    place, config = output.with_name(output.name + SUFFIX), {"command": command_line()}
    # With --overwrite the journal may be of another search, and all is logged anew.
    resumed = journal.exists() and not job.overwrite
    return log_to(job.log if ranks.rank == 0 else None, place, resumed=resumed, config=config)


def _scored_records(progress: Progress, bench: Bench) -> list[Record]:
    """What a log has of each state that was scored; of one that was cut short the scores are of the images until then.

    No candidate stands with the target itself, and no alpha where there is one for each tensor.
    """
    return [
        {
            "search/candidate": None if each.candidate is None else bench.pool.level(each.candidate),
            "search/alpha": each.alpha,
            "search/val_accuracy": each.score.accuracy,
            "search/val_nll": each.score.nll,
            "search/val_images": each.score.n,
            "search/incumbent": progress.incumbent.accuracy,
        }
        for each in progress.scored
    ]


def _final_record(result: PoolResult) -> Record:
    """The scores of the file and its controls."""
    return {
        f"final/{name}/{part}_{kind}": value
        for part, scores in (("val", result.val), ("test", result.test))
        for name, score in scores.items()
        for kind, value in (("accuracy", score.accuracy), ("nll", score.nll))
    }


def draw(document: Document) -> str:
    """The page of a document."""
    from lptool.report.html.pool import pool_page  # draws with matplotlib, which takes long to import

    return pool_page(document)
