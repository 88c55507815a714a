"""What can be wrong with a file: damage to its bytes, and to the JSON, safetensors, pickles and archives in it."""

from __future__ import annotations

import io
import json
import math
import pickletools
import random
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

Place = tuple[str | int, ...]  # keys and indices, from the outside in
GONE = object()  # in place of a value: takes the key out
HOSTILE = "a\n\ud800\x1b[31m{{ x }}|`<b>"
# In place of a value, as what Python's own JSON cannot write.
_TEXTS = {
    "@nested": b"[" * 900 + b"]" * 900,
    "@deep": b"[" * 100_000 + b"]" * 100_000,
    "@long": b"9" * 5000,
    "@bytes": b'"\xff\xfe\x80"',
    "@half": b'"\\ud800"',
    "@tiny": b"-1e-999999",
    "@huge": b"1e999999",
}


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else []


NUMBERS = [-1, 0, 1.5, math.nan, math.inf, 10**400, 10**20, True]
_PLAIN = [None, *NUMBERS, "", "x", HOSTILE, [], {}, [3], ["x"], [{}], {"arch": "x"}, nested(60), GONE]
VALUES = [*_PLAIN, nested(900)]
_HUGE = [2**31, 2**63, 20_000_000, -(2**63)]
ODD = [*_PLAIN, *_TEXTS, *_HUGE, "\x00", "../../etc/passwd", "é" * 300, "%s%n", "nan"]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """The way to each value in a document, its own first."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in inner:
        yield from places(inside, (*at, key))


def mutated(document: Any, at: Place, value: Any) -> Any:
    """The document with another value at a place."""
    if not at:
        return None if value is GONE else value
    found, (key, *rest) = document.copy(), at
    if value is GONE and not rest:
        del found[key]
    else:
        found[key] = mutated(document[key], tuple(rest), value)
    return found


def odd_json(rng: random.Random, document: Any) -> bytes:
    """A document with another value at a place or two, or with damage to its text."""
    for _ in range(rng.choice([1, 1, 2])):
        document = mutated(document, rng.choice(list(places(document))), rng.choice(ODD))
    text = json.dumps(document).encode()
    for name, content in _TEXTS.items():
        text = text.replace(f'"{name}"'.encode(), content)
    return damaged(rng, text) if rng.random() < 0.15 else text


# Bytes


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Bits flipped, parts cut off, zeroed, doubled, moved or put in."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        content = rng.choice(_DAMAGES)(rng, bytearray(content))
    return bytes(content)


def _flipped(rng: random.Random, content: bytearray) -> bytes:
    for _ in range(rng.choice([1, 1, 3, 20])):
        if content:
            # Mostly where headers are.
            place = rng.randrange(min(len(content), rng.choice([64, 1024, len(content)])))
            content[place] ^= 1 << rng.randrange(8)
    return content


def _range(rng: random.Random, content: bytearray) -> slice:
    start = rng.randrange(len(content) + 1)
    return slice(start, start + rng.choice([1, 8, 64, 1024]))


def _zeroed(rng: random.Random, content: bytearray) -> bytes:
    part = _range(rng, content)
    content[part] = bytes(len(content[part]))
    return content


def _doubled(rng: random.Random, content: bytearray) -> bytes:
    part = _range(rng, content)
    return content[: part.stop] + content[part] + content[part.stop :]


def _removed(rng: random.Random, content: bytearray) -> bytes:
    del content[_range(rng, content)]
    return content


def _spliced(rng: random.Random, content: bytearray) -> bytes:
    one, other = _range(rng, content), _range(rng, content)
    content[one] = content[other]
    return content


def _cut(rng: random.Random, content: bytearray) -> bytes:
    return content[: rng.choice([0, 1, 8, 9, rng.randrange(len(content) + 1), max(0, len(content) - 1)])]


def _longer(rng: random.Random, content: bytearray) -> bytes:
    return content + rng.randbytes(rng.choice([1, 100, 5000]))


_DAMAGES: list[Callable[[random.Random, bytearray], bytes]] = [
    _flipped, _flipped, _zeroed, _doubled, _removed, _spliced, _cut, _cut, _longer
]  # fmt: skip


# Safetensors


def parts_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of a sound safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: bytes, body: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


DTYPES = ["F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "U16", "U32", "U64", "C64",
          "F4", "F6_E2M3", "F8_E8M0", "", "X"]  # fmt: skip
SHAPES: list[list[Any]] = [[], [0], [1], [-1], [1] * 65, [2**62], [2**40, 2**40], [0, 2**63], [10**10], [1.5], [None],
                           ["a"], [True]]  # fmt: skip
NAMES = [
    "",
    HOSTILE,
    "x" * 100_000,
    "__metadata__",
    "0.weight_mask",
    "1.weight.mask",
    "..",
    "module.0.weight",
    "\x1b]0;x\x07",
    "weight",
]


def odd_safetensors(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file with one thing wrong in its header or its body."""
    header, body = parts_of(content)
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry, kind = header[name], rng.randrange(9)
    if kind == 0:
        return joined(odd_json(rng, header), body)
    if kind == 1:
        entry["dtype"] = rng.choice(DTYPES)
        return joined(json.dumps(header).encode(), body)
    if kind == 2:  # a type of the same size, or a shape of as many numbers: the file itself is sound
        alike = {"F32": ["I32", "U32"], "I64": ["U64", "F64", "C64"]}.get(entry["dtype"], ["U8"])
        if rng.random() < 0.5:
            entry["dtype"] = rng.choice(alike)
        else:
            count = math.prod(entry["shape"])
            entry["shape"] = rng.choice([[count], [1] * 64 + [count], [count, 1], [1] * 70 + entry["shape"]])
        return joined(json.dumps(header).encode(), body)
    if kind == 3:
        entry["shape"] = rng.choice(SHAPES)
        return joined(json.dumps(header).encode(), body)
    if kind == 4:
        entry["data_offsets"] = rng.choice([[0, 0], [0, 2**63], [4, 0], [-4, 0], [0, len(body)], [0], None, [0, 2**64]])
        return joined(json.dumps(header).encode(), body)
    if kind == 5:
        renamed = {rng.choice(NAMES) if key == name else key: value for key, value in header.items()}
        return joined(json.dumps(renamed).encode(), body)
    if kind == 6:
        length = rng.choice([0, 1, 2**63, 2**64 - 1, 100_000_001, len(body), rng.randrange(1000)])
        return joined(json.dumps(header).encode(), body, length)
    if kind == 7:
        special = struct.pack("<f", rng.choice([math.nan, math.inf, -math.inf, 3e38, 1e-45]))
        start, stop = entry["data_offsets"]
        place = start + 4 * rng.randrange(max(1, (stop - start) // 4))
        return joined(json.dumps(header).encode(), body[:place] + special + body[place + 4 :])
    return damaged(rng, content)


def odd_metadata(rng: random.Random, content: bytes, key: str) -> bytes:
    """A sound safetensors file of which one value in the JSON under a key of its metadata is another."""
    header, body = parts_of(content)
    text = odd_json(rng, json.loads(header["__metadata__"][key])).decode("utf-8", "replace")
    header["__metadata__"][key] = text
    return joined(json.dumps(header).encode(), body)


# Pickles in torch's zip files

GLOBALS = [
    "os system", "posix system", "builtins eval", "builtins exec", "builtins getattr", "subprocess Popen",
    "collections OrderedDict", "collections defaultdict", "collections deque", "builtins set", "builtins frozenset",
    "builtins range", "builtins slice", "builtins bytearray", "builtins complex", "builtins int", "_codecs encode",
    "torch FloatStorage", "torch LongStorage", "torch BoolStorage", "torch QInt8Storage", "torch Size", "torch device",
    "torch float8_e4m3fn", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_qtensor", "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._tensor _rebuild_from_type_v2", "torch.nn.parameter Parameter", "torch.optim.sgd SGD", "pathlib PosixPath",
    "torch.nn.modules.linear Linear", "torch.torch_version TorchVersion", "datetime datetime", "datetime timedelta",
    "argparse Namespace", "numpy.core.multiarray scalar", "numpy._core.multiarray _reconstruct", "numpy dtype",
    "numpy ndarray", "functools partial", "__main__ Args", "no.such.module Thing", "x\x1b[31m y",
    "types SimpleNamespace",
]  # fmt: skip


def odd_pickle(rng: random.Random, content: bytes) -> bytes:
    """A pickle with other globals, numbers or texts, or with steps left out, doubled or swapped."""
    steps = _steps_of(content)
    for _ in range(rng.choice([1, 1, 2])):
        place = rng.randrange(1, len(steps))
        kind = rng.randrange(6)
        if kind == 0:
            place = rng.choice([i for i, step in enumerate(steps) if step[:1] == b"c"] or [place])
            steps[place] = b"c" + rng.choice(GLOBALS).replace(" ", "\n", 1).encode() + b"\n"
        elif kind == 1:
            place = rng.choice([i for i, step in enumerate(steps) if step[:1] in (b"K", b"M", b"J")] or [place])
            number = rng.choice([0, 1, 2, 7, 2**31 - 1, -1, -(2**31), rng.randrange(10_000)])
            steps[place] = b"J" + struct.pack("<i", number)
            if rng.random() < 0.2:
                steps[place] = b"\x8a\x09" + (2**64 + 3).to_bytes(9, "little", signed=True)
        elif kind == 2:
            place = rng.choice([i for i, step in enumerate(steps) if step[:1] == b"X"] or [place])
            text = rng.choice(
                ["", "cpu", "cuda:0", "meta", "mps", "x", "state_dict", "weight_mask", "é" * 500, "\x1b[2J"]
            )
            steps[place] = b"X" + struct.pack("<I", len(text.encode())) + text.encode()
        elif kind == 3:
            del steps[place]
        elif kind == 4:
            steps.insert(
                place,
                rng.choice(
                    [*steps, b"N", b"\x88", b"}", b"]", b")", b"0", b"(", b"t", b"R", b"b", b"Q", b"a", b"s", b"2"]
                ),
            )
        else:
            other = rng.randrange(1, len(steps))
            steps[place], steps[other] = steps[other], steps[place]
    return b"".join(steps)


def _steps_of(content: bytes) -> list[bytes]:
    starts = [start for _, _, start in pickletools.genops(content) if start is not None]
    return [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]


def odd_zip(rng: random.Random, content: bytes, inner: Callable[[random.Random, bytes], bytes], of: str) -> bytes:
    """A zip file in which the record that ends in `of` is another, or records are lost, renamed, cut or compressed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    kind = rng.randrange(8)
    place = rng.randrange(len(records))
    name, data = records[place]
    if kind <= 2:
        records = [(n, inner(rng, d) if n.endswith(of) else d) for n, d in records]
    elif kind == 3:
        del records[place]
    elif kind == 4:
        records[place] = (
            rng.choice(["../x", "/etc/x", "archive/data.pkl", name + "x", "constants.pkl", "a" * 5000]),
            data,
        )
    elif kind == 5:
        records[place] = (name, damaged(rng, data))
    elif kind == 6:
        records.append((rng.choice([name, "archive/code/__torch__.py", "archive/constants.pkl", "x/data.pkl"]), data))
    else:
        return damaged(rng, content)
    out = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", how) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in records:
            archive.writestr(zipfile.ZipInfo(name), data, how)  # of no time, so that a case is the same each time
    whole = out.getvalue()
    return damaged(rng, whole) if rng.random() < 0.05 else whole


# Tar files


def odd_tar(rng: random.Random, files: list[tuple[str, bytes]]) -> bytes:
    """A tar file of these files with one odd member, or one odd number in a header."""
    out, place = io.BytesIO(), rng.randrange(len(files))
    with tarfile.open(
        fileobj=out, mode="w", format=rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    ) as tar:
        for number, (name, content) in enumerate(files):
            info = tarfile.TarInfo(name)
            if number == place:
                _make_odd(rng, info)
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    whole = bytearray(out.getvalue())
    kind = rng.randrange(4)
    if kind == 0:  # the size in a header, or its kind, with a checksum that fits
        start = rng.choice([at for at in range(0, len(whole), 512) if whole[at + 257 : at + 262] == b"ustar"])
        if rng.random() < 0.5:
            whole[start + 124 : start + 136] = rng.choice(
                [b"77777777777\0", b"\x80" + b"\xff" * 11, b"-0000000001\0", b"\xff" * 12, b"zzzzzzzzzzz\0"]
            )
        else:
            whole[start + 156 : start + 157] = rng.choice([b"S", b"1", b"2", b"5", b"L", b"x", b"g", b"7", b"Z"])
        whole[start + 148 : start + 156] = b" " * 8
        whole[start + 148 : start + 156] = b"%06o\0 " % sum(whole[start : start + 512])
    return damaged(rng, bytes(whole)) if kind == 1 else bytes(whole)


def _make_odd(rng: random.Random, info: tarfile.TarInfo) -> None:
    kind = rng.randrange(5)
    if kind == 0:
        info.type, info.linkname = (
            rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]),
            rng.choice(["/etc/passwd", "a/0.cls", info.name]),
        )
    elif kind == 1:
        info.type = rng.choice([tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE])
    elif kind == 2:
        info.name = rng.choice(
            ["../../x.png", "/abs.png", "a/.png", "a.v2.png", "x" * 90 + ".png", "\x1b[31m.png", "é.png", "a/0"]
        )
