"""What an IMP run leaves on disk: tickets, a journal, and what a rerun needs to go on to the bit."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lptool.checkpoints.drafts import tidy
from lptool.checkpoints.files import content_of, reading
from lptool.checkpoints.locks import locked
from lptool.checkpoints.masks import sparsity
from lptool.checkpoints.places import try_writing, write_atomically
from lptool.checkpoints.reading import load_ticket, metadata_of
from lptool.checkpoints.safetensors_file import SafetensorsFile
from lptool.checkpoints.writing import write_tensors
from lptool.errors import LeftBehind, OutputError, TrainError, first_line, first_ten

Record = dict[str, Any]  # one line of train.jsonl, with these and others:
_NUMBERS = ("level", "epoch", "sparsity", "train_accuracy", "val_accuracy", "val_nll", "seconds", "images_per_second")
_ODD_JSON = (OSError, ValueError, LookupError, TypeError, RecursionError)  # what reading a document of ours may raise
_NEAR = 0.005  # by how much the sparsity of a ticket may differ from what was asked, as weights are whole


@dataclass
class Progress:
    """Where a level stands after `epoch` epochs of the schedule.

    Attributes:
        model: weights and buffers. optimizer: what it remembers (see `lptool.training.steps.optimizer_state`).
        best, best_correct: the state most accurate on val so far, and its images right; empty with `--keep last`.
    """

    epoch: int
    model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_correct: int = -1


class RunFolder:
    """One folder, one run. All but the tickets and the journal is hidden, so that `DIR/*` are the tickets.

    Attributes:
        journal: one JSON record per epoch.
        rewind: the weights that later levels go back to.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.journal = path, path / "train.jsonl"
        self.rewind = path / ".resume" / "rewind.safetensors"
        self._epoch, self._options = path / ".resume" / "epoch.safetensors", path / ".resume" / "options.json"

    def level(self, level: int) -> Path:
        """The ticket of a level."""
        return self.path / f"level_{level:02d}.safetensors"

    def claim(
        self, options: Mapping[str, Any], sparsities: list[float] | None = None, threads: int | None = None
    ) -> None:
        """Remember what this run is, with the sparsity after each pruning where they were asked for.

        There may be more of them from one call to the next, and other `threads`: those it was begun with are kept.

        Raises:
            TrainError: the folder was begun as another run.
        """
        begun = self.check(options, sparsities)
        if begun is None or len(sparsities or ()) > len(begun.get("sparsities") or ()):  # begun, or made longer
            self.check_writable()
            threads = begun.get("threads") if begun else threads
            document = {**options, "sparsities": sparsities} | ({"threads": threads} if threads else {})
            text = json.dumps(document, indent=1)
            write_atomically(self._options, lambda file: file.write_text(text, encoding="utf-8"))
        half_written = [self.path / p.name[1:].rpartition(".")[0] for p in self.path.glob(".level_*.safetensors.*")]
        for own in (self.journal, self.rewind, self._epoch, self._options, *half_written):
            tidy(own)  # what a kill left in the middle of a write

    def check(self, options: Mapping[str, Any], sparsities: list[float] | None = None) -> dict[str, Any] | None:
        """As `claim`, but nothing is written: what the folder was begun as; None where no run has begun."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(
                f"{self.path}: is a file, expected a folder; move it away, or choose another (lptool train -o DIR)"
            )
        if self.journal.is_symlink():
            raise OutputError(f"{self.journal}: is a link, which is not written through; move it away")
        tickets = sorted(p for p in self.path.glob("level_*.safetensors") if re.fullmatch(r"level_\d\d+", p.stem))
        if not self._options.exists():
            if tickets:
                names = first_ten([ticket.name for ticket in tickets], ", ")
                raise TrainError(
                    f"{self.path}: holds tickets of which no run is known; choose another folder "
                    f"(lptool train -o DIR), or move {names} away"
                )
            return None
        begun = self._begun()
        differing = [f"{k}: {begun.get(k)} there, {v} now" for k, v in options.items() if begun.get(k) != v]
        if not _one_goes_on(begun.get("sparsities"), sparsities):
            differing.append(f"sparsities: {begun.get('sparsities')} there, {sparsities} now")
        if differing:
            raise TrainError(
                f"{self.path}: holds a run with other options ({'; '.join(differing)}); choose another folder "
                "(lptool train -o DIR)"
            )
        for ticket in tickets:
            _check_ticket(ticket, options, sparsities)
        return begun

    def has(self, level: int, options: Mapping[str, Any], sparsities: list[float] | None) -> bool:
        """Whether the ticket of a level is there, whole as it is then.

        Raises:
            TrainError, CheckpointError: there is one that is not of this run: it came to be meanwhile.
        """
        ticket = self.level(level)
        if not os.path.lexists(ticket):
            return False
        _check_ticket(ticket, options, sparsities)
        return True

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other commands from training into this folder. Raises OutputError where one does."""
        lock = self.path / ".resume" / "lock"  # which stays, and is nobody's once its process has ended
        with ExitStack() as held:
            mine: bool | None = None
            with suppress(OSError):  # of a folder that takes no file: told where one has to be written
                lock.parent.mkdir(parents=True, exist_ok=True)
                mine = held.enter_context(locked(lock, os.O_RDWR | os.O_CREAT))
            if mine is False:
                raise OutputError(
                    f"{self.path}: another command is training into it; wait for it, or choose another folder "
                    "(lptool train -o DIR)"
                )
            yield

    def check_writable(self) -> Path:
        """The folder, or the nearest above it that is there, tried. Raises OutputError where it takes no file."""
        place = self.path.absolute()
        try:
            return try_writing((place, *place.parents))
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error.strerror}); choose another folder (lptool train -o DIR)"
            ) from error

    @property
    def threads(self) -> int | None:
        """Of the CPU, with which the run was begun; None where that is not known. `check` tells what is damaged."""
        try:
            threads = json.loads(content_of(self._options))["threads"]
        except _ODD_JSON:
            return None
        return threads if type(threads) is int and threads > 0 else None

    def planned(self) -> tuple[float, ...]:
        """The sparsities that the run was begun for; none where it was not, or levels were counted."""
        try:
            return tuple(map(float, json.loads(content_of(self._options))["sparsities"] or ()))
        except _ODD_JSON:
            return ()

    def _begun(self) -> dict[str, Any]:
        try:
            begun = json.loads(content_of(self._options))
            if not isinstance(begun, dict) or not isinstance(begun.get("sparsities"), list | None):
                raise TypeError("expected the options of a run")
        except _ODD_JSON as error:
            raise TrainError(f"{self._options}: damaged ({first_line(error)}); train into a new folder") from error
        return begun

    def save_rewind(self, state: Mapping[str, Tensor]) -> None:
        """Keep the weights to go back to."""
        write_tensors(state, {"format": "pt"}, self.rewind)

    def load_rewind(self) -> dict[str, Tensor]:
        """The weights to go back to. Raises TrainError where they are gone."""
        if not self.rewind.exists():
            raise TrainError(f"{self.rewind}: missing, and later levels rewind to it; train into a new folder")
        return dict(SafetensorsFile(self.rewind).items())

    def check_progress(self, progress: Progress, network: Mapping[str, Tensor]) -> None:
        """Raises TrainError where a state to go on from has not the very tensors of the network."""
        states = [state for state in (progress.model, progress.best) if state]
        *found, expected = ({n: (t.shape, t.dtype) for n, t in tensors.items()} for tensors in (*states, network))
        odd = [n for state in found for n in {**expected, **state} if state.get(n) != expected.get(n)]
        if odd or not found:
            raise TrainError(
                f"{self.path}: what it goes on from has {first_ten(odd, ', ')} otherwise than the network, in name, "
                "shape or type; train into a new folder"
            )

    def save_progress(self, level: int, progress: Progress) -> None:
        """Keep everything the next epoch depends on."""
        groups = {"model": progress.model, "optimizer": progress.optimizer, "best": progress.best}
        tensors = {f"{group}/{name}": t for group, named in groups.items() for name, t in named.items()}
        header = {"level": level, "epoch": progress.epoch, "best_correct": progress.best_correct}
        write_tensors(tensors, {"lptool-resume": json.dumps(header)}, self._epoch)

    def load_progress(self, level: int) -> Progress | None:
        """The progress of a level, or None where it has not finished an epoch."""
        if not self._epoch.exists():
            return None
        file = SafetensorsFile(self._epoch)
        with reading(self._epoch, "record of an epoch"):
            header = json.loads(file.header["lptool-resume"])
            if header["level"] != level:  # of the level before: it stays until this one has finished an epoch
                return None
            progress = Progress(int(header["epoch"]), best_correct=int(header["best_correct"]))
            groups = {"model": progress.model, "optimizer": progress.optimizer, "best": progress.best}
            for key, tensor in file.items():
                group, _, name = key.partition("/")
                groups[group][name] = tensor
        return progress

    @property
    def unfinished(self) -> bool:
        """Whether a run was cut off here."""
        return self._epoch.exists()

    def finish(self) -> None:
        """Drop what only an unfinished level needs; failing twice is a warning, as all tickets are there."""
        with suppress(OSError):  # else the run would go on being called unfinished
            self._epoch.unlink(missing_ok=True)
        try:
            self._epoch.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"{self._epoch}: cannot be removed ({error.strerror}); delete it", LeftBehind, stacklevel=2)

    def append(self, record: Record) -> None:
        """Add an epoch to the journal."""
        try:
            with open(self.journal, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise OutputError(f"{self.journal}: cannot be written ({error.strerror}); free some space") from error

    def records(self) -> list[Record]:
        """The records of the journal; a line that was cut off is none. Raises TrainError where one is damaged."""
        try:
            lines = content_of(self.journal).split(b"\n")[:-1]  # a kill in the middle of a write leaves a last one
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TrainError(f"{self.journal}: cannot be read ({error.strerror}); move it away to go on") from error
        return [self._record(number, line) for number, line in enumerate(lines, start=1)]

    def _record(self, number: int, line: bytes) -> Record:
        try:
            record = json.loads(line)
            for key in _NUMBERS:
                if type(record[key]) not in (int, float):
                    raise TypeError(f"expected a number as {key}")
        except _ODD_JSON as error:
            raise TrainError(
                f"{self.journal}: a line is damaged (line {number}: {first_line(error)}); move the file away to go on"
            ) from error
        return dict(record)

    def forget_after(self, level: int, epoch: int) -> None:
        """Drop the records of a level's epochs that will be trained again, and a line that was cut off."""
        if not self.journal.exists():
            return
        kept = [record for record in self.records() if record["level"] != level or record["epoch"] < epoch]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.journal, lambda file: file.write_text(text, encoding="utf-8"))


def _check_ticket(file: Path, options: Mapping[str, Any], sparsities: list[float] | None) -> None:
    """Refuse a ticket that is not of the run with these options. Raises TrainError, CheckpointError."""
    metadata, level = metadata_of(file), int(file.stem.removeprefix("level_"))
    said = {**metadata.train, **{f"data {key}": value for key, value in metadata.dataset.items()}}
    # Whether the number of processes matters was checked of the folder.
    ours = {key: value for key, value in options.items() if key != "processes"}
    differing = [f"{k}: {said.get(k)} there, {v} now" for k, v in ours.items() if said.get(k) != v]
    if (metadata.kind, metadata.level) != ("ticket", level):
        differing.append(f"{metadata.kind} of level {metadata.level}")
    asked = sparsities[level - 1] if sparsities and 0 < level <= len(sparsities) else None
    if asked is not None and not differing and abs((found := sparsity(load_ticket(file).mask)) - asked) > _NEAR:
        differing.append(f"sparsity: {found:.4f} there, {asked} now")
    if differing:
        raise TrainError(
            f"{file}: is no ticket of this run ({'; '.join(differing)}); move it away, or choose another folder "
            "(lptool train -o DIR)"
        )


def _one_goes_on(begun: list[float] | None, asked: list[float] | None) -> bool:
    """Whether the sparsities of two calls are those of one run: the longer list begins as the shorter."""
    if begun is None or asked is None:
        return begun is asked  # two lists or none: `--levels` counts prunings at one rate, and may count more
    return all(a == b for a, b in zip(begun, asked, strict=False))
