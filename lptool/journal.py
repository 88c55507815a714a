"""The journal of a search: every score, one JSON line each, so that a search that was cut off goes on where it was.

The first line is a fingerprint of all that a score depends on; a journal with another one is of another search.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from lptool.errors import OutputError
from lptool.evaluate import Score

SUFFIX = ".search.jsonl"
FORMAT_VERSION = 1


class Journal:
    """The scores of one search, kept in a file beside its output.

    Attributes:
        known: the score of each state, by its key (see `Scorer.known`).
        batch_size: of val when the search began.
    """

    def __init__(self, path: Path, batch_size: int, known: dict[str, Score]) -> None:
        self.path, self.batch_size, self.known = path, batch_size, known

    @classmethod
    def open(cls, path: Path, fingerprint: dict[str, Any], batch_size: int, *, overwrite: bool) -> Journal:
        """The journal at `path`, gone on with where it is of the same search, begun where there is none.

        Args:
            fingerprint: of JSON values. batch_size: to note where it is begun.
            overwrite: begin anew where there is one of another search, or a damaged one.

        Raises:
            OutputError: there is a journal of another search, it is damaged, or it cannot be written.
        """
        lines = check_journal(path, fingerprint, overwrite=overwrite)
        if lines:
            _cut_off_tail(path)
            known = {str(record["state"]): _score(record) for record in lines[1:]}
            return cls(path, lines[0]["batch_size"], known)
        journal = cls(path, batch_size, {})
        journal._write({"lptool_search": FORMAT_VERSION, "batch_size": batch_size, "fingerprint": fingerprint}, "w")
        return journal

    def add(self, what: dict[str, Any], score: Score) -> None:
        """Append a score, with what was scored, unless it is known already. Raises OutputError."""
        if self.known.get(score.state) == score:
            return
        self.known[score.state] = score
        nll = score.nll if math.isfinite(score.nll) else None
        told = {"correct": score.correct, "nll": nll, "n": score.n, "complete": score.complete, "state": score.state}
        self._write({**what, **told}, "a")

    def _write(self, record: dict[str, Any], mode: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, mode, encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); free some space") from error


def journal_of(output: Path) -> Path:
    """Where the journal of an output lies: `b.safetensors.search.jsonl` beside `b.safetensors`."""
    return output.with_name(output.name + SUFFIX)


def check_journal(path: Path, fingerprint: dict[str, Any], *, overwrite: bool) -> list[dict[str, Any]]:
    """The lines of the journal at `path`, the fingerprint's first; none where a new one is to be begun.

    Raises:
        OutputError: it is damaged or of another search, and `overwrite` does not allow to begin anew.
    """
    try:
        lines = _lines(path)
        then = lines[0]["fingerprint"] if lines else fingerprint
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if overwrite:
            return []
        raise OutputError(f"{path}: is not a sound search journal ({error}); delete it or add --overwrite") from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}); choose another output") from error
    changed = [key for key in {**then, **fingerprint} if then.get(key) != fingerprint.get(key)]
    if changed and not overwrite:
        raise OutputError(
            f"{path}: is the journal of another search (it differs in {_differences(changed, then, fingerprint)}); "
            "choose another output, or add --overwrite to begin anew"
        )
    return [] if changed else lines


def _lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines, checked; a last one without its end was cut off in writing, and does not count."""
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    lines = [json.loads(line) for line in whole.decode().splitlines()]
    if lines and lines[0]["lptool_search"] != FORMAT_VERSION:
        raise ValueError(f"its format is {lines[0]['lptool_search']!r}, expected {FORMAT_VERSION}")
    for record in lines[1:]:
        _score(record)
    return lines


def _cut_off_tail(path: Path) -> None:
    """Leave whole lines only, so that the next one begins a line."""
    with open(path, "r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _score(record: dict[str, Any]) -> Score:
    nll = math.nan if record["nll"] is None else float(record["nll"])
    score = Score(int(record["correct"]), nll, int(record["n"]), bool(record["complete"]), str(record["state"]))
    if not 0 <= score.correct <= score.n or score.n < 1:
        raise ValueError(f"{score.correct} of {score.n} images right")
    return score


def _differences(changed: list[str], then: dict[str, Any], now: dict[str, Any]) -> str:
    def short(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 60 else "…"

    return ", ".join(f"{key}: {short(then.get(key))}, now {short(now.get(key))}" for key in changed)
