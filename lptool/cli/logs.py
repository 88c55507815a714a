"""`--log`: the records that a command makes on the way, for TensorBoard or Weights & Biases as well.

Both packages are optional. Nothing is read back from a log, and no result depends on one.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from lptool.cli.options import Words, option
from lptool.cli.output import warn
from lptool.errors import SetupError, first_line

Record = Mapping[str, Any]  # `step`, and numbers by name; steps grow
Log = Callable[[Record], None]
_Write = Callable[[int, dict[str, float]], None]
SUFFIX = ".log"  # of a place beside an output
_STATE = ".wandb.json"  # which run of W&B a place is, and the last step of it


@contextmanager
def log_to(kind: str | None, place: Path, *, resumed: bool, config: Mapping[str, Any]) -> Iterator[Log]:
    """The function that takes each record; it does nothing where `kind` is None.

    The log is opened by the first record, so that a command that is refused leaves none. A record of a step alone does
    that and no more. Where writing fails later, the command goes on without its log, and says so once.

    Args:
        kind: `tensorboard` or `wandb`. place: the folder for it. resumed: whether the steps go on with those there.
        config: what W&B shows of the run; JSON values.

    Raises:
        SetupError: by the first record: the log cannot be opened.
    """
    if kind is None:
        yield lambda record: None
        return
    write: _Write | None = None
    with ExitStack() as held:

        def log(record: Record) -> None:
            nonlocal write
            if write is None:
                opened = _OPENED[kind](place, record["step"], resumed, config)
                with _refused(kind, place):
                    write = held.enter_context(opened)
            numbers = {name: value for name, value in record.items() if name != "step" and type(value) in (int, float)}
            if numbers:
                try:
                    write(record["step"], numbers)
                except Exception as error:  # anything that another package raises; hours of work are worth more
                    warn([f"--log {kind}: not written any more ({first_line(error)}); the command goes on without it"])
                    write = _nothing

        yield log


def _nothing(step: int, numbers: dict[str, float]) -> None:
    """Where a log has failed."""


@contextmanager
def _refused(kind: str, place: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # theirs are of many kinds: no key, no connection, no place on the disk
        advice = {"wandb": "run `wandb login`, or set WANDB_MODE=offline"}.get(kind, f"see whether {place} is writable")
        raise SetupError(f"--log {kind}: cannot be opened ({first_line(error)}); {advice}, or leave it out") from error


@contextmanager
def _tensorboard(place: Path, first: int, resumed: bool, config: Mapping[str, Any]) -> Iterator[_Write]:
    from torch.utils.tensorboard import SummaryWriter

    # What an earlier call logged of this step and later ones is not shown: that work is done again.
    with SummaryWriter(place, purge_step=first) as writer:

        def write(step: int, numbers: dict[str, float]) -> None:
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        yield write


@contextmanager
def _wandb(place: Path, first: int, resumed: bool, config: Mapping[str, Any]) -> Iterator[_Write]:
    import wandb

    from lptool.checkpoints.places import write_atomically

    place.mkdir(parents=True, exist_ok=True)
    run_id, last = _run_before(place / _STATE) if resumed else (None, -1)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "lptool"),
        name=os.environ.get("WANDB_NAME", place.name.removesuffix(SUFFIX)),
        dir=os.environ.get("WANDB_DIR", str(place)),
        id=run_id,
        resume="allow" if run_id else None,
        config=dict(config),
        settings={"console": "off"},  # else it takes our streams
    )
    with run:

        def write(step: int, numbers: dict[str, float]) -> None:
            nonlocal last
            if step <= last:  # logged by an earlier call
                return
            run.log(numbers, step=step)
            last = step
            state = json.dumps({"id": run.id, "step": step})
            write_atomically(place / _STATE, lambda file: file.write_text(state))

        yield write


def _run_before(file: Path) -> tuple[str | None, int]:
    """The run of W&B that an earlier call began, and the last step of it."""
    from lptool.checkpoints.files import content_of

    try:
        state = json.loads(content_of(file))
        return str(state["id"]), int(state["step"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None, -1


_OPENED = {"tensorboard": _tensorboard, "wandb": _wandb}


def _check_package(context: click.Context, parameter: click.Parameter, kind: str | None) -> str | None:
    if kind is not None and importlib.util.find_spec(kind) is None:
        raise SetupError(f"--log {kind} needs {kind}: pip install 'lptool[{kind}]'")
    return kind


def log_option(help: str) -> Any:
    """`--log`; a package that is missing is told before anything else is done."""
    # torchrun takes `--log` for the beginning of one of its own options, wherever it stands.
    return option("--log", "--log-to", "log", type=Words([*_OPENED]), callback=_check_package, help=help)
