"""`lptool train`: the tickets of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lptool.cli.options import (
    ARCHITECTURES,
    DEVICE,
    PATH,
    SEED,
    SectionedCommand,
    arch_option,
    data_dir_option,
    option,
    options_of,
)
from lptool.cli.output import clear_errors, progress_bar
from lptool.presets import PRESETS, TrainOptions, preset

_DEFAULTS = TrainOptions()
_PAPER_LEVELS = 18  # Yin et al. 2023, section 4

# What `pool --train` takes too. None means here: what the preset says, else the default.
PRESET_OPTION = option("--preset", metavar="P", help=f"Start from the options of: {', '.join(PRESETS)}.")
ARCH_OPTION = arch_option(f"{ARCHITECTURES}. [{_DEFAULTS.arch}]")
DATASET_OPTION = option(
    "--dataset",
    metavar="D",
    help="digits, fashion-mnist, cifar10, cifar100, npz:FILE, folder:DIR, or a timm data set such as torch/mnist. "
    f"[{_DEFAULTS.dataset}]",
)
LEVELS_OPTION = option("--levels", type=click.IntRange(1), help=f"Prunings after the dense level 0. [{_PAPER_LEVELS}]")
SEED_OPTION = option("--seed", type=SEED, help=f"Of initialisation, order and augmentation. [{_DEFAULTS.seed}]")

OPTIONS = {
    "Output": [
        option("-o", "--output", "out", required=True, type=PATH, help="Folder for the tickets."),
    ],
    "What is trained": [
        PRESET_OPTION,
        ARCH_OPTION,
        DATASET_OPTION,
        data_dir_option(),
        option("--image-size", type=click.IntRange(1), help="Side in pixels. [the data set's own]"),
        option("--val-fraction", type=float, help=f"Share of train held out as val. [{_DEFAULTS.val_fraction}]"),
        option("--split-seed", type=SEED, help=f"Of the choice of val. [{_DEFAULTS.split_seed}]"),
    ],
    "Pruning": [
        LEVELS_OPTION,
        option(
            "--rate", type=float, help=f"Share of the remaining weights pruned per level, in (0, 1). [{_DEFAULTS.rate}]"
        ),
        option("--prune", type=click.Choice(["conv", "all"]), help="Which weights: conv, or linear too. [conv]"),
        option("--rewind-epoch", type=int, help=f"Level-0 epoch to go back to; 0: init. [{_DEFAULTS.rewind_epoch}]"),
    ],
    "Training": [
        option("--epochs", type=int, help=f"Length of the learning-rate schedule. [{_DEFAULTS.epochs}]"),
        option("--batch-size", type=int, help=f"Images per step. [{_DEFAULTS.batch_size}]"),
        option("--lr", type=float, help=f"Learning rate, ÷ 10 at 50 % and 75 % of the epochs. [{_DEFAULTS.lr}]"),
        option("--momentum", type=float, help=f"Of SGD. [{_DEFAULTS.momentum}]"),
        option("--weight-decay", type=float, help=f"Of SGD. [{_DEFAULTS.weight_decay}]"),
        option("--crop-padding", type=click.IntRange(0), help="Pixels of the random crop. [an eighth of the image]"),
        option("--flip/--no-flip", default=None, help="Random horizontal flips. [yes, but not for digits]"),
        option("--keep", type=click.Choice(["last", "best"]), help="Epoch kept: the last, or the best on val. [last]"),
    ],
    "Computing": [
        DEVICE,
        option(
            "--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="bf16: autocast; auto: where fast. [auto]"
        ),
        SEED_OPTION,
    ],
}


@click.command(cls=SectionedCommand)
@options_of(OPTIONS)
@clear_errors
def train(out: Path, preset: str | None, levels: int | None, data_dir: Path | None, device: str, **given: Any) -> None:
    """Train the tickets of one IMP run with late rewinding. A rerun of the same command resumes.

    \b
    lptool train -o runs/digits --preset quickstart
    lptool train -o runs/c10 --arch resnet18_cifar --dataset cifar10 --data-dir data
    """
    options, levels = chosen(preset, levels, given)
    files = train_under_bar(options, levels, out, data_dir, device)
    click.echo(f"{len(files)} tickets in {out}: {files[0].name} … {files[-1].name}")
    click.echo(f"next: lptool pool {out} -o pooled.safetensors")


def chosen(name: str | None, levels: int | None, given: dict[str, Any]) -> tuple[TrainOptions, int]:
    """Options given on the command line, over the preset's, over the defaults."""
    base = preset(name) if name else None
    options = {**(base.options if base else _DEFAULTS).to_json(), **{k: v for k, v in given.items() if v is not None}}
    return TrainOptions(**options), levels or (base.levels if base else _PAPER_LEVELS)


def train_under_bar(options: TrainOptions, levels: int, out: Path, data_dir: Path | None, device: str) -> list[Path]:
    """Train under a progress bar; gives the files."""
    from lptool.train import train_tickets

    with progress_bar("training") as advance:

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
