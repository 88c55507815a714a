"""A search that is cut off goes on where it was: each score is kept once, whole or not at all, of one search only."""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lptool.cli import main
from lptool.errors import OutputError
from lptool.pooling.job import pool_target
from lptool.pooling.journal import Journal, alone_with, check_journal, journal_of
from lptool.pooling.outcome import OnProgress, Progress
from lptool.pooling.outputs import outputs_of
from lptool.pooling.result import PoolResult
from lptool.pooling.scorer import Scorer
from lptool.pooling.setup import Bench, PoolOptions, open_bench
from lptool.scoring.score import Score

FINGERPRINT: dict[str, Any] = {"tickets": ["a" * 64, "b" * 64], "alphas": [0.5, 0.9], "seed": 0, "batch_size": None}
SCORES = [Score(3, 1.25, 5, True, "s0"), Score(1, 1 / 3, 4, False, "s1+bn"), Score(5, 5e-324, 5, True, "s2+bn")]


def opened(path: Path, *, batch_size: int = 64, overwrite: bool = False, **changed: Any) -> Journal:
    return Journal.open(path, {**FINGERPRINT, **changed}, batch_size, overwrite=overwrite)


def written(path: Path) -> bytes:
    """A journal of all SCORES at `path`; its bytes."""
    journal = opened(path)
    for place, score in enumerate(SCORES):
        journal.add({"candidate": place, "alpha": 0.5}, score)
    return path.read_bytes()


def parts(score: Score) -> tuple[object, ...]:
    """All of a score: its state too, and a nll that is not finite as one word."""
    nll = score.nll if math.isfinite(score.nll) else "not finite"
    return score.correct, nll, score.n, score.complete, score.state


def known(journal: Journal) -> list[tuple[object, ...]]:
    assert list(journal.known) == [score.state for score in journal.known.values()]
    return [parts(score) for score in journal.known.values()]


def strict(line: bytes) -> dict[str, Any]:
    """A line as JSON has it, which has no word for NaN."""
    found: dict[str, Any] = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    return found


def test_the_journal_lies_beside_the_output() -> None:
    assert journal_of(Path("runs/b.safetensors")) == Path("runs/b.safetensors.search.jsonl")


def test_scores_come_back_as_they_were(tmp_path: Path) -> None:
    written(tmp_path / "j")
    assert known(opened(tmp_path / "j")) == [parts(score) for score in SCORES]


@pytest.mark.parametrize("nll", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_comes_back_so(tmp_path: Path, nll: float) -> None:
    score = Score(0, nll, 5, True, "s")
    opened(tmp_path / "j").add({}, score)
    assert [strict(line)["nll"] for line in (tmp_path / "j").read_bytes().splitlines()[1:]] == [None]
    again = opened(tmp_path / "j")
    assert known(again) == [parts(score)]
    before = (tmp_path / "j").read_bytes()
    again.add({}, again.known["s"])
    assert (tmp_path / "j").read_bytes() == before


def test_a_line_for_each_score_and_none_for_a_known_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "j"
    journal = opened(path)
    for place, score in enumerate(SCORES):
        before = path.read_bytes()
        journal.add({"candidate": place, "alpha": 0.5}, score)
        after = path.read_bytes()
        assert after.startswith(before)
        line = strict(after[len(before) :])
        assert (line["candidate"], line["alpha"]) == (place, 0.5)
        assert (line["correct"], line["n"], line["complete"], line["state"]) == (
            score.correct,
            score.n,
            score.complete,
            score.state,
        )
        for same in (journal, opened(path)):
            same.add({"candidate": 7, "alpha": 0.9}, score)
            assert path.read_bytes() == after
    assert len(path.read_bytes().splitlines()) == 1 + len(SCORES)


def test_the_last_score_of_a_state_counts(tmp_path: Path) -> None:
    """One that stopped early may have to be scored to the end later, where the bar is lower."""
    early, whole = Score(1, 2.0, 3, False, "s"), Score(3, 1.0, 5, True, "s")
    journal = opened(tmp_path / "j")
    journal.add({}, early)
    journal.add({}, whole)
    assert len((tmp_path / "j").read_bytes().splitlines()) == 3
    assert known(opened(tmp_path / "j")) == [parts(whole)]


def test_the_first_batch_size_stays(tmp_path: Path) -> None:
    before = written(tmp_path / "j")
    for batch_size in (32, 512):
        assert opened(tmp_path / "j", batch_size=batch_size).batch_size == 64
    assert (tmp_path / "j").read_bytes() == before


def test_a_last_line_cut_off_anywhere_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "j"
    whole = written(path)
    for end in range(whole.rindex(b"\n", 0, -1) + 1, len(whole)):
        path.write_bytes(whole[:end])
        journal = opened(path)
        assert known(journal) == [parts(score) for score in SCORES[:-1]]
        journal.add({"candidate": 2, "alpha": 0.5}, SCORES[-1])
        assert path.read_bytes() == whole


def test_a_first_line_cut_off_anywhere_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "j"
    opened(path, batch_size=32)
    fresh = path.read_bytes()
    opened(tmp_path / "other")
    first = (tmp_path / "other").read_bytes()
    for end in range(len(first)):
        path.write_bytes(first[:end])
        journal = opened(path, batch_size=32)
        assert (journal.batch_size, journal.known) == (32, {})
        assert path.read_bytes() == fresh


def test_another_search_is_refused_by_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "j"
    before = written(path)
    for overwrite in (False, True):
        opened(path, overwrite=overwrite)
        assert path.read_bytes() == before  # the same search: nothing to overwrite
    with pytest.raises(OutputError, match="is the journal of another search") as error:
        opened(path, tickets=["a" * 64, "c" * 64], seed=1, added=[2])
    said = str(error.value)
    assert said.startswith(f"{path}: ")
    assert "(it differs in tickets: …, now …, seed: 0, now 1, added: null, now [2])" in said
    assert "--overwrite" in said
    assert path.read_bytes() == before


def test_a_key_that_is_no_more_differs_too(tmp_path: Path) -> None:
    opened(tmp_path / "j", gone="x").add({}, SCORES[0])
    with pytest.raises(OutputError, match=r'\(it differs in gone: "x", now null\)'):
        opened(tmp_path / "j")


def test_a_journal_without_a_score_is_no_obstacle_for_another_search(tmp_path: Path) -> None:
    opened(tmp_path / "j", gone="x")
    opened(tmp_path / "fresh")
    opened(tmp_path / "j").add({}, SCORES[0])
    opened(tmp_path / "fresh").add({}, SCORES[0])
    assert (tmp_path / "j").read_bytes() == (tmp_path / "fresh").read_bytes()
    with pytest.raises(OutputError, match="is the journal of another search"):
        opened(tmp_path / "j", gone="x")


def test_overwrite_begins_anew_where_the_search_is_another(tmp_path: Path) -> None:
    written(tmp_path / "j")
    journal = opened(tmp_path / "j", batch_size=32, overwrite=True, seed=1)
    assert (journal.batch_size, journal.known) == (32, {})
    opened(tmp_path / "fresh", batch_size=32, seed=1)
    assert (tmp_path / "j").read_bytes() == (tmp_path / "fresh").read_bytes()


def test_it_remembers_the_threads_that_it_was_begun_with(tmp_path: Path) -> None:
    for begun in (2, None):
        path = tmp_path / f"{begun}"
        assert Journal.open(path, FINGERPRINT, 64, begun, overwrite=False).threads == begun
        assert Journal.open(path, FINGERPRINT, 64, 3, overwrite=False).threads == begun
        assert Journal.open(path, {"seed": 1}, 64, 3, overwrite=True).threads == 3


def test_a_journal_that_says_no_threads_is_gone_on_with(tmp_path: Path) -> None:
    """As those of before."""
    (tmp_path / "j").write_bytes(lines(HEAD, SCORE))
    journal = opened(tmp_path / "j")
    assert (journal.threads, list(journal.known)) == (None, ["s"])


HEAD = {"lptool_search": 3, "batch_size": 64, "fingerprint": FINGERPRINT}
SCORE = {"candidate": 1, "alpha": 0.5, "correct": 3, "nll": 1.0, "n": 5, "complete": True, "state": "s"}


def lines(*records: object) -> bytes:
    """Each record as a line of JSON; a text is a line as it is."""
    return "".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in records).encode()


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != key}


DAMAGED = {
    "text": lines("my notes"),
    "text without a line's end": b"my notes",
    "JSON without a line's end": b'{"precious": 1}',
    "binary": bytes(range(256)),
    "binary without a line's end": bytes(range(128, 256)),
    "an empty line": lines(HEAD, "", SCORE),
    "half a line amid": lines(HEAD, '{"candidate": 1, "al', SCORE),
    "zeros after a crash": lines(HEAD, SCORE, "\0" * 50),
    "nested too deep": lines(HEAD, "[" * 100_000),
    "a number of 5000 digits": lines(HEAD, "9" * 5000),
    "first a score": lines(SCORE, HEAD),
    "the head twice": lines(HEAD, HEAD),
    "another format": lines({**HEAD, "lptool_search": 2}),
    "no format": lines(without(HEAD, "lptool_search")),
    "no fingerprint": lines(without(HEAD, "fingerprint")),
    "no batch size": lines(without(HEAD, "batch_size")),
    "a score outside the images": lines(HEAD, {**SCORE, "correct": 6}),
    "a score below nothing": lines(HEAD, {**SCORE, "correct": -1}),
    "no image": lines(HEAD, {**SCORE, "correct": 0, "n": 0}),
    "infinitely many right": lines(HEAD, {**SCORE, "correct": math.inf}),
    "NaN right": lines(HEAD, {**SCORE, "correct": math.nan}),
    "nll too large for a float": lines(HEAD, {**SCORE, "nll": 10**400}),
    "nll in words": lines(HEAD, {**SCORE, "nll": "low"}),
    "nll as text": lines(HEAD, {**SCORE, "nll": "0.5"}),
    **{f"nll {nll}": lines(HEAD, {**SCORE, "nll": nll}) for nll in (math.nan, math.inf, -0.5, True)},
    **{f"scaled nll {nll}": lines(HEAD, {**SCORE, "scaled_nll": nll}) for nll in (math.nan, -0.5, True, "1")},
    "half a picture right": lines(HEAD, {**SCORE, "correct": 2.5}),
    "a true number of pictures": lines(HEAD, {**SCORE, "correct": 1, "n": True}),
    "other numbers of images": lines(HEAD, SCORE, {**SCORE, "n": 6, "state": "t"}),
    "more images than there are": lines(HEAD, SCORE, {**SCORE, "n": 6, "state": "t", "complete": False}),
    **{f"first {value!r}": lines(value) for value in (5, None, [1], {}, True)},
    **{f"then {value!r}": lines(HEAD, value) for value in (5, None, [1], {}, True)},
    **{f"fingerprint {value!r}": lines({**HEAD, "fingerprint": value}) for value in (None, 5, [1], "text")},
    **{f"batch size {value!r}": lines({**HEAD, "batch_size": value}) for value in (None, 0, -3, 1.5, "64")},
    **{f"threads {value!r}": lines({**HEAD, "threads": value}) for value in (0, -3, 1.5, "2", True)},
    **{f"a score without {key}": lines(HEAD, without(SCORE, key)) for key in ("correct", "nll", "n", "complete")},
    "a score without state": lines(HEAD, without(SCORE, "state")),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_journal_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "j"
    path.write_bytes(DAMAGED[damage])
    for use in (opened, lambda path: check_journal(path, FINGERPRINT, overwrite=False)):
        with pytest.raises(OutputError) as error:
            use(path)
        said = str(error.value)
        assert said.startswith(f"{path}: ")
        assert "--overwrite" in said
        assert said.isprintable()  # so it is one line
        assert len(said) < len(str(path)) + 400
        assert path.read_bytes() == DAMAGED[damage]


@pytest.mark.parametrize("damage", DAMAGED)
def test_overwrite_replaces_a_damaged_journal(tmp_path: Path, damage: str) -> None:
    (tmp_path / "j").write_bytes(DAMAGED[damage])
    assert opened(tmp_path / "j", batch_size=32, overwrite=True).known == {}
    opened(tmp_path / "fresh", batch_size=32)
    assert (tmp_path / "j").read_bytes() == (tmp_path / "fresh").read_bytes()


def test_a_check_changes_nothing(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole")
    contents = {"whole": whole, "cut": whole[:-9], "first": whole[:20], "other": lines(HEAD), "bad": b"\n5\n"}
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))
        for overwrite in (False, True):
            with contextlib.suppress(OutputError):
                check_journal(path, {**FINGERPRINT, "seed": int(name == "other")}, overwrite=overwrite)
            assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, 10**18)
    assert check_journal(tmp_path / "no" / "folder" / "j", FINGERPRINT, overwrite=False) is None
    assert {path.name for path in tmp_path.iterdir()} == set(contents)


@pytest.mark.parametrize("damage", ["half a line amid", "zeros after a crash", "then 5", "nll nan"])
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "j").write_bytes(DAMAGED[damage])
    number = 3 if damage == "zeros after a crash" else 2
    with pytest.raises(OutputError, match=f"line {number}"):
        opened(tmp_path / "j")


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(lines(HEAD, SCORE) + b'{"state": "\xff"}\n')
    with pytest.raises(OutputError, match=r"j: is not a sound search journal \(line 3: .*utf-8"):
        opened(tmp_path / "j")


@pytest.mark.parametrize("kind", ["link", "link to nowhere", "hard link", "pipe"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_written_through_a_link(tmp_path: Path, kind: str, overwrite: bool) -> None:
    precious, path = tmp_path / "precious", tmp_path / "j"
    precious.write_text("precious")
    {
        "link": lambda: path.symlink_to(precious),
        "link to nowhere": lambda: path.symlink_to(tmp_path / "nowhere"),
        "hard link": lambda: path.hardlink_to(precious),
        "pipe": lambda: os.mkfifo(path),
    }[kind]()
    before = sorted(os.listdir(tmp_path))
    for use in (lambda: opened(path, overwrite=overwrite), lambda: alone_with(path).__enter__()):
        with pytest.raises(OutputError, match="j: expected a file of its own, found a link, pipe or device"):
            use()
    assert precious.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == before


def test_one_search_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "j"
    with alone_with(path):
        with pytest.raises(OutputError, match="j: another command is searching for this output"), alone_with(path):
            pass
        opened(path)
    before = path.read_bytes()
    with alone_with(path):
        pass
    assert path.read_bytes() == before
    with alone_with(tmp_path / "empty"):
        pass
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_in_its_place(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "j" / "kept").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"j: cannot be read \(Is a directory\)"):
        opened(tmp_path / "j", overwrite=overwrite)
    assert (tmp_path / "j" / "kept").is_dir()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_parent_that_is_a_file(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputError, match=r"file/j: cannot be written"):
        opened(tmp_path / "file" / "j", overwrite=overwrite)
    assert (tmp_path / "file").read_text() == "precious"


@contextlib.contextmanager
def write_protected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside `folder`, which nobody may write to nor what is in it; root, who may, is nobody meanwhile."""
    monkeypatch.chdir(folder)
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_write_protected_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool) -> None:
    """Whether it is to be begun, gone on with, or begun anew."""
    before = written(tmp_path / "there")
    with write_protected(tmp_path, monkeypatch):
        for name, seed in (("new", 0), ("there", 0), ("there", int(overwrite))):
            with pytest.raises(OutputError, match=rf"{name}: cannot be written \(Permission denied\)"):
                opened(Path(name), overwrite=overwrite, seed=seed)
    assert (tmp_path / "there").read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_disk() -> None:
    journal = Journal(Path("/dev/full"), 64, {})
    with pytest.raises(OutputError, match=r"/dev/full: cannot be written \(No space left on device\); free some space"):
        journal.add({}, SCORES[0])


# From here on, real searches: six mixes into level 2, which accept one of them.

OPTIONS = PoolOptions(
    method="greedy", alphas=(0.5, 0.9), calibration_size=64, precision="fp32", batch_size=64, device="cpu"
)
PLACE, MIXES, SCORINGS = 2, 6, 8  # the target is scored twice: as it is, and recalibrated


@dataclass(frozen=True)
class Run:
    """A search that was not interrupted: what it wrote."""

    result: PoolResult
    output: bytes
    journal: bytes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tickets: list[Path]) -> Run:
    output = tmp_path_factory.mktemp("whole") / "a.safetensors"
    result = pool_target(open_bench(tickets, OPTIONS), PLACE, output)
    return Run(result, output.read_bytes(), journal_of(output).read_bytes())


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every scoring that is computed."""
    scorings: list[int] = []
    real = Scorer._mark

    def mark(self: Scorer, allowed: int) -> object:
        scorings.append(allowed)
        return real(self, allowed)

    monkeypatch.setattr(Scorer, "_mark", mark)
    return scorings


def run(tickets: list[Path], output: Path, **kwargs: Any) -> tuple[PoolResult, Bench]:
    """A search in a process that knows nothing of those before."""
    bench = open_bench(tickets, kwargs.pop("options", OPTIONS))
    return pool_target(bench, PLACE, output, **kwargs), bench


def interrupt_after(scorings: int) -> OnProgress:
    seen: list[object] = []

    def follow(progress: Progress) -> None:
        seen.extend(progress.scored)
        if len(seen) >= scorings:
            raise KeyboardInterrupt

    return follow


def scored(journal: bytes) -> list[tuple[object, object]]:
    """Candidate and state of each score in a journal, in order."""
    return [(line["candidate"], line["state"]) for line in map(strict, journal.splitlines()[1:])]


def same_as(whole: Run, result: PoolResult) -> bool:
    """Whether a run came to the same file by the same decisions, and noted each scoring once."""
    decided = [[(s.candidate, s.alpha, s.accepted) for s in r.trace.steps] for r in (result, whole.result)]
    assert decided[0] == decided[1]
    assert scored(journal_of(result.output).read_bytes()) == scored(whole.journal)
    return result.output.read_bytes() == whole.output and result.sha256 == whole.result.sha256


def test_the_journal_of_a_search_holds_each_scoring_once(whole: Run) -> None:
    places = [None, None] + [step.candidate for step in whole.result.trace.steps for _ in step.attempts]
    found = scored(whole.journal)
    assert [level for level, _ in found] == places  # here a ticket's place is its level
    assert len({state for _, state in found}) == len(found) == whole.result.trace.evaluations == SCORINGS


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_a_search_goes_on_where_it_was_interrupted(
    tmp_path: Path, tickets: list[Path], whole: Run, marked: list[int], k: int
) -> None:
    output = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(tickets, output, on_progress=interrupt_after(k))
    assert list(tmp_path.iterdir()) == [journal_of(output)]
    assert scored(journal_of(output).read_bytes()) == scored(whole.journal)[:k]
    assert len(marked) == k
    result, bench = run(tickets, output)
    assert len(marked) == SCORINGS
    assert bench.scorer.images["calibration"] == 64 * (SCORINGS - k)
    assert same_as(whole, result)


@pytest.mark.parametrize("k", [2, 4])
def test_a_search_by_likelihood_goes_on_by_it(tmp_path: Path, tickets: list[Path], marked: list[int], k: int) -> None:
    options = replace(OPTIONS, select="nll", passes=2)
    whole, _ = run(tickets, tmp_path / "whole", options=options)
    scorings = len(marked)
    with pytest.raises(KeyboardInterrupt):
        run(tickets, tmp_path / "a", options=options, on_progress=interrupt_after(k))
    result, _ = run(tickets, tmp_path / "a", options=options)
    assert len(marked) == 2 * scorings
    assert result.sha256 == whole.sha256
    noted = [(tmp_path / f"{name}.search.jsonl").read_bytes() for name in ("a", "whole")]
    assert scored(noted[0]) == scored(noted[1])


def test_a_search_may_be_interrupted_again_and_again(
    tmp_path: Path, tickets: list[Path], whole: Run, marked: list[int]
) -> None:
    output = tmp_path / "a.safetensors"
    for k in (2, 3, 6):
        with pytest.raises(KeyboardInterrupt):
            run(tickets, output, on_progress=interrupt_after(k))
        assert len(marked) == k
    result, _ = run(tickets, output)
    assert len(marked) == SCORINGS
    assert same_as(whole, result)


@pytest.mark.parametrize(("left", "cut"), [(SCORINGS - 1, 0.99), (4, 0.5), (0, 0.01)])
def test_a_search_goes_on_from_a_journal_that_was_cut(
    tmp_path: Path, tickets: list[Path], whole: Run, marked: list[int], left: int, cut: float
) -> None:
    """After `left` scores, and a part of the line of the next."""
    output = tmp_path / "a.safetensors"
    kept = whole.journal.splitlines(keepends=True)
    following = kept[1 + left]
    journal_of(output).write_bytes(b"".join(kept[: 1 + left]) + following[: round(cut * len(following))])
    result, _ = run(tickets, output)
    assert len(marked) == SCORINGS - left
    assert same_as(whole, result)


def test_a_finished_search_scores_nothing_again(
    tmp_path: Path, tickets: list[Path], whole: Run, marked: list[int]
) -> None:
    output = tmp_path / "a.safetensors"
    output.write_bytes(whole.output)
    journal_of(output).write_bytes(whole.journal)
    result, bench = run(tickets, output, overwrite=True)
    assert (bench.scorer.images, marked) == ({"val": 0, "calibration": 0}, [])
    assert same_as(whole, result)
    assert journal_of(output).read_bytes() == whole.journal


def test_other_options_are_another_search(tmp_path: Path, tickets: list[Path], whole: Run, marked: list[int]) -> None:
    output, other = tmp_path / "a.safetensors", replace(OPTIONS, calibration_size=32)
    journal_of(output).write_bytes(whole.journal)
    bench = open_bench(tickets, other)
    for refused in (
        lambda: outputs_of(bench, [PLACE], output, overwrite=False),
        lambda: pool_target(bench, PLACE, output),
    ):
        with pytest.raises(OutputError, match=r"another search \(it differs in calibration_size: 64, now 32\)"):
            refused()
    assert outputs_of(bench, [PLACE], output, overwrite=True) == [output]
    assert (marked, journal_of(output).read_bytes()) == ([], whole.journal)
    result, _ = run(tickets, output, options=other, overwrite=True)
    assert len(marked) == SCORINGS
    elsewhere, _ = run(tickets, tmp_path / "b.safetensors", options=other)
    assert result.sha256 == elsewhere.sha256 != whole.result.sha256
    assert journal_of(output).read_bytes() == journal_of(elsewhere.output).read_bytes()


@pytest.mark.parametrize(
    "changed",
    [
        {"alphas": (0.5,)},
        {"method": "average"},
        {"seed": 1},
        {"bn_images": "plain"},
        {"bn_images": "none"},
        {"flip": "yes"},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_whatever_a_score_depends_on_makes_another_search(
    tmp_path: Path, tickets: list[Path], whole: Run, changed: dict[str, Any]
) -> None:
    output = tmp_path / "a.safetensors"
    journal_of(output).write_bytes(whole.journal)
    with pytest.raises(OutputError, match="is the journal of another search"):
        run(tickets, output, options=replace(OPTIONS, **changed))


@pytest.mark.parametrize(("left_out", "target"), [(0, PLACE), (None, 1)])
def test_other_tickets_or_another_target_make_another_search(
    tmp_path: Path, tickets: list[Path], whole: Run, left_out: int | None, target: int
) -> None:
    output = tmp_path / "a.safetensors"
    journal_of(output).write_bytes(whole.journal)
    bench = open_bench([path for place, path in enumerate(tickets) if place != left_out], OPTIONS)
    with pytest.raises(OutputError, match=rf"\(it differs in t{'arget' if left_out is None else 'ickets'}: …, now …"):
        outputs_of(bench, [target], output, overwrite=False)


def test_a_search_keeps_the_batch_size_it_began_with(
    tmp_path: Path, tickets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measured one differs from day to day, and a score might with it."""
    output, options = tmp_path / "a.safetensors", replace(OPTIONS, batch_size=None)
    sizes: list[int] = []

    def mark(self: Scorer, allowed: int) -> object:
        sizes.append(self.batch_size.images)
        return real(self, allowed)

    real = Scorer._mark
    monkeypatch.setattr(Scorer, "_mark", mark)
    for probed, k in ((48, 3), (96, SCORINGS)):
        monkeypatch.setattr("lptool.pooling.setup.probe", lambda *_, probed=probed: probed)
        with pytest.raises(KeyboardInterrupt):
            run(tickets, output, options=options, on_progress=interrupt_after(k))
    assert sizes == [48] * SCORINGS


@pytest.mark.parametrize(
    ("k", "reached"),
    [(0, "before the first scoring"), (2, f"after 0 of {MIXES} mixes"), (5, f"after 3 of {MIXES} mixes")],
)
def test_ctrl_c_says_how_far_it_came_and_the_same_command_goes_on(
    tmp_path: Path, tickets: list[Path], whole: Run, monkeypatch: pytest.MonkeyPatch, k: int, reached: str
) -> None:
    output = tmp_path / "a.safetensors"
    options = "--target 2 --method greedy --alphas 0.5,0.9 --calibration-size 64 --precision fp32 --batch-size 64"
    command = ["pool", *map(str, tickets), "-o", str(output), *options.split(), "--device", "cpu", "--json"]
    scorings: list[int] = []
    real = Scorer._mark

    def mark(self: Scorer, allowed: int) -> object:
        if len(scorings) == k:
            raise KeyboardInterrupt
        scorings.append(allowed)
        return real(self, allowed)

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "_mark", mark)
        stopped = CliRunner().invoke(main, command)
    assert (stopped.exit_code, stopped.stdout) == (130, "")
    said = [line for line in stopped.stderr.splitlines() if line.strip() and not re.search(r" \d+/[\d?]+(\s|$)", line)]
    assert len(said) == 1, stopped.stderr
    assert said[0].startswith(f"Interrupted {reached} for {output}. ")
    assert str(journal_of(output)) in said[0]
    assert list(tmp_path.iterdir()) == [journal_of(output)]
    finished = CliRunner().invoke(main, command)
    assert finished.exit_code == 0, finished.output
    assert json.loads(finished.stdout)["sha256"] == whole.result.sha256
    assert scored(journal_of(output).read_bytes()) == scored(whole.journal)
