"""The journal of a search: every score, one JSON line each, so that a search that was cut off goes on where it was.

The first line is a fingerprint of all that a score depends on; a journal with another one is of another search.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from lptool.checkpoints.files import content_of
from lptool.checkpoints.locks import locked
from lptool.errors import OutputError, first_line
from lptool.scoring.score import Score

SUFFIX = ".search.jsonl"
FORMAT_VERSION = 3  # of version 2, each score had those of two halves of val beside it
_MARK = {"lptool_search": FORMAT_VERSION}  # how every journal begins


class Journal:
    """The scores of one search, kept in a file beside its output.

    Attributes:
        known: the score of each state, by its key (see `Scorer.known`).
        batch_size: of val when the search began.
        threads: of the CPU when the search began; None where sums do not depend on them, or it is not known.
    """

    def __init__(self, path: Path, batch_size: int, known: dict[str, Score], threads: int | None = None) -> None:
        self.path, self.batch_size, self.known, self.threads = path, batch_size, known, threads

    @classmethod
    def open(
        cls, path: Path, fingerprint: dict[str, Any], batch_size: int, threads: int | None = None, *, overwrite: bool
    ) -> Journal:
        """The journal at `path`, gone on with where it is of the same search, begun where there is none.

        Args:
            fingerprint: of JSON values. batch_size, threads: to note where it is begun.
            overwrite: begin anew where there is one of another search, or a damaged one.

        Raises:
            OutputError: there is a journal of another search with scores, it is damaged, or it cannot be written.
        """
        journal = check_journal(path, fingerprint, overwrite=overwrite)
        if journal is None:
            journal = cls(path, batch_size, {}, threads)
            header = {**_MARK, "batch_size": batch_size, "threads": threads, "fingerprint": fingerprint}
            with _writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            journal._write(header, "w")
        else:  # leave whole lines only, so that the next one begins a line
            with _writing(path), open(path, "r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
        return journal

    def add(self, what: dict[str, Any], score: Score) -> None:
        """Append a score, with what was scored, unless it is known already. Raises OutputError."""
        if self.known.get(score.state) == score:
            return
        self.known[score.state] = score
        nll = score.to_json()["nll"]  # null where it is not finite
        counted = {"correct": score.correct, "nll": nll, "n": score.n, "complete": score.complete}
        counted |= {} if score.scaled_nll is None else {"scaled_nll": score.scaled_nll}
        self._write({**what, **counted, "state": score.state}, "a")

    def _write(self, record: dict[str, Any], mode: str) -> None:
        with _writing(self.path), open(self.path, mode, encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); free some space or choose another") from error


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Keep other searches away from the journal at `path`; an empty one is there meanwhile, where there is none.

    Raises:
        OutputError: another process holds it, or it is no plain file.
    """
    with ExitStack() as held:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_plain(path)
            mine = held.enter_context(locked(path, os.O_RDWR | os.O_CREAT))
        if mine is False:
            raise OutputError(f"{path}: another command is searching for this output; wait for it, or choose another")
        try:
            yield
        finally:
            with suppress(OSError):
                if not path.stat().st_size:
                    path.unlink()


def _check_plain(path: Path) -> None:
    """Refuse what would be written through: a link, also a hard one, a pipe, a device. Raises OutputError, OSError."""
    if os.path.lexists(path):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) and (not stat.S_ISREG(found.st_mode) or found.st_nlink > 1):
            raise OutputError(f"{path}: expected a file of its own, found a link, pipe or device; move it away")


def journal_of(output: Path) -> Path:
    """Where the journal of an output lies: `b.safetensors.search.jsonl` beside `b.safetensors`."""
    return output.with_name(output.name + SUFFIX)


def check_journal(path: Path, fingerprint: dict[str, Any], *, overwrite: bool) -> Journal | None:
    """The journal at `path`, read and not changed; None where a new one is to be begun, as where one has no score.

    Raises:
        OutputError: it is damaged or of another search, and `overwrite` does not allow to begin anew.
    """
    try:
        _check_plain(path)
        read = _read(path)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if overwrite:
            return None
        raise OutputError(
            f"{path}: is not a sound search journal ({first_line(error)}); delete it or add --overwrite"
        ) from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}); choose another output") from error
    if read is None:
        return None
    then, journal = read
    changed = [key for key in {**then, **fingerprint} if then.get(key) != fingerprint.get(key)]
    if not changed:
        return journal
    if overwrite or not journal.known:  # without a score there is nothing to lose
        return None
    raise OutputError(
        f"{path}: is the journal of another search (it differs in {_differences(changed, then, fingerprint)}); "
        "choose another output, or add --overwrite to begin anew"
    )


def _read(path: Path) -> tuple[dict[str, Any], Journal] | None:
    """Fingerprint and journal, checked; None where there is none, or none but the beginning of a first line.

    A last line without its end was cut off in writing, and does not count.
    """
    if not path.exists():
        return None
    content = content_of(path)
    whole, end, tail = content.rpartition(b"\n")
    if not end:
        begun = json.dumps(_MARK)[:-1].encode()  # without the brace: a whole first line has more keys
        if not tail.startswith(begun[: len(tail)]):
            raise ValueError("its first line is none of lptool's")
        return None
    header, *records = [_document(number, line) for number, line in enumerate(whole.split(b"\n"), start=1)]
    if header["lptool_search"] != FORMAT_VERSION:
        raise ValueError(f"its format is {header['lptool_search']!r}, expected {FORMAT_VERSION}")
    fingerprint, batch_size = header["fingerprint"], header["batch_size"]
    threads = header.get("threads")  # journals had none at first
    counts = [batch_size] if threads is None else [batch_size, threads]
    if type(fingerprint) is not dict or any(type(count) is not int or count < 1 for count in counts):
        raise ValueError("its first line has values of the wrong type")
    scores = [_score(number, record) for number, record in enumerate(records, start=2)]
    images = {score.n for score in scores if score.complete}  # of val
    if images and {max(images)} != images | {max(score.n for score in scores)}:
        raise ValueError("its scores are of different numbers of images")
    return fingerprint, Journal(path, batch_size, {score.state: score for score in scores}, threads)


def _document(line: int, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {line}: {first_line(error)}") from error
    if type(document) is not dict:
        raise ValueError(f"line {line} is no JSON object")
    return document


def _score(line: int, record: dict[str, Any]) -> Score:
    keys = ("correct", "nll", "n", "complete", "state")
    if not record.keys() >= set(keys):
        raise ValueError(f"line {line} is not a score")
    correct, nll, n, complete, state = (record[key] for key in keys)
    counted = type(correct) is type(n) is int and 0 <= correct <= n and n > 0
    scaled = record.get("scaled_nll")
    if not (counted and type(complete) is bool and type(state) is str and _is_nll(nll) and _is_nll(scaled)):
        raise ValueError(f"line {line} is not a score")
    return Score(correct, math.nan if nll is None else float(nll), n, complete, state, scaled)


def _is_nll(value: object) -> bool:
    """Null stands for one that is not finite."""
    return value is None or (type(value) in (int, float) and 0 <= value < math.inf)  # type: ignore[operator]


def _differences(changed: list[str], then: dict[str, Any], now: dict[str, Any]) -> str:
    def short(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 60 else "…"

    return ", ".join(f"{key}: {short(then.get(key))}, now {short(now.get(key))}" for key in changed)
