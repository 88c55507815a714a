"""Reads the documentation: its code blocks, the options and links in its text, and its commands as bash makes them."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from lptool.cli import main, pool_options, train_options
from lptool.cli.options import refuse_values_alone

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MANUAL = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
THREE_LINES = ("lptool train", "lptool pool ckpts/*.safetensors", "lptool inspect")  # how the tool is used
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_SPAN = re.compile(r"`([^`]+)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_LINK = re.compile(r"\]\(([^)\s]+)\)")

# Bash makes the words of every command, and runs none: no program is found, and what is asked for is noted instead.
_NOTING = r"""
PATH=/nowhere
note() { printf '%s\0' "$#" "$@" >&3; }
lptool() { note lptool "$@"; }
torchrun() { while [[ $1 != -m ]]; do shift; done; shift; "$@"; }
mkdir() { command -p mkdir "$@"; }  # what a script makes it may go into
command_not_found_handle() { note "$@"; }
"""


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        mark: of the HTML comment on the line before: `run`, or `file: NAME` for what a reader saves under that name.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str | None = None

    @property
    def has_commands(self) -> bool:
        """Whether it is shell, with a command of ours in it."""
        shell = self.language in ("", "bash", "sh", "console")
        return shell and re.search(r"^\s*(torchrun .* -m )?lptool ", self.text, re.MULTILINE) is not None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The code blocks of a page; a shell script is one."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".sh":
        return [Block(page, 1, "bash", text)]
    return [
        Block(page, text.count("\n", 0, found.start("text")) + 1, found["language"], found["text"], found["mark"])
        for found in _BLOCK.finditer(text)
    ]


def prose_of(page: Path) -> str:
    """A page without its code blocks and comments."""
    return re.sub(r"<!--.*?-->", "", _BLOCK.sub("", page.read_text(encoding="utf-8")), flags=re.DOTALL)


def commands_in(script: str, folder: Path) -> list[list[str]]:
    """The commands of a script, as lists of words, in the order they would run in, without `torchrun`.

    Variables, loops, quotes, comments and continued lines are bash's own affair.
    """
    record = folder / ".commands"
    (folder / "runs").mkdir(exist_ok=True)  # where the pages send output with `>`
    noting = f"exec 3>{shlex.quote(str(record))}\n{_NOTING}\n{script}"
    done = subprocess.run(["bash", "-c", noting], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    words = iter(record.read_text(encoding="utf-8").split("\0")[:-1])
    record.unlink()
    return [[next(words) for _ in range(int(count))] for count in words]


def parse(arguments: Sequence[str]) -> None:
    """Understand the arguments of `lptool` as it would, and do nothing. Raises click.UsageError."""
    name = arguments[0]
    try:
        if name not in main.commands:
            main.make_context("lptool", list(arguments)).fail(f"no such command {name!r}")
        with main.commands[name].make_context(name, list(arguments[1:])) as context:
            _refuse_odd_usage(name, dict(context.params))
    except click.exceptions.Exit:  # of --help and --version
        pass


def _refuse_odd_usage(name: str, given: dict[str, object]) -> None:
    """What the commands refuse first of all, beyond what click does."""
    if "values" in given:
        refuse_values_alone(given["packed"], given["values"])
    if name == "pool":
        shaped = given["preset"] or given["levels"]
        bn_images = pool_options.bn_images_of(given["bn_images"], given["bn_recal"])
        pool_options.refuse_idle_augmentation(bn_images, given["method"], given["train_first"])
        pool_options.refuse_odd_usage(given["alphas"], given["method"], bool(given["train_first"] or not shaped))
    if name == "train":
        preset, sparsities = given.pop("preset"), given.pop("sparsities")
        levels, sparsity = given.pop("levels"), given.pop("sparsity")
        for key in ("out", "replicates", "dry_run", "data_dir", "device", "threads"):
            del given[key]
        options, _ = train_options.chosen(preset, None, given)
        train_options.refuse_odd_usage(options, sparsities)
        train_options.levels_of(levels, sparsities, sparsity, options.rate)


def options_of(name: str) -> set[str]:
    """Every spelling of every option of a command."""
    command = main.commands[name]
    parameters = command.get_params(click.Context(command))
    return {o for p in parameters for o in (*p.opts, *p.secondary_opts)}


def unknown_options(page: Path) -> Iterator[str]:
    """The `--options` in the text of a page that no command has, or not the one that they stand behind."""
    text = prose_of(page)
    everywhere = {option for name in main.commands for option in options_of(name)} | {"--version"}
    for span in _SPAN.findall(text):
        words = span.removeprefix("lptool ").split() or [""]
        if words[0] in main.commands:
            yield from (f"`{span}`" for option in _OPTION.findall(span) if option not in options_of(words[0]))
        elif words[0].startswith("-"):  # else another program's
            yield from (f"`{span}`" for option in _OPTION.findall(span) if option not in everywhere)
    yield from (option for option in _OPTION.findall(_SPAN.sub("", text)) if option not in everywhere)


def dead_links(page: Path) -> Iterator[str]:
    """Links of a page to files or headings that are not there; those into the web are not followed."""
    for link in _LINK.findall(_SPAN.sub("", prose_of(page))):
        place, _, heading = link.partition("#")
        to = page.parent / place if place else page
        if re.match(r"\w+:", link):
            continue
        if not to.exists() or (heading and heading not in _headings(to)):
            yield link


def _headings(page: Path) -> set[str]:
    """What GitHub calls the headings of a page in links."""
    titles = re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
