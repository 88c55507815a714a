"""The command line: parse, call the library, print. Alone in knowing click and exit codes.

torch and timm take seconds to import, and so do rich and matplotlib: each command imports them inside, after its
arguments have been understood.
"""

from __future__ import annotations

import click

from lptool.cli import convert, evaluate, inspect, pool, push, train
from lptool.cli.options import SHOWN
from lptool.cli.version import show_version

VERSION = click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show versions, device and precision, and exit.",
)


class _InOrder(click.Group):
    """Lists its commands as they come in a day's work."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As they were added, and not by the alphabet."""
        return list(self.commands)


@click.group(cls=_InOrder, context_settings=SHOWN)
@VERSION
def main() -> None:
    """Pool the checkpoints of a pruning run into one sparse model that is more accurate at the same sparsity.

    \b
    lptool train
    lptool pool ckpts/*.safetensors
    lptool inspect
    """


for command in (train.train, pool.pool, inspect.inspect, evaluate.evaluate, convert.convert, push.push):
    main.add_command(command)
