"""`lptool evaluate` as a person or a script meets it: what it says, one clear line for each bad input."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lptool.data.corruptions import STANDARD
from lptool.evaluation import job
from lptool.scoring.latency import Latency, Timing
from tests.helpers.commands import lptool, refused


def test_evaluate_says_what_its_document_says(tickets: list[Path]) -> None:
    files = [tickets[0], tickets[3]]
    shown = lptool("evaluate", *files, "--device", "cpu")
    assert shown.exit_code == 0, shown.output
    result = lptool("evaluate", *files, "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [f["file"] for f in document["files"]] == [str(path) for path in files]
    for found in document["files"]:
        assert f"{100 * found['test']['accuracy']:.2f} % [" in shown.stdout
    assert f"{document['comparisons'][0]['p']:.3g}" in shown.stdout
    assert "digits, 359 test images" in shown.stdout


def test_evaluate_expands_folders_and_reads_other_programs(tmp_path: Path, tickets: list[Path]) -> None:
    for path in tickets[:2]:
        torch.save({"state_dict": load_file(path)}, tmp_path / path.with_suffix(".pth").name)
    options = ["--dataset", "digits", "--arch", "resnet8_cifar", "--mean", 0.3, "--std", 0.4, "--batch-size", 100]
    result = lptool("evaluate", tmp_path, *options, "--corruptions", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [Path(f["file"]).name for f in document["files"]] == ["level_00.pth", "level_01.pth"]
    assert all(f["corruptions"]["source"] == "C-style, torchvision v2" for f in document["files"])


def other_classes(folder: Path, files: list[Path]) -> list[object]:
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 3
    np.savez(folder / "a.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    options = ["--dataset", f"npz:{folder}/a.npz", "--arch", "resnet8_cifar", "--epochs", 2, "--rewind-epoch", 1]
    trained = lptool("train", "-o", folder / "three", *options, "--levels", 1, "--batch-size", 16, "--device", "cpu")
    assert trained.exit_code == 0, trained.output
    return [files[0], folder / "three" / "level_00.safetensors"]


def no_test_images(folder: Path, files: list[Path]) -> list[object]:
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 10
    none = {"test_images": images[:0], "test_labels": labels[:0]}
    np.savez(folder / "a.npz", train_images=images, train_labels=labels, **none)
    return [files[0], "--dataset", f"npz:{folder}/a.npz"]


def no_test_files(folder: Path, files: list[Path]) -> list[object]:
    for part in ("train", "test"):
        for name in map(str, range(10)):
            (folder / "images" / part / name).mkdir(parents=True)
            if part == "train":
                Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "images" / part / name / "a.png")
    return [files[0], "--dataset", f"folder:{folder}/images"]


def cifar_data(folder: Path) -> list[object]:
    """A file and a data set of CIFAR's shape, and an empty folder for the standard corruptions."""
    images, labels = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 10
    np.savez(folder / "a.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    state = timm.create_model("resnet8_cifar", num_classes=10).state_dict()
    save_file(state, folder / "a.safetensors")
    (folder / "CIFAR-10-C").mkdir()
    options = ["--dataset", f"npz:{folder}/a.npz", "--arch", "resnet8_cifar", "--mean", "0,0,0", "--std", "1,1,1"]
    return [folder / "a.safetensors", *options, "--corruptions", "--data-dir", folder / "CIFAR-10-C"]


def missing_npy(folder: Path, files: list[Path]) -> list[object]:
    arguments = cifar_data(folder)
    np.save(folder / "CIFAR-10-C" / "labels.npy", np.zeros(50_000, np.uint8))
    return arguments


def short_npy(folder: Path, files: list[Path]) -> list[object]:
    arguments = missing_npy(folder, files)
    for name in STANDARD:
        np.save(folder / "CIFAR-10-C" / f"{name}.npy", np.zeros((10, 32, 32, 3), np.uint8))
    return arguments


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (other_classes, r"level_00\.safetensors: tells 3 classes apart, but .*level_00\.safetensors tells 10"),
        (no_test_images, r"a\.npz: expected test_images .* found uint8 \[0, 8, 8\] and int64 \[0\], which is no image"),
        (no_test_files, r"images: test: Found no valid file for the classes 0, 1"),
        (missing_npy, r"CIFAR-10-C: lacks gaussian_noise\.npy, shot_noise\.npy, .*expected labels\.npy and the 15"),
        (short_npy, r"gaussian_noise\.npy: expected uint8 \[50000, 32, 32, 3\], found uint8 \[10, 32, 32, 3\]"),
        (lambda folder, files: [folder / "none.safetensors"], "No such file or directory"),
        (lambda folder, files: [folder], "no checkpoint in it"),
        (lambda folder, files: [files[0], "--dataset", "digit"], "Did you mean 'digits'"),
        (lambda folder, files: [files[0], "--device", "abacus"], "device 'abacus' cannot be used here"),
        (lambda folder, files: [files[0], "--mean", "0.1,0.2"], "have 1 channels, but the normalisation has 2 means"),
    ],
)
def test_what_evaluate_cannot_work_with_is_one_clear_line(
    tmp_path: Path, tickets: list[Path], prepare: Callable[[Path, list[Path]], list[object]], message: str
) -> None:
    for extra in ([], ["--json"]):
        (tmp_path / str(len(extra))).mkdir()
        told = refused(lptool("evaluate", *prepare(tmp_path / str(len(extra)), tickets), *extra))
        assert re.search(message, told)
        assert "\n" not in told


@pytest.mark.parametrize("options", [[], ["a.safetensors", "--batch-size", "0"], ["a.safetensors", "--std", "x"]])
def test_wrong_usage_of_evaluate(options: list[str]) -> None:
    result = lptool("evaluate", *options)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_latency_is_said_with_what_zeros_cost(tickets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a clock that stands still but for what the test says."""
    found = Latency(Timing(1, 0.002, 0.003, 200), Timing(32, 0.016, 0.02, 100))
    monkeypatch.setattr(job, "measure_latency", lambda *given: found)
    shown = lptool("evaluate", tickets[0], "--latency", "--device", "cpu")
    assert shown.exit_code == 0, shown.output
    assert "forward pass, float32, on cpu, 1 thread; 5 passes before to warm up" in shown.stdout
    assert "zeros cost as much time as other numbers" in shown.stdout
    rows = [[cell.strip() for cell in line.split("│")] for line in shown.stdout.splitlines() if " ms " in line]
    assert [row[2:-1] for row in rows] == [
        ["torch", "1", "2 ms", "3 ms", "500", "200"],
        ["torch", "32", "16 ms", "20 ms", "2,000", "100"],
    ]
    (file,) = json.loads(lptool("evaluate", tickets[0], "--latency", "--device", "cpu", "--json").stdout)["files"]
    assert file["latency"] == {
        "one": {"images": 1, "median": 0.002, "q95": 0.003, "passes": 200},
        "batch": {"images": 32, "median": 0.016, "q95": 0.02, "passes": 100},
        "warm_up": 5,
    }
    without = json.loads(lptool("evaluate", tickets[0], "--device", "cpu", "--json").stdout)["files"][0]
    assert (without["latency"], without["runtime"]) == (None, "torch")
