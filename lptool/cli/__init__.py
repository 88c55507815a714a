"""The command line: parse, call the library, print. Alone in knowing click and exit codes.

torch and timm take seconds to import, and so do rich and matplotlib: each command imports them inside, after its
arguments have been understood.
"""

from __future__ import annotations

from typing import Any

import click

from lptool.cli import compare, convert, evaluate, inspect, pool, predict, push, train
from lptool.cli.ending import ending, on_stdout, program
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
    """Lists its commands as they come in a day's work, and ends as `ending` says wherever that is."""

    def main(self, *arguments: Any, **settings: Any) -> Any:
        """As click's, with streams that are there and Ctrl-C noticed."""
        with program():
            return super().main(*arguments, **settings)

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        """As click's, which shows help and version here."""
        with ending(), on_stdout():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """As click's, which reads the arguments of a command here."""
        with ending():
            return super().invoke(ctx)

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

    Exit status: 0 done, 1 an error, 2 wrong usage, 130 interrupted. LPTOOL_TRACEBACK=1 shows where an error came from.
    """


COMMANDS = (
    train.train,
    pool.pool,
    inspect.inspect,
    evaluate.evaluate,
    compare.compare,
    predict.predict,
    convert.convert,
    push.push,
)
for command in COMMANDS:
    main.add_command(command)
