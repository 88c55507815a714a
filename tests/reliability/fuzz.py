"""Gives commands thousands of files that are wrong, each made from a seed; see `docs/reliability.md`.

    python -m tests.reliability.fuzz --cases 6000 --seed 0 --workers 2       # twenty minutes on two cores
    python -m tests.reliability.fuzz --first 3000 --cases 3000 --seed 0      # the second half of it
    python -m tests.reliability.fuzz --seed 0 --case pickles/12 --keep odd   # one case, its files left in odd/

Each case calls the command line in the process of a worker. Whatever the files hold, the command ends within 20 seconds
and a gigabyte, with an exit code of ours, without a traceback or control characters. An error is one line that names
the file. No input is changed, no output is half-written, no hidden file is left, nothing is run and nothing is fetched.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import resource
import shlex
import shutil
import stat
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import mock

from tests.reliability.cases import Case, material_in
from tests.reliability.families import FAMILIES
from tests.reliability.looks import looks_of
from tests.reliability.material import warm_up

SECONDS = 20
MEMORY = 1 << 30  # bytes that one case may take
_LIMIT = 4 << 30  # of data of a worker, so that the machine survives what takes more


@dataclass(frozen=True)
class Finding:
    """What one case showed: its problems, none where all is well."""

    case: str
    words: tuple[str, ...]
    status: int | None
    problems: list[str]


class Watch:
    """Notes what no file may bring about: code that is run, the network, a file elsewhere. Installed for good."""

    FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")

    def __init__(self) -> None:
        self.folder: str | None = None
        self.noted: list[str] = []
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in self.FORBIDDEN:
            self.noted.append(f"{event} {str(arguments)[:100]}")
            raise PermissionError(f"{event} is not for a file to ask for")
        if event == "open" and isinstance(arguments[0], str) and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            place = os.path.abspath(arguments[0])
            if not place.startswith((self.folder, "/dev/")) and "__pycache__" not in place:
                self.noted.append(f"wrote {place}")


def named(number: int) -> str:
    """The families in turn: `pickles/12` is the thirteenth of its family."""
    return f"{list(FAMILIES)[number % len(FAMILIES)]}/{number // len(FAMILIES)}"


def made(seed: int, name: str, folder: Path, material: Path) -> Case:
    """A case by its name, its files in a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of types that torch means to give up
        return FAMILIES[name.partition("/")[0]](random.Random(f"{seed}/{name}"), folder, material_in(material))


def run_case(seed: int, name: str, folder: Path, material: Path, watch: Watch) -> Finding:
    """Make a case in an empty folder, run it, and look at everything."""
    from click.testing import CliRunner

    from lptool.cli import main

    case = made(seed, name, folder, material)
    before = _state_of(folder)
    os.chdir(folder)
    _forget_peak()
    used = _peak()
    watch.folder, watch.noted = str(folder.parent), []  # beside the case lies what is for a moment
    try:
        with _patched(case):
            ended = CliRunner().invoke(main, list(case.words))
    finally:
        watch.folder = None
    taken = _peak() - used
    after = _state_of(folder)
    problems = [f"it {what}" for what in watch.noted]
    problems += [f"took {taken >> 20} MB"] * (taken > MEMORY)
    problems += _ended(ended, case)
    problems += _files(case, before, after, ended.exit_code)
    if ended.exit_code == 0:
        problems += _readable(case, folder, main)
    return Finding(name, case.words, ended.exit_code, problems)


def _ended(ended: Any, case: Case) -> list[str]:
    if ended.exception is None or isinstance(ended.exception, SystemExit):
        return looks_of(ended.exit_code, ended.stdout, ended.stderr, case.names)
    frames = traceback.extract_tb(ended.exc_info[2])
    ours = [f"{f.filename.rpartition('lptool/')[2]}:{f.lineno}" for f in frames if "/lptool/" in f.filename]
    kind = f"{type(ended.exception).__name__}: {str(ended.exception)[:150]}"
    return [f"a traceback: {ours[-1] if ours else 'none of ours'}, {kind}"]


def _patched(case: Case) -> Any:
    stack = contextlib.ExitStack()
    for name, value in case.patches.items():
        module, _, attribute = name.rpartition(".")
        stack.enter_context(mock.patch.object(importlib.import_module(module), attribute, value))
    return stack


def _state_of(folder: Path) -> dict[str, str]:
    """What lies below a folder: a digest of each file, the kind of all else."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            said = stat.filemode(mode)
            if stat.S_ISREG(mode):
                said = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            elif stat.S_ISLNK(mode):
                said = f"→ {os.readlink(path)}"
            found[os.path.relpath(path, folder)] = said
    return found


def _files(case: Case, before: dict[str, str], after: dict[str, str], status: int) -> list[str]:
    def written(name: str) -> bool:
        return any(name == output or name.startswith(f"{output}/") for output in case.outputs)

    problems = [f"changed {name}" for name, said in before.items() if after.get(name) != said and not written(name)]
    new = [name for name in after if name not in before]
    problems += [f"left {name}" for name in new if not written(name)]
    problems += [f"left {n}" for n in new if os.path.basename(n).startswith(".") and os.path.basename(n) != ".resume"]
    problems += ["a canary was let out"] * any(os.path.basename(name) == "canary" for name in after)
    return problems


def _readable(case: Case, folder: Path, main: Any) -> list[str]:
    """Whatever was written can be read."""
    from click.testing import CliRunner

    problems = []
    for output in case.outputs:
        place = folder / output
        if place.is_dir() and not any(place.glob("*.safetensors")):
            continue
        if place.suffix in (".html", ".jsonl") or not place.exists() or "--dry-run" in case.words:
            continue
        if case.words[0] == "train":
            continue
        seen = CliRunner().invoke(main, ["inspect", str(place)])
        problems += [f"wrote {output}, and inspect says {seen.output[-200:]!r}"] * (seen.exit_code != 0)
    return problems


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The most memory that this process has had since the last `_forget_peak`, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# Many cases, in workers that may die


def _work(seed: int, place: Path, tasks: Connection) -> None:
    """Cases by name from the pipe, findings back into it, until there are no more."""
    resource.setrlimit(resource.RLIMIT_DATA, (_LIMIT, _LIMIT))
    os.environ |= {"TMPDIR": str(place), "XDG_CACHE_HOME": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    tempfile.tempdir = None
    material = place.parent / "material"
    material_in(material)
    watch, dump = Watch(), open(place / "hang.txt", "w")  # noqa: SIM115
    for name in iter(tasks.recv, None):
        folder = place / "case"
        folder.mkdir(parents=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=dump)
        try:
            found = run_case(seed, name, folder, material, watch)
        except Exception:
            found = Finding(name, (), None, [f"the harness failed: {traceback.format_exc()}"])
        faulthandler.cancel_dump_traceback_later()
        tasks.send(found)
        os.chdir(place)
        shutil.rmtree(folder)


class Worker:
    """A process for cases, begun again where one ends it."""

    def __init__(self, seed: int, place: Path) -> None:
        self.seed, self.place, self.name = seed, place, ""
        self._begin()

    def _begin(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        self.pipe, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_work, args=(self.seed, self.place, there))
        self.process.start()
        there.close()

    def give(self, name: str | None) -> None:
        self.name = name or self.name
        self.pipe.send(name)

    def take(self) -> Finding:
        """What it found; where it died, that is the finding, and another takes its place."""
        try:
            found: Finding = self.pipe.recv()
            return found
        except (EOFError, ConnectionError):
            self.process.join()
            code, hang = self.process.exitcode or 0, (self.place / "hang.txt").read_text()
            ours = [line.rpartition("/lptool/")[2] for line in hang.splitlines() if "/lptool/" in line]
            what = f"no end within {SECONDS} s: {ours[:1]}" if hang else f"the process ended with {code}"
            found = Finding(self.name, (), None, [what])
            self._begin()
            return found


def findings_of(seed: int, names: Sequence[str], workers: int, place: Path) -> Iterator[Finding]:
    """Run cases by name, in workers; the findings as they come."""
    warm_up()
    maker = multiprocessing.get_context("fork").Process(target=material_in, args=(place / "material",))
    maker.start()
    maker.join()
    team = [Worker(seed, place / f"worker{n}") for n in range(min(workers, len(names)))]
    left = iter(names)
    busy = {}
    for worker in team:
        worker.give(next(left))
        busy[worker.pipe] = worker
    while busy:
        for pipe in wait(list(busy)):
            worker = busy.pop(pipe)  # type: ignore[call-overload]
            yield worker.take()
            following = next(left, None)
            worker.give(following)
            if following is not None:
                busy[worker.pipe] = worker
    for worker in team:
        worker.process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=6000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--case", metavar="FAMILY/N", help="One alone, in this process.")
    parser.add_argument("--keep", type=Path, help="With --case: leave its files there.")
    parser.add_argument("--json", type=Path, help="Write what was found there.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if given.case is not None:
            alone(given.seed, given.case, Path(place), given.keep)
            return
        names = [named(number) for number in range(given.first, given.first + given.cases)]
        document = summed_up(findings_of(given.seed, names, given.workers, Path(place)), given.seed)
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n")
    raise SystemExit(bool(document["failed"]))


def alone(seed: int, name: str, place: Path, keep: Path | None) -> None:
    """One case, with all that it says."""
    folder = (keep or place / "case").absolute()
    folder.mkdir(parents=True)
    case = made(seed, name, folder, place / "material")
    print(f"lptool {shlex.join(case.words)}", flush=True)
    os.chdir(folder)
    from lptool.cli import main as lptool

    faulthandler.dump_traceback_later(SECONDS, exit=True)
    with _patched(case):
        lptool(list(case.words))


def summed_up(findings: Iterator[Finding], seed: int) -> dict[str, Any]:
    """Prints every failure as it comes, and how to repeat it; then the numbers."""
    started, cases, ends, failed = time.perf_counter(), Counter[str](), Counter[str](), []
    for finding in findings:
        cases[finding.case.partition("/")[0]] += 1
        ends[str(finding.status)] += 1
        if finding.problems:
            failed.append(vars(finding))
            words = shlex.join(finding.words)
            print(f"python -m tests.reliability.fuzz --seed {seed} --case {finding.case}  # lptool {words}", flush=True)
            print(*[f"  {problem}" for problem in finding.problems], sep="\n", flush=True)
    seconds = round(time.perf_counter() - started)
    print(f"{sum(cases.values())} cases in {seconds} s, {len(failed)} failed; exit codes {dict(ends)}")
    return {"seed": seed, "cases": dict(cases), "exit codes": dict(ends), "failed": failed, "seconds": seconds}


if __name__ == "__main__":
    main()
