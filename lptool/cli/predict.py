"""`lptool predict`: the classes of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lptool.cli import options as shared
from lptool.cli.ending import clear_errors
from lptool.cli.options import PATH, SectionedCommand, option, options_of
from lptool.cli.output import print_result, progress_bar, warn
from lptool.cli.threads import choose_threads

OPTIONS = {
    "Output": [
        option(
            "--top", type=click.IntRange(1), default=1, metavar="K", help="The K likeliest classes of each picture."
        ),
        shared.JSON,
    ],
    "For files that do not say": [
        shared.arch_option(f"{shared.ARCHITECTURES}. [as the file says, else guessed]"),
        shared.ARCH_KWARGS,
        *shared.KEYS,
        option("--image-size", type=click.IntRange(1), help="Side of its images in pixels. [as the file says]"),
        shared.per_channel("--mean", "Subtracted from", "as the file says"),
        shared.per_channel("--std", "Dividing", "as the file says"),
    ],
    "Computing": [shared.DEVICE, shared.THREADS, shared.BATCH_SIZE],
}


@click.command(cls=SectionedCommand)
@click.argument("file", type=PATH, metavar="FILE")
@click.argument("pictures", nargs=-1, required=True, type=PATH, metavar="PICTURE...")
@options_of(OPTIONS)
@clear_errors
def predict(file: Path, pictures: tuple[Path, ...], as_json: bool, threads: int | None, **given: Any) -> None:
    """Say what class a model takes pictures for, and how probable it finds that.

    \b
    lptool predict my-model cat.jpg dog.png
    lptool predict pooled.safetensors photos/new --top 3 --json

    FILE is a checkpoint in any form, a folder with one, or an ONNX file. PICTURE is a file, or a folder of pictures.
    They are prepared as evaluate prepares those of the data set. Of one that cannot be read the error says why; the
    others are predicted all the same, and the exit status is 1.
    """
    from lptool.evaluation.prediction import PredictOptions, carry_out, plan_prediction
    from lptool.report.predict import predict_document, predict_view

    choose_threads(threads, given["device"])
    plan = plan_prediction(file, pictures, PredictOptions(**given))
    warn(plan.warnings)
    with progress_bar("predicting") as advance:
        found = carry_out(plan, advance)
    if found.guesses:
        print_result(predict_document(found), [predict_view(found)], as_json=as_json)
    found.check()
