"""Two processes come to what one comes to. Ranks are threads here where that will do, else real processes."""

import atexit
import contextlib
import io
import json
import math
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import distributed

from lptool.checkpoints.reading import file_sha256
from lptool.cli import main, output
from lptool.device import usable_cores
from lptool.errors import DataError, LptoolError, PeerError, PoolError, RankError
from lptool.pooling.journal import journal_of
from lptool.pooling.scorer import Scorer
from lptool.ranks import ALONE, Ranks, join_ranks
from lptool.scoring.batching import BatchSize
from lptool.scoring.batchnorm import average_in_order
from lptool.scoring.score import Graded
from tests.helpers import processes
from tests.helpers.processes import LIMIT, Child, begin, on_two_ranks

THREADS_OF_TWO = max(1, usable_cores() // 2)
PLAIN = ["--method", "greedy", "--calibration-size", "64", "--precision", "fp32", "--device", "cpu", "--json"]
PLAIN += ["--threads", str(THREADS_OF_TWO)]  # else each command would measure how many are fast
BARE = [*PLAIN, "--alphas", "0.5,0.9", "--dataset", "digits", "--val-fraction", "0.25"]
FEW, FULL = ([*PLAIN, "--alphas", alphas] for alphas in ("0.5,0.9", "0.1,0.3,0.5,0.7,0.9"))


# One process alone.


def test_alone_all_tasks_run_in_their_order() -> None:
    ran: list[int] = []

    def task(key: int) -> str:
        ran.append(key)
        return f"result {key}"

    found = ALONE.share({key: lambda key=key: task(key) for key in (5, 0, 3)})  # type: ignore[misc]
    assert list(found.items()) == [(5, "result 5"), (0, "result 0"), (3, "result 3")]
    assert ran == [5, 0, 3]
    assert ALONE.share({}) == {}


@pytest.mark.parametrize("value", [None, False, 0, "", [1]])
def test_alone_results_come_back(value: object) -> None:
    assert ALONE.agree(lambda: value) is value
    assert ALONE.share({4: lambda: value})[4] is value


@pytest.mark.parametrize(
    "error", [DataError("no images"), PoolError("no pool"), ValueError("a bug"), KeyboardInterrupt()]
)
def test_alone_errors_pass_as_they_are(error: BaseException) -> None:
    ran: list[int] = []

    def fail() -> int:
        raise error

    for run in (lambda: ALONE.agree(fail), lambda: ALONE.share({0: fail, 1: lambda: ran.append(1)})):
        with pytest.raises(type(error)) as raised:
            run()
        assert raised.value is error
    assert ran == []


@pytest.fixture
def threads() -> Iterator[None]:
    """Torch's number of threads, as it was before the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")  # other programs set this too
    torch.set_num_threads(3)
    assert join_ranks() is ALONE
    assert torch.get_num_threads() == 3
    assert not distributed.is_initialized()


@pytest.mark.parametrize(("local", "expected"), [(1, usable_cores()), (10_000, 1)])
def test_one_process_of_torchrun_needs_no_others(
    monkeypatch: pytest.MonkeyPatch, threads: None, local: int, expected: int
) -> None:
    environment = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": str(local)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert join_ranks() == ALONE
    assert torch.get_num_threads() == expected
    assert not distributed.is_initialized()


def test_ranks_that_do_not_find_each_other_are_one_clear_error(monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    """As where torchrun was killed before they did."""
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)

    def fail(*_: object, **__: object) -> None:
        raise distributed.DistNetworkError("connection refused\nC++ frames")

    monkeypatch.setattr(distributed, "init_process_group", fail)
    with pytest.raises(RankError, match=r"do not find each other \(connection refused\)$"):
        join_ranks()


# Ranks that are threads: `all_gather_object` is a table they meet at.


class Meeting:
    """What `torch.distributed` is to processes, for threads whose names are their ranks."""

    def __init__(self, count: int) -> None:
        self.count, self._told = count, [b""] * count
        self._barrier = threading.Barrier(count, timeout=LIMIT)

    def all_gather_object(self, found: list[Any], value: object) -> None:
        self._told[int(threading.current_thread().name)] = pickle.dumps(value)
        self._barrier.wait()
        found[:] = [pickle.loads(told) for told in self._told]
        self._barrier.wait()

    def run(self, program: Callable[[Ranks], Any]) -> list[Any]:
        """What the program returns or raises on each rank. One that ends with an exception leaves the others."""

        def run(rank: int) -> Any:
            threading.current_thread().name = str(rank)
            try:
                return program(Ranks(rank, self.count))
            except Exception as error:
                self._barrier.abort()
                return error

        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(run, range(self.count)))


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Meeting]:
    def of(count: int) -> Meeting:
        made = Meeting(count)
        monkeypatch.setattr(distributed, "all_gather_object", made.all_gather_object)
        return made

    return of


def attempt(task: Callable[[], Any]) -> Any:
    """What a task returns, or the kind and text of its error."""
    try:
        return task()
    except LptoolError as error:
        return [type(error).__name__, str(error)]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_within_two_agreements_the_rank_that_fails_still_says_why(
    meeting: Callable[[int], Meeting], failing: int
) -> None:
    """As where choosing the target, on which ranks agree, shares scorings, on which they agree too."""

    def program(ranks: Ranks) -> Any:
        def task() -> int:
            if ranks.rank == failing:
                raise DataError("no images")
            return 1

        return attempt(lambda: ranks.agree(lambda: ranks.share(dict.fromkeys(range(3), task))))

    told = meeting(3).run(program)
    assert told.pop(failing) == ["DataError", "no images"]
    assert [kind for kind, _ in told] == ["PeerError"] * 2


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("keys", [(), (0,), (1,), (0, 1, 2, 3, 4, 5, 6), (6, 2, 9, 0)])
def test_every_rank_gets_every_result_in_order(
    meeting: Callable[[int], Meeting], count: int, keys: tuple[int, ...]
) -> None:
    def program(ranks: Ranks) -> list[Any]:
        return list(ranks.share({key: lambda key=key: (key, ranks.rank) for key in keys}).items())

    assert meeting(count).run(program) == [[(key, (key, key % count)) for key in keys]] * count


@pytest.mark.parametrize("failing", [{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 1, 2}], ids=str)
@pytest.mark.parametrize("how", ["share", "agree"])
def test_the_first_rank_to_fail_says_why(meeting: Callable[[int], Meeting], failing: set[int], how: str) -> None:
    """And all go on in step, once each has dealt with the failure."""

    def program(ranks: Ranks) -> list[Any]:
        def task() -> int:
            if ranks.rank in failing:
                raise DataError(f"no image on {ranks.rank}")
            return ranks.rank

        run = {"share": lambda: ranks.share(dict.fromkeys(range(7), task)), "agree": lambda: ranks.agree(task)}[how]
        return [attempt(run), ranks.agree(lambda: ranks.rank), ranks.share({2: lambda: "still in step"})]

    first = min(failing)
    said = [["PeerError", f"rank {first} gave up"] for _ in range(3)]
    said[first] = ["DataError", f"no image on {first}"]
    assert meeting(3).run(program) == [[said[rank], rank, {2: "still in step"}] for rank in range(3)]


def test_agree_gives_each_rank_its_own_result(meeting: Callable[[int], Meeting]) -> None:
    assert meeting(3).run(lambda ranks: ranks.agree(lambda: [ranks.rank])) == [[0], [1], [2]]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_what_batches_come_to_is_the_same_to_the_bit_whoever_has_them(
    meeting: Callable[[int], Meeting], count: int
) -> None:
    """Statistics of any size, whose float sums depend on their order; more of them than are gathered at once."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(5, generator=generator, dtype=torch.float64) * 10 ** (k % 9) for k in range(37)]
    graded = [
        Graded.of(torch.randn(k % 4 + 1, 7, generator=generator), torch.zeros(k % 4 + 1, dtype=torch.int64))
        for k in range(37)
    ]
    expected = batches[0]
    for batch in batches[1:]:
        expected = expected + batch

    def program(ranks: Ranks) -> tuple[Any, Any]:
        mine = slice(ranks.rank, None, ranks.count)
        return average_in_order(batches[mine], ranks), Graded.gathered(graded[mine], ranks)

    for average, found in meeting(count).run(program):
        assert torch.equal(average, expected / 37)
        assert torch.equal(found.loss, torch.cat([one.loss for one in graded]))
        assert found.score == Graded.joined(graded).score


def test_no_image_on_any_rank_is_refused_on_all(meeting: Callable[[int], Meeting]) -> None:
    told = meeting(2).run(
        lambda ranks: [attempt(lambda: average_in_order([], ranks)), attempt(lambda: Graded.gathered([], ranks))]
    )
    assert [[kind for kind, _ in rank] for rank in told] == [["DataError", "DataError"]] * 2


def test_where_memory_runs_out_on_one_rank_all_halve(meeting: Callable[[int], Meeting]) -> None:
    def program(ranks: Ranks) -> list[int]:
        tried: list[int] = []

        def run(size: int) -> int:
            tried.append(size)
            if ranks.rank == 1 and size > 16:
                raise RuntimeError("out of memory")
            return size

        return [BatchSize(64).fit(run, ranks), *tried]

    assert meeting(3).run(program) == [[16, 64, 32, 16]] * 3


def test_a_rank_that_ends_is_an_error_on_the_others(meeting: Callable[[int], Meeting]) -> None:
    """A bug, unlike an error of ours, is told to nobody: its rank ends with it."""

    def program(ranks: Ranks) -> object:
        return ranks.share({0: lambda: 1, 1: lambda: 1 // 0, 2: lambda: 1})

    found = meeting(3).run(program)
    assert [type(error) for error in found] == [RankError, ZeroDivisionError, RankError]
    assert "another process of this run has ended; run the same command again to resume" in str(found[0])
    assert not isinstance(found[0], PeerError)


# Ranks that are processes, two of them.


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("Error:")]


def one_process(run: Path, out: Path, *options: str) -> dict[str, Any]:
    """What `pool --json` says in one process with as many threads as each of two ranks has."""
    before = torch.get_num_threads()
    try:
        result = CliRunner().invoke(main, ["pool", str(run), "-o", str(out), *options])
    finally:
        torch.set_num_threads(before)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def scored(output: Path) -> dict[str, Any]:
    """Each score in the journal of an output, by its state; fails where one is there twice."""
    records = [json.loads(line) for line in journal_of(output).read_text().splitlines()[1:]]
    found = {record["state"]: record for record in records}
    assert len(found) == len(records)
    return found


@pytest.fixture(scope="module")
def run(tickets: list[Path]) -> Path:
    """The folder of the tickets."""
    return tickets[0].parent


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, run: Path) -> dict[str, Any]:
    """The oracle: the full search in one process."""
    return one_process(run, tmp_path_factory.mktemp("alone") / "a.safetensors", *FULL)


def same_as(alone: dict[str, Any], document: dict[str, Any]) -> bool:
    """Whether two `pool --json` of one search tell of the same file, by the same decisions and scorings."""
    own = ("output", "seconds", "command", "search")  # how far a mix that was cut short came depends on its rank
    told, expected = ({k: v for k, v in d.items() if k not in own} for d in (document, alone))
    assert told == expected
    outputs = [Path(d["output"]) for d in (document, alone)]
    journals = [scored(output) for output in outputs]
    assert len(journals[0]) == document["evaluations"]
    assert set(journals[0]) == set(journals[1])
    for state, record in journals[0].items():
        other = journals[1][state]
        if record["complete"] and other["complete"]:
            assert record == other
    return file_sha256(outputs[0]) == str(alone["sha256"])


def test_under_torchrun_two_processes_write_the_file_that_one_writes(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "out"
    done = begin(tmp_path / "said", processes.torchrun, "lptool", "pool", run, "-o", out / "a.safetensors", *FEW)
    assert done.end() == 0, done.stderr
    assert same_as(one_process(run, tmp_path / "alone.safetensors", *FEW), json.loads(done.stdout))
    assert (errors(done.stderr), done.stderr.count("incumbent")) == ([], 1)  # one progress bar
    assert {path.name for path in out.iterdir()} == {"a.safetensors", "a.safetensors.search.jsonl"}


@dataclass(frozen=True)
class Death:
    """A full search of which the last rank died: its output, how the ranks ended, and what there was then."""

    output: Path
    ranks: list[Child]
    files: list[Path]
    journal: str


@pytest.fixture(scope="module")
def death(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Death:
    output, said = tmp_path_factory.mktemp("death") / "a.safetensors", tmp_path_factory.mktemp("said")
    ranks = on_two_ranks(said / "rank", dying, "pool", run, "-o", output, *FULL)
    return Death(output, ranks, list(output.parent.iterdir()), journal_of(output).read_text())


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory, run: Path, alone: dict[str, Any], death: Death
) -> list[dict[str, Any]]:
    """What each of two ranks saw in one run of `checks`."""
    folder = tmp_path_factory.mktemp("together")
    half = journal_of(Path(alone["output"])).read_text().splitlines(keepends=True)[:9]
    journal_of(folder / "half.safetensors").write_text("".join(half))
    bare_tickets(run, folder / "bare")
    for rank in on_two_ranks(folder / "rank", checks, run, folder, death.output):
        assert rank.end() == 0, rank.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_a_process_that_dies_ends_the_run(death: Death, alone: dict[str, Any]) -> None:
    left, died = death.ranks
    assert (left.end(), died.end()) == (1, 9)
    assert (left.stdout, died.stdout) == ("", "")
    said = errors(left.stderr)
    assert len(said) == 1
    assert "another process of this run has ended; run the same command again" in said[0]
    assert "Traceback" not in left.stderr
    assert death.files == [journal_of(death.output)]
    assert 1 + 2 + 5 < death.journal.count("\n") < 1 + alone["evaluations"]  # it died after the first candidate


def test_after_a_death_the_same_command_goes_on(
    death: Death, seen: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    again = [rank["after death"] for rank in seen]
    assert [command["exit"] for command in again] == [0, 0]
    assert same_as(alone, json.loads(again[0]["stdout"]))
    assert journal_of(death.output).read_text().startswith(death.journal)
    known = death.journal.count("\n") - 1
    assert sum(rank["computed after death"] for rank in seen) == alone["evaluations"] - known


def test_processes_find_each_other(seen: list[dict[str, Any]]) -> None:
    assert [rank["self"] for rank in seen] == [[0, 2], [1, 2]]
    assert [rank["threads"] for rank in seen] == [THREADS_OF_TWO] * 2


def test_processes_part_before_they_exit(seen: list[dict[str, Any]]) -> None:
    """Else gloo's threads outlive the interpreter, which now and then aborts a process that had done its work.

    See https://github.com/pytorch/pytorch/pull/179291.
    """
    assert [rank["connected at exit"] for rank in seen] == [False, False]


def test_processes_share_and_agree(seen: list[dict[str, Any]]) -> None:
    assert [rank["shared"] for rank in seen] == [[[7, [7, 1]], [2, [2, 0]], [0, [0, 0]], [5, [5, 1]]]] * 2
    assert [rank["nothing"] for rank in seen] == [{}, {}]
    assert [rank["agreed"] for rank in seen] == [0, 1]


@pytest.mark.parametrize("how", ["share", "agree"])
def test_where_a_process_fails_it_says_why_and_the_others_stop(seen: list[dict[str, Any]], how: str) -> None:
    own, peer = (
        [["DataError", f"no image on {rank}"] for rank in range(2)],
        [["PeerError", f"rank {rank} gave up"] for rank in range(2)],
    )
    assert [rank[f"{how} fails on [0]"] for rank in seen] == [own[0], peer[0]]
    assert [rank[f"{how} fails on [1]"] for rank in seen] == [peer[1], own[1]]
    assert [rank[f"{how} fails on [0, 1]"] for rank in seen] == [own[0], peer[0]]


def test_all_targets_over_two_processes_are_those_of_one(tmp_path: Path, run: Path, seen: list[dict[str, Any]]) -> None:
    expected = one_process(run, tmp_path / "t.safetensors", "--target", "all", *FEW)["targets"]
    done = [rank["all"] for rank in seen]
    assert [command["exit"] for command in done] == [0, 0]
    assert done[1]["stdout"] == ""
    documents = json.loads(done[0]["stdout"])["targets"]
    assert [d["target"]["level"] for d in documents] == [0, 1, 2, 3]
    assert [file_sha256(Path(d["output"])) for d in documents] == [d["sha256"] for d in expected]
    assert [d["members"] for d in documents] == [d["members"] for d in expected]
    for document in documents:
        assert len(scored(Path(document["output"]))) == document["evaluations"]


def bare_tickets(run: Path, folder: Path) -> Path:
    """The tickets without what they say of their training."""
    folder.mkdir()
    for file in run.glob("*.safetensors"):
        save_file(load_file(file), folder / file.name)
    return folder


def test_what_one_process_decides_all_go_by(tmp_path: Path, run: Path, seen: list[dict[str, Any]]) -> None:
    """What BatchNorm is recalibrated on, of tickets that do not say how they were trained."""
    alone = one_process(bare_tickets(run, tmp_path / "bare"), tmp_path / "a.safetensors", *BARE)
    assert [rank["bare"]["exit"] for rank in seen] == [0, 0], seen[0]["bare"]["stderr"]
    document = json.loads(seen[0]["bare"]["stdout"])
    assert (document["bn_images"], document["sha256"]) == (alone["bn_images"], alone["sha256"])


def test_two_processes_go_on_where_one_was_interrupted(seen: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    done = [rank["half"] for rank in seen]
    assert [command["exit"] for command in done] == [0, 0]
    document = json.loads(done[0]["stdout"])
    assert (document["members"], document["sha256"]) == (alone["members"], alone["sha256"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exists", "exists; choose another output or add --overwrite"),
        ("no target", "no target '9'"),
        ("no tickets", "empty: cannot be read"),
        ("no arch", "unknown architecture 'resnet8_cifer'"),
        ("another search", "is the journal of another search"),
        ("page in output", "a.html: is the output or lies in it; choose another --report"),
    ],
)
def test_an_error_that_all_processes_meet_is_said_once(seen: list[dict[str, Any]], command: str, message: str) -> None:
    done = [rank[command] for rank in seen]
    assert [rank["exit"] for rank in done] == [1, 1]
    assert [rank["stdout"] for rank in done] == ["", ""]
    said = [line for rank in done for line in errors(rank["stderr"])]
    assert len(said) == 1, said
    assert message in said[0]


def test_two_processes_evaluate_as_one(run: Path, seen: list[dict[str, Any]]) -> None:
    done = [rank["evaluate"] for rank in seen]
    assert [rank["exit"] for rank in done] == [0, 0], done[0]["stderr"]
    assert done[1]["stdout"] == ""
    alone = CliRunner().invoke(main, ["evaluate", *map(str, evaluated(run)), *EVALUATE])
    found, expected = (json.loads(text) for text in (done[0]["stdout"], alone.stdout))
    for key in ("files", "comparisons", "dataset", "n"):
        assert found[key] == expected[key]
    assert len(found["files"][0]["corruptions"]["rows"]) > 10


def test_a_dry_run_is_one_document(seen: list[dict[str, Any]]) -> None:
    done = [rank["dry run"] for rank in seen]
    assert [rank["exit"] for rank in done] == [0, 0]
    assert json.loads(done[0]["stdout"])["targets"]
    assert done[1]["stdout"] == ""


# What the ranks run.

EVALUATE = ["--corruptions", "--json", "--device", "cpu"]


def evaluated(run: Path) -> list[Path]:
    return sorted(run.glob("*.safetensors"))[-1:]


def checks(run: Path, folder: Path, left: Path) -> None:
    """All that two ranks shall see, in one start; each writes what it saw to a file."""
    found: dict[str, Any] = {}

    def write() -> None:
        found["connected at exit"] = distributed.is_initialized()
        (folder / f"rank{ranks.rank}.json").write_text(json.dumps(found))

    atexit.register(write)  # the first to be registered runs last
    ranks = join_ranks()
    found |= {"self": [ranks.rank, ranks.count], "threads": torch.get_num_threads()}
    found["shared"] = list(ranks.share({key: lambda key=key: (key, ranks.rank) for key in (7, 2, 0, 5)}).items())
    found["nothing"] = ranks.share({})
    for failing in ([0], [1], [0, 1]):

        def task(failing: list[int] = failing) -> None:
            if ranks.rank in failing:
                raise DataError(f"no image on {ranks.rank}")

        found[f"share fails on {failing}"] = attempt(lambda: ranks.share({0: task, 1: task}))
        found[f"agree fails on {failing}"] = attempt(lambda: ranks.agree(task))
    found["agreed"] = ranks.agree(lambda: ranks.rank)
    out, half = folder / "t.safetensors", folder / "half.safetensors"
    vars(output)["time"] = SimpleNamespace(sleep=lambda seconds: None)  # for torchrun, which is not here
    found["all"] = lptool("pool", run, "-o", out, "--target", "all", *FEW)
    found["exists"] = lptool("pool", run, "-o", folder / "t_level_00.safetensors", *FEW)
    found["another search"] = lptool("pool", run, "-o", half, *FEW)
    found["no target"] = lptool("pool", run, "-o", out, "--target", "9", *FEW)
    found["no tickets"] = lptool("pool", folder / "empty", "-o", out, *FEW)
    found["no arch"] = lptool("pool", run, "-o", out, "--arch", "resnet8_cifer", *FEW)
    found["page in output"] = lptool("pool", run, "-o", folder / "d", "--report", folder / "d" / "a.html", *FEW)
    found["evaluate"] = lptool("evaluate", *evaluated(run), *EVALUATE)
    found["dry run"] = lptool("pool", run, "-o", out, "--dry-run", *FEW)
    found["half"] = lptool("pool", run, "-o", half, *FULL)
    found["bare"] = lptool("pool", folder / "bare", "-o", folder / "bare.safetensors", *BARE)
    computed = count_marks()
    found["after death"] = lptool("pool", run, "-o", left, *FULL)
    found["computed after death"] = len(computed)


def lptool(*arguments: object) -> dict[str, Any]:
    """How one command ended on this rank, and what it said there."""
    streams = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
    return {"exit": status, "stdout": streams[0].getvalue(), "stderr": streams[1].getvalue()}


def count_marks(most: float = math.inf) -> list[int]:
    """Grows by one with every scoring computed from here on; the process dies, all at once, of one more than `most`."""
    real = Scorer._mark
    marks: list[int] = []

    def mark(self: Scorer, allowed: int) -> object:
        if len(marks) == most:
            os._exit(9)
        marks.append(allowed)
        return real(self, allowed)

    Scorer._mark = mark  # type: ignore[assignment, method-assign]
    return marks


def dying(*arguments: object) -> None:
    """A command on whose way the last rank dies."""
    count_marks(5 if os.environ["RANK"] == "1" else math.inf)
    processes.lptool(*arguments)
