"""The kinds of files that commands are given, and how each can be wrong: a family makes one case from a seed."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import json
import os
import pathlib
import random
import shutil
import socket
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save

from tests.reliability import mutations as m
from tests.reliability.material import ARCH, TRAIN, images, make_material

DATA = ("--dataset", "npz:in/data.npz", "--device", "cpu")
FAST = (*ARCH, *DATA, "--val-fraction", "0.25", "--method", "average", "--calibration-size", "24")
TICKET = "in/run/level_02.safetensors"


@dataclass(frozen=True)
class Case:
    """A command in a folder that was filled for it.

    Attributes:
        names: an error has to hold one of them.
        outputs: what the command may write, with all below it.
        canary: whether the files try to run code.
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
def _within(folder: Path) -> Iterator[None]:
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
    """Make everything sound that families begin with."""
    make_material(folder)
    with _within(folder):
        _lptool("pool", "in/run", *FAST, "-o", "pooled.safetensors")
        _lptool("convert", TICKET, "packed.safetensors", "--packed")
        _lptool("convert", TICKET, "hf/", *ARCH)
        _lptool("pool", "in/run", *FAST, "--method", "greedy", "--alphas", "0.5", "-o", "out/a.safetensors")
        (folder / "out/a.safetensors").unlink()
        _unfinished(folder)
        _pictures(folder)
    files = {os.path.relpath(p, folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return Material(files, load(files[TICKET]))


def _unfinished(folder: Path) -> None:
    """A run that was cut off in its second level."""
    from lptool.training.folder import RunFolder

    finish = RunFolder.finish
    shutil.copytree("in/run", "whole")
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


def _pictures(folder: Path) -> None:
    (pixels, labels) = images(12, 3)
    for number, (image, label) in enumerate(zip(pixels, labels % 2, strict=True)):
        part = ("train", "val", "test")[number % 3] if number >= 6 else "train"
        file = folder / f"pictures/{part}/{'ab'[label]}/{number}.{'png' if number % 2 else 'jpg'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)


# Checkpoints


def _commands(rng: random.Random, file: str) -> Case:
    """Any command that reads a checkpoint, on this one."""
    words, outputs = rng.choice(
        [
            (("inspect", file), ()),
            (("inspect", file, TICKET, "--json"), ()),
            (("inspect", os.path.dirname(file) or file), ()),
            (("evaluate", file, *ARCH, *DATA), ()),
            (("evaluate", TICKET, file, *ARCH, *DATA, "--report", "out.html"), ("out.html",)),
            (("pool", file, TICKET, *FAST, "--dry-run"), ()),
            (("pool", file, "in/run/level_01.safetensors", *FAST, "-o", "out/a.safetensors"), ("out",)),
            (("pool", file, "in/run/level_01.safetensors", *FAST, "-o", "out/"), ("out", "out.search.jsonl")),
            (("convert", file, "out.safetensors"), ("out.safetensors",)),
            (("convert", file, "out.safetensors", "--packed"), ("out.safetensors",)),
            (("convert", file, "out/", *ARCH), ("out",)),
            (("convert", file, "out.pt"), ("out.pt",)),
            (("train", "-o", "out", *TRAIN, "--levels", "1", "--init-checkpoint", file), ("out",)),
        ]
    )
    return Case(words, (os.path.basename(file), os.path.dirname(file) + "/", file), outputs)


def _checkpoint(rng: random.Random, folder: Path, material: Material, name: str, content: bytes) -> Case:
    material.fill(folder, "in/", "net.py")
    put(folder / name, content)
    return _commands(rng, name)


def safetensors(rng: random.Random, folder: Path, material: Material) -> Case:
    """Tickets with damage to header and body."""
    source = rng.choice([TICKET, "in/run/level_00.safetensors", "pooled.safetensors"])
    return _checkpoint(rng, folder, material, "odd/a.safetensors", m.odd_safetensors(rng, material.files[source]))


def packed(rng: random.Random, folder: Path, material: Material) -> Case:
    """Packed tickets with damage to header, layout and body."""
    content = material.files["packed.safetensors"]
    kind = rng.randrange(3)
    odd = (
        m.odd_metadata(rng, content, "lptool_packed")
        if kind == 0
        else _odd_layout(rng, content)
        if kind == 1
        else m.odd_safetensors(rng, content)
    )
    return _checkpoint(rng, folder, material, "odd/packed.safetensors", odd)


def _odd_layout(rng: random.Random, content: bytes) -> bytes:
    """A layout that claims other shapes and types than the body has room for."""
    header, body = m.parts_of(content)
    layout = json.loads(header["__metadata__"]["lptool_packed"])
    name = rng.choice(list(layout["tensors"]))
    entry = {"shape": rng.choice([*m.SHAPES, [50_000, 50_000], [2**31, 1, 1]]), "dtype": rng.choice(["F32", "F64", "BF16"]),
             "positions": rng.choice(["gaps", "bitmask", "zeros"])}  # fmt: skip
    layout["tensors"][rng.choice([name, name, "x"])] = entry
    if rng.random() < 0.5:  # with parts of that name, of a few bytes
        tensors = load(content)
        tensors |= {f"{name}.values": torch.ones(rng.choice([0, 1, 3])), f"{name}.gaps": torch.zeros(3, dtype=torch.uint8)}
        metadata = {**header["__metadata__"], "lptool_packed": json.dumps(layout)}
        return save(tensors, metadata)
    header["__metadata__"]["lptool_packed"] = json.dumps(layout)
    return m.joined(json.dumps(header).encode(), body)


def metadata(rng: random.Random, folder: Path, material: Material) -> Case:
    """Sound tensors under an odd document of ours."""
    content = material.files[rng.choice([TICKET, "pooled.safetensors"])]
    return _checkpoint(rng, folder, material, "odd/a.safetensors", m.odd_metadata(rng, content, "lptool"))


def header_names(rng: random.Random, folder: Path, material: Material) -> Case:
    """Headers that name networks and data sets which must not be had for the asking."""
    header, body = m.parts_of(material.files[TICKET])
    document = json.loads(header["__metadata__"]["lptool"])
    if rng.random() < 0.5:
        document["dataset"]["name"] = rng.choice(
            ["npz:/etc/shadow", "wds//etc", "folder:/root", "torch/places365", "cifar10", "hfds/x", "tfds/x", "npz:../x",
             "hfids/a/b", "cifar100", "fashion-mnist", "npz:in/run", "folder:in"]
        )  # fmt: skip
    else:
        document["arch"] = rng.choice(
            ["net.py:net", "os:system", "hf-hub:x/y", "local-dir:/etc", "resnet18", "/etc/passwd:x", "timm/x", "a" * 9999]
        )
        document["arch_kwargs"] = rng.choice(
            [{}, {"num_classes": 2e7}, {"num_classes": 20_000_000, "in_chans": 1}, {"checkpoint_path": "/etc/passwd"},
             {"pretrained": True}, {"num_classes": 4, "block": "x"}, {"layers": [10**6] * 4}, {"num_classes": -1}]
        )  # fmt: skip
    header["__metadata__"]["lptool"] = json.dumps(document)
    material.fill(folder, "in/", "net.py")
    put(folder / "odd/a.safetensors", m.joined(json.dumps(header).encode(), body))
    words = rng.choice(
        [
            ("evaluate", "odd/a.safetensors", "--device", "cpu"),
            ("pool", "odd/a.safetensors", TICKET, "--method", "average", "-o", "out/a.safetensors", "--device", "cpu"),
            ("convert", "odd/a.safetensors", "out/"),
            ("inspect", "odd/a.safetensors"),
        ]
    )
    return Case(words, ("odd/a.safetensors",))


def _saved(content: Any, *, legacy: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def _dialect(rng: random.Random, state: dict[str, torch.Tensor]) -> Any:
    """The same weights as other programs would save them."""
    prunable = [name for name, t in state.items() if t.dim() > 1]
    masks = {name: (state[name] != 0).float() for name in prunable}
    pruned = {k: v for n, t in state.items() for k, v in ({f"{n}_orig": t, f"{n}_mask": masks[n]} if n in masks else {n: t}).items()}
    beside = {k: v for n, t in state.items() for k, v in ({n: t, n.replace("weight", "mask"): masks[n]} if n in masks else {n: t}).items()}
    return rng.choice(
        [
            state,
            pruned,
            beside,
            {f"module.{n}": t for n, t in pruned.items()},
            {"state_dict": {f"model.{n}": t for n, t in state.items()}, "epoch": 3, "pytorch-lightning_version": "2.0"},
            {"model": {"state_dict": state}, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}}},
            {"model": state, "masks": masks},
            {"net": state, "acc": np.float64(0.5), "args": argparse.Namespace(lr=0.1)},
            collections.OrderedDict(state_dict=collections.OrderedDict(state), result=collections.defaultdict(list)),
            {"model": torch.nn.Linear(2, 2).state_dict(), "state_dict_ema": state},
        ]
    )


def pickles(rng: random.Random, folder: Path, material: Material) -> Case:
    """PyTorch files of many programs, with other steps in the pickle or damage to the zip around it."""
    content = _saved(_dialect(rng, material.state), legacy=(legacy := rng.random() < 0.2))
    odd = m.damaged(rng, content) if legacy else m.odd_zip(rng, content, m.odd_pickle, "data.pkl")
    return _checkpoint(rng, folder, material, f"odd/model.{rng.choice(['pt', 'pth', 'ckpt', 'bin'])}", odd)


class _Runs:
    """Runs a command where somebody unpickles it without care."""

    def __init__(self, what: Any, *arguments: Any) -> None:
        self.what = what, arguments

    def __reduce__(self) -> Any:
        return self.what


def _odd_tensor(rng: random.Random, tensor: torch.Tensor) -> Any:
    shape = tensor.shape
    choices: list[Callable[[], Any]] = [
        lambda: tensor.to(torch.float8_e4m3fn),
        lambda: tensor.to(torch.uint8).to(torch.uint16),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to(torch.complex32),
        lambda: torch.conj(tensor.to(torch.complex64)),
        lambda: torch._neg_view(tensor),
        lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda: tensor.to_sparse(),
        lambda: tensor.flatten(1).to_sparse_csr() if tensor.dim() > 1 else tensor.to_sparse(),
        lambda: torch.zeros(1).expand(10**5, 10**5),
        lambda: torch.zeros(1).expand(2**40),
        lambda: torch.zeros(1).expand(shape),
        lambda: torch.as_strided(tensor.flatten(), (1,) * 70, (0,) * 70),
        lambda: tensor.to("meta"),
        lambda: torch.full(shape, float("nan")),
        lambda: torch.full(shape, float("inf")),
        lambda: torch.nn.Parameter(tensor),
        lambda: tensor.double(),
        lambda: tensor.half(),
        lambda: tensor.bfloat16(),
        lambda: tensor.bool(),
        lambda: tensor.long(),
        lambda: tensor.flatten(),
        lambda: torch.empty(0),
        lambda: tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor.t() if tensor.dim() == 2 else tensor,
        lambda: None,
        lambda: "text",
        lambda: tensor.tolist(),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    ]
    return rng.choice(choices)()


def _odd_extra(rng: random.Random) -> Any:
    """What stands beside the weights."""
    holds: list[Any] = []
    holds.append(holds)
    circle: dict[str, Any] = {}
    circle["model"] = circle
    choices: list[Callable[[], Any]] = [
        lambda: holds,
        lambda: circle,
        lambda: _deep(rng.choice([50, 500])),
        lambda: torch.optim.SGD,
        lambda: collections.defaultdict(list, {"a": [1]}),
        lambda: frozenset({1}),
        lambda: range(3),
        lambda: slice(1, 2),
        lambda: collections.deque([1], 3),
        lambda: torch.__version__,
        lambda: pathlib.PurePosixPath("/home/me"),
        lambda: datetime.datetime(2020, 1, 1),
        lambda: np.arange(3),
        lambda: np.array([{"a": 1}], dtype=object),
        lambda: torch.nn.Linear(2, 2),
        lambda: torch.device("cuda:0"),
        lambda: 10**5000,
        lambda: {1: 2, (3, 4): torch.ones(1)},
        lambda: b"\xff" * 10,
        lambda: _Runs(os.system, "touch canary"),
        lambda: _Runs(exec, "open('canary', 'w')"),
        lambda: _Runs(eval, "__import__('os').system('touch canary')"),
        lambda: _Runs(open, "canary", "w"),
    ]
    return rng.choice(choices)()


def _deep(depth: int) -> Any:
    found: Any = 0
    for _ in range(depth):
        found = [found]
    return found


def objects(rng: random.Random, folder: Path, material: Material) -> Case:
    """PyTorch files with tensors and things beside them that are odd and sound."""
    state: dict[Any, Any] = dict(material.state)
    kind = rng.randrange(4)
    if kind <= 1:
        name = rng.choice(list(state))
        state[name] = _odd_tensor(rng, state[name])
        content: Any = rng.choice([state, {"state_dict": state}])
    elif kind == 2:
        content = {rng.choice(["state_dict", "model"]): state, rng.choice(["args", "model", "masks"]): _odd_extra(rng)}
    else:
        content = rng.choice([{**state, rng.choice(["x", 3, m.HOSTILE, ""]): _odd_extra(rng)}, _odd_extra(rng), [state], {}])
    try:
        whole = _saved(content, legacy=rng.random() < 0.1)
    except Exception:  # there is no such file
        whole = _saved({"state_dict": material.state, "args": _Runs(os.system, "touch canary")})
    return _checkpoint(rng, folder, material, "odd/model.pt", whole)


def openlth(rng: random.Random, folder: Path, material: Material) -> Case:
    """Weights with `mask.pth` beside them, one of them odd."""
    weights = _saved(material.state)
    masks = _saved({name: (t != 0).float() for name, t in material.state.items() if t.dim() > 1})
    if rng.random() < 0.7:
        masks = rng.choice([lambda: m.odd_zip(rng, masks, m.odd_pickle, "data.pkl"), lambda: m.damaged(rng, masks),
                            lambda: _saved({"x": torch.ones(1)}), lambda: _saved(_odd_extra(rng))])()  # fmt: skip
    else:
        weights = m.odd_zip(rng, weights, m.odd_pickle, "data.pkl")
    material.fill(folder, "in/", "net.py")
    put(folder / "odd/mask.pth", masks)
    put(folder / "odd/model_ep2_it0.pth", weights)
    return _commands(rng, "odd/model_ep2_it0.pth")


def hugging_face(rng: random.Random, folder: Path, material: Material) -> Case:
    """A folder as timm has it, or a sharded one, with one file odd."""
    material.fill(folder, "in/", "net.py", "hf/")
    kind = rng.randrange(5)
    if kind == 0:
        put(folder / "hf/config.json", m.odd_json(rng, json.loads(material.files["hf/config.json"])))
    elif kind == 1:
        put(folder / "hf/model.safetensors", m.odd_safetensors(rng, material.files["hf/model.safetensors"]))
    elif kind == 2:
        put(folder / "hf/model.safetensors", m.odd_metadata(rng, material.files["hf/model.safetensors"], "lptool"))
    else:
        _shard(rng, folder, material)
    words = rng.choice(
        [
            ("inspect", "hf"),
            ("inspect", "hf", "--json"),
            ("evaluate", "hf", *ARCH, *DATA),
            ("convert", "hf", "out.safetensors"),
            ("convert", "hf", "out/", *ARCH),
            ("push", "hf", "me/net", "--dry-run"),
            ("pool", "hf", "in/run/level_01.safetensors", *FAST, "--dry-run"),
        ]
    )
    return Case(words, ("hf",), ("out", "out.safetensors"))


def _shard(rng: random.Random, folder: Path, material: Material) -> None:
    names = list(material.state)
    shards = {"s1.safetensors": names[::2], "s2.safetensors": names[1::2]}
    for shard, held in shards.items():
        content = save({name: material.state[name] for name in held}, {"format": "pt"})
        put(folder / "hf" / shard, m.damaged(rng, content) if rng.random() < 0.2 else content)
    index = {"metadata": {"total_size": 1}, "weight_map": {n: shard for shard, held in shards.items() for n in held}}
    (folder / "hf/model.safetensors").unlink()
    put(folder / "hf/model.safetensors.index.json", m.odd_json(rng, index))


def kinds(rng: random.Random, folder: Path, material: Material) -> Case:
    """No file at all where one is expected: a pipe, a link in a circle, a folder, a device, nothing."""
    material.fill(folder, "in/", "net.py")
    name = rng.choice(["odd/a.safetensors", "odd/model.pt", "odd/model.safetensors.index.json", "odd", "odd/mask.pth"])
    if rng.random() < 0.3:
        return _kind_of_data(rng, folder)
    _make_kind(rng, folder / name)
    return _commands(rng, name)


def _make_kind(rng: random.Random, place: Path) -> None:
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
    with socket.socket(socket.AF_UNIX) as listening, _within(place.parent):
        listening.bind(place.name)


def _kind_of_data(rng: random.Random, folder: Path) -> Case:
    what = rng.choice(["npz:odd/x", "folder:odd/x", "wds/odd/x", "npz:odd/x/data.npz"])
    _make_kind(rng, folder / "odd/x")
    words = ("train", "-o", "out", *TRAIN, "--levels", "1", "--dataset", what)
    return Case(words, ("odd/x",))


# Folders of runs, journals


def run_folder(rng: random.Random, folder: Path, material: Material) -> Case:
    """A run that was cut off, of which one file is odd, lost, or another's."""
    material.fill(folder, "in/data.npz", "net.py", "out/run/")
    files = sorted(name for name in material.files if name.startswith("out/run/"))
    name = rng.choice([f for f in files for _ in range(3 if "train.jsonl" in f or ".json" in f else 1)])
    content = material.files[name]
    kind = rng.randrange(6)
    if kind == 0:
        (folder / name).unlink()
    elif kind == 1:
        (folder / name).unlink()
        _make_kind(rng, folder / name)
    elif kind == 2:
        put(folder / name, m.damaged(rng, content))
    elif name.endswith(".safetensors"):
        other = rng.choice(["in/run/level_00.safetensors", "pooled.safetensors", "packed.safetensors"])
        put(folder / name, rng.choice([m.odd_safetensors(rng, content), material.files[other]]))
    elif name.endswith(".jsonl"):
        lines = content.splitlines(keepends=True)
        place = rng.randrange(len(lines))
        lines[place] = rng.choice([m.odd_json(rng, json.loads(lines[place])) + b"\n", b"\n", b"\xff\xfe\n", b"[]}\n", b"3\n", b"{}\n", b'{"level": null}\n', b"x}\n"])
        put(folder / name, b"".join(lines))
    else:
        put(folder / name, m.odd_json(rng, json.loads(content)))
    if rng.random() < 0.2:
        put(folder / rng.choice(["out/run/.mine", "out/run/.resume/.mine.x", "out/run/level_01.safetensors", "out/run/level_02.safetensors"]), rng.choice([b"x", material.files["pooled.safetensors"]]))
    words = ("train", "-o", "out/run", *TRAIN, "--levels", "2", *rng.choice([(), (), ("--dry-run",)]))
    return Case(words, ("out/run",))


def journals(rng: random.Random, folder: Path, material: Material) -> Case:
    """The journal of a search that is odd."""
    material.fill(folder, "in/", "net.py", "out/a.safetensors")
    name = "out/a.safetensors.search.jsonl"
    lines = material.files[name].splitlines(keepends=True)
    kind = rng.randrange(5)
    place = rng.randrange(len(lines))
    if kind == 0:
        (folder / name).unlink()
        _make_kind(rng, folder / name)
    elif kind == 1:
        put(folder / name, m.damaged(rng, material.files[name]))
    elif kind == 2:
        lines[place] = rng.choice([b"\n", b"\xff\n", b"[]\n", b"3\n", b"{}\n", b'{"a": 1}\n'])
        put(folder / name, b"".join(lines))
    else:
        lines[place] = m.odd_json(rng, json.loads(lines[place])) + b"\n"
        put(folder / name, b"".join(lines))
    how = ("--method", "greedy", "--alphas", "0.5", "-o", "out/a.safetensors", *rng.choice([(), (), ("--overwrite",)]))
    return Case(("pool", "in/run", *FAST, *how), ("out/a.safetensors",))


def outputs(rng: random.Random, folder: Path, material: Material) -> Case:
    """Something else lies where the output goes."""
    material.fill(folder, "in/", "net.py")
    target = rng.choice(["out", "out/", "out.safetensors", "out.pt", "out.html", "out/x/a.safetensors"])
    place = folder / target.rstrip("/")
    if rng.random() < 0.5:
        _make_kind(rng, place)
    else:
        material.fill(folder, "hf/")
        place.parent.mkdir(parents=True, exist_ok=True)
        (folder / "hf").rename(place)
        if rng.random() < 0.5:
            put(place / rng.choice(["mine.txt", ".git", "sub/x", "config.json"]), b"mine")
    more = rng.choice([(), ("--overwrite",)])
    words = rng.choice([("convert", TICKET, target, *ARCH, *more), ("pool", "in/run", *FAST, "-o", target, *more)])
    if target == "out.html":
        words = ("evaluate", TICKET, *ARCH, *DATA, "--report", target, *more)
    if target == "out/x/a.safetensors":
        words = ("convert", TICKET, target, *more)
    return Case(words, ("out",), (target.rstrip("/"), f"{target.rstrip('/')}.search.jsonl", "out"))


# Data


def _training_on(dataset: str, names: tuple[str, ...], *more: str) -> Case:
    words = ("train", "-o", "out", *TRAIN, "--epochs", "1", "--rewind-epoch", "0", "--levels", "1", "--dataset", dataset,
             "--batch-size", "6", *more)  # fmt: skip
    return Case(words, names)


def npz(rng: random.Random, folder: Path, material: Material) -> Case:
    """Arrays that are odd, or in a damaged file."""
    material.fill(folder, "in/", "net.py")
    (train, train_labels), (test, test_labels) = images(32, 0), images(16, 1)
    arrays: dict[str, Any] = {"train_images": train, "train_labels": train_labels, "test_images": test, "test_labels": test_labels}
    kind = rng.randrange(3)
    if kind == 0:
        name = rng.choice(list(arrays))
        old = arrays[name]
        arrays[name] = rng.choice(
            [old.astype(float), old[:0], old[:3], old[..., None], old.astype("U3"), old - 1, old.astype(np.uint64) + 2**63,
             old.astype(">i8"), old.reshape(-1), np.float16(old), old.T, np.array(3), old.astype(bool), old.astype(np.int64) * 100_000,
             old.astype(np.int64) - 100, np.zeros((3, *old.shape), np.uint8), old.astype(complex), np.array(["x"] * len(old))]
        )  # fmt: skip
    out = io.BytesIO()
    np.savez(out, **arrays)
    content = out.getvalue()
    if kind == 1:
        content = m.odd_zip(rng, content, _odd_npy, ".npy")
    elif kind == 2:
        content = m.damaged(rng, content)
    put(folder / "odd.npz", content)
    return rng.choice(
        [
            _training_on("npz:odd.npz", ("odd.npz",)),
            Case(("evaluate", TICKET, *ARCH, "--dataset", "npz:odd.npz"), ("odd.npz", "level_02"), ()),
        ]
    )


def _odd_npy(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.5:
        return m.damaged(rng, content)
    text = rng.choice(["{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
                       "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999,), }",
                       "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8), }",
                       "{'descr': [('a', '|u1')], 'fortran_order': True, 'shape': (3,), }",
                       "{'descr': '|V99', 'fortran_order': 1, 'shape': (), }", "(" * 500])  # fmt: skip
    header = text.ljust(117).encode() + b"\n"
    return content[:8] + len(header).to_bytes(2, "little") + header + content[128:]


def _picture(rng: random.Random) -> bytes:
    """A picture that is odd or damaged."""
    out = io.BytesIO()
    pixels = np.random.default_rng(rng.randrange(99)).integers(256, size=(9, 9, 3), dtype=np.uint8)
    kind = rng.randrange(6)
    if kind == 0:
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(out, "PNG")
    elif kind == 1:
        Image.fromarray(pixels).save(out, rng.choice(["GIF", "BMP", "TIFF", "WEBP"]))
    elif kind == 2:
        return b""
    elif kind == 3:  # a PNG that claims to be very large
        Image.fromarray(pixels).save(out, "PNG")
        whole = bytearray(out.getvalue())
        whole[16:24] = rng.choice([b"\0\0\x80\0\0\0\x80\0", b"\x7f\xff\xff\xff\x7f\xff\xff\xff", b"\0\0\0\0\0\0\0\0"])
        import zlib

        whole[29:33] = zlib.crc32(bytes(whole[12:29])).to_bytes(4, "big")
        return bytes(whole)
    else:
        Image.fromarray(pixels).save(out, rng.choice(["PNG", "JPEG"]))
        return m.damaged(rng, out.getvalue())
    return out.getvalue()


def picture_folder(rng: random.Random, folder: Path, material: Material) -> Case:
    """Folders of pictures with one of them odd, or an odd entry among them."""
    material.fill(folder, "net.py", "pictures/")
    file = rng.choice([name for name in material.files if name.startswith("pictures/")])
    kind = rng.randrange(4)
    if kind == 0:
        (folder / file).unlink()
        _make_kind(rng, folder / file)
    elif kind == 1:
        place = rng.choice(["pictures/train/.hidden", "pictures/train/c", "pictures/train/a/deep", "pictures/train/x.txt", "pictures/valid"])
        _make_kind(rng, folder / place)
    else:
        put(folder / file, _picture(rng))
    patches = {"lptool.data.pictures.IN_MEMORY_BYTES": 0} if rng.random() < 0.15 else {}
    case = _training_on("folder:pictures", ("pictures",), "--image-size", "8")
    return Case(case.words, case.names, case.outputs, patches)


def shards(rng: random.Random, folder: Path, material: Material) -> Case:
    """Shards with odd members, pictures and classes."""
    material.fill(folder, "net.py")
    for part, seed in (("train", 0), ("val", 1)):
        files = []
        for number in range(6):
            out = io.BytesIO()
            Image.fromarray(images(6, seed)[0][number]).save(out, "PNG")
            files += [(f"a/{number}.png", out.getvalue()), (f"a/{number}.cls", str(number % 2).encode())]
        if part == "train" or rng.random() < 0.3:
            place, kind = rng.randrange(6), rng.randrange(4)
            if kind == 0:
                text = rng.choice([b"9" * 30, b"-1", b"", "²".encode(), b"\xff", b"1\n\n", b"1" * 10_000, b"99999", b"1.0", b"+1"])
                files[2 * place + 1] = (files[2 * place + 1][0], text)
            elif kind == 1:
                files[2 * place] = (files[2 * place][0], _picture(rng))
            elif kind == 2:
                del files[2 * place + rng.randrange(2)]
            content = m.odd_tar(rng, files)
        else:
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w") as tar:
                for name, data in files:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
            content = out.getvalue()
        put(folder / f"shards/x-{part}-0.tar", content)
    if rng.random() < 0.25:
        info = {"splits": {part: {"filenames": [f"x-{part}-0.tar"], "num_samples": 6} for part in ("train", "val")}}
        put(folder / "shards/_info.json", m.odd_json(rng, info))
    return _training_on("wds/shards", ("shards",), "--image-size", "8")


def cache_file(rng: random.Random, folder: Path, material: Material) -> Case:
    """A file of decoded pictures that is odd: it is not used, and nothing is lost."""
    material.fill(folder, "in/", "net.py", "pictures/", "hf/", "cache/")
    for file in (folder / "cache").glob("*"):
        content = file.read_bytes()
        if rng.random() < 0.3:
            file.unlink()
            _make_kind(rng, file)
        else:
            file.write_bytes(m.damaged(rng, content))
    raise NotImplementedError


FAMILIES: dict[str, Callable[[random.Random, Path, Material], Case]] = {
    "safetensors": safetensors,
    "packed": packed,
    "metadata": metadata,
    "names in headers": header_names,
    "pickles": pickles,
    "objects": objects,
    "OpenLTH": openlth,
    "Hugging Face folders": hugging_face,
    "kinds of files": kinds,
    "run folders": run_folder,
    "journals": journals,
    "outputs": outputs,
    "npz": npz,
    "picture folders": picture_folder,
    "shards": shards,
}
