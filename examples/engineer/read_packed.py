"""Reads a packed file with numpy and safetensors alone: the reader of docs/format.md."""

import json
import math
from pathlib import Path

import numpy as np
from safetensors import deserialize

NUMPY = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def array(dtype, shape, data):
    if dtype == "BF16":
        return (np.frombuffer(data, "u2").astype("u4") << 16).view("f4").reshape(shape)
    return np.frombuffer(data, NUMPY[dtype]).reshape(shape)


def read_packed(path):
    content = Path(path).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    layout = json.loads(header["__metadata__"]["lptool_packed"])
    assert layout["version"] in (1, 2)
    tensors = {name: array(**tensor) for name, tensor in deserialize(content)}
    for name, entry in layout["tensors"].items():
        if entry["positions"] != "zeros":
            values, code = tensors.pop(f"{name}.values"), tensors.pop(f"{name}.{entry['positions']}")
            if entry["positions"] == "bitmask":
                kept = np.flatnonzero(np.unpackbits(code, bitorder="little"))
            else:
                kept = np.cumsum(code + (code < 255), dtype=np.int64)[code < 255] - 1
            size = math.prod(entry["shape"])
            if "values" in entry:
                scales = tensors.pop(f"{name}.scales")
                values = values.astype("f4") * scales[kept * len(scales) // size]
            dense = np.zeros(size, NUMPY.get(entry["dtype"], "f4"))
            dense[kept] = values
            tensors[name] = dense.reshape(entry["shape"])
    return tensors
