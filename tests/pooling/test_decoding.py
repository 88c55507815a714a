"""Each picture that a search goes over again and again is decoded once, and nothing that is computed changes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lptool.checkpoints.reading import file_sha256, metadata_of
from lptool.data import cache, pictures, pixel_file
from lptool.data.images import InMemory, Mapped, Streamed, places_of_sample
from lptool.data.pictures import Pictures
from lptool.pooling.decoding import decoded_once, sizes_sampled
from lptool.pooling.job import pool_target
from lptool.pooling.setup import Bench, PoolOptions, open_bench
from lptool.training.job import train_tickets
from lptool.training.options import TrainOptions
from tests.helpers import processes
from tests.helpers.commands import lptool
from tests.helpers.processes import on_two_ranks
from tests.pooling.test_setup import OPTIONS as DIGITS

OPTIONS = PoolOptions(
    method="greedy", alphas=(0.5,), calibration_size=10, device="cpu", precision="fp32", batch_size=8, seed=3
)
KINDS: dict[str, dict[str, Any]] = {
    "crops of pictures": {},
    "as they are": {"bn_images": "plain"},
    "crops of pixels": {"augment": "crop", "crop_padding": 4},
    "no BatchNorm": {"bn_images": "none"},
    "both kinds": {"method": "reconstruct", "fit_images": 6, "fit_positions": 2, "bn_images": "plain"},
}
Decodes = Counter[tuple[str, int | None, int]]  # by part, seed of the crop, and number


@pytest.fixture(scope="module")
def made(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tickets that were trained on random resized crops of pictures."""
    options = TrainOptions(
        arch="resnet8_cifar",
        dataset=f"folder:{image_folder}",
        image_size=16,
        epochs=1,
        rewind_epoch=0,
        batch_size=12,
        augment="resized-crop",
        precision="fp32",
    )
    return train_tickets(options, 1, tmp_path_factory.mktemp("run"))


def dataset_of(made: list[Path]) -> str:
    """The name of the data: a folder that a header alone names is not opened."""
    return str(metadata_of(made[0]).data.name)


def bench_of(made: list[Path], options: PoolOptions = OPTIONS) -> Bench:
    return open_bench(made, replace(options, dataset=dataset_of(made)))


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "IN_MEMORY_BYTES", 1)


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Decodes:
    return count_decodes(monkeypatch)


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> Decodes:
    """Counts from here on."""
    real, found = Pictures.__getitem__, Decodes()

    def get(self: Pictures, index: int) -> Any:
        found[Path(self.source.root).name, self.seed, index] += 1
        return real(self, index)

    monkeypatch.setattr(Pictures, "__getitem__", get)
    return found


def again_and_again(found: Decodes, bench: Bench) -> dict[tuple[str, int | None, int], int]:
    """How often each picture of val, of test and of the samples of train was decoded."""
    plain, cropped = sizes_sampled(bench)
    parts = [("val", None, range(24)), ("test", None, range(24))]
    for seed, size in ((None, plain), (OPTIONS.seed, cropped)):
        parts.append(("train", seed, places_of_sample(24, size, OPTIONS.seed).tolist()))
    return {(part, seed, index): found[part, seed, index] for part, seed, places in parts for index in places}


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_decoded_once_and_the_file_is_the_same(
    kind: str, made: list[Path], tmp_path: Path, streaming: None, decodes: Decodes
) -> None:
    options = replace(OPTIONS, **KINDS[kind])
    first = pool_target(bench_of(made, options), 1, tmp_path / "a.safetensors")
    for name, folder in (("b", None), ("c", tmp_path / "cache"), ("d", tmp_path / "cache")):
        opened = bench_of(made, options)
        decodes.clear()
        bench, notes = decoded_once(opened, folder=folder)
        result = pool_target(bench, 1, tmp_path / f"{name}.safetensors")
        assert notes == []
        assert set(again_and_again(decodes, bench).values()) == {0 if name == "d" else 1}
        assert (result.sha256, result.val, result.test) == (first.sha256, first.val, first.test)
    sizes = [size for size in sizes_sampled(bench) if size]
    assert len(list((tmp_path / "cache").iterdir())) == 2 + len(sizes)


def test_the_weights_are_those_of_the_same_pictures_in_memory(
    made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = bench_of(made)
    monkeypatch.setattr(pictures, "IN_MEMORY_BYTES", 1)
    stream, _ = decoded_once(bench_of(made))
    assert isinstance(memory.data.val, InMemory)
    assert isinstance(stream.data.val, Mapped)
    for name, bench in (("a", memory), ("b", stream)):
        pool_target(bench, 1, tmp_path / f"{name}.safetensors")
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_crops_of_pictures_whose_squares_are_in_memory_are_decoded_once_too(
    made: list[Path], tmp_path: Path, decodes: Decodes
) -> None:
    opened = bench_of(made)
    first = pool_target(opened, 1, tmp_path / "a.safetensors")
    decodes.clear()
    bench, _ = decoded_once(opened)
    assert isinstance(bench.data.train, InMemory)
    assert bench.data.val is opened.data.val
    result = pool_target(bench, 1, tmp_path / "b.safetensors")
    assert result.sha256 == first.sha256
    known = {key: count for key, count in again_and_again(decodes, bench).items() if key[0] == "train"}
    assert len(known) == len(bench.data.train)  # fewer than the last recalibration takes
    assert set(known.values()) == {1}


def test_the_largest_sample_holds_the_smaller_ones(made: list[Path], streaming: None, decodes: Decodes) -> None:
    options = replace(OPTIONS, method="reconstruct", bn_images="plain", augment="crop", fit_images=7)
    bench, _ = decoded_once(bench_of(made, options))
    decodes.clear()
    for size in (1, 7, 10):
        list(bench.training_sample(size).raw([torch.arange(size)], torch.device("cpu")))
    assert not decodes
    assert bench.training_sample(None) is bench.data.train


def test_what_is_in_memory_stays_as_it_is(tickets: list[Path]) -> None:
    bench = open_bench(tickets, DIGITS)
    found, notes = decoded_once(bench)
    assert notes == []
    assert all(getattr(found.data, part) is getattr(bench.data, part) for part in ("train", "val", "test"))


def test_without_room_all_streams_as_before_and_each_part_says_so(
    made: list[Path], tmp_path: Path, streaming: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_room", lambda folder: 0)
    opened = bench_of(made)
    bench, notes = decoded_once(opened)
    assert [note.partition(":")[0] for note in notes] == ["val", "test", "training images of the search"]
    assert all("have no room" in note for note in notes)
    assert isinstance(bench.data.val, Streamed)
    results = [pool_target(b, 1, tmp_path / f"{i}.safetensors") for i, b in enumerate((opened, bench))]
    assert results[0].sha256 == results[1].sha256


# The command

COMMAND = ["--method", "greedy", "--alphas", "0.5,0.9", "--calibration-size", 10, "--batch-size", 8, "--seed", 3]
COMMAND += ["--precision", "fp32", "--device", "cpu", "--json"]


def test_the_command_keeps_what_it_decoded_where_it_is_told(
    made: list[Path], tmp_path: Path, streaming: None, decodes: Decodes
) -> None:
    found = []
    for name in "ab":
        decodes.clear()
        result = lptool(
            "pool",
            *made,
            "-o",
            tmp_path / f"{name}.safetensors",
            "--cache-dir",
            tmp_path / "c",
            *COMMAND,
            "--dataset",
            dataset_of(made),
        )
        assert (result.exit_code, result.stderr.count("Warning")) == (0, 0), result.output
        found.append((json.loads(result.stdout)["sha256"], decodes["val", None, 5], decodes["train", 3, 5]))
    assert found[0][0] == found[1][0]
    assert (found[0][1], found[1][1]) == (1, 0)
    assert len(list((tmp_path / "c").iterdir())) == 3


def test_a_folder_that_cannot_be_used_is_a_warning(made: list[Path], tmp_path: Path, streaming: None) -> None:
    (tmp_path / "c").touch()
    result = lptool(
        "pool",
        *made,
        "-o",
        tmp_path / "a.safetensors",
        "--cache-dir",
        tmp_path / "c",
        *COMMAND,
        "--dataset",
        dataset_of(made),
    )
    assert result.exit_code == 0, result.output
    said = [line for line in result.stderr.splitlines() if line.startswith("Warning")]
    assert len(said) == 3
    assert said[0] == f"Warning: val: --cache-dir {tmp_path / 'c'}: is not a folder; going on without it"


@pytest.mark.parametrize("target", ["sparsest", "matching"])
def test_a_dry_run_keeps_nothing(target: str, made: list[Path], tmp_path: Path, streaming: None) -> None:
    given = ["--target", target, "--cache-dir", tmp_path / "c", "--dry-run", *COMMAND, "--dataset", dataset_of(made)]
    result = lptool("pool", *made, "-o", tmp_path / "a.safetensors", *given)
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []


def test_matching_scores_what_was_decoded(made: list[Path], tmp_path: Path, streaming: None, decodes: Decodes) -> None:
    result = lptool(
        "pool", *made, "-o", tmp_path / "a.safetensors", "--target", "matching", *COMMAND, "--dataset", dataset_of(made)
    )
    assert result.exit_code == 0, result.output
    assert {decodes["val", None, index] for index in range(24)} == {1}


def counting(place: Path, *arguments: object) -> None:
    """A command of one of two ranks; what it decoded goes to a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "IN_MEMORY_BYTES", 1)
        patch.setattr(pixel_file, "BLOCK", 5)
        found = count_decodes(patch)
        try:
            processes.lptool(*arguments)
        finally:
            rows = [[*key, count] for key, count in found.items()]
            place.with_name(f"{place.name}{cache.local_rank()}.json").write_text(json.dumps(rows))


def test_two_ranks_decode_each_picture_once_between_them(
    made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = on_two_ranks(
        tmp_path / "rank",
        counting,
        tmp_path / "decodes",
        "pool",
        *made,
        "-o",
        tmp_path / "a.safetensors",
        *COMMAND,
        "--dataset",
        dataset_of(made),
    )
    assert [rank.end() for rank in ranks] == [0, 0], ranks[0].stderr
    found, on_val = Decodes(), list[int]()
    for rank in range(2):
        rows = json.loads((tmp_path / f"decodes{rank}.json").read_text())
        found.update({(part, seed, index): count for part, seed, index, count in rows})
        on_val.append(sum(part == "val" for part, *_ in rows))
    assert on_val == [14, 10]  # of five blocks, three and two
    monkeypatch.setattr(pictures, "IN_MEMORY_BYTES", 1)
    options = replace(OPTIONS, alphas=(0.5, 0.9))
    bench = bench_of(made, options)
    assert set(again_and_again(found, bench).values()) == {1}
    alone = pool_target(bench, 1, tmp_path / "alone.safetensors")
    assert file_sha256(tmp_path / "a.safetensors") == alone.sha256
