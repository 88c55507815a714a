"""What the documentation says, done: its code is run as a reader would copy it, its commands are understood.

A block behind `<!-- run -->` is run, and one behind `<!-- file: NAME -->` saved, page by page in a folder of its own.
Commands are run by the function behind `python -m lptool`, in this process: importing torch for each takes seconds.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lptool.checkpoints.containers import open_file
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.packed import LAYOUT_KEY, LAYOUT_VERSION, SCALED_VERSION
from lptool.checkpoints.positions import encode_gaps
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_packed
from lptool.cli import main
from tests.helpers.commands import lptool
from tests.helpers.pages import MANUAL, PAGES, ROOT, Block, blocks_of, commands_in, dead_links, parse, unknown_options

FORMAT = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
SHELL = [b for page in [*MANUAL, *sorted(ROOT.glob("examples/*.sh"))] for b in blocks_of(page) if b.has_commands]
RUN = [page for page in MANUAL if any(block.mark == "run" for block in blocks_of(page))]


def block(language: str) -> str:
    """The only code block of a language in the page on files."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", FORMAT, re.MULTILINE | re.DOTALL)
    return str(found)


def write(file: Path, values: str | None, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    densities = {"few": 0.002, "half": 0.5, "all": 1.0}
    mask = {name: torch.rand(40, 3, 5, 5, generator=generator) < density for name, density in densities.items()}
    state = {n: torch.where(kept, torch.randn(kept.shape, generator=generator), 0.0) for n, kept in mask.items()}
    state["few"][mask["few"]] = -0.0
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    others = {"n": torch.tensor(7), "bias": torch.ones(3), "seen": torch.tensor([True, False])}
    save_packed(Ticket({**state, **others}, mask, Metadata(prunable=tuple(mask))), file, values)


def as_read(tensor: Tensor) -> bytes:
    """The bytes that numpy has of a tensor."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().tobytes()


@pytest.mark.parametrize("values", [None, "bf16", "fp16", "int8"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_reader_of_the_page_reads_what_we_read(tmp_path: Path, values: str | None, dtype: torch.dtype) -> None:
    write(tmp_path / "a.safetensors", values, dtype)
    code: dict[str, Any] = {}
    exec(block("python"), code)
    found = code["read_packed"](tmp_path / "a.safetensors")
    expected = {n: t for n, t in open_file(tmp_path / "a.safetensors").tensors.items() if not n.endswith(".mask")}
    assert found.keys() == expected.keys()
    assert all(found[name].shape == tuple(tensor.shape) for name, tensor in expected.items())
    if (values, dtype) == ("int8", torch.bfloat16):  # which numpy cannot round to
        found |= {n: torch.from_numpy(found[n]).bfloat16().float().numpy() for n in ("few", "half", "all")}
    assert all(found[name].tobytes() == as_read(tensor) for name, tensor in expected.items())
    assert not {"torch", "lptool"} & code.keys()


def test_the_layout_of_the_page_is_the_one_written(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", None, torch.float32)
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        written = json.loads(file.metadata()[LAYOUT_KEY])
    shown = json.loads(block("json"))
    assert f"`{LAYOUT_KEY}`" in FORMAT
    assert shown["version"] == written["version"] == LAYOUT_VERSION
    keys = {entry["positions"]: set(entry) for entry in shown["tensors"].values()}
    assert {entry["positions"]: set(entry) for entry in written["tensors"].values()} == keys
    assert set(keys) == {"gaps", "bitmask"} | {"zeros"}


def test_the_entry_of_int8_on_the_page_is_the_one_written(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", "int8", torch.float32)
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        written = json.loads(file.metadata()[LAYOUT_KEY])
    shown = json.loads(block("text"))
    assert shown["version"] == written["version"] == SCALED_VERSION
    (entry,) = shown["tensors"].values()
    assert {(*found, found["values"]) for found in written["tensors"].values() if "values" in found} == {
        (*entry, entry["values"])
    }


def test_the_worked_example_of_gaps() -> None:
    rows = re.findall(r"^\| (\d+) \| \d+ \| (?:number (\d+)|–) \| (\d+) \|$", FORMAT, re.MULTILINE)
    kept = torch.zeros(600, dtype=torch.bool)
    kept[[int(number) for _, number, _ in rows if number]] = True
    assert encode_gaps(kept).tolist() == [int(byte) for byte, _, _ in rows]
    covered = [sum(int(byte) + bool(number) for byte, number, _ in rows[: i + 1]) for i in range(len(rows))]
    assert [int(total) for _, _, total in rows] == covered
    assert f"with {600 - covered[-1]} pruned weights left" in FORMAT


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_are_understood(block: Block, tmp_path: Path) -> None:
    commands = [words[1:] for words in commands_in(block.text, tmp_path) if words[0] == "lptool"]
    assert commands
    for arguments in commands:
        parse(arguments)


@pytest.mark.parametrize("name", ["lptool", *main.commands])
def test_so_are_those_in_help(name: str, tmp_path: Path) -> None:
    help = main.commands.get(name, main).help or ""
    found = commands_in("\n".join(re.findall(r"^ *((?:torchrun .*)?lptool .*)$", help, re.MULTILINE)), tmp_path)
    assert found
    for words in found:
        parse(words[1:])


@pytest.mark.parametrize(
    "command",
    [
        "lptool pool runs -o a.safetensors --metod greedy",
        "lptool pool runs -o a.safetensors --method greedy --decay 0.5",
        "lptool pool runs \\\n  --method greedy --decay 0.5  # an option of another method",
        "for m in greedy gredy; do lptool pool runs -o a.safetensors --method $m; done",
        "lptool train -o runs --levels 3 --sparsity 0.5",
        "torchrun --standalone --nproc-per-node 8 -m lptool pool runs --levels 3",
        "lptool convert a.safetensors b.safetensors --values bf16",
        "lptool pol runs",
    ],
)
def test_mistaken_commands_would_be_noticed(command: str, tmp_path: Path) -> None:
    *before, last = commands_in(command, tmp_path)
    for words in before:
        parse(words[1:])
    with pytest.raises(click.UsageError):
        parse(last[1:])


@pytest.mark.parametrize("page", MANUAL, ids=lambda page: page.name)
def test_options_in_the_text_exist(page: Path) -> None:
    assert list(unknown_options(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert list(dead_links(page)) == []


def test_mistaken_options_and_links_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n`--nothing`, `pool --replicates 2`, `pip --any`, `--packed`; [a](#a-page) [b](b.md) [c](#c)\n"
    )
    assert list(unknown_options(page)) == ["`--nothing`", "`pool --replicates 2`"]
    assert list(dead_links(page)) == ["b.md", "#c"]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_what_is_marked_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks_of(page):
        if block.mark == "run" and block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), {"__name__": "__main__"})
        elif block.mark == "run":
            for program, *arguments in commands_in(block.text, tmp_path):
                assert program == "lptool", f"{block}: {program} is not run here"
                result = lptool(*arguments)
                assert result.exit_code == 0, f"{block}: lptool {' '.join(arguments)}\n{result.output}"
        elif (block.mark or "").startswith("file: "):
            (tmp_path / str(block.mark).removeprefix("file: ")).write_text(block.text, encoding="utf-8")


def test_warnings_are_quoted_as_they_are() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "lptool").rglob("*.py"))
    _, _, section = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8").partition("## Warnings")
    quoted = re.findall(r"^\| `(.*?)` \|", section, re.MULTILINE)
    assert len(quoted) > 10
    assert [part for text in quoted for part in re.split(" ?… ?|\\(…\\)", text) if part.strip() not in source] == []
