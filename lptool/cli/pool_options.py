"""The options of `lptool pool`, and which of them do nothing beside others."""

from __future__ import annotations

import click

from lptool.checkpoints.header import AUGMENTS, BN_IMAGES, FLIPS
from lptool.cli import options as shared
from lptool.cli.logs import log_option
from lptool.cli.options import SEED, Words, count_or_all, explicit, numbers, offering, option
from lptool.cli.train_options import DATASETS, LEVELS_OPTION, PRESET_OPTION
from lptool.pooling.catalogue import AUTO, MASKS, METHODS, NAMES, PAPER_ALPHAS, needs, users_of

# Which methods an option does something for, by its name on the command line.
USED_BY = {
    f"--{option.replace('_', '-')}": users_of(option) for method in METHODS.values() for option in method.options
}

OPTIONS = {
    "Output": [
        option(
            *("-o", "--output", "out"),
            type=click.Path(),
            metavar="OUT",
            help="What to write: FILE.safetensors, or a folder, whose name has no suffix or ends in /: in the Hugging "
            "Face layout, with model card, report and timm's config; with --target all a folder of files. "
            f"[{shared.POOLED}; with --target all {shared.POOLED_ALL}/]",
        ),
        option("--packed", is_flag=True, help="Write kept weights and their positions alone: a small file."),
        shared.VALUES_OPTION,
        shared.max_size_option(
            "Write a packed file that is no larger: takes as target the ticket that is best on val of those that fit, "
            "and the least shortened --values that fit, as far as they are not given."
        ),
        shared.LICENSE,
        option(
            "--control",
            type=shared.PATH,
            metavar="FILE",
            help="Also write what the pooled model is compared with, in the same form: ticket + BN, the target with "
            "BatchNorm recalibrated (without recalibration the target as it is); with --target all a file for each.",
        ),
        shared.report_option("; adds --references"),
        log_option("Log each score there too, into OUTPUT.log/, and what --train trains into its folder."),
        option(
            *("--references", "with_references"),
            is_flag=True,
            help="Also score each ticket of the pool and the ensemble of them all; reported, never chosen.",
        ),
        shared.JSON,
        shared.overwrite_option("Replace the output where it exists, and a journal of another search."),
        option("--dry-run", is_flag=True, help="Check everything, say what would be done, write nothing."),
    ],
    "What is pooled": [
        option(
            "--target",
            default="sparsest",
            shell_complete=offering("sparsest", "matching", "all", files=True),
            help="Ticket to improve: sparsest, matching (the sparsest as accurate on val as the densest), all (one "
            "file each), a level, or a file.",
        ),
        option(
            "--sparsity",
            type=float,
            help="Of the pooled model, in [0, 1): also one between the tickets'; starts from the nearest denser "
            "ticket. [the target's]",
        ),
    ],
    "Method": [
        option(
            "--method",
            type=Words(NAMES),
            default="auto",
            help="; ".join(f"{name}: {method.help}" for name, method in METHODS.items())
            + f"; auto: {', then '.join(AUTO)} from what that gives, each where it is better on val.",
        ),
        option(
            "--alphas",
            default=",".join(map(str, PAPER_ALPHAS)),
            callback=numbers,
            help="Weights of the current model, in [0, 1].",
        ),
        option(
            "--alpha-search",
            type=Words(["grid", "coarse"]),
            default="grid",
            help="grid tries every alpha; coarse every second one, then the neighbours of the best: less work, other "
            "results.",
        ),
        option("--passes", type=click.IntRange(1), default=1, help="Times greedy and average see each candidate."),
        option("--decay", type=click.FloatRange(0, 1), default=0.9, help="Weight of ema's running average."),
        option(
            "--per",
            type=Words(["tensor", "block", "global"]),
            default="tensor",
            help="What shares one coefficient per ticket in learned.",
        ),
        option("--learning-steps", type=click.IntRange(1), default=150, help="Of learned."),
        option(
            "--learning-rate",
            type=click.FloatRange(0, min_open=True),
            default=0.02,
            help="Of learned (Adam), falling to 0.",
        ),
    ],
    "Fitting (reconstruct)": [
        option(
            "--mask",
            type=Words(list(MASKS)),
            default="start",
            help="Which weights are fitted: those that the start keeps, or as many in each layer, chosen anew (refit).",
        ),
        option("--fit-images", type=click.IntRange(1), default=2048, help="Training images, augmented as in training."),
        option("--fit-positions", type=click.IntRange(1), default=16, help="Positions of each image, in every layer."),
    ],
    "Choosing": [
        option(
            "--select",
            type=Words(["accuracy", "nll"]),
            default="accuracy",
            help="What is compared on val: images right, or the negative log-likelihood.",
        ),
        option(
            "--bn-images",
            type=Words(BN_IMAGES),
            default="auto",
            help="What BatchNorm is recalibrated on: training images as they are (plain) or as training augmented "
            "them; none mixes statistics like weights; auto: what the tickets were trained with, where that is not "
            "known the best on val.",
        ),
        option(
            "--bn-recal/--no-bn-recal",
            default=None,
            help="--no-bn-recal is --bn-images none, --bn-recal is --bn-images auto.",
        ),
        option(
            "--calibration-size",
            type=click.IntRange(1),
            default=1024,
            help="Training images for BN recalibration in the search.",
        ),
        option(
            "--final-calibration-size",
            default="1024",
            metavar="N|all",
            callback=count_or_all,
            help="The same for the finished model and its control.",
        ),
    ],
    "How the tickets' images were augmented": [
        option(
            "--augment",
            type=Words(AUGMENTS),
            help="Random crops after padding, or of random size. [as the tickets say]",
        ),
        option(
            "--crop-padding",
            type=click.IntRange(0),
            help="Pixels of the random crop. [as the tickets say, else an eighth of the image]",
        ),
        option("--flip", type=Words(FLIPS), help="Horizontal, as in train. [as the tickets say, else auto]"),
    ],
    "Data": [
        shared.arch_option(f"{shared.ARCHITECTURES}. [as the tickets say, else guessed]"),
        shared.ARCH_KWARGS,
        *shared.KEYS,
        shared.dataset_option(f"{DATASETS}. [as the tickets say, of the first four]"),
        shared.data_dir_option(),
        shared.CACHE_DIR,
        option("--val-fraction", type=float, help="Share of train held out as val. [as the tickets say, else 0.1]"),
        option("--split-seed", type=SEED, help="Of the choice of val. [as the tickets say, else 0]"),
        shared.MEAN,
        shared.STD,
    ],
    "Training the tickets first": [
        option("--train", "train_first", is_flag=True, help="Train the tickets first where none are given or found."),
        PRESET_OPTION,
        LEVELS_OPTION,
    ],
    "Computing": [
        shared.DEVICE,
        shared.THREADS,
        option(
            "--precision",
            type=Words(["auto", "fp32", "bf16"]),
            default="auto",
            help="Of the search: bf16 is autocast, auto takes it where it is fast. Scores reported are always fp32.",
        ),
        option(
            "--batch-size",
            type=click.IntRange(1),
            help="Images at once. [256; for the scorings of the search what this device is fastest with]",
        ),
        option(
            "--seed",
            type=SEED,
            help="Of the choice and augmentation of calibration images; with --train of the tickets. [0]",
        ),
    ],
}


def bn_images_of(bn_images: str, recalibrate: bool | None) -> str:
    """The two options that say whether BatchNorm is recalibrated, as one."""
    if recalibrate is None:
        return bn_images
    if explicit("--bn-images") and recalibrate == (bn_images == "none"):
        short = "--bn-recal" if recalibrate else "--no-bn-recal"
        raise click.UsageError(f"{short} contradicts --bn-images {bn_images}; leave one of them out")
    return bn_images if recalibrate else "none"


def refuse_idle_augmentation(bn_images: str, method: str, train_first: bool) -> None:
    """What says how images were augmented, where none are augmented."""
    if bn_images in ("plain", "none") and not train_first and not needs(method, "rebuilder"):
        for name in ("--augment", "--crop-padding", "--flip"):
            if explicit(name):
                raise click.UsageError(f"--bn-images {bn_images} does not use {name}; leave it out")


def refuse_odd_usage(alphas: tuple[float, ...], method: str, trains_what_it_shapes: bool) -> None:
    """Options out of range, and options that would do nothing."""
    if not all(0 <= alpha <= 1 for alpha in alphas):
        raise click.BadParameter(f"expected numbers in [0, 1], found {list(alphas)}", param_hint="--alphas")
    for name, methods in USED_BY.items():
        if explicit(name) and method not in methods:
            raise click.UsageError(
                f"--method {method} does not use {name}; leave it out, or use --method {' or '.join(methods)}"
            )
    if explicit("--sparsity") and explicit("--target"):
        raise click.UsageError("--sparsity takes the nearest denser ticket as its target; leave out --target")
    if not trains_what_it_shapes:
        raise click.UsageError("--preset and --levels shape the tickets that --train makes; add --train")
