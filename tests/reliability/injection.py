"""A fault at every call to the file system of every command that writes; see `docs/reliability.md`.

    python -m tests.reliability.injection --workers 2                      # all: an hour on two cores
    python -m tests.reliability.injection --every 20 --seed 1              # each twentieth, other ones for another seed
    python -m tests.reliability.injection --job 'pool, folder' --fault kill --event 12     # one, with all that it said

After each fault: what was there is there as it was, what is new is whole or absent, and the error is one line. Then the
same command, undisturbed: exit 0, the same bytes as if nothing had happened, and no other file.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from tests.reliability.faults import FAULTS, Faults, install
from tests.reliability.jobs import JOBS, Job
from tests.reliability.material import make_material, warm_up
from tests.reliability.verdicts import (
    Ended,
    Undisturbed,
    ended_badly,
    half_written,
    left_behind,
    new_output,
    replaced,
    rerun,
    taken,
    tidies,
)

LIMIT = 20.0  # seconds for one command, on a machine that does nothing else


def run(words: Sequence[str], sandbox: Path, faults: Faults) -> tuple[Ended, list[tuple[str, str]]]:
    """Run a command in a fork of this process, in the sandbox; how it ended, and its events."""
    with tempfile.TemporaryDirectory() as place:
        said = [Path(place, name) for name in ("out", "err", "events")]
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _command(words, sandbox, faults, *said)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [file.read_text(errors="surrogateescape") if file.exists() else "" for file in said]
    events = [tuple(event) for event in json.loads(texts[2] or "[]")]
    return Ended(status, texts[0], texts[1]), events  # type: ignore[return-value]


def _command(words: Sequence[str], sandbox: Path, faults: Faults, out: Path, err: Path, events: Path) -> None:
    """As the interpreter runs `python -m lptool`; never returns."""
    status = 1
    try:
        for file, descriptor in ((out, 1), (err, 2)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(sandbox)
        from lptool.cli import main

        install(faults)
        main(list(words))
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        faults.held = True
        sys.stdout.flush()
        sys.stderr.flush()
        events.write_text(json.dumps(faults.seen))
        os._exit(status)


@cache
def undisturbed(name: str, material: Path) -> Undisturbed:
    """Run a job twice with nothing in its way."""
    job, found = JOBS[name], list[tuple[dict[str, bytes], dict[str, bytes], list[tuple[str, str]]]]()
    for _ in range(2):
        with sandbox_of(job, material) as sandbox:
            before = contents(sandbox)
            ended, events = run(job.words, sandbox, Faults(str(sandbox)))
            assert ended.status == 0, f"{name}: {ended}"
            found.append((before, contents(sandbox), events))
    (before, after, events), (_, again, _) = found
    assert after.keys() == again.keys(), after.keys() ^ again.keys()
    timed = {name for name in after if name.endswith((".html", "trace.json", "train.jsonl"))}  # may round to the same
    return Undisturbed(before, after, frozenset(timed | {n for n in after if after[n] != again[n]}), events)


@cache
def swapped(name: str, material: Path) -> dict[str, bytes]:
    """What the job leaves where its input was the other one from the start."""
    job = JOBS[name]
    with sandbox_of(job, material) as sandbox:
        _put(sandbox / INPUT, (sandbox / OTHER).read_bytes())
        run(job.words, sandbox, Faults(str(sandbox)))
        return contents(sandbox)


@contextmanager
def sandbox_of(job: Job, material: Path) -> Iterator[Path]:
    """A fresh folder for a job, always under the same name for one process, as headers may hold names of files."""
    place = Path(os.path.realpath(tempfile.gettempdir()), f"lptool-faults-{os.getpid()}")
    before = _before(job, material)  # which uses the same place
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(material, place)
    try:
        for name, content in before.items():
            _put(place / name, content)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@cache
def _before(job: Job, material: Path) -> dict[str, bytes]:
    """What the commands before a job leave."""
    if not job.before:
        return {}
    with sandbox_of(Job(job.words), material) as sandbox:
        for words in job.before:
            ended, _ = run(words, sandbox, Faults(str(sandbox)))
            assert ended.status == 0, f"{words}: {ended}"
        return contents(sandbox)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name; a folder without any ends in a slash."""
    found = {}
    for place, _, files in os.walk(folder):
        for file in files:
            found[os.path.relpath(os.path.join(place, file), folder)] = Path(place, file).read_bytes()
    return found


@dataclass(frozen=True)
class Task:
    """One fault at one event of one job."""

    job: str
    fault: str
    event: int

    def __str__(self) -> str:
        return f"--job {self.job!r} --fault {self.fault} --event {self.event}"


def tasks_of(job: str, material: Path, faults: Sequence[str] = tuple(FAULTS)) -> Iterator[Task]:
    """Every event that each fault can meet."""
    normal = undisturbed(job, material)
    kinds, trains = [kind for kind, _ in normal.events], "train" in job
    idle = {"cut", "replace"} if trains else set()
    idle |= {"appear"} if "--overwrite" in JOBS[job].words or new_output(normal) is None else set()
    for fault in (fault for fault in faults if fault not in idle):
        yield from (Task(job, fault, number) for number in range(sum(kind in FAULTS[fault] for kind in kinds)))


INPUT, OTHER = "in/run/level_02.safetensors", "in/run/level_00.safetensors"  # of all jobs but those that train


def _deed(fault: str, sandbox: Path, normal: Undisturbed) -> Callable[[], object]:
    """What somebody else does to files at the event."""
    if fault == "cut":
        return lambda: os.truncate(sandbox / INPUT, 100)
    if fault == "replace":
        return lambda: _put(sandbox / INPUT, normal.before[OTHER])
    return lambda: _put_if_new(sandbox / (new_output(normal) or ""), b"mine", _marker(sandbox))


def _put(file: Path, content: bytes) -> None:
    """As most programs do: beside it, and renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.parent / "beside"
    beside.write_bytes(content)
    beside.rename(file)


def _put_if_new(file: Path, content: bytes, marker: Path) -> None:
    if not file.exists():
        _put(file, content)
        marker.touch()


def _marker(sandbox: Path) -> Path:
    return sandbox.with_suffix(".put")


_reruns: dict[tuple[str, str], list[str]] = {}  # by job and digest of all files: what the second run comes to


def problems_of(task: Task, material: Path, *, shown: bool = False) -> list[str]:
    """What is not as promised after one fault, and after the same command once more."""
    job, normal = JOBS[task.job], undisturbed(task.job, material)
    with sandbox_of(job, material) as sandbox:
        _marker(sandbox).unlink(missing_ok=True)
        faults = Faults(str(sandbox), task.fault, task.event, deed=_deed(task.fault, sandbox, normal))
        ended, _ = run(job.words, sandbox, faults)
        found = contents(sandbox)
        put = _marker(sandbox).exists()
        met = [event for event in normal.events if event[0] in FAULTS[task.fault]][task.event]
        if shown:
            print(f"at {met}\n{ended}\nthen {sorted(found)}")
        problems = ended_badly(task.fault, ended)
        if task.fault == "appear" and put:
            problems += taken(normal, ended, found)
        elif task.fault == "replace":
            problems += replaced(normal, swapped(task.job, material), ended, found)
        else:
            if task.fault == "cut":
                _put(sandbox / INPUT, normal.before[INPUT])
                found[INPUT] = normal.before[INPUT]
            problems += half_written(normal, found)
            problems += [f"right after it there is {n}" for n in left_behind(normal, found) if tidies(task.fault, met)]
            key = task.job, _digest(found)
            if key not in _reruns:
                again, _ = run(job.words, sandbox, Faults(str(sandbox)))
                last = contents(sandbox)
                _reruns[key] = rerun(job, normal, found, again, last)
                if shown:
                    print(f"then {again}\nthen {sorted(last)}")
            problems += _reruns[key]
    return [f"at {' '.join(met)}: {problem}" for problem in problems]


def _digest(files: dict[str, bytes]) -> str:
    parts = [(name, hashlib.sha256(content).hexdigest()) for name, content in sorted(files.items())]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _one(given: tuple[Task, Path]) -> tuple[Task, list[str], float]:
    started = time.perf_counter()
    try:
        problems = problems_of(*given)
    except Exception:
        problems = [f"the harness failed: {traceback.format_exc()}"]
    return given[0], problems, time.perf_counter() - started


def main() -> None:
    global LIMIT
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=JOBS, action="append")
    parser.add_argument("--fault", choices=FAULTS, action="append")
    parser.add_argument("--event", type=int)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=float, default=LIMIT, help="Seconds for a command where others keep the cores.")
    parser.add_argument("--json", type=Path, help="Write what was found there.")
    given = parser.parse_args()
    LIMIT = given.limit
    warm_up()
    with tempfile.TemporaryDirectory() as place:
        material = make_material(Path(place, "material"))
        if given.event is not None:
            task = Task(given.job[0], given.fault[0], given.event)
            print(*problems_of(task, material, shown=True), sep="\n")
            return
        tasks = [t for job in given.job or JOBS for t in tasks_of(job, material, given.fault or tuple(FAULTS))]
        tasks = sorted(random.Random(given.seed).sample(tasks, -(-len(tasks) // given.every)), key=tasks.index)
        with multiprocessing.get_context("fork").Pool(given.workers) as workers:
            results = workers.imap_unordered(_one, [(task, material) for task in tasks])
            document = summed_up(results, len(tasks))
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n")
    raise SystemExit(bool(document["failed"]))


def summed_up(results: Iterator[tuple[Task, list[str], float]], count: int) -> dict[str, object]:
    """Prints every failure as it comes, with the command that repeats it; then the numbers."""
    started, done, failed = time.perf_counter(), Counter[str](), []
    for task, problems, _ in results:
        done[task.fault] += 1
        if problems:
            failed.append({**asdict(task), "problems": problems})
            print(f"python -m tests.reliability.injection {task}", *problems, sep="\n  ", flush=True)
    document = {
        "jobs": len(JOBS),
        "events": dict(done),
        "failed": failed,
        "seconds": round(time.perf_counter() - started),
    }
    print(f"{count} events of {len(JOBS)} commands in {document['seconds']} s, {len(failed)} failed")
    return document


if __name__ == "__main__":
    main()
