"""Predictions beside those of `evaluate`, on pictures of data sets of every kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

import lptool
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import save_ticket
from lptool.data.dataset import Data, load_data
from lptool.data.images import InMemory
from lptool.errors import DataError
from lptool.evaluation.prediction import Predictions, PredictOptions, plan_prediction, predict_pictures
from lptool.evaluation.setup import EvaluateOptions, plan_evaluation
from lptool.networks.building import build_model
from lptool.scoring.score import predict

CPU = PredictOptions(device="cpu", top=10)


def ticket_for(data: Data, image_size: int | None = None) -> Ticket:
    """Random weights, and a header as training writes it."""
    torch.manual_seed(0)
    kwargs = {"num_classes": data.num_classes, "in_chans": data.shape[0]}
    state = build_model("resnet8_cifar", **kwargs).state_dict()
    state["fc.weight"] *= 30  # far enough apart
    train = {"image_size": image_size}
    return Ticket(state, {}, Metadata(arch="resnet8_cifar", arch_kwargs=kwargs, dataset=data.describe(), train=train))


def by_evaluate(file: Path, dataset: str) -> Tensor:
    """Probabilities [N, C] of the test images."""
    plan = plan_evaluation([file], EvaluateOptions(dataset=dataset, device="cpu"))
    (subject,) = plan.subjects
    subject.load()
    return predict(subject.network.model, subject.data.batches(plan.data.test, 256, plan.device))[0].double().softmax(1)


def probabilities(found: Predictions) -> Tensor:
    """Likewise, in the order of the pictures."""
    rows = [[p for _, p in sorted((g.number, g.probability) for g in guesses)] for guesses in found.guesses.values()]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture(scope="module")
def served(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = load_data(f"folder:{image_folder}", image_size=24)
    file = tmp_path_factory.mktemp("model") / "a.safetensors"
    save_ticket(ticket_for(data, 24), file)
    return file


def test_pictures_are_seen_as_evaluate_sees_them(served: Path, image_folder: Path) -> None:
    found = predict_pictures(served, [image_folder / "test"], CPU)
    expected = by_evaluate(served, f"folder:{image_folder}")
    torch.testing.assert_close(probabilities(found), expected, atol=1e-6, rtol=0)
    best = [guesses[0] for guesses in found.guesses.values()]
    assert [guess.number for guess in best] == expected.argmax(1).tolist()
    assert [guess.name for guess in best] == [("flower", "sky", "temple")[number] for number in expected.argmax(1)]
    assert list(found.guesses) == sorted(found.guesses)
    assert (found.num_classes, found.device, found.unreadable) == (3, "cpu", {})


@pytest.mark.parametrize("image_size", [None, 16])
def test_pixels_of_arrays_are_seen_as_evaluate_sees_them(tmp_path: Path, image_size: int | None) -> None:
    """Such as scikit-learn's digits, saved as pictures: their own size, or scaled as training did."""
    own = load_data("digits").test
    assert isinstance(own, InMemory)
    (tmp_path / "pictures").mkdir()
    for place in range(20):
        Image.fromarray(own.images[place, 0].numpy()).save(tmp_path / "pictures" / f"{place:03}.png")
    save_ticket(ticket_for(load_data("digits", image_size=image_size), image_size), tmp_path / "a.safetensors")
    found = predict_pictures(tmp_path / "a.safetensors", [tmp_path / "pictures"], CPU)
    expected = by_evaluate(tmp_path / "a.safetensors", "digits")[:20]
    torch.testing.assert_close(probabilities(found), expected, atol=1e-6, rtol=0)


def test_what_cannot_be_read_leaves_the_others_as_they_are(served: Path, image_folder: Path, tmp_path: Path) -> None:
    good = sorted(map(str, image_folder.glob("test/*/*.jpg")))
    (tmp_path / "bad.jpg").write_bytes(Path(good[0]).read_bytes()[:300])
    found = predict_pictures(served, [good[0], tmp_path / "bad.jpg", tmp_path / "none.png", *good[1:]], CPU)
    assert list(found.guesses) == good
    assert found.guesses == predict_pictures(served, good, CPU).guesses
    assert list(found.unreadable) == [str(tmp_path / "bad.jpg"), str(tmp_path / "none.png")]
    with pytest.raises(DataError, match=rf"^2 of {len(good) + 2} pictures are left out:\n  .*bad\.jpg: .*\n  .*none"):
        found.check()


def test_batches_change_nothing(served: Path, image_folder: Path) -> None:
    whole = predict_pictures(served, [image_folder / "test"], CPU)
    parts = predict_pictures(served, [image_folder / "test"], replace(CPU, batch_size=5))
    torch.testing.assert_close(probabilities(parts), probabilities(whole), atol=1e-5, rtol=0)
    assert list(parts.guesses) == list(whole.guesses)


def test_the_likeliest_come_first_and_of_equals_the_first(served: Path, image_folder: Path, tmp_path: Path) -> None:
    ticket = lptool.load_ticket(served)
    state = {**ticket.state, "fc.weight": torch.zeros(3, 64), "fc.bias": torch.zeros(3)}
    save_ticket(replace(ticket, state=state), tmp_path / "a.safetensors")
    (guesses,) = predict_pictures(
        tmp_path / "a.safetensors", [image_folder / "test" / "sky" / "0.png"], replace(CPU, top=2)
    ).guesses.values()
    assert [guess.number for guess in guesses] == [0, 1]
    assert [guess.probability for guess in guesses] == pytest.approx([1 / 3, 1 / 3])


def test_a_picture_whose_logits_are_no_numbers_has_no_class(served: Path, image_folder: Path, tmp_path: Path) -> None:
    ticket = lptool.load_ticket(served)
    state = {**ticket.state, "fc.weight": torch.full((3, 64), 3e38)}  # sound itself, but its sums overflow
    save_ticket(replace(ticket, state=state), tmp_path / "a.safetensors")
    found = predict_pictures(tmp_path / "a.safetensors", [image_folder / "test" / "sky"], CPU)
    assert (len(found.guesses), len(found.unreadable)) == (0, 8)
    with pytest.raises(DataError, match=r"^8 of 8 pictures are left out:\n  .*png: the logits .* not finite"):
        found.check()


def bare(folder: Path, **said: Any) -> Path:
    """A file with an architecture and, of its images, what is given."""
    torch.manual_seed(0)
    kwargs = {"num_classes": 3, "in_chans": 3}
    state = build_model("resnet8_cifar", **kwargs).state_dict()
    metadata = Metadata(arch="resnet8_cifar", arch_kwargs=kwargs, dataset=said)
    save_ticket(Ticket(state, {}, metadata), folder / "bare.safetensors")
    return folder / "bare.safetensors"


NORMALISED = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


@pytest.mark.parametrize(
    ("said", "options", "message"),
    [
        ({}, {}, "does not say the size of its images; give their side with --image-size"),
        ({}, {"image_size": 8}, "does not say how its images are normalised; give .* with --mean and --std"),
        ({"image_shape": [3, 8, 8], "mean": [0.5] * 3}, {}, "does not say how its images are normalised"),
        ({"image_shape": [3, 8, 8]}, {"mean": (0.5,), "std": (0.5,)}, "images have 3 channels, but the normalisation"),
        (
            {"image_shape": [3, 10**6, 8]},
            NORMALISED,
            r"expected images of 1 to 8192 pixels a side, found \[1000000, 8\]",
        ),
        ({"image_shape": [4, 8, 8]}, NORMALISED, r"bare\.safetensors: the network takes images of 4 channels"),
        ({"image_shape": [3, 8]}, NORMALISED, "does not say the size"),
    ],
)
def test_what_a_file_does_not_say_is_asked_for_by_its_option(
    tmp_path: Path, said: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        plan_prediction(bare(tmp_path, **said), [tmp_path / "a.png"], replace(CPU, **options))


def test_options_say_what_a_file_does_not(tmp_path: Path, image_folder: Path) -> None:
    options = replace(CPU, image_size=24, **NORMALISED)
    plan = plan_prediction(bare(tmp_path), [image_folder / "test"], options)
    assert plan.names == ()
    assert plan.warnings == (
        f"{tmp_path}/bare.safetensors: does not say what its classes are called; they have numbers, in the order of "
        "the logits",
    )
    full = bare(tmp_path, image_shape=[3, 24, 24], class_names=["c", "a", "b"], **NORMALISED)
    found = predict_pictures(full, [image_folder / "test"], CPU)
    named = {file: [g.number for g in guesses] for file, guesses in found.guesses.items()}
    again = predict_pictures(bare(tmp_path), [image_folder / "test"], options)
    assert named == {file: [g.number for g in guesses] for file, guesses in again.guesses.items()}
    assert {g.name for gs in found.guesses.values() for g in gs} == {"a", "b", "c"}


def test_a_folder_that_timm_wrote_is_taken_at_its_word(tmp_path: Path, image_folder: Path) -> None:
    model: Any = timm.create_model("test_resnet", num_classes=3).eval()
    images = {"input_size": (3, 32, 32), "mean": (0.3,) * 3, "std": (0.2,) * 3, "crop_pct": 1.0}
    model.pretrained_cfg |= {**images, "interpolation": "bilinear", "num_classes": 3}
    timm.models.save_for_hf(
        model, str(tmp_path), model_config={"label_names": ["x", "y", "z"]}, safe_serialization=True
    )
    file = image_folder / "test" / "sky" / "4.jpg"
    found = predict_pictures(tmp_path, [file], CPU)
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with Image.open(file) as picture, torch.inference_mode():
        expected = model(transform(picture)[None]).softmax(1)[0]
    by_name = {guess.name: guess.probability for guess in found.guesses[str(file)]}
    assert [by_name[name] for name in "xyz"] == pytest.approx(expected.tolist(), abs=1e-5)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"] |= {"interpolation": "bicubic", "crop_pct": 0.9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (note,) = plan_prediction(tmp_path, [file], CPU).warnings
    assert "its config.json prepares pictures with interpolation bicubic and crop_pct 0.9; here" in note


def test_sixteen_bits_and_turned_pictures_are_as_in_the_data_set(served: Path, tmp_path: Path) -> None:
    rng, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112] = 8
    for part in ("train", "test"):
        for name in ("flower", "sky", "temple"):
            (tmp_path / part / name).mkdir(parents=True)
            deep = rng.integers(0, 65_535, (30, 40)).astype(np.uint16)
            Image.fromarray(deep).save(tmp_path / part / name / "deep.png")
            turned = Image.fromarray(rng.integers(0, 255, (40, 30, 3)).astype(np.uint8))
            turned.save(tmp_path / part / name / "turned.jpg", exif=exif)
    found = predict_pictures(served, [tmp_path / "test"], CPU)
    expected = by_evaluate(served, f"folder:{tmp_path}")
    torch.testing.assert_close(probabilities(found), expected, atol=1e-6, rtol=0)
