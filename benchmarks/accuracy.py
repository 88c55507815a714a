"""Every method at every level of several IMP runs, from tickets to the JSON files of benchmarks/results/accuracy.

    python benchmarks/accuracy.py --work runs/accuracy --tickets     # the tickets alone: four minutes of a large GPU
    python benchmarks/accuracy.py --work runs/accuracy               # everything; hours on two cores
    python benchmarks/accuracy.py --work runs/accuracy --setting fashion-mnist --seed 0   # one run of it
    python benchmarks/accuracy_tables.py                             # the tables, from the JSON files

Resumable: a run goes on with the epoch, and with the level and method, that it was cut off at. `--data` holds
`cifar10-mini.npz`; Fashion-MNIST comes from Debian's package dataset-fashion-mnist.

The methods see val alone. Test is scored once for each finished model, whatever val says of it, so that methods are
compared and not the controls that `lptool pool` would ship in their place. Finished means: BatchNorm recalibrated on
8,192 training images (as good as all of them: benchmarks/calibration.py) and scored in float32. `reconstruct 0.5` is
`reconstruct` with that teacher alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lptool.checkpoints.masks import Mask, State
from lptool.data.corruptions import generated
from lptool.data.images import Images, InMemory, sample
from lptool.data.sources import load_parts
from lptool.pooling import reconstruct
from lptool.pooling.catalogue import TEACHERS, needs
from lptool.pooling.choice import BY_ACCURACY, Choice
from lptool.pooling.methods import pool_tickets
from lptool.pooling.outcome import Rebuilt
from lptool.pooling.reconstruction import Reconstruction, Teacher
from lptool.pooling.scorer import Scorer
from lptool.pooling.setup import Bench, PoolOptions, open_bench
from lptool.scoring.batchnorm import bn_layers
from lptool.scoring.metrics import measure_graded
from lptool.scoring.score import Graded, recalibrated, scaled_nll_of
from lptool.training.job import train_tickets
from lptool.training.options import TrainOptions
from lptool.training.setup import Watch

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "accuracy"
FINISHING_IMAGES = 8192
SEEDS = 3


@dataclass(frozen=True)
class Setting:
    """How the tickets of one setting are made. `levels` is the number of prunings."""

    options: dict[str, Any]
    levels: int


FASHION = {"dataset": "npz:{data}/fashion-20k.npz", "rewind_epoch": 3}
CIFAR = {"dataset": "npz:{data}/cifar10-mini.npz", "val_fraction": 0.2, "rewind_epoch": 4}
# Without augmentation a small network fits its images in few epochs; with crops and flips it takes many.
PLAIN = {"crop_padding": 0, "flip": "no"}
CROPPED = {"crop_padding": None, "flip": "yes", "rewind_epoch": 9}
SETTINGS = {
    "fashion-mnist": Setting(FASHION | PLAIN | {"epochs": 20, "rate": 0.3}, 7),
    "cifar10-mini": Setting(CIFAR | PLAIN | {"epochs": 20}, 9),
    "fashion-mnist-crops": Setting(FASHION | CROPPED | {"epochs": 40, "rate": 0.36}, 5),
    "cifar10-mini-crops": Setting(CIFAR | CROPPED | {"epochs": 80, "rate": 0.3}, 6),
    "cifar10-mini-groupnorm": Setting(
        CIFAR | PLAIN | {"arch": "benchmarks/groupnorm.py:resnet10_groupnorm", "epochs": 20, "rate": 0.3}, 6
    ),
}
COMMON = {"arch": "resnet10_cifar", "lr": 0.05}


@dataclass(frozen=True)
class Variant:
    """A method with what it chooses by, the images of BatchNorm, and the teachers of `reconstruct`."""

    method: str
    choice: Choice = BY_ACCURACY
    bn_images: str = "auto"
    teachers: tuple[float, ...] = TEACHERS


VARIANTS = {
    "greedy": Variant("greedy"),
    "average": Variant("average"),
    "window": Variant("window"),
    "soup": Variant("soup"),
    "swa": Variant("swa"),
    "ema": Variant("ema"),
    "uniform": Variant("uniform"),
    "learned": Variant("learned"),
    **{f"reconstruct {ratio:g}": Variant("reconstruct", teachers=(ratio,)) for ratio in (0.3, 0.5, 0.7, 1.0)},
    "window, NLL": Variant("window", Choice("nll")),
    "greedy, BN plain": Variant("greedy", bn_images="plain"),
    "greedy, BN none": Variant("greedy", bn_images="none"),
    "auto": Variant("auto"),
    "reconstruct": Variant("reconstruct"),
}
REFERENCES = ("ticket", "ticket + BN")
CONTROLS = (*REFERENCES, "ensemble")
CORRUPTED = ("ticket", "ticket + BN", "average", "greedy", "window", "learned", "reconstruct 1")
CORRUPTED_IMAGES, CORRUPTED_SEVERITIES = 1000, (1, 3, 5)
PAIRED = (*REFERENCES, "greedy")  # that all others are compared with, image by image


def make_fashion(path: Path) -> None:
    """Fashion-MNIST with 20,000 images to train on and 6,000 for val, so that 34,000 more than its own 10,000 test."""
    parts = load_parts("fashion-mnist", None, None)
    assert isinstance(parts.train, InMemory)
    assert isinstance(parts.test, InMemory)
    cuts = (20_000, 6_000, 34_000)
    (train, val, more), labels = parts.train.images.split(cuts), parts.train.labels.split(cuts)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        train_images=train[:, 0].numpy(),
        train_labels=labels[0].numpy(),
        val_images=val[:, 0].numpy(),
        val_labels=labels[1].numpy(),
        test_images=torch.cat([parts.test.images, more])[:, 0].numpy(),
        test_labels=torch.cat([parts.test.labels, labels[2]]).numpy(),
    )


def options_of(name: str, seed: int, data: Path) -> TrainOptions:
    options = COMMON | SETTINGS[name].options
    return TrainOptions(**options | {"dataset": options["dataset"].format(data=data)}, seed=seed)


def tickets(name: str, seed: int, work: Path, data: Path) -> list[Path]:
    """The tickets of one IMP run, trained where they are not there yet."""
    options, folder = options_of(name, seed, data), work / f"{name}-seed{seed}"
    there = sorted(folder.glob("level_*.safetensors"))
    if len(there) > SETTINGS[name].levels:  # trained on another machine, which may round the data's mean otherwise
        return there
    return train_tickets(options, SETTINGS[name].levels, folder, watch=Watch(on_epoch=say_epoch))


def opened(name: str, seed: int, work: Path, data: Path) -> Bench:
    """The bench of one run, whose tickets are trained where they are not there yet."""
    return open_bench(tickets(name, seed, work, data), PoolOptions(arch=options_of(name, seed, data).arch))


def run(name: str, seed: int, work: Path, data: Path) -> None:
    """One IMP run and everything that is measured on it; what its JSON file holds already is not done again."""
    path = RESULTS / f"{name}-seed{seed}.json"
    cell = json.loads(path.read_text()) if path.exists() else {"setting": name, "seed": seed, "levels": []}
    options, bench = options_of(name, seed, data), opened(name, seed, work, data)
    sets = cache(lambda: corruptions(bench))
    cell["options"] = options.to_json() | {"dataset": Path(options.dataset).name}
    cell["train_accuracy"] = bench.score(bench.pool[0].state, bench.data.train).accuracy
    levels = {found["level"]: found for found in cell["levels"]}
    for place in reversed(range(1, len(bench.pool))):  # the sparsest first; the dense one is no pruned model
        row = levels.get(place, {"methods": {}})["methods"]
        missing = [name for name in measured_at(bench) if name not in row]
        if not missing:
            continue
        if "ensemble" not in row:
            row["ensemble"] = ensemble(bench)
        right: dict[str, Tensor] = {}
        for method, state, more in finished_states(bench, place, dict.fromkeys([*REFERENCES, *missing])):
            found = {part: bench.predict(state, images) for part, images in parts(bench).items()}
            right[method] = found["test"][0].argmax(1) == found["test"][1]
            if method not in missing:
                continue
            row[method] = {part: numbers(*each) for part, each in found.items()} | more
            row[method]["pairs"] = {other: won_lost(right[method], right[other]) for other in PAIRED if other in right}
            if method in CORRUPTED:
                row[method]["corrupted"] = corrupted(bench, state, sets())
            print(f"{name} seed {seed} level {place} {method}: {shown(row[method])}", flush=True)
        levels[place] = {"level": place, "density": bench.pool.density(place), "methods": row}
        save(path, cell | {"levels": [levels[place] for place in sorted(levels)]})


def measured_at(bench: Bench) -> list[str]:
    """Controls and methods, without what would be the same under two names."""
    normalised, augmented = bool(bn_layers(bench.model)), bench.calibration.used == "augmented"
    extra = {"ticket + BN, plain": augmented, "greedy, BN plain": augmented, "greedy, BN none": normalised}
    return [name for name in ("ticket", "ticket + BN", "ticket + BN, plain", *VARIANTS) if extra.get(name, True)]


def won_lost(right: Tensor, other: Tensor) -> list[int]:
    """Images that one has right and another wrong, and the other way round."""
    return [int((right & ~other).sum()), int((other & ~right).sum())]


def finished_states(bench: Bench, target: int, methods: Iterable[str]) -> Iterator[tuple[str, State, Row]]:
    """Name, state and numbers of the search, of controls and methods at one level."""
    ticket = bench.pool[target].state
    known: dict[str, Any] = {}  # one method's scores and teachers serve the next
    taught: dict[Any, Any] = {}
    for name in methods:
        if name == "ticket":
            yield name, ticket, {}
        elif name.startswith("ticket + BN"):
            mode = name.removeprefix("ticket + BN").strip(" ,") or bench.calibration.used
            there = replace(bench, calibration=replace(bench.calibration, mode=mode))
            yield name, recalibrated_on_sample(there, ticket), {}
        else:
            variant = VARIANTS[name]
            mode = bench.calibration.used if variant.bn_images == "auto" else variant.bn_images
            there = replace(bench, calibration=replace(bench.calibration, mode=mode))
            scorer = there.scorer_for(variant.choice)
            scorer.known = known.setdefault(mode, {})
            yield name, *pooled(there, scorer, target, variant, taught)


def pooled(bench: Bench, scorer: Scorer, target: int, variant: Variant, taught: dict[Any, Any]) -> tuple[State, Row]:
    """One search, and its model finished."""
    reconstruct.TEACHERS = variant.teachers
    fitted = Remembering(bench.rebuilder, taught) if needs(variant.method, "rebuilder") else None
    best, trace = pool_tickets(
        bench.pool,
        scorer,
        target=target,
        method=variant.method,
        choice=variant.choice,
        gradient=bench.slope,
        rebuilder=fitted,
        score_as_is=scorer.as_is if scorer.recalibrates else None,
    )
    state = recalibrated_on_sample(bench, best.state) if best.recalibrated and scorer.recalibrates else best.state
    search = {"val": best.score.accuracy, "nll": best.score.nll, "accepted": len(trace.accepted)}
    search |= {"evaluations": trace.evaluations, "scored": sum(scorer.images.values())}
    return state, {"search": search | dict(trace.settings) | {"chosen": trace.chosen}}


@dataclass
class Remembering:
    """Fits layers, and keeps the teachers, which two methods share."""

    rebuilder: Reconstruction
    taught: dict[Any, Any]

    def teach(self, tickets: Iterable[tuple[float, State]]) -> Teacher:
        shares = tuple(tickets)
        key = tuple(share for share, _ in shares)
        if key not in self.taught:
            self.taught[key] = self.rebuilder.teach(shares)
        return self.taught[key]

    def recalibrated(self, state: State) -> State:
        return self.rebuilder.recalibrated(state)

    def rebuild(
        self, start: State, mask: Mask, teacher: Teacher, on_layer: Callable[[str], None], room: Mask | None
    ) -> Rebuilt:
        return self.rebuilder.rebuild(start, mask, teacher, on_layer, room)


def recalibrated_on_sample(bench: Bench, state: State) -> State:
    """As the finished model is, but on some training images: docs/speed.md says why not on all."""
    images = bench.calibration.images(sample(bench.data.train, FINISHING_IMAGES, seed=1))
    return recalibrated(bench.model, state, bench.batches(images)(bench.batch_size.images))


def ensemble(bench: Bench) -> Row:
    """Scores of the mean prediction of all tickets, each as it is: what pooling replaces, at so many times the cost."""
    row = {}
    for part, images in parts(bench).items():
        found = [bench.predict(bench.pool[place].state, images) for place in range(len(bench.pool))]
        mean = torch.stack([logits.double().softmax(dim=1) for logits, _ in found]).mean(dim=0)
        row[part] = numbers(mean.log().float(), found[0][1])
    return row


def parts(bench: Bench) -> dict[str, Images]:
    return {"val": bench.data.val, "test": bench.data.test}


def numbers(found: Tensor, labels: Tensor) -> Row:
    metrics = measure_graded(Graded.of(found, labels), found.shape[1])
    score = {"accuracy": metrics.score.accuracy, "nll": metrics.score.nll, "scaled nll": scaled_nll_of(found, labels)}
    return score | {"ece": metrics.ece, "n": metrics.score.n}


def corrupted(bench: Bench, state: State, sets: list[Images]) -> Row:
    """Mean accuracy and calibration of a state over all kinds and severities."""
    found = [numbers(*bench.predict(state, images)) for images in sets]
    return {key: fmean(row[key] for row in found) for key in ("accuracy", "nll", "ece")}


def corruptions(bench: Bench) -> list[Images]:
    """Some of the test images, under every kind at some severities."""
    some = torch.arange(min(CORRUPTED_IMAGES, len(bench.data.test)))
    data = replace(bench.data, test=bench.data.test.subset(some))
    return [p.images() for p in generated(data, bench.device).sets if p.severity in CORRUPTED_SEVERITIES]


def save(path: Path, cell: Row) -> None:
    """Write JSON, small: no more digits than mean something."""
    path.parent.mkdir(parents=True, exist_ok=True)
    short = json.loads(json.dumps(cell), parse_float=lambda digits: float(f"{float(digits):.7g}"))
    path.with_suffix(".tmp").write_text(json.dumps(short, separators=(",", ":")) + "\n")
    path.with_suffix(".tmp").replace(path)


def say_epoch(record: Row) -> None:
    print(f"level {record['level']} epoch {record['epoch']} val {record['val_accuracy']:.4f}", flush=True)


def shown(row: Row) -> str:
    return f"val {100 * row['val']['accuracy']:.2f} test {100 * row['test']['accuracy']:.2f}"


def arguments(about: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark over these runs."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where the tickets lie or go; without it nothing is run")
    parser.add_argument("--setting", choices=SETTINGS, help="only this one")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument(
        "--data", type=Path, default=Path("runs/data"), help="cifar10-mini.npz; fashion-20k.npz is made"
    )
    return parser


def asked(options: argparse.Namespace) -> Iterator[tuple[str, int, Path, Path]]:
    """Setting, seed and places of each run that is asked for; none without a place to work in."""
    for name in [options.setting] if options.setting else SETTINGS:
        for seed in [options.seed] if options.seed is not None else range(SEEDS):
            if options.work:
                yield name, seed, options.work, options.data


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tickets", action="store_true", help="train the tickets, on a GPU say, and pool nothing yet")
    options = parser.parse_args()
    if options.work and not (options.data / "fashion-20k.npz").exists():
        make_fashion(options.data / "fashion-20k.npz")
    for each in asked(options):
        (tickets if options.tickets else run)(*each)


if __name__ == "__main__":
    main()
