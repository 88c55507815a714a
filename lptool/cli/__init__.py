"""The command line: parse, call the library, print. Alone in knowing click and exit codes.

torch and timm take seconds to import, and so do rich and matplotlib: each command imports them inside, after its
arguments have been understood.
"""

from __future__ import annotations

import click

from lptool import __version__
from lptool.cli import convert, evaluate, inspect, pool, push, train


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="lptool")
def main() -> None:
    """Pool the checkpoints of a pruning run into one sparse model that is more accurate at the same sparsity.

    \b
    lptool train -o runs/digits --preset quickstart
    lptool pool runs/digits -o pooled.safetensors
    lptool inspect pooled.safetensors
    """


for command in (train.train, pool.pool, inspect.inspect, evaluate.evaluate, convert.convert, push.push):
    main.add_command(command)
