"""`lptool pool`: from tickets to pooled models."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lptool.cli.options import PATH, SectionedCommand, options_of
from lptool.cli.output import Document, check_page, clear_errors, progress_bar, show, tell_and_report, warn
from lptool.cli.pool_options import OPTIONS, refuse_odd_usage
from lptool.cli.train import train_under_bars
from lptool.cli.train_options import chosen
from lptool.errors import CheckpointError
from lptool.levels import Levels
from lptool.train_options import TrainOptions

if TYPE_CHECKING:
    from lptool.bench import Bench, PoolOptions
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
    alphas: tuple[float, ...],
    **given: Any,
) -> None:
    """Pool tickets into one sparse model, choosing on val, and report test once.

    \b
    lptool pool runs/digits/*.safetensors -o pooled.safetensors
    lptool pool runs/digits -o pooled.safetensors --target all --method average
    lptool pool runs/digits -o pooled.safetensors --sparsity 0.9 --report pooled.html
    lptool pool --train --preset quickstart -o pooled.safetensors
    torchrun --standalone --nproc-per-node 8 -m lptool pool runs/c10 -o pooled.safetensors

    Each score goes to OUTPUT.search.jsonl: the same command goes on where a search was cut off. Under torchrun the
    alphas, or with --target all the targets, are spread over the processes; with the same number of threads in each
    the result is the same as that of one.
    """
    refuse_odd_usage(alphas, given["method"], train_first or not (preset or levels))
    from lptool import report, report_pool
    from lptool.bench import PoolOptions, open_bench
    from lptool.export import check_output
    from lptool.pipeline import evaluations_at_most, outputs_of
    from lptool.ranks import join_ranks
    from lptool.references import references
    from lptool.targets import choose_targets

    seed = given.pop("seed")
    options = PoolOptions(alphas=alphas, seed=seed or 0, **given)
    ranks = join_ranks()
    first = ranks.rank == 0
    folder = _folder_to_train(checkpoints, out) if train_first else None
    if folder is not None and dry_run:
        shown, count = _shape_of_tickets(preset, levels, seed, options)
        if first:
            click.echo(report.to_json({"train": {"folder": str(folder), "levels": count, **shown.to_json()}}))
        return

    def tickets() -> list[Path]:
        if folder is None:
            return _found(checkpoints)
        if options.target != "all":
            check_output(out, [], overwrite=overwrite)  # before the hours that training may take
        shape = _shape_of_tickets(preset, levels, seed, options)
        train_under_bars(*shape, folder, options.data_dir, options.device, ranks)
        return _found([folder])

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
    results = _pool_all(bench, targets, outputs, ranks, overwrite=overwrite, shown=first and not as_json)
    found = ranks.on_first(lambda: references(bench)) if with_references or page else None
    if first:
        _finish(results, found, options.target, as_json, page)


def _pool_all(
    bench: Bench, targets: Sequence[int], outputs: Sequence[Path], ranks: Ranks, *, overwrite: bool, shown: bool
) -> list[PoolResult]:
    """Pool each target: several are dealt out over the ranks, one at a time is searched by all of them together."""
    from lptool import report_pool
    from lptool.ranks import ALONE

    dealt = ranks.count > 1 and len(targets) > 1
    together = ALONE if dealt else ranks

    def run(target: int, output: Path) -> PoolResult:
        result = _pool_one(bench, target, output, together, overwrite=overwrite, shown=ranks.rank == 0)
        if shown and not dealt:
            show(report_pool.pool_view(result))
        return result

    tasks = {i: functools.partial(run, *pair) for i, pair in enumerate(zip(targets, outputs, strict=True))}
    results = list(ranks.share(tasks).values()) if dealt else [task() for task in tasks.values()]
    for result in results * (shown and dealt):
        show(report_pool.pool_view(result))
    return results


def _pool_one(bench: Bench, target: int, output: Path, ranks: Ranks, *, overwrite: bool, shown: bool) -> PoolResult:
    """Pool one target under a progress bar; Ctrl-C tells how far it came."""
    from lptool.journal import journal_of
    from lptool.pipeline import pool_target

    reached = "before the first scoring"
    with progress_bar("pooling", shown=shown) as advance:

        def follow(progress: Progress) -> None:
            nonlocal reached
            reached = f"after {progress.done} of {progress.total} mixes"
            places = [scored.candidate for scored in progress.scored if scored.candidate is not None]
            doing = f"candidate level {bench.pool.level(places[-1])}" if places else bench.options.method
            advance(progress.done, progress.total, f"{doing}, incumbent {100 * progress.incumbent.accuracy:.2f} %")

        try:
            return pool_target(bench, target, output, overwrite=overwrite, ranks=ranks, on_progress=follow)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Interrupted {reached} for {output}. "
                f"The same command goes on from there; the scores are in {journal_of(output)}"
            ) from None


def _finish(
    results: Sequence[PoolResult], found: References | None, target: str, as_json: bool, page: Path | None
) -> None:
    """Everything that is told when all targets are done."""
    from lptool import report_pool

    documents = [report_pool.pool_document(result, found) for result in results]
    document = report_pool.all_targets_document(documents) if target == "all" else documents[0]
    views = [report_pool.summary_view(results)] if target == "all" else []
    if found is not None:
        views.append(report_pool.references_view(results[0], found))
    tell_and_report(document, views, _draw, page=page, as_json=as_json)


def _draw(document: Document) -> str:
    from lptool.pool_page import pool_page  # draws with matplotlib, which takes long to import

    return pool_page(document)


def _found(given: Sequence[Path]) -> list[Path]:
    from lptool.checkpoints import find_checkpoints

    if not given:
        raise click.UsageError("name the checkpoints to pool, or add --train to make them first")
    return find_checkpoints(given)


def _folder_to_train(given: Sequence[Path], out: Path) -> Path | None:
    """Where `--train` makes the tickets: the folder named, else one beside the output; None where they are there."""
    if not given:
        return out.parent / f"{out.stem or 'pooled'}_tickets"
    if len(given) == 1 and _lacks_tickets(given[0]):
        return given[0]
    click.echo("tickets found; nothing is trained", err=True)
    return None


def _shape_of_tickets(
    name: str | None, levels: int | None, seed: int | None, options: PoolOptions
) -> tuple[TrainOptions, Levels]:
    """What the options of `pool` say about tickets that have to be made first."""
    shaped = {key: getattr(options, key) for key in ("arch", "dataset", "val_fraction", "split_seed")}
    precision = None if options.precision == "auto" else options.precision
    return chosen(name, levels, {**shaped, "precision": precision, "seed": seed})


def _lacks_tickets(folder: Path) -> bool:
    """Whether training has to make them: there is no checkpoint, or a run was cut off."""
    from lptool.checkpoints import find_checkpoints
    from lptool.run_folder import RunFolder

    try:
        return not find_checkpoints([folder]) or RunFolder(folder).unfinished
    except CheckpointError:
        return True
