"""Files and images before anything is computed: what fits, what is said, what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.data.images import channel_statistics
from lptool.errors import ArchError, CheckpointError, DataError
from lptool.evaluation.job import carry_out
from lptool.evaluation.setup import EvaluateOptions, plan_evaluation
from tests.helpers.commands import lptool, refused

CPU = EvaluateOptions(device="cpu")


def ticket_of(arch: str, path: Path, num_classes: int = 10, metadata: Metadata | None = None) -> Path:
    """A file with random weights, which says its architecture unless `metadata` does not."""
    torch.manual_seed(0)
    kwargs = {"num_classes": num_classes, "in_chans": 1}
    state = timm.create_model(arch, **kwargs).state_dict()
    save_ticket(Ticket(state, {}, metadata or Metadata(arch=arch, arch_kwargs=kwargs)), path)
    return path


def test_files_need_not_fit_together(tickets: list[Path], tmp_path: Path) -> None:
    other = ticket_of("resnet20_cifar", tmp_path / "other.safetensors")
    plan = plan_evaluation([tickets[0], other, tickets[3]], CPU)
    assert [s.network.arch for s in plan.subjects] == ["resnet8_cifar", "resnet20_cifar", "resnet8_cifar"]
    assert plan.subjects[0].network is plan.subjects[2].network  # memory does not grow with the number of files
    assert plan.data.name == "digits"
    assert plan.corruptions is None
    assert (plan.batch_size.images, replace(CPU, batch_size=7).batch_size) == (256, 7)


def test_each_file_has_its_own_normalisation(tickets: list[Path], tmp_path: Path) -> None:
    kwargs = {"num_classes": 10, "in_chans": 1}
    dataset = {"name": "digits", "mean": [0.5], "std": [0.25]}
    said = ticket_of(
        "resnet8_cifar", tmp_path / "said.safetensors", 10, Metadata("ticket", "resnet8_cifar", kwargs, dataset=dataset)
    )
    silent = ticket_of("resnet8_cifar", tmp_path / "silent.safetensors")
    plan = plan_evaluation([said, tickets[0], silent], CPU)
    told = load_ticket(tickets[0]).metadata.dataset
    assert [s.data.mean for s in plan.subjects[:2]] == [(0.5,), tuple(told["mean"])]
    assert (plan.subjects[2].data.mean, plan.subjects[2].data.std) == channel_statistics(plan.data.train)
    assert [line for line in plan.warnings if "normalised as measured on train" in line] == [plan.warnings[-1]]
    assert plan.warnings[-1].startswith(f"{silent}: images are normalised")
    assert f"; {said} says 0.5000, 0.2500: give one to all" in plan.warnings[-1]
    assert plan_evaluation([silent], replace(CPU, dataset="digits")).warnings[-1].endswith("else: --mean and --std")
    asked = plan_evaluation([said, silent], replace(CPU, mean=(0.1,), std=(0.2,)))
    assert {(s.data.mean, s.data.std) for s in asked.subjects} == {((0.1,), (0.2,))}
    assert not any("measured" in line for line in asked.warnings)


def test_what_files_do_not_say_is_guessed_or_asked_for(tickets: list[Path], tmp_path: Path) -> None:
    save_file(load_file(tickets[1]), tmp_path / "silent.safetensors")
    with pytest.raises(DataError, match="does not say its data set; name it with --dataset"):
        plan_evaluation([tmp_path / "silent.safetensors"], CPU)
    plan = plan_evaluation([tmp_path / "silent.safetensors"], replace(CPU, dataset="digits"))
    assert "guessed resnet8_cifar" in plan.warnings[0]


def test_being_scored_on_other_data_is_said(tickets: list[Path], npz: Path) -> None:
    plan = plan_evaluation(tickets[:1], replace(CPU, dataset=f"npz:{npz}"))
    assert plan.warnings == (f"{tickets[0]}: was trained on digits, and is scored on npz:{npz}",)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Ten classes of 8×8 images, as digits has."""
    rng = np.random.default_rng(0)
    arrays = {f"{p}_images": rng.integers(0, 256, (20, 8, 8), np.uint8) for p in ("train", "test")}
    np.savez(tmp_path / "a.npz", **arrays, **{f"{p}_labels": np.arange(20) % 10 for p in ("train", "test")})
    return tmp_path / "a.npz"


@pytest.mark.parametrize("says", [True, False])
def test_files_of_different_class_counts_are_refused(tickets: list[Path], tmp_path: Path, says: bool) -> None:
    """Whether they say how many they have, or only their tensors do."""
    metadata = None if says else Metadata()
    twelve = ticket_of("resnet8_cifar", tmp_path / "twelve.safetensors", 12, metadata)
    with pytest.raises(DataError, match=r"twelve.safetensors: tells 12 classes apart, but .*level_00.* tells 10"):
        plan_evaluation([tickets[0], twelve], CPU)


def test_different_class_counts_come_before_what_the_data_has(tickets: list[Path], tmp_path: Path) -> None:
    """The data has twelve classes: what is wrong is not the network of the other file, but that there are two kinds."""
    images, labels = np.zeros((24, 8, 8), np.uint8), np.arange(24) % 12
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    twelve = ticket_of("resnet8_cifar", tmp_path / "twelve.safetensors", 12)
    with pytest.raises(DataError, match=r"level_00.safetensors: tells 10 classes apart, but .*twelve.* tells 12"):
        plan_evaluation([twelve, tickets[0]], replace(CPU, dataset=f"npz:{tmp_path / 'a.npz'}"))


def test_code_that_a_header_names_is_run_only_where_the_user_names_it(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    lines = (
        f"import pathlib, timm\npathlib.Path({str(ran)!r}).touch()",
        "def net(**kwargs): return timm.create_model('resnet8_cifar', **kwargs)\n",
    )
    (tmp_path / "net.py").write_text("\n".join(lines))
    arch = f"{tmp_path / 'net.py'}:net"
    file = ticket_of("resnet8_cifar", tmp_path / "a.safetensors", 10, Metadata(arch=arch))
    with pytest.raises(ArchError, match=r"which is run only if you name it: --arch"):
        plan_evaluation([file], replace(CPU, dataset="digits"))
    assert not ran.exists()
    plan_evaluation([file], replace(CPU, dataset="digits", arch=arch))
    assert ran.exists()


def test_a_test_set_without_images_is_refused(tickets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from lptool.evaluation import setting

    load = setting.load_data

    def without_test(*args: object, **kwargs: object) -> object:
        data = load(*args, **kwargs)  # type: ignore[arg-type]
        return replace(data, test=data.test.subset(torch.arange(0)))

    monkeypatch.setattr(setting, "load_data", without_test)
    with pytest.raises(DataError, match="digits: its test set has no images"):
        plan_evaluation(tickets, CPU)


def test_what_pooling_refuses_is_refused(tickets: list[Path], tmp_path: Path) -> None:
    state = load_file(tickets[0])
    state["fc.bias"][0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match=r"nan.safetensors: fc.bias holds NaN or infinite values"):
        plan_evaluation([tmp_path / "nan.safetensors"], replace(CPU, dataset="digits"))
    with pytest.raises(ArchError, match="does not fit architecture 'resnet20_cifar'"):
        plan_evaluation(tickets, replace(CPU, arch="resnet20_cifar"))
    with pytest.raises(DataError, match="standard deviations above 0"):
        plan_evaluation(tickets, replace(CPU, std=(0.0,)))
    with pytest.raises(DataError, match=r"images are \[1, 28, 28\], the tickets were trained on \[1, 8, 8\]"):
        plan_evaluation(tickets, replace(CPU, dataset=f"npz:{_large(tmp_path)}"))


def _large(folder: Path) -> Path:
    images, labels = np.zeros((20, 28, 28), np.uint8), np.arange(20) % 10
    np.savez(folder / "b.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return folder / "b.npz"


def test_the_standard_folder_is_taken_where_there_is_one(tickets: list[Path], tmp_path: Path) -> None:
    options = replace(CPU, corruptions=True, data_dir=tmp_path)
    plan = plan_evaluation(tickets, options)
    assert plan.corruptions is not None
    assert plan.corruptions.source == "C-style, torchvision v2"
    (tmp_path / "CIFAR-10-C").mkdir()
    for place in (tmp_path, tmp_path / "CIFAR-10-C"):
        with pytest.raises(DataError, match=r"CIFAR-10-C: lacks labels\.npy, gaussian_noise\.npy.* more; expected"):
            plan_evaluation(tickets, replace(options, data_dir=place))
    assert plan_evaluation(tickets, replace(options, corruptions=False)).corruptions is None


def test_the_uncorrupted_images_lie_beside_the_standard_folder(
    tickets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lptool.evaluation import setting

    looked: list[object] = []
    load = setting.load_data
    monkeypatch.setattr(setting, "load_data", lambda name, place, **more: looked.append(place) or load(name, **more))
    folder = tmp_path / "CIFAR-10-C"
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    for place in (folder, tmp_path):
        with pytest.raises(DataError, match="lacks"):
            plan_evaluation(tickets, replace(CPU, corruptions=True, data_dir=place))
    (folder / "cifar-10-batches-py").rmdir()
    with pytest.raises(DataError, match="lacks"):
        plan_evaluation(tickets, replace(CPU, corruptions=True, data_dir=folder))
    assert looked == [folder, tmp_path, tmp_path]


# Classes by name, for every command that looks at images


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pictures of three classes."""
    root, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part in ("train", "test"):
        for name in "abc":
            (root / part / name).mkdir(parents=True)
            for number in range(10):
                Image.fromarray(draw.integers(0, 256, (16, 16), np.uint8)).save(root / part / name / f"{number}.png")
    return root


def without(photos: Path, place: Path, name: str, instead: str | None = None) -> str:
    """The name of the same data without a class, or with another name for it."""
    for part in ("train", "test"):
        shutil.copytree(photos / part, place / part)
        left = place / part / name
        left.rename(place / part / instead) if instead else shutil.rmtree(left)
    return f"folder:{place}"


def of_photos(path: Path, *class_names: str, level: int = 0) -> Path:
    dataset = {"name": "folder:photos", "num_classes": 3, "mean": [0.5], "std": [0.3], "image_shape": [1, 16, 16]}
    kwargs = {"num_classes": 3, "in_chans": 1}
    said = {"dataset": dataset | {"class_names": list(class_names)}} if class_names else {}
    metadata = Metadata(arch="resnet8_cifar", arch_kwargs=kwargs, level=level, **said)
    state = load_ticket(ticket_of("resnet8_cifar", path, 3, metadata)).state
    weight = state["conv1.weight"]
    kept = torch.arange(weight.numel()).reshape(weight.shape) >= level  # as many are pruned as there were levels
    save_ticket(Ticket(state | {"conv1.weight": weight * kept}, {"conv1.weight": kept}, metadata), path)
    return path


def test_data_that_lack_a_class_are_scored_under_the_networks_own_numbers(photos: Path, tmp_path: Path) -> None:
    ticket = of_photos(tmp_path / "a.safetensors", "a", "b", "c")
    whole = carry_out(plan_evaluation([ticket], replace(CPU, dataset=f"folder:{photos}")))
    plan = plan_evaluation([ticket], replace(CPU, dataset=without(photos, tmp_path / "part", "b")))
    assert any("has 2 of the 3 classes that the network tells apart; matched by name" in line for line in plan.warnings)
    assert plan.data.class_names == ("a", "b", "c")
    right = whole.files[0].test.right
    assert torch.equal(carry_out(plan).files[0].test.right, torch.cat([right[:10], right[20:]]))


COMMANDS = {
    "evaluate": ["evaluate", "0.safetensors", "--dataset"],
    "pool": ["pool", "0.safetensors", "1.safetensors", "-o", "out", "--dataset"],
    "inspect": ["inspect", "0.safetensors", "1.safetensors", "--data"],
    "convert to a folder": ["convert", "0.safetensors", "out/", "--dataset"],
    "convert to ONNX": ["convert", "0.safetensors", "out.onnx", "--dataset"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("named", [True, False])
def test_every_command_refuses_other_classes(
    command: str, named: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the files list the classes, others; where they do not, another number of them."""
    monkeypatch.chdir(tmp_path)
    for number in "01":
        of_photos(tmp_path / f"{number}.safetensors", *("abc" if named else ""), level=int(number))
    if command == "convert to a folder" and named:
        return  # its header says the data, and the images are not looked at
    if command == "convert to ONNX":
        pytest.importorskip("onnxscript")
    data = without(photos, tmp_path / "other", "b", "d" if named else None)
    message = refused(lptool(*COMMANDS[command], data, *["--device", "cpu"] * ("convert" not in command)))
    expected = "was not trained on: d; it knows instead: b" if named else "2 classes"
    assert expected in message
    assert not (tmp_path / "out").exists()
