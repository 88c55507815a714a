"""What must hold after a fault, and after the same command once more."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass

from tests.reliability.jobs import Job
from tests.reliability.looks import looks_of


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, or minus a signal, and what it said."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Undisturbed:
    """A job as it should be: what lies in the sandbox before and after, by name, and what happens in between.

    Attributes:
        varying: names of files that differ from run to run, as they say how long it took.
    """

    before: dict[str, bytes]
    after: dict[str, bytes]
    varying: frozenset[str]
    events: list[tuple[str, str]]


def new_output(normal: Undisturbed) -> str | None:
    """A file that was not there before; None where the command replaces what was."""
    new = [n for n in normal.after if n not in normal.before and not n.endswith(".jsonl") and ".resume" not in n]
    return min(new, key=lambda name: not name.endswith(".safetensors"), default=None)


def tidies(fault: str, met: tuple[str, str]) -> bool:
    """Whether a command has to tidy up: it was not killed, and it was not the tidying itself that failed."""
    return fault != "kill" and not (fault != "interrupt" and met[0] in ("unlink", "rmdir", "list", "open"))


def ended_badly(fault: str, ended: Ended) -> list[str]:
    expected = {"kill": (-signal.SIGKILL,), "interrupt": (130,)}.get(fault, (1, 0))
    found = [] if ended.status in expected else [f"ended with {ended.status}, expected {expected[0]}"]
    if fault != "kill":
        found += looks_of(ended.status, ended.stdout, ended.stderr, ())
    return found


def taken(normal: Undisturbed, ended: Ended, found: dict[str, bytes]) -> list[str]:
    """Somebody's file at the output is still there, and the command says so."""
    name = new_output(normal) or ""
    problems = [f"{name}, which somebody put there, is gone"] * (found.get(name) != b"mine")
    return problems + [f"{name} is somebody else's, and it ended with {ended.status}"] * (ended.status != 1)


def replaced(normal: Undisturbed, swapped: dict[str, bytes], ended: Ended, found: dict[str, bytes]) -> list[str]:
    """What is written is all of the one input or all of the other, or an error says that it was changed."""
    known = normal.before.keys() | normal.varying
    made = {name: made for name, made in found.items() if name not in known and not name.endswith(".jsonl")}
    for kind in (normal.after, swapped):
        if all(kind.get(name) == content for name, content in made.items()):
            return []
    return [f"ended with {ended.status}, and {', '.join(made)} are neither of the one input nor of the other"]


def half_written(normal: Undisturbed, found: dict[str, bytes]) -> list[str]:
    """Inputs as they were; what was there as it was or new; what is new whole."""
    problems = []
    for name, content in normal.before.items():
        if name not in found:
            problems.append(f"{name} is gone from its place")
        elif not (content == found[name] or whole(name, found[name], normal)):
            problems.append(f"{name} is neither as it was nor new")
    for name, content in found.items():
        if name in normal.after and name not in normal.before and not whole(name, content, normal):
            problems.append(f"{name} is half-written")
    return problems


def whole(name: str, content: bytes, normal: Undisturbed) -> bool:
    """Whether a file is as the command leaves it, or a journal on the way there, or what is hidden for a rerun."""
    if name not in normal.after:
        return False
    if name.endswith(".jsonl"):
        return (
            name in normal.varying or normal.after[name].startswith(content) or content.startswith(normal.after[name])
        )
    if name not in normal.varying:
        return content == normal.after[name] or ".resume/" in name
    if name.endswith(".json"):
        try:
            json.loads(content)
        except ValueError:
            return False
        return True
    if name.endswith(".html"):
        return content.endswith(b"</html>\n")
    return abs(len(content) - len(normal.after[name])) < 100


def left_behind(normal: Undisturbed, found: dict[str, bytes]) -> list[str]:
    """Files that neither were there nor are made, but for what a run keeps to go on with."""
    known = normal.before.keys() | normal.after.keys()
    return [name for name in found if name not in known and not for_rerun(name)]


def for_rerun(name: str) -> bool:
    return name in ("run/.resume/epoch.safetensors", "run/.resume/options.json", "run/.resume/rewind.safetensors")


def rerun(job: Job, normal: Undisturbed, found: dict[str, bytes], again: Ended, last: dict[str, bytes]) -> list[str]:
    complete = job.refuses and all(name in found for name in normal.after)
    if again.status == 1 and complete and "exists" in again.stderr:
        return [f"after a rerun there is {name}" for name in last if name not in normal.after]
    if again.status != 0:
        return [f"the rerun ended with {again.status}: {again.stderr[-300:]!r}"]
    problems = [f"after a rerun there is {name}" for name in last if name not in normal.after]
    # A run that was complete is not locked again, where the lock was what failed.
    lost = [name for name in normal.after if name not in last and not name.endswith(".resume/lock")]
    problems += [f"after a rerun there is no {name}" for name in lost]
    differing = [n for n in normal.after if n in last and n not in normal.varying and last[n] != normal.after[n]]
    return problems + [f"after a rerun {name} has other bytes" for name in differing]
