"""How commands end: with one line whatever was raised, and with 130 of an interrupt whatever became of it."""

import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lptool import __main__ as entry
from lptool.cli.ending import clear_errors, ending, line_of, program, stop_if_interrupted
from lptool.cli.output import say
from lptool.errors import LeftBehind, OutputError, TrainError
from tests.helpers import processes
from tests.helpers.commands import lptool, refused


@click.command()
@click.option("--bn-recal/--no-bn-recal", "recalibrate", default=True)
@click.option("-l", "--lr", default=0.1)
@clear_errors
def command(recalibrate: bool, lr: float) -> None:
    """Fail."""
    raise TrainError("wrong", "recalibrate", "lr", "batch_size")


def test_options_in_an_error_are_spelled_as_the_command_has_them() -> None:
    message = refused(CliRunner().invoke(command, []))
    assert message == "--bn-recal and --lr and batch_size: wrong"


def test_ctrl_c_is_one_line_and_130(tmp_path: Path, tickets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lptool.pooling.job.pool_tickets", interrupt)
    result = lptool("pool", *tickets, "-o", tmp_path / "a.safetensors")
    assert result.exit_code == 130
    told = result.stderr.rstrip().splitlines()[-1]
    assert told.startswith("Interrupted before the first scoring for ")
    assert told.endswith(f"the scores are in {tmp_path / 'a.safetensors.search.jsonl'}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors.search.jsonl"]


def raised_by(error: BaseException) -> click.testing.Result:
    @click.command()
    @clear_errors
    def failing() -> None:
        raise error

    return CliRunner().invoke(failing, [])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("two\nlines \x1b[31m"), "unexpected ValueError: two; please report it. LPTOOL_TRACEBACK=1 shows"),
        (KeyError("conv.weight"), "unexpected KeyError: 'conv.weight'; please report it."),
        (AssertionError(), "unexpected AssertionError: AssertionError; please report it."),
        (MemoryError(), "not enough memory (MemoryError); take a smaller --batch-size"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "not enough memory (CUDA out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "not enough memory (DefaultCPUAllocator"),
        (RecursionError("maximum recursion depth"), "something in a file or network is nested too deeply;"),
        (OSError(errno.EMFILE, "Too many open files", "a.pt"), "a.pt: Too many open files; raise the limit (ulimit"),
        (PermissionError(errno.EACCES, "Permission denied", "a.pt"), "a.pt: Permission denied; check who may read"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), "a: No space left on device; free some space"),
        (OSError(errno.EIO, "Input/output error", "a"), "a: Input/output error; check the disk"),
        (OSError(errno.EROFS, "Read-only file system", "a"), "a: Read-only file system; choose a place that may"),
        (OSError("of a library"), "of a library; LPTOOL_TRACEBACK=1 shows where it came from"),
        (OSError(errno.EIO, "Input/output error", b"a\xff\x1b"), "a"),
    ],
)
def test_whatever_is_raised_is_one_line(error: BaseException, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(raised_by(error))
    assert message.startswith(expected)
    assert message.isprintable()
    assert line_of(error) == message
    monkeypatch.setenv("LPTOOL_TRACEBACK", "1")
    traced = raised_by(error)
    assert traced.exit_code == 1
    assert traced.stderr.startswith("Traceback (most recent call last):\n")
    assert "in failing" in traced.stderr
    assert traced.stderr.endswith(f"Error: {message}\n")


@pytest.mark.parametrize("value", ["", "0"])
def test_a_traceback_that_is_not_asked_for_is_not_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPTOOL_TRACEBACK", value)
    refused(raised_by(ValueError("x")))


def test_help_tells_of_the_traceback() -> None:
    assert "LPTOOL_TRACEBACK=1" in lptool("--help").stdout


# What a library may make of Ctrl-C.
SWALLOWED: dict[str, Callable[[], None]] = {
    "as it is": lambda: None,
    "another error": lambda: raised(ImportError("numpy could not be imported")),
    "a clear error": lambda: raised(OutputError("a.pt: damaged")),
    "an end": lambda: stop_if_interrupted(),
}


def raised(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("after", SWALLOWED)
def test_ctrl_c_is_told_as_such_whatever_a_library_makes_of_it(after: str, capsys: pytest.CaptureFixture[str]) -> None:

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if after == "as it is":
                raise
            SWALLOWED[after]()

    with pytest.raises(SystemExit) as end, program(), ending():
        work()
    assert end.value.code == 130
    assert capsys.readouterr().err == "Interrupted; nothing half-written. The same command starts again.\n"
    with program():
        stop_if_interrupted()  # of a command before: forgotten
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_is_ignored_stays_so() -> None:
    """As in a job that a shell put into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with program():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
            stop_if_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_before_the_command_line_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lptool.cli.main", interrupt)
    with pytest.raises(SystemExit) as end:
        lptool_main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "Interrupted; nothing was begun.\n"


def lptool_main() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        entry.run()
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_left_behind_is_a_warning() -> None:
    @click.command()
    @clear_errors
    def leaving() -> None:
        warnings.warn("a: cannot be removed; delete it", LeftBehind, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = CliRunner().invoke(leaving, [])
    assert (result.exit_code, result.stderr) == (0, "Warning: a: cannot be removed; delete it\n")


def with_stdout(kind: str, arguments: list[str]) -> None:
    """The program with a stdout of a kind, in a process of its own."""
    if kind == "closed":
        os.close(1)
        sys.stdout = None  # type: ignore[assignment]
    elif kind == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    else:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 1)
    if kind != "closed":
        sys.stdout = os.fdopen(1, "w", closefd=False)
    processes.lptool(*arguments)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
@pytest.mark.parametrize("kind", ["closed", "full", "a pipe that nobody reads"])
@pytest.mark.parametrize("command", ["--help", "--version", "inspect", "inspect --json", "convert"])
def test_a_stdout_that_takes_nothing_is_one_line(tmp_path: Path, tickets: list[Path], kind: str, command: str) -> None:
    """And what was written is whole."""
    name, *options = command.split()
    given = {"inspect": [str(tickets[1])], "convert": [str(tickets[1]), "a.safetensors"]}.get(name, [])
    child = processes.begin(tmp_path / "said", with_stdout, kind, [name, *given, *options])
    assert child.end() == 1
    assert child.stderr.startswith("Error: stdout: cannot be written (")
    assert child.stderr.count("\n") == 1
    if name == "convert":
        path = Path("a.safetensors")
        assert path.read_bytes() == tickets[1].read_bytes()
        path.unlink()


def test_a_stderr_that_takes_nothing_stops_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open("/dev/full" if Path("/dev/full").exists() else tmp_path / "x", "w") as full:
        monkeypatch.setattr("sys.stderr", full)
        with program():
            click.echo("lost", err=True)
            assert sys.stderr.writable()
        with suppress(OSError):  # what was lost is in its buffer still
            full.close()


def test_what_an_encoding_lacks_is_spelt_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a Latin-1 terminal lacks the lines of tables; a file's name that is not UTF-8 has no letters to spell."""
    with open(tmp_path / "out", "w", encoding="latin-1") as out:
        monkeypatch.setattr("sys.stdout", out)
        with program():
            say("\udcff │ 字")
    assert (tmp_path / "out").read_text() == "? | \\u5b57\n"
