"""What threads cost where cores are shared: `lptool pool` on digits beside busy programs, and alone.

    python benchmarks/threads.py --alone --json benchmarks/results/threads.json

A command that takes longer than `--limit` is ended there: it took that many seconds or more, and the rest is not known.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lptool.device import usable_cores

LPTOOL = [sys.executable, "-m", "lptool"]
BUSY = [sys.executable, "-c", "while True: pass"]
FIRST = ["chrt", "--rr", "1"]  # all other programs wait, if they have to


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many programs that never wait."""
    programs = [subprocess.Popen(BUSY) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def pooled(run: Path, threads: list[str], first: list[str], limit: float) -> dict[str, Any]:
    """One `lptool pool`: threads and seconds as it says them; seconds of clock and CPU, imports and all."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    with TemporaryDirectory() as folder:
        command = [*first, *LPTOOL, "pool", run, "-o", Path(folder) / "a.safetensors", "--device", "cpu", "--json"]
        cpu, begin = cpu_seconds(), time.perf_counter()
        try:
            done = subprocess.run([*command, *threads], env=environment, capture_output=True, timeout=limit, check=True)
            said = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            said = {"threads": None, "seconds": None}
        whole, cpu = time.perf_counter() - begin, cpu_seconds() - cpu
    own = said["seconds"] and round(said["seconds"], 1)
    return {"threads": said["threads"], "pooling": own, "whole": round(whole, 1), "cpu": round(cpu, 1)}


def cpu_seconds() -> float:
    """Of all programs that were begun here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(run: Path, busy: int, first: list[str], limit: float) -> Iterator[dict[str, Any]]:
    """A row for each number of threads, beside so many neighbours; what else the machine does is its load."""
    for threads in ([], ["--threads", "1"], ["--threads", str(usable_cores())]):
        load = os.getloadavg()[0]
        with neighbours(busy):
            row = pooled(run, threads, first, limit)
        yield {"neighbours": busy, "first": bool(first), "asked": " ".join(threads), **row, "load": round(load, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neighbours", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="also without neighbours, at real-time priority")
    parser.add_argument("--limit", type=float, default=600, help="seconds of one command")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        run = Path(folder) / "digits"
        subprocess.run([*LPTOOL, "train", "-o", run, "--preset", "quickstart", "--threads", "1"], check=True)
        for busy, first in [(options.neighbours, []), (0, FIRST)][: 1 + options.alone]:
            for row in measured(run, busy, first, options.limit):
                print(row, flush=True)
                rows.append(row)
    if options.json:
        options.json.write_text(json.dumps({"cores": usable_cores(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
