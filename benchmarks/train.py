"""How fast tickets are trained: ours beside a plain loop and beside the bare steps, in turns within one process.

    python benchmarks/train.py --json benchmarks/results/train.json
    python benchmarks/train.py --arch resnet18_cifar --images 2048
    python benchmarks/train.py --full runs/full     # the wall time of 12 levels of resnet18_cifar; for a GPU

Three ways to do the same optimizer steps (forward, backward, SGD with momentum, mask), at the same batch size:

- bare: on one batch of tensors that lies ready, in ours' precision; what the device can do at most.
- ours: `lptool train`'s own epoch, with crops and flips, in the precision it takes by itself.
- plain: as the published code trains: DataLoader with worker processes, PIL transforms, float32, a loop over the masks.

The machine's speed drifts, so each round times all three one after the other, and what is told is the median over
rounds of the ratios within a round.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lptool.data.images import InMemory
from lptool.device import pick_device, usable_cores
from lptool.ranks import ALONE
from lptool.scoring.score import cast_forward
from lptool.training.epoch import Level, train_epoch
from lptool.training.job import train_tickets
from lptool.training.options import TrainOptions
from lptool.training.setup import UNWATCHED, Run, open_run, over_processes
from lptool.training.steps import make_optimizer, multipliers


@dataclass(frozen=True)
class Bench:
    """A run with as many training images as are timed, and a mask to enforce."""

    run: Run
    kept: dict[str, Tensor]

    @property
    def options(self) -> TrainOptions:
        return self.run.options


def open_bench(options: TrainOptions, images: int, device: str, folder: Path) -> Bench:
    run = over_processes(open_run(options, 1, folder, None, pick_device(device), None, ALONE, UNWATCHED))
    data = replace(run.data, train=run.data.train.subset(torch.arange(images)))
    parameters = dict(run.model.named_parameters())
    generator = torch.Generator().manual_seed(0)
    kept = {
        name: (torch.rand(parameters[name].shape, generator=generator) < 0.5).to(parameters[name])
        for name in run.prunable
    }
    return Bench(replace(run, data=data), kept)


def ours(bench: Bench, epoch: int) -> float:
    """Seconds of one epoch of the trainer, without its pass over val."""
    run = bench.run
    level = Level(1, 0.5, multipliers(run.model, bench.kept), make_optimizer(run.model, run.options, run.device))
    record, _ = train_epoch(run, level, epoch)
    return len(run.data.train) / float(record["images_per_second"])


def bare(bench: Bench, epoch: int) -> float:
    """Seconds of as many steps on one batch that lies ready."""
    run = bench.run
    size = bench.options.batch_size
    images = torch.randn(size, *run.data.shape, device=run.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(run.data.num_classes, (size,), device=run.device)
    optimizer, forward = make_optimizer(run.model, run.options, run.device), cast_forward(run.model, run.compute)
    run.model.train()

    def step() -> None:
        loss = F.cross_entropy(forward(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return (
        timed(lambda: [step() for _ in range(run.steps_per_epoch)], run.device)
        * len(run.data.train)
        / (run.steps_per_epoch * size)
    )


def plain(bench: Bench, epoch: int) -> float:
    """Seconds of one epoch in the manner of the published code."""
    run, o = bench.run, bench.options
    padding = run.data.shape[1] // 8
    transform = v2.Compose(
        [
            v2.RandomCrop(run.data.shape[1:], padding),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(run.data.mean), list(run.data.std)),
        ]
    )
    loader = DataLoader(
        Pictures(run.data.train, transform), batch_size=o.batch_size, shuffle=True, num_workers=usable_cores(),
        pin_memory=run.device.type == "cuda", drop_last=True,
    )  # fmt: skip
    model: nn.Module = copy.deepcopy(run.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    weights = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay)
    model.train()

    def train() -> None:
        for images, labels in loader:
            images, labels = images.to(run.device), labels.to(run.device)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for name, kept in bench.kept.items():
                    weights[name].mul_(kept)
            loss.item()

    return timed(train, run.device) * len(run.data.train) / (len(loader) * o.batch_size)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as PIL pictures, transformed one by one."""

    def __init__(self, images: Any, transform: Callable[..., Tensor]) -> None:
        assert isinstance(images, InMemory)
        to_pil = v2.ToPILImage()
        self.pictures = [to_pil(image) for image in images.images.cpu()]
        self.labels = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def timed(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounds(bench: Bench, count: int) -> Iterator[dict[str, float]]:
    """Images per second of each way, one round after the other; the first one warms up and is not given."""
    for number in range(count + 1):
        seconds = {way.__name__: way(bench, number) for way in (bare, ours, plain)}
        if number:
            yield {name: len(bench.run.data.train) / value for name, value in seconds.items()}


def measure(options: TrainOptions, images: int, device: str, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bench = open_bench(options, images, device, Path(folder))
        found = list(rounds(bench, count))
    return {
        "arch": options.arch,
        "dataset": options.dataset,
        "image_shape": list(bench.run.data.shape),
        "batch_size": options.batch_size,
        "images": images,
        "rounds": count,
        "device": torch.cuda.get_device_name() if bench.run.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "compute": str(bench.run.compute).removeprefix("torch."),
        "images_per_second": {name: round(median(row[name] for row in found)) for name in ("bare", "ours", "plain")},
        "ours_of_bare": round(median(row["ours"] / row["bare"] for row in found), 3),
        "ours_over_plain": round(median(row["ours"] / row["plain"] for row in found), 2),
    }


def full_run(options: TrainOptions, out: Path, device: str) -> dict[str, Any]:
    """The wall time of 12 tickets of the paper's recipe."""
    started = time.perf_counter()
    files = train_tickets(options, 11, out, device=device)
    return {"tickets": len(files), "epochs": options.epochs, "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["resnet8_cifar", "resnet18_cifar"])
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images", type=int, nargs="+", default=[8192, 1024], help="timed in a round, by arch")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--full", type=Path, help="train 12 tickets into this folder, and time that alone")
    given = parser.parse_args()
    common = {"dataset": given.dataset, "image_size": given.image_size, "batch_size": given.batch_size}
    if given.full:
        print(json.dumps(full_run(TrainOptions(arch="resnet18_cifar", **common), given.full, given.device)))
        return
    sizes = given.images * len(given.arch) if len(given.images) == 1 else given.images
    rows = []
    for arch, images in zip(given.arch, sizes, strict=True):
        rows.append(measure(TrainOptions(arch=arch, **common), images, given.device, given.rounds))
        print(json.dumps(rows[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
