"""`lptool --version`: this program, torch, and what `auto` picks on this machine."""

from __future__ import annotations

import click

from lptool import __version__
from lptool.errors import first_line


def show_version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    """One line; of a torch that cannot be used it says why."""
    if asked and not context.resilient_parsing:
        click.echo(f"lptool {__version__}, {_torch()}")
        context.exit()


def _torch() -> str:
    try:
        import torch

        from lptool.device import autocast_dtype, pick_device

        device = pick_device()
        dtype = "bf16" if autocast_dtype("auto", device) == torch.bfloat16 else "fp32"
    except Exception as error:  # of a broken installation, anything
        return f"torch cannot be used: {first_line(error)}"
    return f"torch {torch.__version__}, auto: {device} {dtype}"
