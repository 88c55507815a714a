"""Data sets of every kind that are wrong."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.reliability import mutations as m
from tests.reliability.cases import PICTURE, PICTURES, TICKET, Case, Material, make_kind, put
from tests.reliability.material import ARCH, TRAIN, images


def _training_on(dataset: str, names: tuple[str, ...], *more: str) -> Case:
    short = ("--epochs", "1", "--rewind-epoch", "0", "--levels", "1", "--batch-size", "6")
    words = ("train", "-o", "out", *TRAIN, *short, "--dataset", dataset, *more)
    return Case(words, names)


def npz(rng: random.Random, folder: Path, material: Material) -> Case:
    """Arrays that are odd, or in a damaged file."""
    material.fill(folder, "in/", "net.py")
    (train, train_labels), (test, test_labels) = images(32, 0), images(16, 1)
    arrays: dict[str, Any] = {"train_images": train, "train_labels": train_labels}
    arrays |= {"test_images": test, "test_labels": test_labels}
    kind = rng.randrange(3)
    if kind == 0:
        name = rng.choice(list(arrays))
        old = arrays[name]
        arrays[name] = rng.choice(
            [old.astype(float), old[:0], old[:3], old[..., None], old.astype("U3"), old - 1,
             old.astype(np.uint64) + 2**63, old.astype(">i8"), old.reshape(-1), np.float16(old), old.T, np.array(3),
             old.astype(bool), old.astype(np.int64) * 100_000, old.astype(np.int64) - 100,
             np.zeros((3, *old.shape), np.uint8), old.astype(complex), np.array(["x"] * len(old))]
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
        make_kind(rng, folder / file)
    elif kind == 1:
        place = rng.choice(
            [
                "pictures/train/.hidden",
                "pictures/train/c",
                "pictures/train/a/deep",
                "pictures/train/x.txt",
                "pictures/valid",
            ]
        )
        make_kind(rng, folder / place)
    else:
        put(folder / file, _picture(rng))
    patches = STREAMED if rng.random() < 0.15 else {}
    case = _training_on("folder:pictures", ("pictures",), "--image-size", "8")
    return Case(case.words, case.names, case.outputs, patches)


def predicted(rng: random.Random, folder: Path, material: Material) -> Case:
    """Pictures to predict, of which one or what holds them is odd."""
    material.fill(folder, TICKET, "net.py")
    put(folder / "new/good.png", material.files[PICTURE])
    name = rng.choice(["new/odd.png", "new/odd.jpg", "new/deep/odd.png", "new/.odd.png", "new/odd.txt"])
    if rng.random() < 0.3:
        make_kind(rng, folder / name)
    else:
        put(folder / name, _picture(rng))
    pictures = rng.choice([("new",), (name,), ("new/good.png", name), ("new", "nothing/*.png")])
    more = rng.choice([(), ("--json",), ("--top", "3"), ("--image-size", "8")])
    return Case(("predict", TICKET, *pictures, *ARCH, "--device", "cpu", *more), (*pictures, name), ())


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
                text = rng.choice(
                    [b"9" * 30, b"-1", b"", "²".encode(), b"\xff", b"1\n\n", b"1" * 10_000, b"99999", b"1.0", b"+1"]
                )
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


def kinds(rng: random.Random, folder: Path, material: Material) -> Case:
    """No file or folder at all where data are expected."""
    material.fill(folder, "in/", "net.py")
    what = rng.choice(["npz:odd/x", "folder:odd/x", "wds/odd/x", "npz:odd/x/data.npz"])
    make_kind(rng, folder / "odd/x")
    words = ("train", "-o", "out", *TRAIN, "--levels", "1", "--dataset", what)
    return Case(words, ("odd/x",))


def idx(rng: random.Random, folder: Path, material: Material) -> Case:
    """Fashion-MNIST's files, one of them damaged or with another header."""
    material.fill(folder, "net.py")
    for part, count in (("train", 32), ("t10k", 16)):
        pixels, labels = images(count, 0)
        arrays = {"images-idx3": pixels, "labels-idx1": labels.astype(np.uint8)}
        for kind, array in arrays.items():
            header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
            odd = rng.random() < 0.4
            plain = header + array.tobytes()
            content = gzip.compress(m.damaged(rng, plain) if odd and rng.random() < 0.5 else plain, mtime=0)
            put(folder / f"idx/{part}-{kind}-ubyte.gz", m.damaged(rng, content) if odd else content)
    return _training_on("fashion-mnist", ("idx/",), "--data-dir", "idx")


def cache_file(rng: random.Random, folder: Path, material: Material) -> Case:
    """A file of decoded pictures that is odd: then it is not used, and the pictures are decoded anew."""
    material.fill(folder, "net.py", "pictures/", "seen/", "cache/")
    for file in list((folder / "cache").glob("*")):
        content = file.read_bytes()
        file.unlink()
        if rng.random() < 0.3:
            make_kind(rng, file)
        else:
            put(file, m.damaged(rng, content))
    return Case(("pool", "seen", *PICTURES, "-o", "out/a.safetensors"), ("cache",), ("out", "cache"), STREAMED)


STREAMED = {"lptool.data.pictures.IN_MEMORY_BYTES": 1}
