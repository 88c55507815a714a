"""The search side by side: the published loop, ours exhaustive, ours as shipped, on the same tickets in one run.

    python benchmarks/search.py [TICKETS…] [--targets 3 7 11] [--mixes 2] [--json FILE]

Without tickets it trains them first (preset fashion-mnist-resnet8 into runs/fashion, resumable).

published   Yin et al.'s loop in plain form, from its description: for every mix, global magnitude pruning by a full
            sort, `torch.optim.swa_utils.update_bn` over the whole augmented training set, then all of val; images come
            through DataLoader workers and PIL transforms, batches of 128, float32. Only the first MIXES mixes of the
            first target are run, and scaled up to the whole search.
exhaustive  ours, but every mix scored on all of val: no early rejection.
shipped     ours as `lptool pool` runs it.
coarse      ours with `--alpha-search coarse`.

Each runs in a process of its own, whose peak resident memory is shown. `share` is the images per second of the search
as a share of those of a bare `model(x)` loop in eval mode over tensors in memory, at the same batch size and precision.
That loop goes once over val after every candidate, in the same process, so that both meet the same moods of the
machine; its seconds are taken off the search's. `finish` is what `lptool pool` does after the search: BN recalibration
of the pooled model and of the control, and scoring on val and test in float32. The test accuracy is that of the pooled
model after it. `whole` is `lptool pool` as a process, from the shell's point of view: imports, checks, search, finish,
file.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset

from lptool.checkpoints.finding import find_checkpoints
from lptool.data.images import InMemory
from lptool.networks.building import build_model
from lptool.pooling.catalogue import PAPER_ALPHAS
from lptool.pooling.finish import finished, graded, scores_of
from lptool.pooling.methods import pool_tickets
from lptool.pooling.outcome import Progress, SearchTrace
from lptool.pooling.search import adjacent, coarse
from lptool.pooling.setup import Bench, PoolOptions, open_bench
from lptool.scoring.batchnorm import in_eval_mode
from lptool.scoring.score import Score, cast_forward
from lptool.tables import percent

Row = dict[str, Any]
MIB = 1 << 20


def published(files: list[Path], target: int, mixes: int) -> Row:
    """The first mixes of the published loop, scaled up to all of them."""
    bench = open_bench(files, PoolOptions(method="greedy"))
    train, val = _loaders(bench)
    model = build_model(bench.arch, **bench.arch_kwargs)
    current, candidate = bench.pool[target], bench.pool[adjacent(target, len(bench.pool))[0]]
    keep = bench.pool.kept(target)
    bare = Bare(bench, model, 128, torch.float32, channels_last=False)
    started = time.perf_counter()
    for alpha in PAPER_ALPHAS[:mixes]:
        state = {
            name: alpha * t + (1 - alpha) * candidate.state[name] if t.is_floating_point() else t
            for name, t in current.state.items()
        }
        magnitudes = torch.cat([state[name].abs().flatten() for name in bench.pool.prunable])
        threshold = magnitudes.sort(descending=True).values[keep - 1]
        for name in bench.pool.prunable:
            state[name] = state[name] * (state[name].abs() >= threshold)
        model.load_state_dict(state)
        update_bn(train, model)
        model.eval()
        with torch.no_grad():
            sum(int((model(images).argmax(1) == labels).sum()) for images, labels in val)
        bare.go_over_val()
    seconds = time.perf_counter() - started - bare.seconds
    every = (len(bench.pool) - 1) * len(PAPER_ALPHAS)
    images = (len(bench.data.train) + len(bench.data.val)) * mixes
    return {
        "seconds": seconds * every / mixes,
        "mixes_run": mixes,
        "val_images": len(bench.data.val) * every,
        "calibration_images": len(bench.data.train) * every,
        "rate": images / seconds,
        "bare_rate": bare.rate,
        "batch_size": 128,
        "precision": "fp32",
    }


class _Pictures(Dataset[tuple[Tensor, int]]):
    """Images as PIL pictures, one transform each, as torchvision's data sets give them."""

    def __init__(self, images: InMemory, transform: Callable[[Any], Tensor]) -> None:
        from PIL import Image

        pixels = images.images.permute(0, 2, 3, 1).squeeze(-1).numpy()
        self.pictures = [Image.fromarray(picture) for picture in pixels]
        self.labels, self.transform = images.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def _loaders(bench: Bench) -> tuple[DataLoader[Any], DataLoader[Any]]:
    from torchvision import transforms

    assert isinstance(bench.data.train, InMemory)
    assert isinstance(bench.data.val, InMemory)
    _, height, width = bench.data.shape
    tensor = [transforms.ToTensor(), transforms.Normalize(bench.data.mean, bench.data.std)]
    augment = [transforms.RandomCrop((height, width), padding=height // 8), transforms.RandomHorizontalFlip()]
    train = _Pictures(bench.data.train, transforms.Compose([*augment, *tensor]))
    val = _Pictures(bench.data.val, transforms.Compose(tensor))
    return DataLoader(train, 128, shuffle=True, num_workers=2), DataLoader(val, 128, num_workers=2)


def ours(files: list[Path], target: int, kind: str) -> Row:
    """One search and what follows it; `kind` is exhaustive, shipped or coarse."""
    bench = open_bench(files, PoolOptions(method="greedy", alpha_search="coarse" if kind == "coarse" else "grid"))
    scorer = bench.scorer

    def whole(state: Mapping[str, Tensor], bar: int = 0) -> Score:
        return scorer(state)

    batch_size = scorer.batch_size.images
    bare = Bare(bench, bench.model, batch_size, bench.compute, channels_last=True)

    seen: set[int | None] = set()

    def follow(progress: Progress) -> None:
        candidates = {one.candidate for one in progress.scored}
        if not seen >= candidates:
            seen.update(candidates)
            bare.go_over_val()

    started = time.perf_counter()
    best, trace = pool_tickets(
        bench.pool,
        whole if kind == "exhaustive" else scorer,
        target=target,
        alpha_search=bench.options.alpha_search,
        score_as_is=scorer.as_is,
        on_progress=follow,
    )
    seconds = time.perf_counter() - started - bare.seconds
    started = time.perf_counter()
    states = finished(bench, bench.pool[target].state, best, trace)
    _, test = (scores_of(graded(bench, states, images)) for images in (bench.data.val, bench.data.test))
    finish = time.perf_counter() - started
    distinct = {id(state): name for name, state in states.items() if name != "ticket"}
    recalibrated = len(distinct) * min(bench.options.final_calibration_size or math.inf, len(bench.data.train))
    scored = len({id(state) for state in states.values()}) * (len(bench.data.val) + len(bench.data.test))
    images = scorer.images["val"] + scorer.images["calibration"]
    return {
        "seconds": seconds,
        "finish_seconds": finish,
        "finish_images": recalibrated + scored,
        "val_images": scorer.images["val"],
        "calibration_images": scorer.images["calibration"],
        "rate": images / seconds,
        "bare_rate": bare.rate,
        "batch_size": batch_size,
        "precision": str(bench.compute).removeprefix("torch."),
        "sweeps": len(trace.steps),
        "accepted": [[step.candidate, step.alpha] for step in trace.accepted],
        "test_accuracy": test["pooled"].accuracy,
        "coarse_agrees": _coarse_agrees(trace) if kind == "exhaustive" else None,
    }


def as_process(files: list[Path], target: int) -> Row:
    """`lptool pool` from its start to its file, as a process."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lptool", "pool", *map(str, files), "-o", f"{folder}/pooled.safetensors"]
        started = time.perf_counter()
        done = subprocess.run(
            [*command, "--method", "greedy", "--target", str(target), "--json"], capture_output=True, check=True
        )
        seconds = time.perf_counter() - started
    return {"whole_seconds": seconds, "whole_test_accuracy": json.loads(done.stdout)["test"]["pooled"]["accuracy"]}


def _coarse_agrees(trace: SearchTrace) -> int:
    """In how many sweeps of an exhaustive search the coarse one would have come to the same decision."""
    bar = max(trace.ticket.correct, trace.ticket_bn.correct if trace.ticket_bn else 0)
    agree = 0
    for step in trace.steps:
        alphas, scores = zip(*step.attempts, strict=True)
        tried: set[int] = set()
        best: int | None = None
        while places := coarse(alphas, tried, best):
            tried |= set(places)
            top = max(tried, key=lambda i: (scores[i].correct, -i))
            best = top if scores[top].correct >= bar else None
        agree += (alphas[best] if best is not None else None) == step.alpha
        bar = max(bar, step.score.correct if step.accepted and step.score else 0)
    return agree


class Bare:
    """The bare `model(x)` loop over val, normalised and in memory, and the seconds it took."""

    def __init__(
        self, bench: Bench, model: nn.Module, batch_size: int, compute: torch.dtype, *, channels_last: bool
    ) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        batches = bench.batches(bench.data.val, even=False)(batch_size)
        self._batches = [images.contiguous(memory_format=layout) for images, _ in batches]
        self._model, self._forward = model, cast_forward(model, compute)
        self.images, self.seconds = 0, 0.0

    def go_over_val(self) -> None:
        """Once."""
        started = time.perf_counter()
        with in_eval_mode(self._model), torch.inference_mode():
            for images in self._batches:
                self._forward(images)
        self.seconds += time.perf_counter() - started
        self.images += sum(map(len, self._batches))

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


def run_alone(function: Callable[..., Row], *arguments: Any) -> Row:
    """The function's result from a fresh process, with its peak memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(_with_peak, function, *arguments).result()


def _with_peak(function: Callable[..., Row], *arguments: Any) -> Row:
    row = function(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return row | {"peak_bytes": peak}


def measure(files: list[Path], targets: list[int], mixes: int) -> list[Row]:
    """All rows; of the published loop one, of ours one per target, and one with the first four tickets only."""
    rows = [{"search": "published", "target": targets[0]} | run_alone(published, files, targets[0], mixes)]
    for target in targets:
        for kind in ("exhaustive", "shipped", "coarse"):
            row = {"search": kind, "target": target} | run_alone(ours, files, target, kind)
            rows.append(row | (as_process(files, target) if kind == "shipped" else {}))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    few = run_alone(ours, files[:4], 3, "shipped")
    return [*rows, {"search": "shipped", "target": 3, "tickets": 4} | few]


def table(rows: list[Row]) -> Table:
    """What is measured, a line each."""
    shown = Table(title="one search")
    for heading in (
        "search",
        "target",
        "seconds",
        "finish, s",
        "whole, s",
        "val images",
        "calibration images",
        "images/s",
        "share of bare loop",
        "peak MiB",
        "accepted",
        "test",
    ):
        shown.add_column(heading, justify="left" if heading == "search" else "right")
    for row in rows:
        tickets = f", {row['tickets']} tickets" if "tickets" in row else ""
        scaled = f" ({row['mixes_run']} mixes, scaled up)" if "mixes_run" in row else ""
        shown.add_row(
            f"{row['search']}{tickets}{scaled}",
            str(row["target"]),
            f"{row['seconds']:,.1f}",
            *(f"{row[part]:.1f}" if part in row else "–" for part in ("finish_seconds", "whole_seconds")),
            f"{row['val_images']:,}",
            f"{row['calibration_images']:,}",
            f"{row['rate']:,.0f}",
            percent(row["rate"] / row["bare_rate"], 0),
            f"{row['peak_bytes'] / MIB:,.0f}",
            str(len(row["accepted"])) if "accepted" in row else "–",
            percent(row["test_accuracy"]) if "test_accuracy" in row else "–",
        )
    return shown


def summary(rows: list[Row]) -> Row:
    """The ratios that the rows give."""
    whole = [row for row in rows if "tickets" not in row]
    by = {(row["search"], row["target"]): row for row in whole}
    targets = sorted({row["target"] for row in whole})
    loop = next(row for row in rows if row["search"] == "published")

    def ratio(key: str, search: str, target: int) -> float:
        return float(by["exhaustive", target][key] / by[search, target][key])

    agree, sweeps = (sum(by["exhaustive", t][key] for t in targets) for key in ("coarse_agrees", "sweeps"))
    return {
        "published / shipped, seconds": [loop["seconds"] / by["shipped", t]["seconds"] for t in targets],
        "published / (shipped + finish), seconds": [
            loop["seconds"] / (by["shipped", t]["seconds"] + by["shipped", t]["finish_seconds"]) for t in targets
        ],
        "published / whole, seconds": [loop["seconds"] / by["shipped", t]["whole_seconds"] for t in targets],
        "finish / search, images": [
            by["shipped", t]["finish_images"]
            / sum(by["shipped", t][f"{kind}_images"] for kind in ("val", "calibration"))
            for t in targets
        ],
        "exhaustive / shipped, val images": [ratio("val_images", "shipped", t) for t in targets],
        "exhaustive / shipped, seconds": [ratio("seconds", "shipped", t) for t in targets],
        "same steps as exhaustive": [by["exhaustive", t]["accepted"] == by["shipped", t]["accepted"] for t in targets],
        "share of bare loop": [by["shipped", t]["rate"] / by["shipped", t]["bare_rate"] for t in targets],
        "sweeps in which coarse agrees": f"{agree} of {sweeps}",
    }


def machine() -> Row:
    """What it ran on."""
    name = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tickets", nargs="*", type=Path)
    parser.add_argument("--targets", type=int, nargs="+", default=[11, 7, 3], help="places in the pool")
    parser.add_argument("--mixes", type=int, default=2, help="of the published loop")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path("runs/fashion")
    if not options.tickets:
        train = [sys.executable, "-m", "lptool", "train", "-o", str(folder), "--preset", "fashion-mnist-resnet8"]
        subprocess.run(train, check=True)
    files = find_checkpoints(options.tickets or [folder])
    rows = measure(files, options.targets, options.mixes)
    ratios = summary(rows)
    Console(width=160).print(table(rows))
    print(json.dumps(ratios, indent=1))
    if options.json:
        document = {"machine": machine(), "tickets": len(files), "ratios": ratios, "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
