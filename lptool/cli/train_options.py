"""The options of `lptool train`, and what they make of a preset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lptool.cli import options as shared
from lptool.cli.logs import log_option
from lptool.cli.options import PATH, SEED, Words, explicit, numbers, offering, option
from lptool.tables import percent
from lptool.training.options import CHOICES, Levels, TrainOptions, sparsities_to
from lptool.training.presets import PAPER_LEVELS, PRESETS, preset, with_given

DATASETS = f"{', '.join(shared.DATA_SETS)}, npz:FILE, folder:DIR, wds/DIR, or a timm data set such as torch/mnist"
_DEFAULTS = TrainOptions()


def _setting(name: str, help: str, kind: Any = None) -> Any:
    """An option of `TrainOptions` and its default; where no kind is named, one of the words it knows."""
    field = name.removeprefix("--").replace("-", "_")
    return option(name, type=kind or Words(CHOICES[field]), help=f"{help} [{getattr(_DEFAULTS, field)}]")


def _epochs(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    found = numbers(context, parameter, text)
    if found and any(number != int(number) for number in found):
        raise click.BadParameter(f"expected whole epochs, found {text!r}")
    return None if found is None else tuple(map(int, found))


# What `pool --train` takes too. None means here: what the preset says, else the default.
PRESET_OPTION = option(
    "--preset", metavar="P", shell_complete=offering(*PRESETS), help=f"Start from the options of: {', '.join(PRESETS)}."
)
LEVELS_OPTION = option("--levels", type=click.IntRange(1), help=f"Prunings after the dense level 0. [{PAPER_LEVELS}]")

OPTIONS = {
    "Output": [
        option("-o", "--output", "out", default=shared.TICKETS, type=PATH, help="Folder for the tickets."),
        option(
            "--replicates",
            type=click.IntRange(1),
            default=1,
            help="Runs, one after the other, with seeds from --seed on; each in a folder seed_N.",
        ),
        option(
            "--dry-run", is_flag=True, help="Check everything, try one step, print the plan as JSON, write nothing."
        ),
        log_option("Log each epoch there too, into the run's folder."),
    ],
    "What is trained": [
        PRESET_OPTION,
        shared.arch_option(f"{shared.ARCHITECTURES}. [{_DEFAULTS.arch}]"),
        shared.ARCH_KWARGS,
        option("--pretrained/--no-pretrained", default=None, help="Start level 0 from timm's weights. [no]"),
        option(
            "--init-checkpoint",
            type=click.Path(),
            metavar="FILE",
            help="Start level 0 from the weights of a file, of any kind.",
        ),
        shared.dataset_option(f"{DATASETS}. [{_DEFAULTS.dataset}]"),
        shared.data_dir_option(),
        option(
            "--image-size",
            type=click.IntRange(1),
            help="Side in pixels; pictures are scaled by their shorter side and cut in the middle. [the data set's "
            "own; of folders and shards that of the first picture, at most 224]",
        ),
        _setting("--val-fraction", "Share of train held out as val.", float),
        _setting("--split-seed", "Of the choice of val.", SEED),
    ],
    "Pruning": [
        LEVELS_OPTION,
        option("--sparsities", metavar="S,…", callback=numbers, help="After each pruning, in place of --levels."),
        option(
            "--sparsity",
            type=float,
            help="Of the last level, by equal prunings of at most --rate; in place of --levels.",
        ),
        _setting("--rate", "Share of the remaining weights pruned per level, in (0, 1).", float),
        _setting("--prune", "Which weights: of convolutions, or of linear layers too."),
        _setting("--scope", "Compare the weights of all layers, or prune each layer by the same share."),
        _setting(
            "--rewind",
            "Levels start from the weights and schedule of the rewind point, from the level before with the learning "
            "rate of that point, or from the initialisation.",
        ),
        _setting(
            "--rewind-epoch",
            "The rewind point, of level 0: an epoch (9 or 9ep), or a step (500it); moves with --epochs.",
            str,
        ),
        _setting("--keep", "Epoch kept: the last, or the best on val."),
    ],
    "Training": [
        _setting("--epochs", "Length of the learning-rate schedule.", int),
        _setting("--batch-size", "Images per step, over all processes.", int),
        _setting("--optimizer", "What takes the steps."),
        _setting("--lr", "Learning rate at the height of the schedule.", float),
        _setting("--momentum", "Of SGD.", float),
        option("--nesterov/--no-nesterov", default=None, help="Nesterov's momentum. [no]"),
        _setting("--weight-decay", "Of the optimizer.", float),
        _setting("--schedule", "multistep divides the rate by 10 at each milestone; the others fall to 0."),
        option("--milestones", metavar="E,…", callback=_epochs, help="Epochs, of multistep. [50 % and 75 % of them]"),
        _setting("--warmup", "Epochs in which the learning rate climbs from 0.", float),
        _setting("--label-smoothing", "In [0, 1).", float),
    ],
    "Augmentation": [
        _setting("--augment", "A random crop after padding, or one of random size."),
        option("--crop-padding", type=click.IntRange(0), help="Pixels of the random crop. [an eighth of the image]"),
        _setting(
            "--flip", "Horizontal: at random, every other epoch, or auto: at random, but not digits, MNIST and SVHN."
        ),
    ],
    "Computing": [
        shared.DEVICE,
        shared.THREADS,
        _setting("--precision", "bf16: autocast; auto: where it is fast."),
        option("--compile/--no-compile", default=None, help="torch.compile; pays on long levels only. [no]"),
        option("--sync-bn/--no-sync-bn", default=None, help="Under torchrun: BatchNorm over all processes. [yes]"),
        _setting("--seed", "Of initialisation, order and augmentation.", SEED),
    ],
}


# What says what is trained; `-o` too, so that a command that names a place trains what it always did.
_SAY_WHAT = ("preset", "arch", "arch_kwargs", "dataset", "data_dir", "pretrained", "init_checkpoint", "out")
QUICKSTART = "quickstart"


def quickstart_unless_said() -> str | None:
    """The preset where the command line does not say what is trained; None where it does."""
    return None if any(explicit(name) for name in _SAY_WHAT) else QUICKSTART


def quickstart_note(folder: Path) -> str:
    """What a person reads who gets the quickstart without having asked for it."""
    return (
        f"trains the preset {QUICKSTART} (digits, half a minute on two CPU cores) into {folder}; the paper's is "
        "--preset paper-cifar10-resnet18"
    )


def chosen(name: str | None, levels: Levels | None, given: dict[str, Any]) -> tuple[TrainOptions, Levels]:
    """Options given on the command line, over the preset's, over the defaults."""
    base = preset(name) if name else None
    explicitly = {key: value for key, value in given.items() if value is not None}
    options = with_given(base.options if base else _DEFAULTS, explicitly)
    return options, levels or (base.levels if base else PAPER_LEVELS)


def levels_of(
    levels: int | None, sparsities: tuple[float, ...] | None, sparsity: float | None, rate: float
) -> Levels | None:
    """How far to prune, of the three ways to say it; None where none does."""
    if sum(way is not None for way in (levels, sparsities, sparsity)) > 1:
        raise click.UsageError("--levels, --sparsities and --sparsity all say how far to prune; give one")
    return sparsities or (sparsities_to(sparsity, rate) if sparsity is not None else levels)


def levels_of_run(
    asked: Levels, sparsity: float | None, rate: float, begun: Sequence[float]
) -> tuple[Levels, list[str]]:
    """The levels of a run, and a line where `--sparsity` is reached at another rate than was asked for.

    Args:
        asked: see `levels_of`. begun: the sparsities that its folder was begun for, with which it goes on.
    """
    if sparsity is None:
        return asked, []
    found = sparsities_to(sparsity, rate, begun)
    new = len(found) - len(begun)
    if new < 2:
        return found, []
    share = 1 - (1 - found[-1]) / (1 - found[-2])
    same = f"the {new} prunings up to {percent(sparsity)} take the same share each"
    return found, [f"rate {share:.3g} instead of {rate:g}, so that {same}"] if abs(share - rate) > 1e-6 else []


# An option does nothing where another one has this value.
_UNUSED = (
    ("--rewind-epoch", "rewind", "init"),
    ("--milestones", "schedule", "cosine"),
    ("--milestones", "schedule", "linear"),
    ("--momentum", "optimizer", "adamw"),
    ("--nesterov", "optimizer", "adamw"),
    ("--crop-padding", "augment", "resized-crop"),
)


def refuse_odd_usage(options: TrainOptions, sparsities: tuple[float, ...] | None) -> None:
    """Options that would do nothing beside the others."""
    if sparsities and explicit("--rate"):
        raise click.UsageError("--sparsities does not use --rate; leave it out")
    for name, beside, value in _UNUSED:
        if explicit(name) and getattr(options, beside) == value:
            raise click.UsageError(f"--{beside} {value} does not use {name}; leave it out")
