"""Options that commands share, and the headings under which `--help` lists them."""

from __future__ import annotations

import ast
import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from lptool.checkpoints.metadata import LOADING
from lptool.errors import HubError, near_miss
from lptool.export.licenses import LICENSES, license_id

Decorator = Callable[[Any], Any]
Option = Callable[..., Decorator]  # takes the heading as `section=`; see `options_of`

SEED = click.IntRange(0, 2**32 - 1)  # what NumPy takes, which takes less than torch
PATH = click.Path(path_type=Path)
FILES = click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
ARCHITECTURES = "timm name, or module:callable or file.py:callable, which are run only where named here"
# Spelt out here, so that `--help` need not import torch; a test compares them with the library.
DATA_SETS = ("digits", "fashion-mnist", "cifar10", "cifar100")


# Where things lie that nobody named.
TICKETS = Path("ckpts")
POOLED = "pooled.safetensors"
POOLED_ALL = "pooled"  # of `--target all`, a folder

# Of the group and of every command.
SHOWN = {"help_option_names": ["-h", "--help"], "max_content_width": 120, "show_default": True}


class SectionedOption(click.Option):
    """An option that knows its heading in `--help`."""

    def __init__(self, *names: Any, section: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.section = section


class Words(click.Choice[str]):
    """One of some words; the error for another word names the closest."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """As click words it, and the closest."""
        return super().get_invalid_choice_message(value, ctx) + near_miss(str(value), self.choices)


class Points(click.FloatRange):
    """Percentage points of accuracy, from 0 to 100."""

    name = "points"

    def __init__(self) -> None:
        super().__init__(min=0, max=100)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As click does, which passes over NaN, as that is less than nothing."""
        found: float = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"expected points from 0 to 100, found {value!r}", param, ctx)
        return found


_UNITS = {"": 1, "b": 1, "bytes": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Size(click.ParamType[int]):
    """How many bytes a file may have: a number and perhaps a unit, of which kB is 1,000 bytes and kiB 1,024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Whole bytes, rounded down."""
        found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([a-z]*)\s*", str(value), re.IGNORECASE | re.ASCII)
        unit = _UNITS.get(found[2].lower()) if found else None
        if found is None or unit is None or (size := int(Fraction(found[1]) * unit)) < 1:
            self.fail(f"expected a size such as 500kB, 1.5MB or 300KiB, found {value!r}", param, ctx)
        return size


class SectionedCommand(click.Command):
    """Lists its options in `--help` under their headings, in the order of the first option of each."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        # As the group's: click keeps the help option that it makes first, whether or not the group is there.
        super().__init__(*names, **{"context_settings": SHOWN, **settings})

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does with one heading; that one takes what has no section, such as `--help` itself."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def offering(*words: str, files: bool = False) -> Callable[..., list[CompletionItem]]:
    """What the shell completes, of an option that takes other text too: `words`, and where none fits perhaps files."""

    def complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        fitting = [CompletionItem(word) for word in words if word.startswith(begun)]
        return fitting or [CompletionItem(begun, type="file")] * files

    return complete


def option(*names: str, **settings: Any) -> Option:
    """As `click.option`, but to be put into the table of `options_of`, which says the heading."""
    return functools.partial(click.option, *names, cls=SectionedOption, **settings)


def options_of(table: Mapping[str, Sequence[Option]]) -> Decorator:
    """All options of a command: heading in `--help` → its options, both in the order shown."""
    decorators = [make(section=title) for title, options in table.items() for make in options]
    # In reverse, because click shows first what decorates last.
    return lambda command: functools.reduce(lambda wrapped, decorate: decorate(wrapped), reversed(decorators), command)


def arch_option(help: str) -> Option:
    """What the network is where the files do not say it."""
    return option("--arch", metavar="A", shell_complete=offering(files=True), help=help)


def _arguments(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> dict[str, Any]:
    """`name=value`, as often as it is given."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"expected name=value, found {text!r}")
        if name in LOADING:
            raise click.BadParameter(f"{name} would load weights; see lptool train --pretrained and --init-checkpoint")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    """Of JSON, else of Python, else the text itself."""
    for read in (json.loads, ast.literal_eval):
        try:
            # As it will be read from a header.
            return json.loads(json.dumps(read(text), allow_nan=False))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return text


ARCH_KWARGS = option(
    "--arch-kwargs",
    metavar="K=V",
    multiple=True,
    callback=_arguments,
    help="An argument of the architecture, as img_size=32; may be given several times. [as the files say]",
)


def dataset_option(help: str, *others: str) -> Option:
    """Which images; `others` are the names it has besides."""
    return option(*(*others, "--dataset", "dataset"), metavar="D", shell_complete=offering(*DATA_SETS), help=help)


def data_dir_option(more: str = "") -> Option:
    """The folder of the data."""
    return option("--data-dir", type=PATH, help=f"Where the data lies or is downloaded to{more}.")


KEYS = (
    option("--state-key", metavar="A.B", help="Where a PyTorch file has its weights, as run.ema. [the usual places]"),
    option("--mask-key", metavar="A.B", help="Where it has its masks, by weight name. [the usual places]"),
)

CACHE_DIR = option(
    "--cache-dir",
    type=PATH,
    help="Keep decoded pictures here for the next command. [memory or a temporary place, nothing is kept]",
)


def report_option(more: str = "") -> Option:
    """The HTML page, as `page`."""
    return option(
        *("--report", "page"),
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE.html",
        help=f"Write figures and tables as one HTML file{more}.",
    )


def max_size_option(help: str) -> Option:
    """How large a file may be, in bytes."""
    return option("--max-size", type=Size(), metavar="SIZE", help=f"{help} SIZE is such as 500kB, 1.5MB or 300KiB.")


def overwrite_option(help: str) -> Option:
    """What may be replaced."""
    return option("--overwrite", is_flag=True, help=help)


VALUES_OPTION = option(
    "--values",
    type=Words(["bf16", "fp16", "int8"]),
    help="With --packed: keep packed weights in this type, in half or (int8) a quarter of the bytes; accuracy before "
    "and after is printed.",
)


def refuse_values_alone(packed: bool, values: str | None) -> None:
    """A dense file keeps the types of the network."""
    if values and not packed:
        raise click.UsageError("--values shortens the weights of a packed file; add --packed")


def _license(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    try:
        return None if text is None else license_id(text)
    except HubError as error:
        raise click.BadParameter(error.text) from error


LICENSE = option(
    "--license",
    metavar="ID",
    callback=_license,
    shell_complete=offering(*LICENSES),
    help="Of a folder's model card, as the Hub names it: mit, apache-2.0, … [none is claimed]",
)


def refuse_license_alone(license: str | None, folder: bool) -> None:
    """A file has no card."""
    if license and not folder:
        raise click.UsageError(
            "--license stands in the card of a folder; name a folder as the output (such as my-model/)"
        )


DEVICE = option(
    "--device",
    default="auto",
    shell_complete=offering("auto", "cpu", "cuda", "mps"),
    help="auto, cpu, cuda, cuda:1, mps.",
)
THREADS = option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Of the CPU, on which results depend on their number. [OMP_NUM_THREADS, else what a search or run was begun "
    "with, else as many as cores are free]",
)
BATCH_SIZE = option("--batch-size", type=click.IntRange(1), help="Images at once. [256]")
JSON = option("--json", "as_json", is_flag=True, help="One JSON document on stdout and nothing else.")


def numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Numbers and commas."""
    try:
        found = None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"expected numbers and commas, found {text!r}") from error
    if found and not all(map(math.isfinite, found)):
        raise click.BadParameter(f"expected finite numbers, found {text!r}")
    return found


def count_or_all(context: click.Context, parameter: click.Parameter, text: str) -> int | None:
    """A whole number from 1 up; None stands for all."""
    if text == "all":
        return None
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise click.BadParameter(f"expected a number from 1 up, or all, found {text!r}")
    return int(text)


def per_channel(name: str, doing: str, otherwise: str = "as the tickets say, else measured on train") -> Option:
    """For tickets that do not say how their images were normalised."""
    help = f"{doing} images scaled to [0, 1], per channel, as 0.49,0.48,0.45. [{otherwise}]"
    return option(name, metavar="X,…", callback=numbers, help=help)


MEAN = per_channel("--mean", "Subtracted from")
STD = per_channel("--std", "Dividing")


def explicit(name: str) -> bool:
    """Whether an option was given on the command line."""
    source = click.get_current_context().get_parameter_source(name.lstrip("-").replace("-", "_"))
    return source not in (None, ParameterSource.DEFAULT)  # None: the command has no such option
