"""Folders of runs, journals of searches and places of outputs that are wrong."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

from tests.helpers.runs import evaluated, target
from tests.reliability import mutations as m
from tests.reliability.cases import DATA, FAST, TICKET, Case, Material, make_kind, put
from tests.reliability.material import ARCH, TRAIN


def run_folder(rng: random.Random, folder: Path, material: Material) -> Case:
    """A run that was cut off, of which one file is odd, lost, or another's."""
    material.fill(folder, "in/data.npz", "net.py", "out/run/")
    files = sorted(name for name in material.files if name.startswith("out/run/") and not name.endswith("/lock"))
    name = rng.choice([f for f in files for _ in range(3 if "train.jsonl" in f or ".json" in f else 1)])
    content = material.files[name]
    kind = rng.randrange(6)
    if kind == 0:
        (folder / name).unlink()
    elif kind == 1:
        (folder / name).unlink()
        make_kind(rng, folder / name)
    elif kind == 2:
        put(folder / name, m.damaged(rng, content))
    elif name.endswith(".safetensors"):
        other = rng.choice(["in/run/level_00.safetensors", "pooled.safetensors", "packed.safetensors"])
        put(folder / name, rng.choice([m.odd_safetensors(rng, content), material.files[other]]))
    elif name.endswith(".jsonl"):
        lines = content.splitlines(keepends=True)
        place = rng.randrange(len(lines))
        lines[place] = rng.choice(
            [
                m.odd_json(rng, json.loads(lines[place])) + b"\n",
                b"\n",
                b"\xff\xfe\n",
                b"[]}\n",
                b"3\n",
                b"{}\n",
                b'{"level": null}\n',
                b"x}\n",
            ]
        )
        put(folder / name, b"".join(lines))
    else:
        put(folder / name, m.odd_json(rng, json.loads(content)))
    names = ("out/run/.mine", "out/run/.resume/.mine.x", "out/run/level_01.safetensors", "out/run/level_02.safetensors")
    more = folder / rng.choice(names)
    if rng.random() < 0.2 and not os.path.lexists(more):
        put(more, rng.choice([b"x", material.files["pooled.safetensors"]]))
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
        make_kind(rng, folder / name)
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


def documents(rng: random.Random, folder: Path, material: Material) -> Case:
    """What `pool --json` and `evaluate --json` printed, one of them odd."""
    sound: list[Any] = [{"targets": [target(0, level, (900, 910, 930)) for level in (1, 2)]}, target(1, 2, (9, 8, 10))]
    sound += [evaluated(0, (930, 900), 40), evaluated(1, (930, 900), 40, swapped=True)]
    odd = rng.randrange(len(sound))
    for number, document in enumerate(sound):
        content = json.dumps(document).encode()
        if number == odd:
            content = m.damaged(rng, content) if rng.random() < 0.3 else m.odd_json(rng, document)
        put(folder / f"{number}.json", content)
    if rng.random() < 0.1:
        (folder / f"{odd}.json").unlink()
        make_kind(rng, folder / f"{odd}.json")
    more = rng.choice([(), ("--json",), ("--figure", "out/a.svg"), ("--csv", "out/a.csv", "--latex", "out/a.tex")])
    names = tuple(f"{number}.json" for number in range(len(sound)))
    return Case(("compare", *names, *more), (*names, "nothing to draw"))


def outputs(rng: random.Random, folder: Path, material: Material) -> Case:
    """Something else lies where the output goes."""
    material.fill(folder, "in/", "net.py")
    target = rng.choice(["out", "out/", "out.safetensors", "out.pt", "out.html", "out/x/a.safetensors"])
    place = folder / target.rstrip("/")
    if rng.random() < 0.5:
        make_kind(rng, place)
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
