"""Iterative magnitude pruning: masks, rewinding, and going on after a kill."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from torch.nn import functional as F

from lptool.checkpoints import places
from lptool.checkpoints.masks import kept_count, sparsity
from lptool.checkpoints.reading import file_sha256, load_ticket
from lptool.cli import main
from lptool.data import images as images_module
from lptool.data import pictures
from lptool.data.dataset import Data
from lptool.data.images import InMemory, Streamed
from lptool.errors import ArchError, LptoolError, OutputError, TrainError
from lptool.networks.architecture import load_model
from lptool.networks.building import build_model
from lptool.scoring.score import predict, score_of
from lptool.training.epoch import epoch_generator
from lptool.training.folder import RunFolder
from lptool.training.job import train_tickets
from lptool.training.options import TrainOptions
from lptool.training.schedule import learning_rate
from lptool.training.setup import Watch
from tests.helpers import processes
from tests.helpers.masks import is_nested
from tests.helpers.processes import begin
from tests.helpers.training import DATA, NETWORKS

CPU = torch.device("cpu")
EPOCHS, REWIND, LEVELS = 4, 1, 2
ALL_EPOCHS = [(0, e) for e in range(EPOCHS)] + [(level, e) for level in (1, 2) for e in range(REWIND, EPOCHS)]
CONV_WEIGHTS, LINEAR_WEIGHTS = 6 * 9 + 8 * 6 * 9, 8 * 4


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("networks") / "networks.py"
    file.write_text(NETWORKS)
    return str(file)


@pytest.fixture(scope="session")
def options(networks: str) -> TrainOptions:
    return TrainOptions(
        arch=f"{networks}:net", dataset="random", epochs=EPOCHS, rewind_epoch=REWIND, batch_size=32, precision="fp32"
    )


def run(options: TrainOptions, out: Path, levels: int = LEVELS, **more: Any) -> list[Path]:
    return train_tickets(options, levels, out, device="cpu", data=DATA, **more)


@pytest.fixture(scope="session")
def whole(options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted; not to be written to."""
    out = tmp_path_factory.mktemp("whole")
    run(options, out)
    return out


def journal(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]


def epochs_of(out: Path) -> list[tuple[int, int]]:
    return [(record["level"], record["epoch"]) for record in journal(out)]


def assert_same_tickets(ours: Path, theirs: Path) -> None:
    names = [file.name for file in sorted(theirs.glob("level_*.safetensors"))]
    assert [file.name for file in sorted(ours.glob("level_*.safetensors"))] == names
    for name in names:
        assert file_sha256(ours / name) == file_sha256(theirs / name), name


def everything(out: Path) -> dict[str, tuple[int, str]]:
    files = [file for file in out.rglob("*") if file.is_file()]
    return {str(file): (file.stat().st_mtime_ns, file_sha256(file)) for file in files}


# Pruning


@pytest.mark.parametrize("prune", ["conv", "all"])
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_each_level_keeps_exactly_its_share_within_the_level_before(
    options: TrainOptions, prune: str, rate: float, tmp_path: Path
) -> None:
    files = run(replace(options, prune=prune, rate=rate, epochs=1, rewind_epoch=0), tmp_path, levels=4)
    assert [file.name for file in files] == [f"level_0{i}.safetensors" for i in range(5)]
    tickets = [load_ticket(file) for file in files]
    kept = CONV_WEIGHTS + (LINEAR_WEIGHTS if prune == "all" else 0)
    for level, ticket in enumerate(tickets):
        assert kept_count(ticket.mask) == kept
        assert set(ticket.mask) == {"0.weight", "4.weight", *(["8.weight"] if prune == "all" else [])}
        assert (ticket.metadata.level, ticket.metadata.prunable) == (level, tuple(ticket.mask))
        assert level == 0 or is_nested(ticket.mask, tickets[level - 1].mask)
        for name, mask in ticket.mask.items():
            assert not ticket.state[name][~mask].any()
        kept = round(kept * (1 - rate))


def test_pruning_takes_the_smallest_weights_of_all_layers_together(whole: Path) -> None:
    dense, pruned = (load_ticket(whole / f"level_0{level}.safetensors") for level in (0, 1))
    magnitudes = {
        kept: torch.cat([dense.state[n][pruned.mask[n] == kept] for n in pruned.mask]).abs() for kept in (True, False)
    }
    assert magnitudes[False].max() <= magnitudes[True].min()
    assert len(magnitudes[False]) == round(0.2 * CONV_WEIGHTS)


def test_metadata_says_how_the_ticket_came_about(options: TrainOptions, whole: Path) -> None:
    metadata = load_ticket(whole / "level_01.safetensors").metadata
    assert (metadata.kind, metadata.arch) == ("ticket", options.arch)
    assert metadata.arch_kwargs == {"num_classes": 4, "in_chans": 1}
    assert metadata.dataset == json.loads(json.dumps(DATA.describe()))
    assert {name: metadata.train[name] for name in options.to_json()} == options.to_json()
    assert metadata.train["compute"] == "float32"


@pytest.mark.parametrize("rewind", ["weights", "lr"])
def test_a_network_whose_part_is_called_model_is_trained_like_any_other(
    rewind: str, options: TrainOptions, networks: str, tmp_path: Path
) -> None:
    options = replace(options, rewind=rewind)
    plain, wrapped = (
        run(replace(options, arch=f"{networks}:{name}"), tmp_path / name) for name in ("certain", "Wrapped")
    )
    for ours, theirs in zip(wrapped, plain, strict=True):
        a, b = load_ticket(ours), load_ticket(theirs)
        assert all(torch.equal(a.state[name], t) for name, t in b.state.items())
        assert all(torch.equal(a.mask[name], kept) for name, kept in b.mask.items())


def test_nothing_left_after_pruning_is_refused_and_the_levels_before_stay(
    options: TrainOptions, tmp_path: Path
) -> None:
    """486 weights at 99 %: 5, then none."""
    with pytest.raises(TrainError, match=r"^level 2: pruning would leave none of the weights; ask for fewer"):
        run(replace(options, rate=0.99), tmp_path, levels=3)
    assert [file.name for file in sorted(tmp_path.glob("*.safetensors"))] == [
        "level_00.safetensors",
        "level_01.safetensors",
    ]
    assert kept_count(load_ticket(tmp_path / "level_01.safetensors").mask) == 5


def test_network_without_prunable_weights_is_refused(options: TrainOptions, networks: str, tmp_path: Path) -> None:
    linear = replace(options, arch=f"{networks}:linear")
    with pytest.raises(TrainError, match=r"linear' has no weights that --prune conv may touch"):
        run(linear, tmp_path / "conv")
    assert not (tmp_path / "conv").exists()
    assert len(run(replace(linear, prune="all"), tmp_path / "all")) == 3


# The schedule, and rewinding


def test_later_levels_rewind_the_schedule_too(whole: Path) -> None:
    assert epochs_of(whole) == ALL_EPOCHS
    by_hand = [0.1, 0.1, 0.01, 0.001]
    assert [record["lr"] for record in journal(whole)] == pytest.approx([by_hand[e] for _, e in ALL_EPOCHS])


@pytest.mark.parametrize("rewind_epoch", [0, 1, 2])
def test_later_levels_start_from_the_rewind_weights_times_the_mask(
    options: TrainOptions, rewind_epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With steps too small to move a weight, level 1 ends where it starts."""
    epochs, still = 3, 1e-30
    options = replace(options, epochs=epochs, rewind_epoch=rewind_epoch)
    trained = tmp_path / "run" / "level_00.safetensors"
    monkeypatch.setattr(
        "lptool.training.epoch.learning_rate", lambda options, step, steps: still if trained.exists() else 0.1
    )
    dense, pruned = (load_ticket(file) for file in run(options, tmp_path / "run", levels=1))

    if rewind_epoch == 0:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            start = build_model(options.arch, 4, 1).state_dict()
    else:
        monkeypatch.setattr("lptool.training.epoch.learning_rate", lambda options, step, steps: 0.1)
        short = replace(options, epochs=rewind_epoch, rewind_epoch=0)
        start = load_ticket(run(short, tmp_path / "short", levels=0)[0]).state
    for name, mask in pruned.mask.items():
        assert torch.equal(pruned.state[name], start[name] * mask)
        assert not torch.equal(dense.state[name], start[name])


def by_the_paper(options: TrainOptions, data: Data, levels: int, rewind_step: int) -> list[dict[str, Tensor]]:
    """Algorithm 1 of Yin et al. 2023, written out: momentum by hand, masks by sorting, no file in between.

    Only the random draws of an epoch are the trainer's.
    """
    assert isinstance(data.train, InMemory)
    torch.manual_seed(options.seed)
    model = build_model(options.arch, data.num_classes, 1).to(memory_format=torch.channels_last)
    weights = dict(model.named_parameters())
    prunable = [name for name, p in weights.items() if p.dim() == 4]
    mask = {name: torch.ones_like(weights[name]) for name in prunable}
    images = (data.train.images / 255 - data.mean[0]) / data.std[0]
    steps = math.ceil(len(images) / options.batch_size)
    rewind: dict[str, Tensor] = {}
    tickets = []
    for level in range(levels + 1):
        if level:
            magnitude = np.concatenate([(weights[n].detach() * mask[n]).abs().numpy().ravel() for n in prunable])
            kept = round(sum(int(m.sum()) for m in mask.values()) * (1 - options.rate))
            threshold = np.sort(magnitude)[-kept]
            mask = {n: mask[n] * (weights[n].detach().abs() >= threshold) for n in prunable}
            if options.rewind != "lr":
                model.load_state_dict(rewind)
            for name in prunable:
                weights[name].data *= mask[name]
        velocity = {name: torch.zeros_like(p) for name, p in weights.items()}
        for epoch in range(options.epochs):
            order = torch.randperm(len(images), generator=epoch_generator(options.seed, level, epoch))
            model.train()
            for step, batch in enumerate(order.tensor_split(steps)):
                done = epoch * steps + step
                if level == 0 and done == rewind_step:
                    rewind = {name: t.clone() for name, t in model.state_dict().items()}
                if level and done < rewind_step:
                    continue
                gradients = torch.autograd.grad(
                    F.cross_entropy(model(images[batch]), data.train.labels[batch]), list(weights.values())
                )
                for (name, p), gradient in zip(weights.items(), gradients, strict=True):
                    velocity[name] = 0.9 * velocity[name] + gradient + 1e-4 * p.detach()
                    p.data -= learning_rate(options, done, steps) * velocity[name]
                    p.data *= mask.get(name, torch.ones(()))
        tickets.append({name: t.clone() for name, t in model.state_dict().items()})
    return tickets


@pytest.mark.parametrize(
    ("changes", "rewind_step"),
    [
        ({}, 3),
        ({"rewind": "init"}, 0),
        ({"rewind_epoch": "5it"}, 5),
        ({"rewind_epoch": "2it", "schedule": "linear", "warmup": 1}, 2),
        ({"rewind": "lr", "rewind_epoch": 2}, 6),
        ({"rewind": "lr", "rewind_epoch": "4it"}, 4),
    ],
)
def test_tickets_are_those_of_the_algorithm_written_out(
    changes: dict[str, Any], rewind_step: int, options: TrainOptions, networks: str, tmp_path: Path
) -> None:
    options = replace(options, arch=f"{networks}:certain", crop_padding=0, flip="no", seed=5, **changes)
    files = run(options, tmp_path)
    with torch.random.fork_rng():
        expected = by_the_paper(options, DATA, LEVELS, rewind_step)
    for file, state in zip(files, expected, strict=True):
        torch.testing.assert_close(load_ticket(file).state, state, rtol=1e-4, atol=1e-5)


def test_network_that_comes_in_eval_mode_is_trained_like_any_other(
    options: TrainOptions, networks: str, whole: Path, tmp_path: Path
) -> None:
    (file,) = run(replace(options, arch=f"{networks}:asleep"), tmp_path, levels=0)
    awake = load_ticket(whole / file.name).state
    assert all(torch.equal(tensor, awake[name]) for name, tensor in load_ticket(file).state.items())


def test_streamed_images_give_the_same_tickets(options: TrainOptions, networks: str, tmp_path: Path) -> None:
    options = replace(options, arch=f"{networks}:certain")
    run(options, tmp_path / "memory")

    def stream(images: InMemory) -> Streamed:
        pairs = list(zip(images.images, images.labels.tolist(), strict=True))
        return Streamed(pairs, torch.arange(len(images)))

    assert isinstance(DATA.train, InMemory)
    assert isinstance(DATA.val, InMemory)
    streams = replace(DATA, train=stream(DATA.train), val=stream(DATA.val))
    train_tickets(options, LEVELS, tmp_path / "stream", device="cpu", data=streams)
    assert_same_tickets(tmp_path / "stream", tmp_path / "memory")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python ≥ 3.12 under pytest's own threads
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of fewer cores
def test_crops_of_picture_files_give_the_same_tickets_whoever_decodes_them(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = TrainOptions(arch="resnet8_cifar", epochs=2, rewind_epoch=1, batch_size=12, precision="fp32")
    options = replace(short, dataset=f"folder:{image_folder}", image_size=16, augment="resized-crop")
    expected = train_tickets(options, 1, tmp_path / "memory", device="cpu")
    monkeypatch.setattr(pictures, "IN_MEMORY_BYTES", 1)
    monkeypatch.setattr(images_module, "_workers", lambda batches: 3)
    found = train_tickets(options, 1, tmp_path / "workers", device="cpu")
    for ours, theirs in zip(found, expected, strict=True):
        state = load_ticket(theirs).state
        assert all(torch.equal(tensor, state[name]) for name, tensor in load_ticket(ours).state.items())


# Records, and which epoch is kept


def test_every_epoch_is_recorded_and_told(options: TrainOptions, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    files = run(options, tmp_path, watch=Watch(on_epoch=told.append))
    assert told == journal(tmp_path)
    last = {record["level"]: record for record in told}
    for level, file in enumerate(files):
        score = score_of(*predict(load_model(file, arch=options.arch), DATA.batches(DATA.val, 512, CPU)))
        assert last[level]["val_accuracy"] == score.accuracy
        assert last[level]["val_nll"] == pytest.approx(score.nll, rel=1e-5)
        assert last[level]["sparsity"] == pytest.approx(1 - 0.8**level, abs=1e-2)


def test_keep_best_takes_the_first_of_the_epochs_most_accurate_on_val(options: TrainOptions, tmp_path: Path) -> None:
    options = replace(options, keep="best", epochs=8, lr=0.3)
    kept_epochs = []
    for level, file in enumerate(run(options, tmp_path)):
        records = [record for record in journal(tmp_path) if record["level"] == level]
        best = max(records, key=lambda record: record["val_accuracy"])
        score = score_of(*predict(load_model(file, arch=options.arch), DATA.batches(DATA.val, 512, CPU)))
        assert score.accuracy == best["val_accuracy"]
        assert score.nll == pytest.approx(best["val_nll"], rel=1e-5)
        kept_epochs.append(best["epoch"])
    assert set(kept_epochs) != {7}, "the test shows nothing where the best epoch is the last"


@pytest.mark.parametrize("lr", [1e9, 1e20])
def test_diverged_loss_names_level_and_epoch(options: TrainOptions, lr: float, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"^level 0, epoch \d: the loss became (nan|inf); try a lower --lr"):
        run(replace(options, lr=lr, batch_size=2), tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_no_ticket_is_written_with_weights_that_are_not_finite(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="level 0, epoch 0"):
        run(replace(options, lr=1e38, batch_size=96, epochs=1, rewind_epoch=0), tmp_path, levels=0)


def test_network_with_too_few_classes_is_refused(options: TrainOptions, networks: str, tmp_path: Path) -> None:
    with pytest.raises(ArchError, match="class"):
        run(replace(options, arch=f"{networks}:too_few_classes"), tmp_path)


# Reproducible, and resumed after a kill


def test_same_seed_same_tickets_and_another_seed_others(options: TrainOptions, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(replace(options, seed=seed), tmp_path / name, levels=1)
    assert_same_tickets(tmp_path / "a", tmp_path / "b")
    a, c = (load_ticket(tmp_path / name / "level_00.safetensors") for name in ("a", "c"))
    assert not torch.equal(a.state["0.weight"], c.state["0.weight"])


def test_random_state_of_the_caller_is_left_alone(options: TrainOptions, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    run(options, tmp_path, levels=1)
    assert torch.equal(torch.get_rng_state(), before)


class Killed(BaseException):
    """Like SIGKILL, nothing in the package handles it."""


def killer(when: int) -> Callable[..., None]:
    """A function that raises at its call number `when`, from 0."""
    calls = iter(range(when + 1))

    def count(*_: Any) -> None:
        if next(calls) == when:
            raise Killed

    return count


VARIANTS: dict[str, dict[str, Any]] = {
    "last": {},
    "best": {"keep": "best"},
    "no momentum": {"momentum": 0.0},
    "rewound to init": {"rewind": "init"},
    "rewound to a step": {"rewind_epoch": "4it"},
    "learning rate rewound": {"rewind": "lr", "rewind_epoch": "7it", "scope": "layer"},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "schedule": "cosine", "warmup": 1.5, "label_smoothing": 0.1},
    "fast": {"nesterov": True, "flip": "alternate", "schedule": "linear", "augment": "resized-crop"},
    "bf16": {"precision": "bf16"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_run_killed_again_and_again_ends_with_the_same_tickets(
    variant: str, options: TrainOptions, tmp_path: Path
) -> None:
    """Killed after a random number of epochs each time, between the record of an epoch and its checkpoint."""
    options = replace(options, **VARIANTS[variant])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(options, whole)
    draw = random.Random(variant)
    kills = 0
    while True:
        try:
            run(options, killed, watch=Watch(on_epoch=killer(draw.choice([1, 1, 2, 3]))))
            break
        except Killed:
            kills += 1
    assert kills >= 3
    assert_same_tickets(killed, whole)
    assert epochs_of(killed) == epochs_of(whole)


@pytest.mark.parametrize("epoch", range(len(ALL_EPOCHS)))
def test_run_killed_at_any_epoch_ends_with_the_same_tickets(
    epoch: int, options: TrainOptions, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(options, tmp_path, watch=Watch(on_epoch=killer(epoch)))
    run(options, tmp_path)
    assert_same_tickets(tmp_path, whole)
    assert epochs_of(tmp_path) == ALL_EPOCHS


@pytest.mark.parametrize("rename", range(0, 18, 2))
def test_run_killed_before_a_file_is_in_place_ends_with_the_same_tickets(
    rename: int, options: TrainOptions, whole: Path, tmp_path: Path
) -> None:
    """Every file but the journal appears by a rename: options, rewind point, epochs, levels."""
    killing, renaming = killer(rename), places.put_file

    def rename_or_die(new: Path, place: Path, *, replace: bool) -> None:
        killing()
        renaming(new, place, replace=replace)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "put_file", rename_or_die)
        with pytest.raises(Killed):
            run(options, tmp_path)
    run(options, tmp_path)
    assert_same_tickets(tmp_path, whole)
    assert epochs_of(tmp_path) == ALL_EPOCHS


def test_record_that_was_cut_off_is_written_again(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(options, tmp_path, watch=Watch(on_epoch=killer(6)))
    text = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(text[:-30])
    run(options, tmp_path)
    assert epochs_of(tmp_path) == ALL_EPOCHS


SHORT = TrainOptions(
    arch="resnet8_cifar", dataset="digits", epochs=4, rewind_epoch=1, precision="fp32", val_fraction=0.5
)


def command_of(options: TrainOptions, out: Path) -> list[str]:
    shaping = ("arch", "dataset", "epochs", "rewind_epoch", "precision", "val_fraction")
    flags = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in shaping]
    return ["train", "-o", str(out), "--levels=1", "--device=cpu", *flags]


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `SHORT` makes where nothing interrupts it."""
    out = tmp_path_factory.mktemp("short")
    train_tickets(SHORT, 1, out, device="cpu")
    return out


def train_without_an_end(*command: str) -> None:
    """What `lptool` does, but where it would be done it waits: a signal finds it at work, however late it comes."""

    def wait(folder: RunFolder) -> None:
        while True:
            time.sleep(0.01)

    RunFolder.finish = wait  # type: ignore[method-assign]
    processes.lptool(*command)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_command_stopped_at_random_moments_ends_with_the_same_tickets(
    how: signal.Signals, short: Path, tmp_path: Path
) -> None:
    """A real process, stopped at a random moment of its training, started again and stopped again."""
    out, draw = tmp_path / "stopped", random.Random(how)
    command = command_of(SHORT, out)
    for records in sorted(draw.sample(range(1, 5), 2)):
        child = begin(tmp_path / "child", train_without_an_end, *command)
        try:
            while whole_lines(out / "train.jsonl") < records:
                assert child.process.is_alive(), f"ended before it could be stopped\n{child.stderr}"
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.05))
        finally:
            assert child.process.pid is not None
            os.kill(child.process.pid, how)
        if how == signal.SIGINT:
            assert child.end() == 130
            said = child.stderr
            assert said.splitlines()[-1].endswith(f"the same command goes on from the last finished epoch in {out}")
            assert "Traceback" not in said
        assert child.end() in (130, -signal.SIGKILL)
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 0, again.output
    assert_same_tickets(out, short)
    assert epochs_of(out) == epochs_of(short)


# A full disk


def train_on_a_full_disk(size: int, *command: str) -> None:
    """The system refuses to write files of more bytes, as a full disk would."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    processes.lptool(*command)


def test_a_full_disk_is_one_clear_line_and_the_last_good_state_stays(short: Path, tmp_path: Path) -> None:
    out = tmp_path / "full"
    command = command_of(SHORT, out)
    rewind, epoch = 305_000, 500_000  # bytes: what is rewound to fits, what an epoch leaves does not
    child = begin(tmp_path / "child", train_on_a_full_disk, (rewind + epoch) // 2, *command)
    assert child.end() == 1
    said = child.stderr
    assert re.fullmatch(
        r"Error: \S+epoch\.safetensors: cannot be written \(.*\); .* free some space", said.splitlines()[-1]
    )
    assert "Traceback" not in said
    assert not [file for file in out.rglob(".*.safetensors.*") if file.is_file()], "half-written files are left"
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 0, again.output
    assert_same_tickets(out, short)


@pytest.mark.parametrize("write", range(0, 18, 3))
def test_a_disk_that_fills_at_any_write_costs_no_more_than_an_epoch(
    write: int, options: TrainOptions, whole: Path, tmp_path: Path
) -> None:
    calls = iter(range(write + 1))

    def fsync(descriptor: int) -> None:
        if next(calls) == write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\).* free some space"):
            run(options, tmp_path)
    assert not list(tmp_path.glob(".level*"))
    run(options, tmp_path)
    assert_same_tickets(tmp_path, whole)
    assert epochs_of(tmp_path) == ALL_EPOCHS


def whole_lines(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


# Running again


@pytest.mark.parametrize("levels", [LEVELS, LEVELS - 1])
def test_rerun_of_a_finished_run_changes_no_file(
    levels: int, options: TrainOptions, whole: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "copy"))
    before = everything(out)
    assert run(options, out, levels) == [out / f"level_0{level}.safetensors" for level in range(levels + 1)]
    assert everything(out) == before


def test_rerun_with_more_levels_goes_on(options: TrainOptions, whole: Path, tmp_path: Path) -> None:
    (dense,) = run(options, tmp_path, levels=0)
    written = dense.stat().st_mtime_ns
    run(options, tmp_path)
    assert_same_tickets(tmp_path, whole)
    assert epochs_of(tmp_path) == ALL_EPOCHS
    assert dense.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "changed", [{"lr": 0.2}, {"seed": 1}, {"rate": 0.3}, {"keep": "best"}, {"dataset": "x"}, {"flip": "no"}]
)
def test_changed_option_is_refused_by_name(changed: dict[str, Any], options: TrainOptions, tmp_path: Path) -> None:
    run(options, tmp_path, levels=0)
    before = everything(tmp_path)
    ((name, value),) = changed.items()
    message = f"other options \\({name}: {getattr(options, name)} there, {value} now\\); choose another folder"
    with pytest.raises(TrainError, match=message):
        run(replace(options, **changed), tmp_path, levels=0)
    assert everything(tmp_path) == before


def test_other_images_in_the_same_folder_are_refused_by_name(options: TrainOptions, tmp_path: Path) -> None:
    run(options, tmp_path, levels=0)
    with pytest.raises(TrainError, match=r"other options \(data mean: \[0\.5\] there, \[0\.4\] now\)"):
        train_tickets(options, LEVELS, tmp_path, device="cpu", data=replace(DATA, mean=(0.4,)))


def test_a_level_cut_off_is_not_gone_on_with_to_another_sparsity(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train_tickets(options, (0.5,), tmp_path, device="cpu", data=DATA, watch=Watch(on_epoch=killer(EPOCHS)))
    before = everything(tmp_path)
    for levels, now in (((0.9,), r"\[0\.9\]"), (2, "None")):
        with pytest.raises(TrainError, match=rf"sparsities: \[0\.5\] there, {now} now"):
            train_tickets(options, levels, tmp_path, device="cpu", data=DATA)
    assert everything(tmp_path) == before
    files = train_tickets(options, (0.5, 0.75), tmp_path, device="cpu", data=DATA)
    assert [round(sparsity(load_ticket(file).mask), 3) for file in files] == [0, 0.5, 0.749]  # 122 of 486
    with pytest.raises(TrainError, match=r"sparsities: \[0\.5, 0\.75\] there"):
        train_tickets(options, (0.5, 0.8), tmp_path, device="cpu", data=DATA)
    assert len(train_tickets(options, (0.5,), tmp_path, device="cpu", data=DATA)) == 2


def test_files_left_half_written_by_a_kill_are_removed(options: TrainOptions, tmp_path: Path) -> None:
    run(options, tmp_path, levels=0)
    names = (".level_01.safetensors.0a1b2c3d", ".train.jsonl.0a1b2c3e", ".resume/.epoch.safetensors.0a1b2c3f")
    left = [tmp_path / name for name in names]
    for draft in left:
        draft.mkdir()
        (draft / "lock").touch()
        (draft / "new").write_bytes(b"half")
    run(options, tmp_path)
    assert not [file for file in left if file.exists()]


def test_folder_with_tickets_of_an_unknown_run_is_refused(options: TrainOptions, tmp_path: Path) -> None:
    (tmp_path / "level_00.safetensors").write_bytes(b"somebody's")
    with pytest.raises(TrainError, match="holds tickets of which no run is known; choose another folder"):
        run(options, tmp_path)
    assert (tmp_path / "level_00.safetensors").read_bytes() == b"somebody's"


def test_lost_rewind_point_is_named(options: TrainOptions, tmp_path: Path) -> None:
    run(options, tmp_path, levels=0)
    (tmp_path / ".resume" / "rewind.safetensors").unlink()
    with pytest.raises(TrainError, match="missing, and later levels rewind to it; train into a new folder"):
        run(options, tmp_path)


def test_output_that_is_a_file_is_refused(options: TrainOptions, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="is a file, expected a folder"):
        run(options, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_folder_holds_only_tickets_and_the_journal_in_sight(whole: Path) -> None:
    """So that the shell's `DIR/*.safetensors` are the tickets."""
    visible = sorted(file.name for file in whole.iterdir() if not file.name.startswith("."))
    assert visible == [*(f"level_0{level}.safetensors" for level in range(LEVELS + 1)), "train.jsonl"]
    assert not list(whole.rglob("*epoch*")), "the last epoch's checkpoint is of no more use"


def test_ticket_that_somebody_puts_there_meanwhile_is_refused(options: TrainOptions, tmp_path: Path) -> None:
    """Whether it comes before its level or while that is trained."""
    for place, epoch in ((tmp_path / "before", 0), (tmp_path / "within", len(ALL_EPOCHS) - 1)):
        seen: list[object] = []

        def put(record: object, place: Path = place, epoch: int = epoch, seen: list[object] = seen) -> None:
            seen.append(record)
            if len(seen) == epoch + 1:
                (place / "level_02.safetensors").write_bytes(b"somebody's")

        with pytest.raises(LptoolError, match=r"level_02\.safetensors: "):
            run(options, place, watch=Watch(on_epoch=put))
        assert (place / "level_02.safetensors").read_bytes() == b"somebody's"
