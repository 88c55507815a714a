"""ONNX files that are wrong."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.reliability import mutations as m
from tests.reliability.cases import DATA, PICTURE, TICKET, Case, Material, put


def onnx_file(rng: random.Random, folder: Path, material: Material) -> Case:
    """A file of which bytes, one value anywhere in it, or the header is odd; or that names tensors elsewhere."""
    material.fill(folder, "in/data.npz", "net.py", PICTURE)
    header = m.parts_of(material.files[TICKET])[0]["__metadata__"]["lptool"]
    content = _sound(header)
    kind = rng.randrange(4)
    if kind == 0:
        content = m.damaged(rng, content)
    else:
        proto = _parsed(content)
        if kind == 1:
            proto.metadata_props[0].value = m.odd_json(rng, json.loads(header)).decode(errors="replace")
        elif kind == 2:
            _name_elsewhere(rng.choice([t for t in _messages(proto) if t.DESCRIPTOR.name == "TensorProto"]), rng)
        else:
            for _ in range(rng.choice([1, 1, 2])):
                _odd_value(rng, proto)
        content = proto.SerializeToString()
    put(folder / "odd.onnx", content)
    put(folder / "elsewhere", bytes(8 * 8 * 4 * 4))
    words = ("predict", "odd.onnx", PICTURE, "--device", "cpu")
    if rng.random() < 0.7:
        words = ("evaluate", "odd.onnx", "--mean", "0.3", "--std", "0.4", *DATA)
    return Case(words, ("odd.onnx",), ())


@cache
def _sound(header: str) -> bytes:
    """Images [N, 1, 8, 8] by a branch, a function and a weight in an attribute, to four logits."""
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)

    def array(*shape: int, name: str) -> TensorProto:
        return numpy_helper.from_array(draw.normal(size=shape).astype(np.float32), name)

    flat = helper.make_node("Flatten", ["x"], ["flat"])
    head = helper.make_node("Gemm", ["flat", "weight"], ["logits"], transB=1)
    bias = helper.make_node("Constant", [], ["bias"], value=array(4, name="bias"))
    shifted = helper.make_node("shift", ["logits", "bias"], ["shifted"], domain="own")
    shift = helper.make_function(
        "own", "shift", ["a", "b"], ["c"], [helper.make_node("Add", ["a", "b"], ["c"])], [helper.make_opsetid("", 17)]
    )
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph(
        [helper.make_node("Mul", ["shifted", "scale"], ["y"])], "branch", [], [out], [array(4, name="scale")]
    )
    choice = helper.make_node("If", ["always"], ["y"], then_branch=branch, else_branch=branch)
    always = numpy_helper.from_array(np.array(True), "always")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])
    graph = helper.make_graph(
        [flat, head, bias, shifted, choice], "g", [x], [out], [array(4, 64, name="weight"), always]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[shift], ir_version=8)
    helper.set_model_props(model, {"lptool": header})
    return model.SerializeToString()  # type: ignore[no-any-return]


def _parsed(content: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(content)


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type:
            for part in value if isinstance(value, Iterable) else (value,):
                yield from _messages(part)


def _name_elsewhere(tensor: Any, rng: random.Random) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value=rng.choice(["elsewhere", "/etc/passwd", "../x", ""]))


def _odd_value(rng: random.Random, proto: Any) -> None:
    """Another value, or none, in a field of a message of the file."""
    message = rng.choice([each for each in _messages(proto) if each.ListFields()])
    field, value = rng.choice(message.ListFields())
    plural = not isinstance(value, str | bytes) and isinstance(value, Iterable)
    if field.message_type or rng.random() < 0.2:
        message.ClearField(field.name)
        return
    old = list(value) if plural else [value]
    odd: list[Any] = [-1, 0, 1, 2, 7, 23, 2**31 - 1, -(2**31)]
    if old and isinstance(old[0], str):
        odd = ["", "x", m.HOSTILE.replace("\ud800", ""), "Loop", "Cast", "MatMul", "flat", "weight"]
    elif old and isinstance(old[0], bytes):
        odd = [b"", b"\xff", m.damaged(rng, old[0]), old[0] * 2]
    elif old and isinstance(old[0], float):
        odd = [float("nan"), float("inf"), 0.0, -1e38]
    elif field.name == "dims":
        odd += [2**62, 2**40]
    if plural:
        place = rng.randrange(len(old))
        old[place : place + 1] = rng.choice([[rng.choice(odd)], [], [rng.choice(odd), old[place]]])
        message.ClearField(field.name)
        getattr(message, field.name).extend(old)
    else:
        with contextlib.suppress(ValueError):  # of an enumeration, which has a few values only
            setattr(message, field.name, rng.choice(odd))
