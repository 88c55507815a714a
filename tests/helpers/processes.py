"""Real processes that need not wait for torch: each is forked off a server that has imported it, and lptool.

A fresh `python -m lptool` takes seconds to import torch and timm; a fork, a hundredth of one. It is a process in all
that tests ask of one: it can be killed and interrupted, has a stdout, an exit status and limits of its own, and meets
others as the ranks of torchrun do.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from torch.distributed import TCPStore

LIMIT = 120  # seconds
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["click.testing", "pytest", "tests.helpers.preloaded"])


@dataclass(frozen=True)
class Child:
    """A process that was begun, and where its stdout and stderr are."""

    process: ForkServerProcess
    place: Path

    @property
    def stdout(self) -> str:
        return self.place.with_suffix(".out").read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self.place.with_suffix(".err").read_text(encoding="utf-8")

    def end(self) -> int:
        """Wait for it; its exit status, or minus the signal that ended it. It is ended where it takes too long."""
        self.process.join(LIMIT)
        if self.process.is_alive():
            self.process.terminate()  # asked to, torchrun ends its ranks, which are in sessions of their own
            self.process.join(20)
        self.process.kill()
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode


def begin(place: Path, program: Callable[..., object], *arguments: object, **environment: str) -> Child:
    """Call `program`, a function of a module, in a process of its own that prints to `place`.out and `place`.err."""
    given = {**os.environ, **environment}
    process = _SERVER.Process(target=_run, args=(Path.cwd(), place, given, program, arguments))
    for suffix in (".out", ".err"):
        place.with_suffix(suffix).touch()
    process.start()
    return Child(process, place)


def lptool(*arguments: object) -> None:
    """What `python -m lptool` does."""
    from lptool.cli import main

    main([str(argument) for argument in arguments])


def torchrun(program: str, *words: object) -> None:
    """What `torchrun --standalone --nproc-per-node 2 -m PROGRAM WORD…` does."""
    from torch.distributed.run import main

    main(["--standalone", "--nproc-per-node", "2", "-m", program, *map(str, words)])


def run_in(folder: Path, code: str) -> None:
    """What `python -c CODE` does in a folder: what can be imported there goes before all else, lptool too."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "lptool"]:
        del sys.modules[name]
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    exec(code, {"__name__": "__main__"})


def on_two_ranks(place: Path, program: Callable[..., object], *arguments: object) -> list[Child]:
    """Call `program` on two ranks that find each other as those of torchrun do, and wait for both."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    launch = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **meeting}
    ranks = [
        begin(place.with_name(f"{place.name}{rank}"), program, *arguments, RANK=rank, LOCAL_RANK=rank, **launch)
        for rank in "01"
    ]
    for rank in ranks:
        rank.end()
    return ranks


def _run(
    folder: Path, place: Path, given: Mapping[str, str], program: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(given)
    for stream, suffix in ((sys.stdout, ".out"), (sys.stderr, ".err")):
        with open(place.with_suffix(suffix), "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    torch.set_num_threads(1)
    try:
        program(*arguments)
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing leaves without
