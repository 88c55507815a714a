"""Checkpoints of every dialect that are wrong."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import json
import os
import pathlib
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from tests.reliability import mutations as m
from tests.reliability.cases import DATA, FAST, PICTURE, TICKET, Case, Material, make_kind, put
from tests.reliability.material import ARCH, TRAIN


def _commands(rng: random.Random, file: str) -> Case:
    """Any command that reads a checkpoint, on this one."""
    words, outputs = rng.choice(
        [
            (("inspect", file), ()),
            (("inspect", file, TICKET, "--json"), ()),
            (("inspect", os.path.dirname(file) or file), ()),
            (("inspect", file, TICKET, "--data", *DATA[1:], *ARCH), ()),
            (("predict", file, PICTURE, *ARCH, "--device", "cpu"), ()),
            (("evaluate", file, *ARCH, *DATA), ()),
            (("evaluate", TICKET, file, *ARCH, *DATA, "--report", "out.html"), ("out.html",)),
            (("pool", file, TICKET, *FAST, "--dry-run"), ()),
            (("pool", file, "in/run/level_01.safetensors", *FAST, "-o", "out/a.safetensors"), ("out",)),
            (("pool", file, "in/run/level_01.safetensors", *FAST, "-o", "out/"), ("out", "out.search.jsonl")),
            (("convert", file, "out.safetensors"), ("out.safetensors",)),
            (("convert", file, "out.safetensors", "--packed"), ("out.safetensors",)),
            (("convert", file, "out.safetensors", "--packed", "--values", "int8", *ARCH, *DATA), ("out.safetensors",)),
            (("convert", file, "out.safetensors", "--max-size", "4kB", *ARCH, *DATA), ("out.safetensors",)),
            (("convert", file, "out/", *ARCH), ("out",)),
            (("convert", file, "out.pt"), ("out.pt",)),
            (("train", "-o", "out", *TRAIN, "--levels", "1", "--init-checkpoint", file), ("out",)),
        ]
    )
    # Where weights are not finite, `convert` names what it does not write, and `train` the epoch that shows it.
    lies_in = os.path.dirname(file) or file
    return Case(
        words, (file, os.path.basename(file), f"{lies_in}/", f"{lies_in}:", "not written", "loss became"), outputs
    )


def _checkpoint(rng: random.Random, folder: Path, material: Material, name: str, content: bytes) -> Case:
    material.fill(folder, "in/", "net.py", PICTURE)
    put(folder / name, content)
    return _commands(rng, name)


def safetensors(rng: random.Random, folder: Path, material: Material) -> Case:
    """Tickets with damage to header and body."""
    source = rng.choice([TICKET, "in/run/level_00.safetensors", "pooled.safetensors"])
    return _checkpoint(rng, folder, material, "odd/a.safetensors", m.odd_safetensors(rng, material.files[source]))


def packed(rng: random.Random, folder: Path, material: Material) -> Case:
    """Packed tickets, of floats and of int8, with damage to header, layout and body."""
    content = material.files[rng.choice(["packed.safetensors", "scaled.safetensors"])]
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
    shape = rng.choice([*m.SHAPES, [50_000, 50_000], [2**31, 1, 1]])
    entry = {"shape": shape, "dtype": rng.choice(["F32", "F64"]), "positions": rng.choice(["gaps", "bitmask", "zeros"])}
    if rng.random() < 0.5:
        entry["values"] = rng.choice(["I8", "I8", "I4", None, 8, ["I8"]])
    layout["version"] = rng.choice([layout["version"], 1, 2])
    layout["tensors"][rng.choice([name, name, "x"])] = entry
    if rng.random() < 0.5:  # with parts of that name, of a few bytes
        tensors = load(content)
        tensors |= {
            f"{name}.values": torch.ones(rng.choice([0, 1, 3]), dtype=rng.choice([torch.float32, torch.int8])),
            f"{name}.scales": torch.full((rng.choice([0, 1, 6, 8]),), rng.choice([1.0, 0.0, -1.0, float("nan"), 1e38])),
            f"{name}.gaps": torch.zeros(3, dtype=torch.uint8),
        }
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
            ["npz:/etc/shadow", "wds//etc", "folder:/root", "torch/places365", "cifar10", "hfds/x", "tfds/x",
             "npz:../x", "hfids/a/b", "cifar100", "fashion-mnist", "npz:in/run", "folder:in"]
        )  # fmt: skip
    else:
        document["arch"] = rng.choice(
            [
                "net.py:net",
                "os:system",
                "hf-hub:x/y",
                "local-dir:/etc",
                "resnet18",
                "/etc/passwd:x",
                "timm/x",
                "a" * 9999,
            ]
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
    masks = {name: (t != 0).float() for name, t in state.items() if t.dim() > 1}
    dense = {name: t for name, t in state.items() if name not in masks}
    pruned = dense | {f"{n}_orig": state[n] for n in masks} | {f"{n}_mask": mask for n, mask in masks.items()}
    beside = state | {name.replace("weight", "mask"): mask for name, mask in masks.items()}
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
        lambda: torch.zeros(()).expand(shape),
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
        lambda: tensor.transpose(0, -1) if tensor.dim() else tensor,
        lambda: None,
        lambda: "text",
        lambda: tensor.tolist(),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls some of them deprecated
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


def _saved_if_it_can_be(rng: random.Random, content: Any, material: Material) -> bytes:
    try:
        return _saved(content, legacy=rng.random() < 0.1)
    except Exception:  # then there is no such file
        return _saved({"state_dict": material.state, "args": _Runs(os.system, "touch canary")})


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
        among = {**state, rng.choice(["x", 3, m.HOSTILE, ""]): _odd_extra(rng)}
        content = rng.choice([among, _odd_extra(rng), [state], {}])
    whole = _saved_if_it_can_be(rng, content, material)
    return _checkpoint(rng, folder, material, "odd/model.pt", whole)


def openlth(rng: random.Random, folder: Path, material: Material) -> Case:
    """Weights with `mask.pth` beside them, one of them odd."""
    weights = _saved(material.state)
    masks = _saved({name: (t != 0).float() for name, t in material.state.items() if t.dim() > 1})
    if rng.random() < 0.7:
        odd = [
            m.odd_zip(rng, masks, m.odd_pickle, "data.pkl"),
            m.damaged(rng, masks),
            _saved({"x": torch.ones(1)}),
            _saved_if_it_can_be(rng, _odd_extra(rng), material),
        ]
        masks = rng.choice(odd)
    else:
        weights = m.odd_zip(rng, weights, m.odd_pickle, "data.pkl")
    material.fill(folder, "in/", "net.py", PICTURE)
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
    material.fill(folder, "in/", "net.py", PICTURE)
    name = rng.choice(["odd/a.safetensors", "odd/model.pt", "odd/model.safetensors.index.json", "odd", "odd/mask.pth"])
    make_kind(rng, folder / name)
    return _commands(rng, name)
