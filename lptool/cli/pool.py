"""`lptool pool`: from tickets to pooled models."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lptool.cli.ending import clear_errors
from lptool.cli.options import (
    PATH,
    POOLED,
    POOLED_ALL,
    TICKETS,
    SectionedCommand,
    explicit,
    options_of,
    refuse_license_alone,
    refuse_values_alone,
)
from lptool.cli.output import check_page, is_own_page, print_and_report, print_document, warn
from lptool.cli.pool_job import Job, draw, pool_files, pool_into_folder
from lptool.cli.pool_options import OPTIONS, bn_images_of, refuse_idle_augmentation, refuse_odd_usage
from lptool.cli.threads import choose_threads
from lptool.cli.train_first import found_tickets, lacks_tickets, refuse_nothing, run_document, run_offered, run_to_make
from lptool.cli.train_options import quickstart_note, quickstart_unless_said
from lptool.export.licenses import license_notes

if TYPE_CHECKING:
    from lptool.checkpoints.writing import Form
    from lptool.cli.train import RunToMake
    from lptool.pooling.setup import Bench, PoolOptions
    from lptool.ranks import Ranks


@click.command(cls=SectionedCommand)
@click.argument("checkpoints", nargs=-1, type=PATH, metavar="CKPT...")
@options_of(OPTIONS)
@clear_errors
def pool(checkpoints: tuple[Path, ...], **given: Any) -> None:
    """Pool tickets into one sparse model, choosing on val, and report test once.

    \b
    lptool pool ckpts/*.safetensors
    lptool pool runs/digits -o pooled.safetensors --target all --method average
    lptool pool runs/digits -o pooled.safetensors --sparsity 0.9 --report pooled.html
    lptool pool runs/digits -o small.safetensors --packed
    lptool pool runs/digits -o fits.safetensors --max-size 100kB
    lptool pool runs/digits -o my-model
    lptool pool --train --preset quickstart -o pooled.safetensors
    torchrun --standalone --nproc-per-node 8 -m lptool pool runs/c10 -o pooled.safetensors

    Each score goes to OUTPUT.search.jsonl: the same command goes on where a search was cut off. Pooled models that lie
    among the tickets are left out. Under torchrun the alphas, or with --target all the targets, are spread over the
    processes; with the same number of threads in each the result is the same as that of one.
    """
    asked, options = _asked(checkpoints, given)
    from lptool.checkpoints.writing import Form
    from lptool.ranks import join_ranks
    from lptool.report.pool import plan_document

    ranks, form = join_ranks(), Form(asked.packed, asked.values)
    run = _run_before(asked, options, ranks)
    if run is not None and asked.dry_run:  # without tickets there is nothing more to check
        print_document(run_document(run), ranks)
        return
    threads = choose_threads(asked.threads, options.device, ranks)
    bench = _opened(asked, options, run, ranks, threads)
    plan = _planned(asked, bench, form, ranks)
    if asked.dry_run:
        print_document(plan_document(plan.bench, plan.targets, plan.outputs, plan.controls), ranks)
        return
    # With --json, stdout is the document alone.
    shown = ranks.rank == 0 and not asked.as_json
    job = Job(plan.bench, plan.form, ranks, threads, asked.overwrite, shown, asked.log, asked.license)
    if asked.folder:
        result = pool_into_folder(job, plan.targets[0], plan.outputs[0], plan.controls[0])
    else:
        with_references = asked.with_references or asked.page is not None
        places = zip(plan.targets, plan.outputs, plan.controls, strict=True)
        result = pool_files(job, list(places), with_references=with_references)
    if ranks.rank == 0:
        warn(license_notes(asked.license))
        print_and_report(*result, draw, page=asked.page, as_json=asked.as_json, replace=plan.replaces_page)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line asks for, beside what shapes the pooled model, which is `PoolOptions`.

    Attributes:
        out: the output, with the slash that makes it a folder. folder: whether it is one in the Hugging Face layout.
        seed: None where it was not given: then tickets are trained by the seed of their preset.
        max_size: bytes that the file may have, which is packed then. names_target: whether the target is not to be
            chosen for that.
    """

    checkpoints: tuple[Path, ...]
    out: str
    folder: bool
    seed: int | None
    preset: str | None
    levels: int | None
    train_first: bool
    with_references: bool
    control: Path | None
    page: Path | None
    as_json: bool
    overwrite: bool
    dry_run: bool
    packed: bool
    values: str | None
    max_size: int | None
    names_target: bool
    threads: int | None
    cache_dir: Path | None
    log: str | None
    license: str | None


def _asked(checkpoints: tuple[Path, ...], given: dict[str, Any]) -> tuple[Asked, PoolOptions]:
    """The options sorted, and refused where they are no sound usage, before anything slow is imported."""
    method, train_first = given["method"], given["train_first"]
    refuse_nothing(checkpoints, train_first)
    given["bn_images"] = bn_images_of(given["bn_images"], given.pop("bn_recal"))
    refuse_idle_augmentation(given["bn_images"], method, train_first)
    refuse_odd_usage(given["alphas"], method, train_first or not (given["preset"] or given["levels"]))
    given["packed"] = given["packed"] or given["max_size"] is not None
    given["names_target"] = explicit("--target") or explicit("--sparsity")
    refuse_values_alone(given["packed"], given["values"])
    from lptool.checkpoints.places import is_folder
    from lptool.pooling.setup import PoolOptions

    every, out = given["target"] == "all", given.pop("out")
    if every and given["max_size"] is not None:
        raise click.UsageError("--max-size chooses one target; leave out --target all")
    place = out or (POOLED_ALL if every else POOLED)
    folder = is_folder(place) and not every
    if folder and given["packed"]:
        small = "--packed" if given["max_size"] is None else "--max-size"
        raise click.UsageError(f"a folder holds what timm loads, which is dense; name a FILE.safetensors with {small}")
    refuse_license_alone(given["license"], folder)
    own = {field.name: given.pop(field.name) for field in fields(Asked) if field.name in given}
    if train_first and not (checkpoints or out):
        checkpoints = (TICKETS,)
    asked = Asked(checkpoints=checkpoints, out=place, folder=folder, **own)
    return asked, PoolOptions(seed=asked.seed or 0, **given)


def _run_before(asked: Asked, options: PoolOptions, ranks: Ranks) -> RunToMake | None:
    """The run that makes the tickets, where `--train` or a person who is asked wants one."""
    if not asked.train_first:
        return None if asked.as_json or asked.dry_run else run_offered(asked.checkpoints, asked.seed, options)
    unsaid = quickstart_unless_said()
    place, preset = Path(asked.out), asked.preset or unsaid
    run = ranks.agree(lambda: run_to_make(asked.checkpoints, place, preset, asked.levels, asked.seed, options))
    if run is None and ranks.rank == 0:
        click.echo("tickets found; nothing is trained", err=True)
    if run and unsaid and ranks.rank == 0:
        click.echo(quickstart_note(run.folder), err=True)
    return run


def _opened(asked: Asked, options: PoolOptions, run: RunToMake | None, ranks: Ranks, threads: int | None) -> Bench:
    """The tickets, trained first where that is asked for, with all that is needed to judge them."""
    from lptool.pooling.setup import open_bench

    tickets, notes = ranks.agree(lambda: _tickets(asked, options, run, ranks, threads))
    warn(notes * (ranks.rank == 0))
    if run is not None:  # on what its tickets were trained on, which a header alone does not open
        options = replace(options, dataset=run.options.dataset)
    bench = ranks.agree(lambda: open_bench(tickets, options))
    warn(bench.warnings * (ranks.rank == 0))  # once, and not by each process
    return bench


def _tickets(
    asked: Asked, options: PoolOptions, run: RunToMake | None, ranks: Ranks, threads: int | None
) -> tuple[list[Path], list[str]]:
    """The files to pool, made first where `--train` has to, and what a person should know of them."""
    from lptool.checkpoints.places import check_output, check_place

    if run is not None:
        if options.target != "all" and lacks_tickets([run.folder]):  # before the hours that training may take
            check_place(Path(asked.out), [], folder=asked.folder, overwrite=asked.overwrite)
            if asked.control:
                check_output(asked.control, [asked.out], overwrite=asked.overwrite)
        replace(run, log=asked.log).make(ranks, threads)
    return found_tickets(asked.checkpoints, run, options.target)


@dataclass(frozen=True)
class Plan:
    """Which tickets of a bench are improved, in which form, where results and their controls go.

    Attributes:
        replaces_page: whether a page that is there is replaced.
    """

    bench: Bench
    targets: list[int]
    form: Form
    outputs: list[Path]
    controls: list[Path | None]
    replaces_page: bool


def _planned(asked: Asked, bench: Bench, form: Form, ranks: Ranks) -> Plan:
    """What is going to be done; whatever would be refused is refused here."""
    from lptool.pooling.outputs import check_apart, controls_of, outputs_of

    scores_first = (bench.options.target == "matching" or asked.max_size is not None) and not asked.dry_run
    if scores_first:
        bench = _decoded(bench, ranks, asked.cache_dir)
    targets, form = _targets(asked, bench, form, ranks)
    outputs = ranks.agree(lambda: outputs_of(bench, targets, asked.out, form=form, overwrite=asked.overwrite))
    controls = ranks.agree(
        lambda: controls_of(bench, targets, asked.control, outputs, form=form, overwrite=asked.overwrite)
    )
    again = ranks.agree(lambda: asked.overwrite or is_own_page(asked.page))
    ranks.agree(lambda: check_page(asked.page, [*bench.inputs, *outputs], overwrite=again))
    if (page := asked.page) is not None:
        ranks.agree(lambda: check_apart(page, outputs, "--report"))
    if not (scores_first or asked.dry_run):  # only now, as an output that cannot be shall be refused before
        bench = _decoded(bench, ranks, asked.cache_dir)
    return Plan(bench, targets, form, outputs, controls, again)


def _targets(asked: Asked, bench: Bench, form: Form, ranks: Ranks) -> tuple[list[int], Form]:
    """The tickets to improve, and the form of the files; what fits a size is said in one line."""
    from lptool.pooling.fitting_size import fitting_target
    from lptool.pooling.targets import choose_targets

    most = asked.max_size
    if most is None:
        return ranks.agree(lambda: choose_targets(bench, ranks)), form
    every = list(range(len(bench.pool)))
    named = ranks.agree(lambda: choose_targets(bench, ranks)) if asked.names_target else every
    target, form, line = ranks.on_first(lambda: fitting_target(bench, named, form, most))
    if ranks.rank == 0:
        click.echo(line, err=True)
    return [target], form


def _decoded(bench: Bench, ranks: Ranks, cache_dir: Path | None) -> Bench:
    from lptool.pooling.decoding import decoded_once

    found, notes = ranks.agree(lambda: decoded_once(bench, ranks, cache_dir))
    warn(notes)
    return found
