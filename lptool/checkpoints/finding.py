"""Which files of folders and globs are tickets, and what lies beside them and is none."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from lptool.checkpoints.drafts import tidy
from lptool.checkpoints.pool import natural
from lptool.errors import CheckpointError, first_ten

MASK_FILE = "mask.pth"  # OpenLTH, beside the weights


def checkpoint_file(path: str | Path) -> Path:
    """The file itself, or the checkpoint of a folder that holds one. Raises CheckpointError where it holds others."""
    if not Path(path).is_dir():
        return Path(path)
    found = find_checkpoints([path])
    if len(found) > 1:
        raise CheckpointError(f"{path}: holds {len(found)} checkpoints, expected one; name the file")
    return found[0]


# Which files of a folder are its tickets, for programs that put others beside them; the first that matches counts.
_TICKETS_OF = (
    re.compile(r"model\.safetensors(\.index\.json)?"),  # Hugging Face layout: one checkpoint, perhaps in shards
    re.compile(r"\d+model_SA_best\.pth\.tar"),  # the published code, beside its checkpoint.pth.tar and rewind weights
    re.compile(r"model_level_\d+\.pt"),  # TurboPrune, beside init, rewind and optimizer
    re.compile(r"model_ep\d+_it\d+\.pth"),  # OpenLTH, beside mask.pth; the last one is the trained ticket
)


# `.bin` is Hugging Face's before safetensors, `.ckpt` Lightning's, `.tar` the end of `.pth.tar`.
_SUFFIXES = {".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar"}

# What words in a name say of a file or folder that is no ticket.
_NO_TICKETS = {
    "training states": {"optimizer", "optimiser", "optim", "optimizers", "scheduler", "scaler", "rng"},
    "starting or rewind weights": {"init", "initial", "initialization", "rewind", "rewound", "rewinding", "pretrain"},
    "masks alone": {"mask", "masks"},
}
_OTHER_STATES = "other states of the same training"
# Words for a state of a training, the one to take first; a name without any comes after `best`.
_STATES = ("best", "", "final", "last", "latest", "current", "recovery", "ema")
_GENERIC = {"model", "checkpoint", "ckpt", "net", "network", "weights", "state", "dict", "params", "acc", "sa", "val"}
_EPOCHS = {"checkpoint", "ckpt", "recovery", "epoch", "ep", "step", "it", "iter", "iteration", "loss", "acc", "val"}


def find_checkpoints(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Expand folders to the tickets in them, at any depth, in natural order, and globs that the shell left alone.

    Args:
        paths: files, folders and globs, or one of them.

    Raises:
        CheckpointError: a path does not exist, or a folder or glob holds no checkpoint.

    >>> import lptool
    >>> Path("run").mkdir()
    >>> for level in (10, 9):
    ...     Path(f"run/level_{level}.pt").touch()
    >>> [path.name for path in lptool.find_checkpoints("run")]
    ['level_9.pt', 'level_10.pt']
    """
    return find_tickets(paths)[0]


def find_tickets(paths: str | Path | Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """As `find_checkpoints`, and a line about what folders hold besides, where they hold more."""
    given = [paths] if isinstance(paths, str | Path) else paths  # a string is a sequence of letters, too
    search = _Search()
    found = [ticket for path in given for ticket in _expanded(Path(path), search)]
    return found, search.left_out()


class _Search:
    """A walk through folders: each is looked into once, whatever links lead to it, and what is no ticket is noted."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._no_tickets: dict[str, list[str]] = {}

    def left_out(self) -> list[str]:
        """One line for all that is no ticket, or none."""
        kinds = [f"{len(names)} of {kind} ({_some(names)})" for kind, names in self._no_tickets.items()]
        return [f"left out as no tickets: {', '.join(kinds)}; to take one, name the file"] if kinds else []

    def tickets_in(self, folder: Path) -> list[Path]:
        """The tickets of a folder; where it has none, those of its subfolders. Hidden files are not looked at."""
        place = os.path.realpath(folder)
        if place in self._seen:
            return []
        self._seen.add(place)
        inside = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: natural(p.name))
        files = [p for p in inside if _is_checkpoint(p)]
        for pattern in _TICKETS_OF:
            known = [p for p in files if pattern.fullmatch(p.name)]
            if known:
                # Of Hugging Face the index where there are shards, of OpenLTH the last epoch: one ticket per folder.
                taken = known[-1:] if pattern in (_TICKETS_OF[0], _TICKETS_OF[-1]) else known
                self._pass_over([p for p in files if p not in taken and not _TICKETS_OF[0].match(p.name)])
                return taken
        # Where all names have such a word it says nothing, as `rewind` in the name of a method.
        taken = (
            _one_of_each_training([p for p in files if _kind(p) is None])
            or self._tickets_below([p for p in inside if p.is_dir()])
            or _one_of_each_training([p for p in files if p.name != MASK_FILE])
        )
        self._pass_over([p for p in files if p not in taken])
        return taken

    def _tickets_below(self, folders: Sequence[Path]) -> list[Path]:
        tickets = _one_of_each_training([p for p in folders if _kind(p) is None] or folders)
        self._pass_over([p for p in folders if p not in tickets])
        return [ticket for folder in tickets for ticket in self.tickets_in(folder)]

    def _pass_over(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if path.name != MASK_FILE and (path.is_file() or _holds_checkpoints(path)):
                self._no_tickets.setdefault(_kind(path) or _OTHER_STATES, []).append(path.name + "/" * path.is_dir())


def _is_checkpoint(path: Path) -> bool:
    named = path.suffix in _SUFFIXES or path.name.endswith(".safetensors.index.json")
    return named and path.is_file()


def _holds_checkpoints(folder: Path) -> bool:
    return any(_is_checkpoint(Path(place, name)) for place, _, names in os.walk(folder) for name in names)


def _some(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(names))
    return ", ".join(different[:3]) + ", …" * (len(different) > 3)


def _words(path: Path) -> list[str]:
    """Words and numbers of a name, without its suffixes."""
    stem = re.sub(r"(\.(safetensors|index|json|pt|pth|bin|ckpt|tar))+$", "", path.name.lower())
    return re.findall(r"[a-z]+|\d+", stem)


def _kind(path: Path) -> str | None:
    """What a file or folder is by its name, where that is no ticket."""
    words = set(_words(path)) - _GENERIC - {"level"}
    fits = words.issubset if path.is_dir() else words.intersection  # names of folders are free: `mask-experiment`
    return next((kind for kind, said in _NO_TICKETS.items() if words and fits(said)), None)


def _one_of_each_training(paths: Sequence[Path]) -> list[Path]:
    """Without all but one of the states of each training, where names such as `last` and `best` say that they are such.

    `level_3_best` and `level_3_last` are two states of one training. `best` beside `checkpoint-7` is of the training
    whose epochs those are; beside `level_3` it is a copy of one of the tickets.
    """
    state = {p: next((word for word in _STATES if word in _words(p)), "") for p in paths}
    training = {p: tuple(w for w in _words(p) if w != state[p] and w not in _GENERIC) for p in paths}
    several = {training[p] for p in paths if state[p]}  # trainings of which there may be several states
    unnamed = [p for p in paths if state[p] and not training[p]]
    numbered = [p for p in paths if any(word.isdigit() for word in training[p])]
    if unnamed and numbered:
        extra = numbered if all(map(_is_epoch, numbered)) else unnamed
        paths = [p for p in paths if p not in extra]
    best: dict[tuple[str, ...], Path] = {}
    for path in sorted(paths, key=lambda p: _STATES.index(state[p])):
        best.setdefault(training[path], path)
    return [p for p in paths if training[p] not in several or p == best[training[p]]]


def _is_epoch(path: Path) -> bool:
    """Whether a name is that of an epoch: `checkpoint-7`, `epoch=3-step=99`."""
    words = {word for word in _words(path) if not word.isdigit()}
    return bool(words) and words <= _EPOCHS


def _expanded(path: Path, search: _Search) -> list[Path]:
    if not os.path.exists(path):
        tidy(path)  # a folder that a killed command had moved aside
    try:
        if path.is_dir():
            found = search.tickets_in(path)
        elif path.exists():
            return [path]
        elif glob.has_magic(str(path)):
            found = [Path(p) for p in glob.glob(str(path))]
        else:
            raise CheckpointError(f"{path}: cannot be read (No such file or directory); check the name")
    except OSError as error:  # it, or a folder in it or on the way to it, may not be looked into
        raise CheckpointError(f"{error.filename or path}: cannot be read ({error.strerror})") from error
    if not found:
        nothing = first_ten(search.left_out(), "; ")
        raise CheckpointError(
            f"{path}: no checkpoint in it; expected files such as level_00.safetensors" + f"; {nothing}" * bool(nothing)
        )
    return sorted(found, key=lambda p: natural(str(p)))
