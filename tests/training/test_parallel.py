"""Two processes train what one trains."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from timm.layers import BatchNormAct2d
from torch import Tensor, distributed, nn

from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.summary import digest_of_tensor
from lptool.cli import main
from lptool.errors import LptoolError, RankError, SetupError, TrainError
from lptool.networks.architecture import load_model
from lptool.ranks import ALONE, Ranks, join_ranks
from lptool.training import job as train
from lptool.training.job import train_tickets
from lptool.training.options import TrainOptions
from lptool.training.parallel import check_processes, noticing_peers, share_buffers, spread, with_synced_bn
from lptool.training.setup import Run, Watch, open_run, over_processes
from tests.helpers.processes import on_two_ranks
from tests.helpers.training import DATA, NETWORKS

LEVELS = 1
CPU = torch.device("cpu")

VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "schedule": "cosine", "warmup": 1, "keep": "best"},
    "a step, layer by layer": {"rewind_epoch": "4it", "scope": "layer", "label_smoothing": 0.1, "flip": "alternate"},
}


def options(networks: str, **changes: Any) -> TrainOptions:
    plain = TrainOptions(
        arch=f"{networks}:certain", dataset="random", epochs=3, rewind_epoch=1, batch_size=36, precision="fp32", lr=0.02
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def folder(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made; each variant in a folder of its own, and what each rank saw in `rankN.json`."""
    place = tmp_path_factory.mktemp("two")
    (place / "networks.py").write_text(NETWORKS)
    for rank in on_two_ranks(place / "rank", program, place, image_folder):
        assert rank.end() == 0, rank.stderr
    return place


@pytest.fixture(scope="module")
def seen(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_make_the_tickets_of_one(variant: str, folder: Path, tmp_path: Path) -> None:
    one = train_tickets(options(str(folder / "networks.py"), **VARIANTS[variant]), LEVELS, tmp_path, data=DATA)
    two = sorted((folder / variant).glob("*.safetensors"))
    assert [file.name for file in two] == [file.name for file in one]
    for ours, theirs in zip(two, one, strict=True):
        a, b = load_ticket(ours), load_ticket(theirs)
        torch.testing.assert_close(a.state, b.state, rtol=1e-3, atol=1e-4)
        assert all(torch.equal(a.mask[name], kept) for name, kept in b.mask.items())
    records = [
        [json.loads(line) for line in (place / "train.jsonl").read_text().splitlines()]
        for place in (folder / variant, tmp_path)
    ]
    for ours, theirs in zip(*records, strict=True):
        assert (ours["level"], ours["epoch"]) == (theirs["level"], theirs["epoch"])
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert ours["val_nll"] == pytest.approx(theirs["val_nll"], rel=1e-4)


def test_imagenet_presets_train_on_a_folder_of_pictures(folder: Path, image_folder: Path, tmp_path: Path) -> None:
    """The command of eight GPUs, with a small network and few and small pictures, on two processes; and on one."""
    assert CliRunner().invoke(main, imagenet(image_folder, tmp_path)).exit_code == 0
    both = [
        [json.loads(line) for line in (place / "train.jsonl").read_text().splitlines()]
        for place in (folder / "imagenet", tmp_path)
    ]
    for ours, theirs in zip(*both, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.01)
        assert ours["lr"] == theirs["lr"]
    ticket = load_ticket(folder / "imagenet" / "level_01.safetensors")
    assert ticket.metadata.train["augment"] == "resized-crop"
    assert ticket.metadata.train["processes"] == 2
    assert load_model(folder / "imagenet" / "level_01.safetensors")(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_the_command_speaks_on_the_first_process_alone(seen: list[dict[str, Any]]) -> None:
    assert [rank["imagenet"][0] for rank in seen] == [0, 0]
    assert "2 tickets in" in seen[0]["imagenet"][1]
    assert seen[1]["imagenet"][1] == ""


def test_without_synced_bn_it_trains_other_tickets_that_agree_on_all_ranks(
    folder: Path, seen: list[dict[str, Any]]
) -> None:
    assert seen[0]["not synced"] == seen[1]["not synced"]
    synced, own = (load_ticket(folder / name / "level_00.safetensors").state for name in ("sgd", "not synced"))
    assert not torch.allclose(synced["0.weight"], own["0.weight"], atol=1e-6)


def test_weights_masks_and_statistics_are_equal_on_all_ranks(seen: list[dict[str, Any]]) -> None:
    assert seen[0]["digests"] == seen[1]["digests"]
    assert len(seen[0]["digests"]) > 5


def test_only_the_first_process_writes_and_all_are_told(seen: list[dict[str, Any]], folder: Path) -> None:
    epochs = [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2]]
    assert [rank["told"] for rank in seen] == [epochs, epochs]
    lines = (folder / "sgd" / "train.jsonl").read_text().splitlines()
    assert [[json.loads(line)[key] for key in ("level", "epoch")] for line in lines] == epochs


def test_an_error_that_all_meet_is_raised_once(seen: list[dict[str, Any]]) -> None:
    for what, message in (("diverged", "the loss became"), ("other options", "other options (lr")):
        kinds = [rank[what][0] for rank in seen]
        assert kinds == ["TrainError", "PeerError"], what
        assert message in seen[0][what][1]


def test_batches_too_small_for_the_processes_are_refused(seen: list[dict[str, Any]]) -> None:
    assert [rank["too small"][0] for rank in seen] == ["TrainError", "PeerError"]
    assert "batches of 2 images are too small for 2 processes" in seen[0]["too small"][1]


def test_what_processes_cannot_train_together_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.BatchNorm2d):
        pass

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Own(4))
    two = Ranks(0, 2)
    check_processes(model, CPU, ALONE, sync_bn=True)
    check_processes(model, CPU, two, sync_bn=False)
    with pytest.raises(TrainError, match=r"^1: a Own cannot see the images of all processes; try --no-sync-bn$"):
        check_processes(model, CPU, two, sync_bn=True)
    with pytest.raises(SetupError, match="device mps trains in one process, found 2"):
        check_processes(model, torch.device("mps"), two, sync_bn=False)
    monkeypatch.setattr("lptool.training.parallel.local_ranks", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(SetupError, match="each process needs a GPU of its own: found 8 for 4 GPUs; start fewer"):
        check_processes(model, torch.device("cuda"), two, sync_bn=False)


@pytest.mark.parametrize("lost", ["Connection reset by peer", "[gloo] timed out", "NCCL error"])
def test_a_lost_process_is_told_from_a_bug(lost: str) -> None:
    with pytest.raises(RankError, match="another process of this run has ended"), noticing_peers(Ranks(0, 2)):
        raise RuntimeError(lost)
    for ranks, error in ((ALONE, lost), (Ranks(0, 2), "a bug")):
        with pytest.raises(RuntimeError, match=re.escape(error)), noticing_peers(ranks):
            raise RuntimeError(error)


@pytest.mark.parametrize("kind", ["BatchNorm1d", "BatchNorm2d", "BatchNormAct2d", "cumulative"])
def test_synced_bn_over_uneven_parts_is_bn_over_all(kind: str, seen: list[dict[str, Any]]) -> None:
    layer, images = layer_of(kind), images_for(kind)
    out, gradient, statistics = through(layer, images, images)
    found = [rank[f"bn {kind}"] for rank in seen]
    torch.testing.assert_close(torch.tensor(found[0]["out"] + found[1]["out"]), out, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(found[0]["grad"] + found[1]["grad"]), gradient, rtol=1e-4, atol=1e-5)
    for rank in found:
        torch.testing.assert_close(torch.tensor(rank["statistics"]), statistics, rtol=1e-4, atol=1e-5)


def test_one_process_trains_the_model_itself() -> None:
    model = nn.BatchNorm2d(3)
    assert spread(model, CPU, ALONE, sync_bn=True) == (model, model)
    share_buffers(model, ALONE)
    assert type(model) is nn.BatchNorm2d


def test_synced_layers_keep_names_weights_and_what_eval_does() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), BatchNormAct2d(4))
    images = torch.randn(5, 3, 4, 4)
    model(images)  # statistics other than those of the start
    expected = model.eval()(images)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    synced = with_synced_bn(model, CPU)
    assert torch.equal(synced.eval()(images), expected)
    after = synced.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], t) for name, t in before.items())


def imagenet(pictures: Path, out: Path) -> list[str]:
    small = ["--image-size", "32", "--epochs", "2", "--rewind-epoch", "1", "--warmup", "1", "--milestones", "1"]
    few = ["--batch-size", "8", "--levels", "1", "--precision", "fp32", "--lr", "0.01", "--device", "cpu"]
    preset = ["--preset", "paper-imagenet-resnet18", "--arch", "test_resnet", "--dataset", f"folder:{pictures}"]
    return ["train", "-o", str(out), *preset, *small, *few]


# BatchNorm by itself


def layer_of(kind: str) -> nn.Module:
    torch.manual_seed(1)
    layer: nn.Module = {
        "BatchNorm1d": lambda: nn.BatchNorm1d(3),
        "BatchNorm2d": lambda: nn.BatchNorm2d(3),
        "BatchNormAct2d": lambda: BatchNormAct2d(3),
        "cumulative": lambda: nn.BatchNorm2d(3, momentum=None),
    }[kind]()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 2)
    return layer


def images_for(kind: str) -> Tensor:
    shape = (7, 3) if kind == "BatchNorm1d" else (7, 3, 4, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 3 + 5


def through(layer: nn.Module, images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What comes out of two passes, the gradient by the images, and the statistics kept."""
    images = images.clone().requires_grad_()
    layer.train()
    out = layer(images) + layer(images.flip(1))
    (out.square() * weights).sum().backward()
    assert images.grad is not None
    state = layer.state_dict()
    return out.detach(), images.grad, torch.stack([state["running_mean"], state["running_var"]])


# What the ranks run


def attempt(task: Any) -> list[str] | None:
    try:
        task()
    except LptoolError as error:
        return [type(error).__name__, str(error)]
    return None


def state_of(run: Run) -> dict[str, str]:
    """After all levels are trained on, not through files: the digest of everything this rank holds."""
    for level in range(LEVELS + 1):
        train._train_level(run, level)
    return {name: digest_of_tensor(t) for name, t in run.model.state_dict().items()}


def lptool(arguments: list[str]) -> list[Any]:
    """How one command ended on this rank, and what it printed there."""
    result = CliRunner().invoke(main, arguments)
    return [result.exit_code, result.stdout]


def program(folder: Path, pictures: Path) -> None:
    ranks = join_ranks()
    networks, found = str(folder / "networks.py"), dict[str, Any]()

    def go(name: str, levels: int = LEVELS, **changes: Any) -> list[Path]:
        told = found.setdefault("told", []) if name == "sgd" else []
        watch = Watch(on_epoch=lambda record: told.append([record["level"], record["epoch"]]))
        given = options(networks, **changes)
        return train_tickets(given, levels, folder / name, data=DATA, ranks=ranks, device="cpu", watch=watch)

    for name, changes in VARIANTS.items():
        go(name, **changes)
    for name, changes in (("all", {}), ("not synced", {"sync_bn": False})):
        opened = open_run(options(networks, **changes), LEVELS, folder / name, None, CPU, DATA, ranks, watch=Watch())
        (folder / name).mkdir(exist_ok=True)
        found["digests" if name == "all" else name] = state_of(over_processes(opened))
    found["imagenet"] = lptool(imagenet(pictures, folder / "imagenet"))
    found["diverged"] = attempt(lambda: go("diverged", lr=1e20))
    found["other options"] = attempt(lambda: go("sgd", lr=0.5))
    found["too small"] = attempt(lambda: go("small", batch_size=2, sync_bn=False))
    for kind in ("BatchNorm1d", "BatchNorm2d", "BatchNormAct2d", "cumulative"):
        layer = with_synced_bn(layer_of(kind), CPU)
        mine = slice(0, 3) if ranks.rank == 0 else slice(3, None)
        out, gradient, statistics = through(layer, images_for(kind)[mine], images_for(kind)[mine])
        found[f"bn {kind}"] = {"out": out.tolist(), "grad": gradient.tolist(), "statistics": statistics.tolist()}
    (folder / f"rank{ranks.rank}.json").write_text(json.dumps(found))
    distributed.barrier()
