"""`lptool convert`: one file into another form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lptool.cli import options as shared
from lptool.cli.ending import clear_errors
from lptool.cli.options import (
    PATH,
    Points,
    SectionedCommand,
    option,
    options_of,
    refuse_license_alone,
    refuse_values_alone,
)
from lptool.cli.output import print_result, warn
from lptool.cli.threads import choose_threads
from lptool.export.licenses import license_notes

OPTIONS = {
    "Output": [
        option(
            "--packed/--dense",
            default=False,
            help="A .safetensors of kept weights and their positions alone, or of all weights, with zeros.",
        ),
        shared.VALUES_OPTION,
        option("--int8", is_flag=True, help="An .onnx that computes in int8, calibrated on training images."),
        shared.max_size_option(
            "Choose the form of a .safetensors so that it fits: weights to the bit, else the shorter type that is best "
            "on val."
        ),
        option(
            "--max-drop",
            type=Points(),
            help="Write nothing where shorter values lower accuracy on val by more points. [any loss is written]",
        ),
        shared.LICENSE,
        shared.overwrite_option("Replace the output where it exists."),
        shared.JSON,
    ],
    "For files that do not say": [
        shared.arch_option(f"{shared.ARCHITECTURES}. [as the file says, else guessed]"),
        shared.ARCH_KWARGS,
        *shared.KEYS,
        shared.dataset_option(
            "What it was trained on, as for train: for config.json, and to check --values, .onnx and .pt2."
        ),
        shared.data_dir_option(),
        shared.MEAN,
        shared.STD,
        shared.DEVICE,
        shared.THREADS,
    ],
}


@click.command(cls=SectionedCommand)
@click.argument("source", type=PATH, metavar="IN")
@click.argument("output", type=click.Path(), metavar="OUT")
@options_of(OPTIONS)
@clear_errors
def convert(
    source: Path,
    output: str,  # with the slash that makes it a folder
    packed: bool,
    values: str | None,
    int8: bool,
    max_size: int | None,
    max_drop: float | None,
    overwrite: bool,
    as_json: bool,
    threads: int | None,
    license: str | None,
    **given: Any,
) -> None:
    """Write a ticket or a pooled model in another form, chosen by the name of OUT.

    \b
    lptool convert pooled.safetensors small.safetensors --packed
    lptool convert pooled.safetensors tiny.safetensors --packed --values int8 --max-drop 0.5
    lptool convert pooled.safetensors fits.safetensors --max-size 500kB
    lptool convert small.safetensors dense.safetensors
    lptool convert pooled.safetensors my-model             # a folder in the Hugging Face layout
    lptool convert pooled.safetensors pooled.onnx          # pip install 'lptool[onnx]'
    lptool convert pooled.safetensors int8.onnx --int8
    lptool convert pooled.safetensors pooled.pt2           # a program of torch.export
    lptool convert pooled.safetensors pooled.pt            # keys of torch.nn.utils.prune, to go on pruning

    IN is a checkpoint of any program that lptool reads, or a folder with one.
    """
    refuse_values_alone(packed, values)
    if max_drop is not None and not (values or int8 or max_size):
        raise click.UsageError("--max-drop compares accuracy before and after; add --values, --int8 or --max-size")
    from lptool.checkpoints.places import is_folder

    refuse_license_alone(license, is_folder(output))
    from lptool.checkpoints.writing import Form
    from lptool.evaluation.setting import SettingOptions
    from lptool.export.conversion import convert as carry_out
    from lptool.provenance import command_line
    from lptool.report.convert import conversion_document, conversion_view

    options = SettingOptions(**given)
    if values or max_size or output.endswith((".onnx", ".pt2")):  # what computes
        choose_threads(threads, options.device)
    conversion = carry_out(
        *(source, output, Form(packed, values), options),
        int8=int8,
        max_drop=max_drop,
        max_size=max_size,
        overwrite=overwrite,
        command=command_line(),
        license=license,
    )
    warn([*conversion.warnings, *license_notes(license)])
    print_result(conversion_document(conversion), [conversion_view(conversion)], as_json=as_json)
