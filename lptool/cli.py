"""The command line: parse, call the library, print. Alone in knowing click and exit codes."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from lptool import __version__
from lptool.errors import CheckpointError, LptoolError, PeerError
from lptool.presets import PRESETS, TrainOptions, preset

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lptool.barrier import Barrier
    from lptool.bench import Bench, PoolOptions
    from lptool.pipeline import PoolResult
    from lptool.ranks import Ranks
    from lptool.references import References
    from lptool.trace import Progress

# torch and timm take seconds to import: each command imports them inside, after its arguments have been understood.

Command = TypeVar("Command", bound=Callable[..., Any])
_DEFAULTS = TrainOptions()
_SEED = click.IntRange(0, 2**32 - 1)
_PAPER_LEVELS = 18  # Yin et al. 2023, section 4
_METHODS = ("greedy", "average", "swa", "ema", "uniform", "window", "soup", "learned", "auto")
# Which methods an option does something for.
_USED_BY = {
    "--alphas": ("greedy", "auto"),
    "--alpha-search": ("greedy", "auto"),
    "--passes": ("greedy", "average", "auto"),
    "--folds": ("greedy", "average", "soup", "auto"),
    "--decay": ("ema", "auto"),
    "--per": ("learned",),
    "--learning-steps": ("learned",),
    "--learning-rate": ("learned",),
}
_ALPHAS = "0.05,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.95"


def clear_errors(command: Command) -> Command:
    """Map our errors to `Error: …` with exit 1, and Ctrl-C to one line with exit 130."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except PeerError:
            time.sleep(1)  # torchrun ends all ranks with the first: let the one that failed say why
            raise SystemExit(1) from None
        except LptoolError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as stop:
            if os.environ.get("LOCAL_RANK", "0") == "0":  # one line, however many ranks
                text = str(stop) or "Interrupted; nothing half-written. The same command starts again."
                click.echo(text, err=True)
            raise SystemExit(130) from None

    return wrapped  # type: ignore[return-value]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="lptool")
def main() -> None:
    """Pool the checkpoints of a pruning run into one sparse model that is more accurate at the same sparsity.

    \b
    lptool train -o runs/digits --preset quickstart
    lptool pool runs/digits -o pooled.safetensors
    lptool inspect pooled.safetensors
    """


def _train_options(command: Command) -> Command:
    """The options that shape tickets; None means: what the preset says, else the default."""
    d = _DEFAULTS
    options = [
        click.option("--preset", metavar="P", help=f"Start from the options of: {', '.join(PRESETS)}."),
        click.option("--arch", metavar="A", help=f"timm name, module:callable or file.py:callable. [{d.arch}]"),
        click.option(
            "--dataset",
            metavar="D",
            help="digits, fashion-mnist, cifar10, cifar100, npz:FILE, folder:DIR, or a timm data set such as "
            f"torch/mnist. [{d.dataset}]",
        ),
        click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data lies or is downloaded to."),
        click.option("--levels", type=click.IntRange(1), help=f"Prunings after the dense level 0. [{_PAPER_LEVELS}]"),
        click.option("--seed", type=_SEED, help=f"Of initialisation, order and augmentation. [{d.seed}]"),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Numbers and commas."""
    try:
        numbers = None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"expected numbers and commas, found {text!r}") from error
    if numbers and not all(map(math.isfinite, numbers)):
        raise click.BadParameter(f"expected finite numbers, found {text!r}")
    return numbers


def _normalisation_options(command: Command) -> Command:
    """For tickets that do not say how their images were normalised."""
    texts = {"--mean": "Subtracted from", "--std": "Dividing"}
    help = "{} images scaled to [0, 1], per channel, as 0.49,0.48,0.45. [as the tickets say, else measured on train]"
    options = [click.option(name, metavar="X,…", callback=_numbers, help=help.format(t)) for name, t in texts.items()]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@main.command()
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="Folder for the tickets.")
@_train_options
@click.option(
    "--rate", type=float, help=f"Share of the remaining weights pruned per level, in (0, 1). [{_DEFAULTS.rate}]"
)
@click.option("--epochs", type=int, help=f"Length of the learning-rate schedule. [{_DEFAULTS.epochs}]")
@click.option("--rewind-epoch", type=int, help=f"Level-0 epoch to go back to; 0: init. [{_DEFAULTS.rewind_epoch}]")
@click.option("--prune", type=click.Choice(["conv", "all"]), help="Which weights: conv, or linear too. [conv]")
@click.option("--keep", type=click.Choice(["last", "best"]), help="Epoch kept: the last, or the best on val. [last]")
@click.option("--batch-size", type=int, help=f"Images per step. [{_DEFAULTS.batch_size}]")
@click.option("--lr", type=float, help=f"Learning rate, ÷ 10 at 50 % and 75 % of the epochs. [{_DEFAULTS.lr}]")
@click.option("--momentum", type=float, help=f"Of SGD. [{_DEFAULTS.momentum}]")
@click.option("--weight-decay", type=float, help=f"Of SGD. [{_DEFAULTS.weight_decay}]")
@click.option("--crop-padding", type=click.IntRange(0), help="Pixels of the random crop. [an eighth of the image]")
@click.option("--flip/--no-flip", default=None, help="Random horizontal flips. [yes, but not for digits]")
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="bf16: autocast; auto: where fast. [auto]"
)
@click.option("--image-size", type=click.IntRange(1), help="Side in pixels. [the data set's own]")
@click.option("--val-fraction", type=float, help=f"Share of train held out as val. [{_DEFAULTS.val_fraction}]")
@click.option("--split-seed", type=_SEED, help=f"Of the choice of val. [{_DEFAULTS.split_seed}]")
@clear_errors
def train(out: Path, preset: str | None, levels: int | None, data_dir: Path | None, device: str, **given: Any) -> None:
    """Train the tickets of one IMP run with late rewinding. A rerun of the same command resumes.

    \b
    lptool train -o runs/digits --preset quickstart
    lptool train -o runs/c10 --arch resnet18_cifar --dataset cifar10 --data-dir data
    """
    options, levels = _chosen(preset, levels, given)
    files = _train(options, levels, out, data_dir, device)
    click.echo(f"{len(files)} tickets in {out}: {files[0].name} … {files[-1].name}")
    click.echo(f"next: lptool pool {out} -o pooled.safetensors")


def _chosen(name: str | None, levels: int | None, given: dict[str, Any]) -> tuple[TrainOptions, int]:
    """Options given on the command line, over the preset's, over the defaults."""
    base = preset(name) if name else None
    options = {**(base.options if base else _DEFAULTS).to_json(), **{k: v for k, v in given.items() if v is not None}}
    return TrainOptions(**options), levels or (base.levels if base else _PAPER_LEVELS)


def _train(options: TrainOptions, levels: int, out: Path, data_dir: Path | None, device: str) -> list[Path]:
    from lptool.train import train_tickets

    with _bar("training") as advance:

        def on_epoch(record: dict[str, Any]) -> None:
            level, epoch = record["level"], record["epoch"] + 1
            per_level = options.epochs - options.rewind_epoch
            done = options.epochs + (level - 1) * per_level + epoch - options.rewind_epoch if level else epoch
            text = (
                f"level {level}/{levels} epoch {epoch}/{options.epochs} "
                f"val {100 * record['val_accuracy']:.2f} % {record['images_per_second']:,.0f} images/s"
            )
            advance(done, options.epochs + levels * per_level, text)

        return train_tickets(options, levels, out, data_dir=data_dir, device=device, on_epoch=on_epoch)


@contextmanager
def _bar(title: str, *, shown: bool = True) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr; gives the function that moves it to (done, total, text)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total, text: progress.update(task, completed=done, total=total, description=text)


def _print(view: RenderableType) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console = Console(soft_wrap=True, highlight=False, width=100)  # in a pipe or a file nothing is cut off at 80
    console.print(view)


@main.command()
@click.argument("checkpoints", nargs=-1, type=click.Path(path_type=Path), metavar="CKPT...")
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option(
    "--target",
    default="sparsest",
    show_default=True,
    help="Ticket to improve: sparsest, matching (the sparsest as accurate on val as the densest), all (one file each), "
    "a level, or a file.",
)
@click.option(
    "--sparsity",
    type=float,
    help="Of the pooled model, in [0, 1): also one between the tickets'; starts from the nearest denser ticket. "
    "[the target's]",
)
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    default="greedy",
    show_default=True,
    help="greedy and average are the paper's; swa, ema and uniform average without choosing; window averages with "
    "weights that fall with the distance in levels; soup takes what helps a uniform mean; learned finds coefficients "
    "by gradient on training images; auto keeps the best on val of all but learned.",
)
@click.option(
    "--select",
    type=click.Choice(["accuracy", "nll"]),
    default="accuracy",
    show_default=True,
    help="What is compared on val: images right, or the negative log-likelihood.",
)
@click.option(
    "--folds", is_flag=True, default=False, help="Accept only what is at least as good on both halves of val."
)
@click.option(
    "--passes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Times greedy and average see each candidate.",
)
@click.option(
    "--decay", type=click.FloatRange(0, 1), default=0.9, show_default=True, help="Weight of ema's running average."
)
@click.option(
    "--per",
    type=click.Choice(["tensor", "block", "global"]),
    default="tensor",
    show_default=True,
    help="What shares one coefficient per ticket in learned.",
)
@click.option("--learning-steps", type=click.IntRange(1), default=150, show_default=True, help="Of learned.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    default=0.02,
    show_default=True,
    help="Of learned (Adam), falling to 0.",
)
@click.option(
    "--alphas", default=_ALPHAS, show_default=True, callback=_numbers, help="Weights of the current model, in [0, 1]."
)
@click.option(
    "--alpha-search",
    type=click.Choice(["grid", "coarse"]),
    default="grid",
    show_default=True,
    help="grid tries every alpha; coarse every second one, then the neighbours of the best: less work, other results.",
)
@_normalisation_options
@_train_options
@click.option("--val-fraction", type=float, help="Share of train held out as val. [as the tickets say, else 0.1]")
@click.option("--split-seed", type=_SEED, help="Of the choice of val. [as the tickets say, else 0]")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Of the search: bf16 is autocast, auto takes it where it is fast. Scores reported are always fp32.",
)
@click.option("--bn-recal/--no-bn-recal", "recalibrate", default=True, show_default=True, help="BN recalibration.")
@click.option(
    "--calibration-size",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Training images for BN recalibration in the search; all of them once at the end.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Images at once. [256; for the scorings of the search what this device is fastest with]",
)
@click.option("--train", "train_first", is_flag=True, help="Train the tickets first where none are given or found.")
@click.option(
    "--references",
    "with_references",
    is_flag=True,
    help="Also score each ticket of the pool and the ensemble of them all; reported, never chosen.",
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write figures and tables as one HTML file; adds --references.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout and nothing else.")
@click.option("--overwrite", is_flag=True, help="Replace the output where it exists, and a journal of another search.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, write nothing.")
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
    _refuse_odd_usage(alphas, given["method"], train_first or not (preset or levels))
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
        ranks.share({0: lambda: _train(*shape, folder, options.data_dir, options.device)})
        return _found([folder])

    bench = ranks.agree(lambda: open_bench(tickets(), options))
    for warning in bench.warnings * first:
        click.echo(f"Warning: {warning}", err=True)
    targets = ranks.agree(lambda: choose_targets(bench, ranks))
    outputs = ranks.agree(lambda: outputs_of(bench, targets, out, overwrite=overwrite))
    ranks.agree(lambda: _check_page(page, [*bench.inputs, *outputs], overwrite=overwrite))
    if dry_run:
        evaluations = evaluations_at_most(options, len(bench.pool))
        if first:
            click.echo(report.to_json(report_pool.plan_document(bench, targets, outputs, evaluations)))
        return
    results = _pool_all(bench, targets, outputs, ranks, overwrite=overwrite, shown=first and not as_json)
    found = ranks.share({0: lambda: references(bench)})[0] if with_references or page else None
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
            _print(report_pool.pool_view(result))
        return result

    tasks = {i: functools.partial(run, *pair) for i, pair in enumerate(zip(targets, outputs, strict=True))}
    results = list(ranks.share(tasks).values()) if dealt else [task() for task in tasks.values()]
    for result in results * (shown and dealt):
        _print(report_pool.pool_view(result))
    return results


def _pool_one(bench: Bench, target: int, output: Path, ranks: Ranks, *, overwrite: bool, shown: bool) -> PoolResult:
    """Pool one target under a progress bar; Ctrl-C tells how far it came."""
    from lptool.journal import journal_of
    from lptool.pipeline import pool_target

    reached = "before the first scoring"
    with _bar("pooling", shown=shown) as advance:

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


def _refuse_odd_usage(alphas: tuple[float, ...], method: str, trains_what_it_shapes: bool) -> None:
    """Options out of range, and options that would do nothing."""
    if not all(0 <= alpha <= 1 for alpha in alphas):
        raise click.BadParameter(f"expected numbers in [0, 1], found {list(alphas)}", param_hint="--alphas")
    for option, methods in _USED_BY.items():
        if _explicit(option) and method not in methods:
            raise click.UsageError(
                f"--method {method} does not use {option}; leave it out, or use --method {' or '.join(methods)}"
            )
    if _explicit("--sparsity") and _explicit("--target"):
        raise click.UsageError("--sparsity takes the nearest denser ticket as its target; leave out --target")
    if not trains_what_it_shapes:
        raise click.UsageError("--preset and --levels shape the tickets that --train makes; add --train")


def _explicit(option: str) -> bool:
    """Whether an option was given on the command line."""
    source = click.get_current_context().get_parameter_source(option.lstrip("-").replace("-", "_"))
    return source is not ParameterSource.DEFAULT


def _check_page(page: Path | None, others: Sequence[str | Path], *, overwrite: bool) -> None:
    """Refuse, before anything is computed, to write a report where it must not be."""
    from lptool.export import check_output

    if page is not None:
        check_output(page, others, overwrite=overwrite, suffix=".html")


def _finish(
    results: Sequence[PoolResult], found: References | None, target: str, as_json: bool, page: Path | None
) -> None:
    """Everything that is told when all targets are done."""
    from lptool import report, report_pool

    documents = [report_pool.pool_document(result, found) for result in results]
    document = report_pool.all_targets_document(documents) if target == "all" else documents[0]
    if page is not None:
        from lptool.markup import write_page
        from lptool.pool_page import pool_page

        write_page(page, pool_page(document))
    if as_json:
        click.echo(report.to_json(document))
        return
    if target == "all":
        _print(report_pool.summary_view(results))
    if found is not None:
        _print(report_pool.references_view(results[0], found))
    if page is not None:
        click.echo(f"report: {page}")


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
) -> tuple[TrainOptions, int]:
    """What the options of `pool` say about tickets that have to be made first."""
    shaped = {key: getattr(options, key) for key in ("arch", "dataset", "val_fraction", "split_seed")}
    precision = None if options.precision == "auto" else options.precision
    return _chosen(name, levels, {**shaped, "precision": precision, "seed": seed})


def _lacks_tickets(folder: Path) -> bool:
    """Whether training has to make them: there is no checkpoint, or a run was cut off."""
    from lptool.checkpoints import find_checkpoints
    from lptool.run_folder import RunFolder

    try:
        return not find_checkpoints([folder]) or RunFolder(folder).unfinished
    except CheckpointError:
        return True


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--data", "--dataset", "dataset", metavar="D", help="Measure the loss barrier between neighbours on this."
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data lies or is downloaded to.")
@click.option("--arch", metavar="A", help="For files that do not say: timm name, module:callable or file.py:callable.")
@_normalisation_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout and nothing else.")
@clear_errors
def inspect(files: tuple[Path, ...], as_json: bool, **given: Any) -> None:
    """Show what tickets and pooled models are made of, and whether they can be pooled.

    \b
    lptool inspect runs/digits/*.safetensors
    lptool inspect runs/digits --data digits
    lptool inspect pooled.safetensors
    """
    from lptool import report
    from lptool.checkpoints import find_checkpoints
    from lptool.inspection import inspect_files

    found = find_checkpoints(files)
    inspection = inspect_files(found)
    comparable = len(found) > 1 and not inspection.problems
    if given["dataset"] and not comparable:
        click.echo("Warning: no barrier is measured: that takes two tickets or more that can be pooled", err=True)
    barriers = _barriers(found, given) if given["dataset"] and comparable else []
    if as_json:
        document = report.inspect_document(inspection)
        document["pool"]["barriers"] = report.barrier_documents(barriers)
        click.echo(report.to_json(document))
        return
    _print(report.inspect_view(inspection))
    if barriers:
        _print(report.barrier_view(barriers))


def _barriers(files: Sequence[Path], given: dict[str, Any]) -> list[Barrier]:
    from lptool.barrier import barriers
    from lptool.bench import PoolOptions, open_bench

    bench = open_bench(files, PoolOptions(**given))
    found: list[Barrier] = []
    with _bar("barriers") as advance:
        for barrier in barriers(bench):
            found.append(barrier)
            advance(len(found), len(bench.pool) - 1, "barriers")
    return found


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--dataset", metavar="D", help="Whose test images: as for train. [as the files say]")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where the data lies or is downloaded to; with --corruptions also the CIFAR-10-C or CIFAR-100-C folder.",
)
@click.option("--arch", metavar="A", help="timm name, module:callable or file.py:callable. [as each file says]")
@_normalisation_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--batch-size", type=click.IntRange(1), help="Images at once. [256]")
@click.option(
    "--corruptions",
    is_flag=True,
    help="Also under corruptions at five severities: the standard .npy files if --data-dir is or holds their folder, "
    "else C-style ones made of the test images.",
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write figures and tables as one HTML file.",
)
@click.option("--overwrite", is_flag=True, help="Replace the report where it exists.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout and nothing else.")
@clear_errors
def evaluate(files: tuple[Path, ...], page: Path | None, overwrite: bool, as_json: bool, **given: Any) -> None:
    """Score tickets and pooled models on test, compare every two of them, and count what they cost.

    \b
    lptool evaluate pooled.safetensors runs/digits/level_05.safetensors
    lptool evaluate runs/digits --corruptions --report digits.html
    lptool evaluate pooled.safetensors --corruptions --data-dir data/CIFAR-10-C
    """
    from lptool import report, report_evaluate
    from lptool.checkpoints import find_checkpoints
    from lptool.evaluation import carry_out
    from lptool.subjects import EvaluateOptions, plan_evaluation

    found = find_checkpoints(files)
    _check_page(page, found, overwrite=overwrite)
    plan = plan_evaluation(found, EvaluateOptions(**given))
    for warning in plan.warnings:
        click.echo(f"Warning: {warning}", err=True)
    with _bar("evaluating") as advance:
        evaluation = carry_out(plan, advance)
    document = report_evaluate.evaluate_document(evaluation)
    if page is not None:
        from lptool.evaluate_page import evaluate_page
        from lptool.markup import write_page

        write_page(page, evaluate_page(document))
    if as_json:
        click.echo(report.to_json(document))
        return
    _print(report_evaluate.evaluate_view(evaluation))
    if page is not None:
        click.echo(f"report: {page}")
