"""How often pictures are decoded that do not fit in memory: one `pool --method greedy` on one rank and on two.

    python benchmarks/streaming.py --work runs/streaming --cifar runs/data/cifar10-mini.npz \\
      --json benchmarks/results/streaming.json

Makes a folder of JPEGs of 256 pixels from Fashion-MNIST (Debian's package dataset-fashion-mnist) and, where `--cifar`
names such a file, from CIFAR-10, and trains a few tickets; both are kept in `--work`. Then it has the data set stream,
however small it is, and counts what each command decodes, reads and forwards, on all ranks:

    before   every scoring decodes val, each rank its calibration images, as if val were larger than 2 GB
    after    as `lptool pool --cache-dir` is, with an empty folder
    again    the same command once more, with the folder that it left
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lptool.checkpoints.finding import find_checkpoints
from lptool.cli import main as lptool
from lptool.data import images, pictures
from lptool.data.images import Images, places_of_sample
from lptool.data.pictures import Pictures
from lptool.data.sources import load_parts
from lptool.device import usable_cores
from lptool.pooling import decoding, setup
from lptool.training.job import train_tickets
from lptool.training.options import TrainOptions

Row = dict[str, Any]
WAYS = ("before", "after", "again")
SIDE = 256  # of the pictures


def make_pictures(folder: Path, cifar: Path | None, sizes: dict[str, int]) -> None:
    """Train, val and test, each picture in one of them alone, with a folder per class of each data set."""
    if folder.is_dir():
        return
    names = ["fashion-mnist", *([] if cifar is None else [f"npz:{cifar}"])]
    sources = [load_parts(name, None, None) for name in names]
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    begin = 0
    for part, size in sizes.items():
        share = size // len(sources)
        for number, source in enumerate(sources):
            taken = source.test.subset(torch.arange(share)) if part == "test" else None
            _save(unfinished / part, number, taken or source.train.subset(torch.arange(begin, begin + share)))
        begin += share
    unfinished.rename(folder)


def _save(folder: Path, number: int, taken: Images) -> None:
    for place, (pixels, labels) in enumerate(taken.raw(torch.arange(len(taken)).split(1), torch.device("cpu"))):
        file = folder / f"{number}{int(labels[0])}" / f"{place:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.asarray(pixels[0].permute(1, 2, 0)).squeeze()).convert("RGB")
        picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, quality=90)


def make_tickets(options: argparse.Namespace) -> list[Path]:
    """A run of three levels and two epochs."""
    training = TrainOptions(
        arch="resnet8_cifar", dataset=f"folder:{options.work / 'pictures'}", image_size=options.image_size
    )
    run = options.work / "run"
    if not (run / "level_02.safetensors").exists():
        train_tickets(replace(training, epochs=2, rewind_epoch=1), 2, run)
    return find_checkpoints([run])


def count_and_run(way: str, counts: Path, kept: int, arguments: Sequence[str]) -> None:
    """One command on this rank: what is decoded, by whatever process, becomes a line in `counts`."""
    pictures.IN_MEMORY_BYTES = 1
    if way == "before":
        images.decoded.__defaults__ = (kept,)  # bytes that a rank keeps decoded for itself: 2 GB
        decoding.decoded_once = lambda bench, ranks, folder: (bench, [])  # type: ignore[assignment]
    real, descriptor = Pictures.__getitem__, os.open(counts, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def get(self: Pictures, index: int) -> Any:
        os.write(descriptor, f"{Path(self.source.root).name} {index}\n".encode())
        return real(self, index)

    Pictures.__getitem__ = get  # type: ignore[method-assign]
    build, forwarded = setup.build_model, [0]

    def building(*given: Any, **more: Any) -> Any:
        model = build(*given, **more)
        model.register_forward_pre_hook(lambda module, inputs: forwarded.__setitem__(0, forwarded[0] + len(inputs[0])))
        return model

    setup.build_model = building
    atexit.register(lambda: os.write(descriptor, f"forwarded {forwarded[0]}\n".encode()))
    lptool(list(arguments))


def measured(way: str, ranks: int, files: list[Path], options: argparse.Namespace) -> Row:
    """Run one command in processes of its own and count."""
    place = options.work / "pooled"
    counts, cache = place / "counts", place / "cache"
    if way != "again":
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(exist_ok=True)
    for left in place.glob("a.*"):
        left.unlink()
    counts.unlink(missing_ok=True)
    kept = options.calibration_size * 3 * options.image_size**2
    start = [sys.executable, *f"-m torch.distributed.run --standalone --nproc-per-node {ranks}".split()]
    command = [__file__, "--work", str(options.work), "--count", way, str(counts), str(kept), "pool", *map(str, files)]
    command += ["-o", str(place / "a.safetensors"), "--method", "greedy", "--alphas", options.alphas, "--json"]
    command += ["--calibration-size", str(options.calibration_size), "--precision", "fp32", "--device", "cpu"]
    command += ["--batch-size", "128"]  # else a probe chooses it, and images are forwarded for that
    command += [] if way == "before" else ["--cache-dir", str(cache)]
    begin = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, *command], stdout=subprocess.PIPE, check=True, text=True, env=environment)
    seconds = time.perf_counter() - begin
    document = json.loads(done.stdout)
    found = {"ranks": ranks, "way": way, "seconds": round(seconds, 1), "sha256": document["sha256"]}
    return found | {"models_scored": document["evaluations"]} | counted(counts, options)


def counted(counts: Path, options: argparse.Namespace) -> Row:
    """Decodes by part, per picture of it, and in bytes; `sample` is the calibration sample, a part of train."""
    lines = [line.split() for line in counts.read_text().splitlines()]
    found = Counter((part, int(index)) for part, index in lines if part != "forwarded")
    sizes = {part: len(list((options.work / "pictures" / part).rglob("*.jpg"))) for part in ("train", "val", "test")}
    sample = places_of_sample(sizes["train"], options.calibration_size, 0).tolist()
    places = {"val": range(sizes["val"]), "test": range(sizes["test"]), "sample": sample}
    decodes = {name: sum(found["train" if name == "sample" else name, i] for i in at) for name, at in places.items()}
    files = {part: pictures_of(options.work / "pictures" / part) for part in sizes}
    return {
        "forwarded": sum(int(number) for part, number in lines if part == "forwarded"),
        "decoded": found.total(),
        "megabytes_read": round(sum(files[part][i].stat().st_size * n for (part, i), n in found.items()) / 1e6, 1),
        "decodes": decodes | {"rest_of_train": found.total() - sum(decodes.values())},
        "per_picture": {name: round(decodes[name] / len(at), 3) for name, at in places.items()},
    }


def pictures_of(folder: Path) -> list[Path]:
    """In the order of torchvision's ImageFolder."""
    return sorted(folder.rglob("*.jpg"))


def table(rows: list[Row]) -> str:
    """Markdown, one line per command."""
    lines = [
        "| ranks | | decoded | of val, each | test, each | calibration, each | MB read | forwarded | seconds |",
        "| --: | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        each = " | ".join(f"{row['per_picture'][name]:.2f}" for name in ("val", "test", "sample"))
        lines.append(
            f"| {row['ranks']} | {row['way']} | {row['decoded']:,} | {each} | {row['megabytes_read']:,.1f} "
            f"| {row['forwarded']:,} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="for pictures and tickets; one for each size of data")
    parser.add_argument("--cifar", type=Path, help="an .npz file as `npz:FILE` has it")
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--val", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--calibration-size", type=int, default=1024)
    parser.add_argument("--alphas", default="0.1,0.3,0.5,0.7,0.9")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--count", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        way, counts, kept, *arguments = options.count
        count_and_run(way, Path(counts), int(kept), arguments)
        return
    sizes = {"train": options.train, "val": options.val, "test": options.test}
    options.work.mkdir(parents=True, exist_ok=True)
    make_pictures(options.work / "pictures", options.cifar, sizes)
    files = make_tickets(options)
    rows = [measured(way, ranks, files, options) for ranks in (1, 2) for way in WAYS]
    assert len({(row["ranks"], row["sha256"]) for row in rows}) == 2, "all three ways give one file"
    print(table(rows))
    if options.json:
        machine = {"cores": usable_cores(), "processor": platform.processor() or platform.machine()}
        said = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        said = {name: said[name] for name in ("train", "val", "test", "image_size", "calibration_size", "alphas")}
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        document = {"options": said | {"cifar": options.cifar is not None}, "machine": machine, "versions": versions}
        options.json.write_text(json.dumps(document | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
