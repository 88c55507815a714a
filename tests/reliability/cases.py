"""One case of the fuzz: a command in a folder with files, made from sound ones."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image
from safetensors.torch import load

from tests.reliability.material import ARCH, TRAIN, images, make_material

DATA = ("--dataset", "npz:in/data.npz", "--device", "cpu")
FAST = (*ARCH, *DATA, "--val-fraction", "0.25", "--method", "average", "--calibration-size", "24")
PICTURES = (*ARCH, "--dataset", "folder:pictures", "--device", "cpu", "--method", "average", "--calibration-size", "4",
            "--cache-dir", "cache")  # fmt: skip
PICTURE = "pictures/train/b/1.png"
TICKET = "in/run/level_02.safetensors"


@dataclass(frozen=True)
class Case:
    """A command in a folder that was filled for it.

    Attributes:
        names: an error has to hold one of them.
        outputs: what the command may write, with all below it.
        patches: what is set in our modules meanwhile.
    """

    words: tuple[str, ...]
    names: tuple[str, ...]
    outputs: tuple[str, ...] = ("out",)
    patches: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """Sound files, made once: those of `make_material`, by name, and others made of them."""

    files: dict[str, bytes]
    state: dict[str, torch.Tensor]

    def fill(self, folder: Path, *names: str) -> None:
        """Put sound files there: all whose name begins so."""
        for name, content in self.files.items():
            if name.startswith(names):
                put(folder / name, content)


def put(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@contextmanager
def within(folder: Path) -> Iterator[None]:
    here = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)


def _lptool(*words: str) -> None:
    from click.testing import CliRunner

    from lptool.cli import main

    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == 0, done.output


@cache
def material_in(folder: Path) -> Material:
    """Everything sound that families begin with, made where it is not there yet."""
    if not folder.exists():
        _make_all(folder)
    files = {os.path.relpath(p, folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return Material(files, load(files[TICKET]))


def _make_all(folder: Path) -> None:
    make_material(folder)
    with within(folder):
        _lptool("pool", "in/run", *FAST, "-o", "pooled.safetensors")
        _lptool("convert", TICKET, "packed.safetensors", "--packed")
        _lptool("convert", TICKET, "scaled.safetensors", "--packed", "--values", "int8", *ARCH, *DATA)
        _lptool("convert", TICKET, "hf/", *ARCH)
        _lptool("pool", "in/run", *FAST, "--method", "greedy", "--alphas", "0.5", "-o", "out/a.safetensors")
        (folder / "out/a.safetensors").unlink()
        _unfinished(folder)
        _pictures(folder)
        _cache()


def _unfinished(folder: Path) -> None:
    """A run that was cut off in its second level."""
    from lptool.training.folder import RunFolder

    finish = RunFolder.finish
    records = []

    def cut(self: RunFolder) -> None:
        records.append(1)
        if len(records) == 2:
            raise KeyboardInterrupt
        finish(self)

    from click.testing import CliRunner

    from lptool.cli import main

    RunFolder.finish = cut  # type: ignore[method-assign]
    try:
        CliRunner().invoke(main, ["train", "-o", "out/run", *TRAIN, "--levels", "2"])
    finally:
        RunFolder.finish = finish  # type: ignore[method-assign]


def _cache() -> None:
    """Tickets of these pictures, and the file of them decoded that a search leaves."""
    from lptool.data import pictures

    train = (*TRAIN, "--epochs", "1", "--rewind-epoch", "0", "--dataset", "folder:pictures", "--image-size", "8")
    _lptool("train", "-o", "seen", *train, "--batch-size", "6", "--levels", "1")
    with mock.patch.object(pictures, "IN_MEMORY_BYTES", 1):
        _lptool("pool", "seen", *PICTURES, "-o", "seen.safetensors")


def _pictures(folder: Path) -> None:
    (pixels, labels) = images(12, 3)
    for number, (image, label) in enumerate(zip(pixels, labels % 2, strict=True)):
        part = ("train", "val", "test")[number % 3] if number >= 6 else "train"
        file = folder / f"pictures/{part}/{'ab'[label]}/{number}.{'png' if number % 2 else 'jpg'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)


def make_kind(rng: random.Random, place: Path) -> None:
    place.parent.mkdir(exist_ok=True, parents=True)
    makers: list[Callable[[], object]] = [
        lambda: os.mkfifo(place),
        lambda: place.symlink_to(place.name),
        lambda: place.symlink_to("nowhere"),
        lambda: place.symlink_to("/dev/zero"),
        lambda: place.symlink_to("/dev/full"),
        lambda: place.symlink_to("/dev/tty"),
        lambda: place.symlink_to("/proc/self/mem"),
        lambda: place.symlink_to("."),
        lambda: place.symlink_to(".."),
        lambda: place.mkdir(),
        lambda: place.write_bytes(b""),
        lambda: _socket_at(place),
    ]
    rng.choice(makers)()


def _socket_at(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, within(place.parent):
        listening.bind(place.name)
