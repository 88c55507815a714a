"""What `pool --json` and `evaluate --json` said of one model beside another on test: a `Gain` for each such pair.

Documents may be of an older lptool and lack what is not needed for a gain: then that is None. torch is not imported.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lptool.checkpoints.header import CONTROL, ROWS
from lptool.errors import DocumentError
from lptool.provenance import arch_name, base_name, data_name
from lptool.report.documents import WANTED, Part, is_number, read_document
from lptool.report.settings import Setting

Document = dict[str, Any]

CONTROLS = {row: name for row, name in ROWS.items() if row != "pooled"}
# The control of the higher standing on val: more images right, of equals the one with the lower NLL, then the ticket;
# only the NLL counts where the search chose by it.
BETTER = "better"
OLDER = "bn_images used"  # among the options of a document that does not say all of them


@dataclass(frozen=True)
class Pair:
    """Images that only one of two models gets right; `n` were looked at."""

    a_only: int
    b_only: int
    n: int


@dataclass(frozen=True)
class Gain:
    """A model beside another on the test images of one run.

    Attributes:
        file: the document that says so.
        pooled: whether it is of `pool`, whose models are compared with their controls; else of `evaluate`.
        dataset, arch, setting: None where the document does not say.
        method: of the model; of `evaluate` what it is. options: that shaped it, beside the method.
        against: `ticket`, `ticket_bn` or `better`; of `evaluate` what the other file is.
        control: which of the two controls is meant.
        level: of the target. density: of the model, in [0, 1].
        accuracy, base: on test, of the model and of the other.
        pair: None where the document does not say. n: test images.
        run: what tells this run from its repetitions. model: what tells this model from others of its run.
        tickets: digests of the pool's files; of `evaluate` those of both models, with the files of the pools that they
            come from. None where the document does not say.
    """

    file: str
    pooled: bool
    dataset: str | None
    arch: str | None
    setting: Setting | None
    method: str
    options: str
    against: str
    control: str
    level: int | None
    density: float
    accuracy: float
    base: float
    pair: Pair | None
    n: int
    run: str
    model: str
    tickets: frozenset[str] = frozenset()

    @property
    def points(self) -> float:
        """The gain, as a fraction of the test images."""
        return self.accuracy - self.base


def gains_in(files: Sequence[Path]) -> list[Gain]:
    """What all documents say, in their order.

    Raises:
        DocumentError: one cannot be read, is not of these commands, or has nothing to compare.
    """
    return [gain for file in files for gain in _gains_of(read_document(file), str(file))]


def _gains_of(document: Any, file: str) -> Iterator[Gain]:
    if isinstance(document, dict) and "targets" in document:
        targets = Part(document, file).list("targets")
        if not targets:
            raise DocumentError(f"{file}: 'targets' is [], expected a pooled model or more; {WANTED}")
        for target in targets:
            yield from _of_target(Part(target, file))
    elif isinstance(document, dict) and {"target", "test"} <= document.keys():
        yield from _of_target(Part(document, file))
    elif isinstance(document, dict) and {"files", "comparisons"} <= document.keys():
        yield from _of_files(Part(document, file))
    else:
        keys = ", ".join(list(document)[:5]) if isinstance(document, dict) else type(document).__name__
        raise DocumentError(f"{file}: holds no scores of these commands; {WANTED}, found {keys or 'nothing'}")


def _of_target(run: Part) -> Iterator[Gain]:
    """A pooled model beside each control that was scored, and beside the better one."""
    test, target = run.within("test"), run.within("target")
    pooled, n = test.within("pooled").fraction("accuracy"), test.within("pooled").count("n", 1)
    tickets = run.optional("tickets", lambda found: isinstance(found, list), "a list")
    pairs = _pairs(run)
    controls = [control for control in CONTROLS if control == "ticket" or test.has(control)]
    better = max(controls, key=lambda control: _standing(run.within("val").within(control), _select(run)))
    for against, control in [*((control, control) for control in controls), (BETTER, better)]:
        yield Gain(
            file=run.file,
            pooled=True,
            dataset=run.name("dataset", data_name),
            arch=run.name("arch", arch_name),
            setting=Setting.of(run),
            method=run.text("method"),
            options=_options(run),
            against=against,
            control=control,
            level=target.level(),
            density=1 - run.fraction("sparsity"),
            accuracy=pooled,
            base=test.within(control).fraction("accuracy"),
            pair=pairs.get(control),
            n=n,
            run=_digest(tickets) if tickets else run.file,
            model=run.name("sha256") or _digest(run.part),
            tickets=frozenset(map(str, tickets or ())),
        )


def _standing(score: Part, select: str | None) -> tuple[float, float]:
    """As `Choice.standing` of the search orders them."""
    accuracy, nll = score.fraction("accuracy"), score.optional("nll", is_number, "a number")
    if nll is None:  # not finite
        return -math.inf, -math.inf
    return -float(nll) if select == "nll" else accuracy, -float(nll)


def _select(run: Part) -> str | None:
    return run.name("select") or (run.within("options").name("select") if run.has("options") else None)


def _pairs(run: Part) -> dict[str, Pair]:
    """Control → the images that only the pooled model or only the control gets right."""
    compared = run.list("comparisons") if run.has("comparisons") else []
    pairs = [Part(each, run.file, "comparisons.") for each in compared]
    return {pair.text("b"): Pair(pair.count("a_only"), pair.count("b_only"), pair.count("n", 1)) for pair in pairs}


def _options(run: Part) -> str:
    """As JSON; an older document says few of them, and of `bn_images` what was used and not what was asked for."""
    if run.has("options"):
        return json.dumps(run.within("options").part, sort_keys=True)
    older = {"select": run.part.get("select"), "passes": run.part.get("passes"), OLDER: run.part.get("bn_images")}
    return json.dumps(older, sort_keys=True)


def _of_files(document: Part) -> Iterator[Gain]:
    """Every two files that were compared."""
    files = {file.text("file"): file for file in (Part(f, document.file, "files.") for f in document.list("files"))}
    names = _names(files)

    def order(file: Part) -> tuple[Any, ...]:
        """The pooled, no control, the sparser first; of equals by what they are, whichever was named first."""
        return *_rank(file), names[file.text("file")], file.text("sha256")

    if not document.list("comparisons"):
        raise DocumentError(f"{document.file}: compares nothing; evaluate two files or more in one command")
    for each in document.list("comparisons"):
        pair = Part(each, document.file, "comparisons.")
        a, b = (_known(files, pair, key) for key in ("a", "b"))
        won, lost = pair.count("a_only"), pair.count("b_only")
        if order(b) > order(a):  # in one order in all documents
            a, b, won, lost = b, a, lost, won
        name, other = _told_apart(names[a.text("file")], names[b.text("file")])
        yield Gain(
            file=document.file,
            pooled=False,
            dataset=document.name("dataset", data_name),
            arch=a.name("arch", arch_name),
            setting=Setting.of_both(a, b),
            method=name,
            options="{}",
            against=other,
            control=other,
            level=a.level(),
            density=1 - a.fraction("sparsity"),
            accuracy=a.within("test").fraction("accuracy"),
            base=b.within("test").fraction("accuracy"),
            pair=Pair(won, lost, document.count("n", 1)),
            n=document.count("n", 1),
            run=document.file,
            model=_digest(sorted([a.text("sha256"), b.text("sha256")])),
            tickets=_tickets(a) | _tickets(b),
        )


def _known(files: dict[str, Part], pair: Part, key: str) -> Part:
    if pair.text(key) not in files:
        raise DocumentError(f"{pair.file}: compares {pair.text(key)!r}, which is not among its files")
    return files[pair.text(key)]


def _rank(file: Part) -> tuple[bool, bool, int]:
    return file.text("kind") == "pooled", file.name("method") != CONTROL, file.level() or 0


def _tickets(file: Part) -> frozenset[str]:
    """Digests of the file and of the pool that it comes from, as far as it says so."""
    return frozenset([file.text("sha256"), *(file.texts("tickets") if file.has("tickets") else ())])


def _names(files: dict[str, Part]) -> dict[str, tuple[str, str]]:
    """Of each file what it is, and its level: its own name where that is not of one file alone."""
    said = {n: (_kind(file), "" if file.level() is None else f" level {file.level()}") for n, file in files.items()}
    often, short = Counter(said.values()), Counter(map(base_name, files))
    return {
        name: found if often[found] == 1 else (base_name(name) if short[base_name(name)] == 1 else name, "")
        for name, found in said.items()
    }


def _kind(file: Part) -> str:
    """The method of a pooled model, which of the two a control is, or `ticket`."""
    kind, shipped = file.name("method") or file.text("kind"), file.name("shipped")
    return f"{kind} ({CONTROLS[shipped]})" if kind == CONTROL and shipped in CONTROLS else kind


def _told_apart(a: tuple[str, str], b: tuple[str, str]) -> tuple[str, str]:
    """Without the level where both have the same."""
    return (a[0], b[0]) if a[1] == b[1] else ("".join(a), "".join(b))


def _digest(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
