"""`lptool train`: the tickets of one run, or of several."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lptool.cli.ending import clear_errors, stop_if_interrupted
from lptool.cli.logs import Log, log_to
from lptool.cli.options import DATA_SETS, POOLED, TICKETS, SectionedCommand, explicit, options_of
from lptool.cli.output import Document, print_document, say, show, warn
from lptool.cli.threads import choose_threads, go_on_with
from lptool.cli.train_options import (
    OPTIONS,
    chosen,
    levels_of,
    levels_of_run,
    quickstart_note,
    quickstart_unless_said,
    refuse_odd_usage,
)
from lptool.training.options import Levels, TrainOptions, check_levels, count_of

if TYPE_CHECKING:
    from lptool.ranks import Ranks
    from lptool.training.setup import Watch, Where


@click.command(cls=SectionedCommand)
@options_of(OPTIONS)
@clear_errors
def train(
    out: Path,
    replicates: int,
    dry_run: bool,
    preset: str | None,
    levels: int | None,
    sparsities: tuple[float, ...] | None,
    sparsity: float | None,
    data_dir: Path | None,
    device: str,
    threads: int | None,
    log: str | None,
    **given: Any,
) -> None:
    """Train the tickets of an IMP run with late rewinding. A rerun of the same command resumes.

    \b
    lptool train
    lptool train -o runs/c10 --arch resnet18_cifar --dataset cifar10 --sparsity 0.95 --replicates 3
    lptool train -o runs/photos --arch resnet18 --pretrained --dataset folder:photos --augment resized-crop
    torchrun --standalone --nproc-per-node 8 -m lptool train -o runs/imagenet --preset paper-imagenet-resnet50

    With nothing else it trains the preset quickstart. Under torchrun the processes share each batch and train the
    tickets that one process would. The same command with --dry-run prints what it would do: levels, steps, images,
    batch per process, device and bytes.
    """
    unsaid = quickstart_unless_said()
    options, by_preset = chosen(preset or unsaid, None, given)
    refuse_odd_usage(options, sparsities)
    asked = levels_of(levels, sparsities, sparsity, options.rate) or by_preset
    check_levels(asked)
    from lptool.ranks import join_ranks
    from lptool.training.folder import RunFolder

    ranks = join_ranks()
    if unsaid and ranks.rank == 0:
        click.echo(quickstart_note(out), err=True)
    runs: list[RunToMake] = []
    notes: list[str] = []
    for seed in range(options.seed, options.seed + replicates):
        folder = out / f"seed_{seed}" if replicates > 1 else out
        begun = ranks.on_first(RunFolder(folder).planned)
        of_run, said = levels_of_run(asked, sparsity, options.rate, begun)
        notes += said
        runs.append(RunToMake(replace(options, seed=seed), of_run, folder, data_dir, device, log))
    for note in dict.fromkeys(notes * (ranks.rank == 0)):
        click.echo(note, err=True)
    threads = choose_threads(threads, device, ranks)
    if dry_run:
        plans = [run.plan(ranks, threads) for run in runs]
        print_document(plans[0] if replicates == 1 else {"runs": plans}, ranks)
        return
    for run in runs:
        _show_result(run, run.make(ranks, threads), ranks)


@dataclass(frozen=True)
class RunToMake:
    """A run that the command line asks for; of `threads` see `choose_threads`, of `log` `log_to`."""

    options: TrainOptions
    levels: Levels
    folder: Path
    data_dir: Path | None
    device: str
    log: str | None = None

    def plan(self, ranks: Ranks, threads: int | None) -> Document:
        """What `--dry-run` prints; warns where the disk is too small."""
        from lptool.training.plan import plan_training
        from lptool.training.setup import Watch

        self._go_on(ranks, threads)
        plan = plan_training(
            *(self.options, self.levels, self.folder),
            data_dir=self.data_dir,
            device=self.device,
            ranks=ranks,
            watch=Watch(on_note=lambda note: warn([note] * (ranks.rank == 0))),
        )
        needed, free = plan["disk"]["to_write_bytes"], plan["disk"]["free_bytes"]
        if ranks.rank == 0 and needed > free:
            warn([f"{self.folder}: the run writes {needed:,} bytes, and {free:,} are free there"])
        return plan

    def make(self, ranks: Ranks, threads: int | None) -> list[Path]:
        """Train it under progress bars, or go on where it was cut off; gives the files."""
        from lptool.training.job import train_tickets

        self._go_on(ranks, threads)
        first = ranks.rank == 0
        try:
            with self._log(ranks) as log, _bars(self.options, self.levels, log, shown=first) as watch:
                return train_tickets(
                    *(self.options, self.levels, self.folder),
                    data_dir=self.data_dir,
                    device=self.device,
                    ranks=ranks,
                    watch=watch,
                )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Interrupted; the same command goes on from the last finished epoch in {self.folder}"
            ) from None

    def _log(self, ranks: Ranks) -> AbstractContextManager[Log]:
        """The log of the first rank, in the run's folder."""
        from lptool.training.folder import RunFolder

        kind, resumed = self.log if ranks.rank == 0 else None, RunFolder(self.folder).journal.exists()
        return log_to(kind, self.folder, resumed=resumed, config=self.options.to_json())

    def _go_on(self, ranks: Ranks, threads: int | None) -> None:
        from lptool.training.folder import RunFolder

        go_on_with(ranks.on_first(lambda: RunFolder(self.folder).threads), threads)


def _show_result(run: RunToMake, files: Sequence[Path], ranks: Ranks) -> None:
    """The table of a run and what to do next, on the first rank."""
    from lptool.report.train import train_view
    from lptool.training.folder import RunFolder

    if ranks.rank == 0:
        show(train_view(files, RunFolder(run.folder).records()))
        say(f"next: {_next(run)}")


def _next(run: RunToMake) -> str:
    """The command that pools the tickets of a run."""
    from lptool.provenance import for_a_shell

    arch, dataset = run.options.arch, run.options.dataset
    # What a header names is run, opened and downloaded only where the user names it too.
    named = ["--arch", arch] if ":" in arch else []
    named += [] if dataset in DATA_SETS else ["--dataset", dataset]
    named += ["--data-dir", str(run.data_dir)] if run.data_dir else []
    if run.folder == TICKETS and not explicit("out"):
        return " ".join([for_a_shell("pool"), f"{TICKETS}/*.safetensors", *map(shlex.quote, named)])
    # Of several runs each has a pooled model of its own.
    pooled = f"pooled_{run.folder.name}.safetensors" if run.folder.parent == TICKETS else POOLED
    return for_a_shell("pool", str(run.folder), "-o", pooled, *named)


@contextmanager
def _bars(options: TrainOptions, levels: Levels, log: Log, *, shown: bool) -> Iterator[Watch]:
    """One bar for all levels, with the time left, and one for the epoch, with images per second; on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from lptool.training.setup import Watch

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), disable=not shown)
    run, epoch = progress.add_task(""), progress.add_task("")
    val, outlook, bar = "", _outlook(), progress.tasks[epoch]
    begun = (0.0, 0)  # when this epoch's first step was done, and how many images by then

    def on_step(at: Where) -> None:
        nonlocal begun
        stop_if_interrupted()
        progress.start()  # not before the first step: what is refused is refused without bars
        level = f"level {at.level}/{count_of(levels)}{val}"
        progress.update(run, completed=at.step, total=at.steps, description=level)
        if not 0 < bar.completed < at.images:  # an epoch begins, with a rate of its own
            progress.reset(epoch)
            begun = time.perf_counter(), at.images
        # rich's own speed sums up a thousand samples at each call, which small steps would wait for.
        rate = (at.images - begun[1]) / max(time.perf_counter() - begun[0], 1e-9)
        text = f"epoch {at.epoch + 1}/{options.epochs} {rate:,.0f} images/s"
        progress.update(epoch, completed=at.images, total=at.of, description=text)
        if shown and not progress.console.is_terminal and (line := outlook(at)):  # where bars are not drawn
            click.echo(line, err=True)

    def on_epoch(record: dict[str, Any]) -> None:
        nonlocal val
        val = f" val {100 * record['val_accuracy']:.2f} %"
        log({"step": _place(record["level"], record["epoch"], options), **record})

    def on_level(level: int, epoch: int) -> None:
        log({"step": _place(level, epoch, options)})

    try:
        yield Watch(on_step, on_epoch, lambda note: warn([note] * shown), on_level)
    finally:
        if progress.live.is_started:
            progress.stop()


def _place(level: int, epoch: int, options: TrainOptions) -> int:
    """An epoch's number in a log: those of a level after those of the level before, with a gap for a rewinding."""
    return level * options.epochs + epoch


def _outlook() -> Callable[[Where], str]:
    """Once, after ten steps, a line on how long all levels will take; else, and where it is under a minute, nothing."""
    first: tuple[int, float] | None = None
    given = False

    def outlook(at: Where) -> str:
        nonlocal first, given
        first = first or (at.step, time.perf_counter())
        if given or at.step < first[0] + 10:
            return ""
        given = True
        seconds = (time.perf_counter() - first[1]) / (at.step - first[0]) * (at.steps - at.step)
        left = f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"
        return "" if seconds < 60 else f"about {left} to go for all levels, at the rate of the first steps"

    return outlook
