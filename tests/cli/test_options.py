"""The table of options, and `--help` with its headings."""

import json
import re
import shlex

import click
import pytest
from click.testing import CliRunner

from lptool.cli import main
from lptool.cli.options import ARCH_KWARGS, DATA_SETS, SectionedCommand, Size, Words, numbers, option, options_of
from lptool.data.sources import NAMED

TABLE = {
    "Where to": [option("-o", "--output", required=True, help="A file.")],
    "How": [
        option("--often", type=int, default=2, show_default=True, help="Times."),
        option("--fast", is_flag=True, help="Soon."),
    ],
}


@click.command(cls=SectionedCommand)
@click.argument("files", nargs=-1)
@options_of(TABLE)
@click.option("--plain", help="Without a heading of its own.")
def command(files: tuple[str, ...], output: str, often: int, fast: bool, plain: str | None) -> None:
    """Do it."""
    click.echo([files, output, often, fast, plain])


SHOWN = """\

Where to:
  -o, --output TEXT  A file.  [required]

How:
  --often INTEGER  Times.  [default: 2]
  --fast           Soon.

Options:
  --plain TEXT  Without a heading of its own.
  -h, --help    Show this message and exit.
"""


def test_options_are_shown_under_their_headings_in_the_order_of_the_table() -> None:
    assert CliRunner().invoke(command, ["--help"]).stdout.endswith(f"  Do it.\n{SHOWN}")


def test_they_mean_what_they_mean_without_headings() -> None:
    result = CliRunner().invoke(command, ["a", "-o", "b", "--often", "3", "--fast", "--plain", "c"])
    assert result.stdout == "[('a',), 'b', 3, True, 'c']\n"
    assert CliRunner().invoke(command, ["-o", "b"]).stdout == "[(), 'b', 2, False, None]\n"
    missing = CliRunner().invoke(command, [])
    assert (missing.exit_code, "Missing option '-o' / '--output'" in missing.stderr) == (2, True)


@pytest.mark.parametrize("name", main.commands)
def test_help_shows_every_option_once(name: str) -> None:
    lines = CliRunner().invoke(main, [name, "--help"]).stdout.splitlines()
    for parameter in main.commands[name].params:
        if isinstance(parameter, click.Option):
            assert len([line for line in lines if re.match(rf"  {parameter.opts[0]}\b(?!-)", line)]) == 1
    assert len([line for line in lines if line.startswith("  -h, --help")]) == 1


def test_a_command_alone_has_the_same_help() -> None:
    command = SectionedCommand("alone", params=[])
    assert command.make_context("alone", []).help_option_names == ["-h", "--help"]


def test_the_long_lists_have_headings() -> None:
    for name in ("train", "pool"):
        sections = {getattr(option, "section", None) for option in main.commands[name].params} - {None}
        assert {"Output", "Computing"} < sections


def test_numbers() -> None:
    context, parameter = click.Context(command), command.params[0]
    assert numbers(context, parameter, None) is None
    assert numbers(context, parameter, "1,0.5, 2e-1") == (1.0, 0.5, 0.2)
    for text, found in (("a,1", "expected numbers and commas"), ("1,inf", "expected finite numbers")):
        with pytest.raises(click.BadParameter, match=found):
            numbers(context, parameter, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("img_size=32", 32),
        ("img_size=[32,48]", [32, 48]),
        ("img_size=(32, 48)", [32, 48]),
        ("drop=1e-1", 0.1),
        ("flag=true", True),
        ("flag=False", False),
        ("norm=None", None),
        ("norm='bn'", "bn"),
        ("norm=layer_norm", "layer_norm"),
        ("norm=a=b", "a=b"),
        ("norm=", ""),
        ("rate=NaN", "NaN"),
        ("set={1, 2}", "{1, 2}"),
        ("map={'a': (1,)}", {"a": [1]}),
    ],
)
def test_arguments_of_an_architecture_are_read_as_json_or_python_else_text(text: str, value: object) -> None:
    command = click.command()(options_of({"A": [ARCH_KWARGS]})(lambda arch_kwargs: print(json.dumps(arch_kwargs))))
    result = CliRunner().invoke(command, ["--arch-kwargs", "first=1", "--arch-kwargs", text])
    assert json.loads(result.stdout) == {"first": 1, text.partition("=")[0]: value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("img_size", "expected name=value, found 'img_size'"),
        ("=3", "expected name=value"),
        ("a b=3", "expected name=value"),
        ("pretrained=true", "pretrained would load weights"),
        ("checkpoint_path=/etc/passwd", "checkpoint_path would load weights"),
    ],
)
@pytest.mark.parametrize("name", ["train", "pool", "evaluate", "inspect", "convert"])
def test_other_arguments_are_wrong_usage(name: str, text: str, message: str) -> None:
    result = CliRunner().invoke(main, [name, "a", "--arch-kwargs", text])
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_near_miss_of_a_word_is_told() -> None:
    words = Words(["grid", "coarse"])
    for text, end in (("corse", "'grid', 'coarse'. Did you mean 'coarse'?"), ("x", "'grid', 'coarse'.")):
        with pytest.raises(click.BadParameter) as refusal:
            words.convert(text, None, None)
        assert refusal.value.message.endswith(end)


def test_every_data_set_with_a_name_is_offered() -> None:
    assert tuple(NAMED) == DATA_SETS


def completed(*line: str) -> list[str]:
    """What bash gets for a line that ends in TAB: `kind,value` of each."""
    told = {
        "_LPTOOL_COMPLETE": "bash_complete",
        "COMP_WORDS": shlex.join(["lptool", *line]),
        "COMP_CWORD": str(len(line)),
    }
    return CliRunner().invoke(main, prog_name="lptool", env=told).stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["po"], ["plain,pool"]),
        (["pool", "--meth"], ["plain,--method"]),
        (["pool", "--method", "s"], ["plain,soup", "plain,swa"]),
        (["pool", "runs/"], ["file,runs/"]),
        (["pool", "--target", "m"], ["plain,matching"]),
        (["pool", "--target", "runs/"], ["file,runs/"]),
        (["train", "--preset", "paper-cifar10-"], ["plain,paper-cifar10-resnet18", "plain,paper-cifar10-vgg16"]),
        (["train", "--preset", "x"], []),
        (["train", "--init-checkpoint", "a"], ["file,a"]),
        (["train", "--arch", "a"], ["file,a"]),
        (["inspect", "--data", "cifar"], ["plain,cifar10", "plain,cifar100"]),
        (["evaluate", "--device", "c"], ["plain,cpu", "plain,cuda"]),
    ],
)
def test_the_shell_completes(line: list[str], expected: list[str]) -> None:
    assert completed(*line) == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [("500kB", 500_000), ("500 kb", 500_000), ("1.5MB", 1_500_000), ("300KiB", 307_200), ("2MiB", 2_097_152),
     ("12345", 12_345), ("7 bytes", 7), ("1gib", 2**30), ("0.1kB", 100), ("1.0005kB", 1_000)],
)  # fmt: skip
def test_sizes_are_read_in_thousands_and_in_powers_of_two(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "kB", "-5kB", "0", "0.5", "5 k", "1e6", "nan", "inf", "5kBs", "٣kB", "9" * 40])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"expected a size such as 500kB, .* found"):
        Size().convert(text, None, None)
