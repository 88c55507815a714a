"""The processes that search together under `torchrun`. One process alone is the plain case, and needs no torchrun.

Every rank runs the same search on the same inputs; only the scorings are dealt out. So what is exchanged is a few
numbers per scoring, for which gloo does on every machine, GPUs or not.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from lptool.device import local_ranks, usable_cores
from lptool.errors import LptoolError, PeerError, RankError, first_line

T = TypeVar("T")
# A peer that dies is noticed at once, by its closed connection. A slow one is waited for.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process's number among `count` that run the same program; by default it is alone."""

    rank: int = 0
    count: int = 1

    def share(self, tasks: Mapping[int, Callable[[], T]]) -> dict[int, T]:
        """Run task k on rank k mod `count`. Every rank gets every result, in the order of `tasks`.

        Raises:
            LptoolError: what a task raised here; PeerError where one failed on another rank only.
            RankError: another rank ended before it gave its results.
        """
        mine: dict[int, T] = self.agree(lambda: {k: task() for k, task in tasks.items() if k % self.count == self.rank})
        found = {key: result for results in self.gather(mine) for key, result in results.items()}
        return {key: found[key] for key in tasks}

    def on_first(self, task: Callable[[], T]) -> T:
        """Run `task` on rank 0 alone and give its result to all. Raises as `share`."""
        return self.share({0: task})[0]

    def first_ahead(self, task: Callable[[], T]) -> T:
        """Run `task` on rank 0, then on the others, which find what it downloaded. Raises as `agree`."""
        found = self.agree(lambda: task() if self.rank == 0 else None)
        return self.agree(lambda: task() if found is None else found)

    def agree(self, task: Callable[[], T]) -> T:
        """Run `task` on every rank; where it fails, all raise: the first to fail its error, others PeerError."""
        error: LptoolError | None = None
        try:
            result = task()
        except LptoolError as raised:
            error = raised
        # Also where it failed: the other ranks wait here for this one.
        errors = self.gather(None if error is None else type(error))
        if not any(errors):
            return result
        first = next((rank for rank, kind in enumerate(errors) if kind not in (None, PeerError)), None)
        raise error if error is not None and first == self.rank else PeerError(f"rank {first} gave up")

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in their order; small ones, which go through gloo. Raises RankError."""
        if self.count == 1:
            return [value]
        found: list[T] = [value] * self.count
        try:
            distributed.all_gather_object(found, value)
        except RuntimeError as error:  # what gloo raises where a connection was closed
            raise RankError("another process of this run has ended; run the same command again to resume") from error
        return found


ALONE = Ranks()


def join_ranks() -> Ranks:
    """The ranks that torchrun started, connected; alone where it was not torchrun. Raises RankError."""
    if not distributed.is_torchelastic_launched():
        return ALONE
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    # torchrun gives each process one thread; together they shall use what the machine has.
    torch.set_num_threads(max(1, usable_cores() // local_ranks()))
    if ranks.count > 1 and not distributed.is_initialized():
        try:
            distributed.init_process_group("gloo", timeout=PATIENCE)
        except RuntimeError as error:  # such as where torchrun has gone
            raise RankError(f"the processes of this run do not find each other ({first_line(error)})") from error
        atexit.register(distributed.destroy_process_group)  # else gloo's threads may outlive Python, and abort
    return ranks
