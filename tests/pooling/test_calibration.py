"""What BatchNorm is recalibrated on: as headers and options say, the same every time, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lptool.checkpoints.header import AUGMENTS, FLIPS
from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.writing import save_ticket
from lptool.data.augment import draw
from lptool.data.images import InMemory
from lptool.errors import PoolError
from lptool.pooling.calibration import BN_IMAGES
from lptool.pooling.comparisons import barriers
from lptool.pooling.fingerprint import fingerprint
from lptool.pooling.job import decided, pool_target
from lptool.pooling.journal import journal_of
from lptool.pooling.outcome import Progress
from lptool.pooling.setup import Bench, PoolOptions, open_bench
from tests.data.test_augment import crop_pixel_by_pixel

OPTIONS = PoolOptions(method="greedy", alphas=(0.5,), calibration_size=128, device="cpu", precision="fp32")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bare(tickets: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The tickets without a header, as another program has them."""
    folder = tmp_path_factory.mktemp("bare")
    for path in tickets:
        save_file(load_file(path), folder / path.name)
    return sorted(folder.iterdir())


FOREIGN = replace(OPTIONS, dataset="digits", val_fraction=0.25)


def trained(tickets: list[Path], folder: Path, **train: Any) -> list[Path]:
    """The tickets with other words about their training."""
    found = [load_ticket(path) for path in tickets]
    for number, ticket in enumerate(found):
        header = replace(ticket.metadata, train={**ticket.metadata.train, **train})
        save_ticket(replace(ticket, metadata=header), folder / f"{number}.safetensors")
    return sorted(folder.iterdir())


def pixels(bench: Bench) -> Tensor:
    assert isinstance(bench.data.train, InMemory)
    return bench.data.train.images


def by_hand(bench: Bench, place: int, images: Tensor) -> dict[str, Tensor]:
    """Statistics of a ticket on uint8 images, by torch alone."""
    model = timm.create_model("resnet8_cifar", num_classes=10, in_chans=1)
    model.load_state_dict(bench.pool[place].state)
    normal = (images.float() / 255 - bench.data.mean[0]) / bench.data.std[0]
    chunks = torch.arange(len(normal)).tensor_split(-(-len(normal) // 256))
    torch.optim.swa_utils.update_bn([normal[rows] for rows in chunks], model)
    return {name: t for name, t in model.state_dict().items() if "running" in name}


def assert_statistics(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, statistic in expected.items():
        torch.testing.assert_close(found[name], statistic, rtol=1e-4, atol=1e-5)


def test_augmented_statistics_are_those_of_images_augmented_by_hand(tickets: list[Path]) -> None:
    options = replace(OPTIONS, crop_padding=2, flip="yes", seed=3, final_calibration_size=None)
    bench, plain = open_bench(tickets, options), open_bench(tickets, replace(options, bn_images="plain"))
    images = pixels(bench)
    drawn = draw(
        torch.arange(len(images)),
        (1, 8, 8),
        crop_padding=2,
        flip=True,
        generator=torch.Generator().manual_seed(3),
    )
    assert drawn.offsets is not None
    assert drawn.flips is not None
    cropped = crop_pixel_by_pixel(images, 2, drawn.offsets)
    flipped = torch.from_numpy(np.ascontiguousarray(cropped.numpy()[..., ::-1]))
    augmented = torch.where(drawn.flips[:, None, None, None], flipped, cropped)
    expected = by_hand(bench, 1, augmented)
    assert_statistics(bench.recalibrated(bench.pool[1].state), expected)
    assert_statistics(plain.recalibrated(plain.pool[1].state), by_hand(plain, 1, images))
    assert not torch.allclose(expected["bn1.running_var"], by_hand(plain, 1, images)["bn1.running_var"], rtol=0.01)


def test_the_search_takes_the_statistics_of_the_finished_model(tickets: list[Path]) -> None:
    """Of all training images, as the augmentation is drawn for each image and not for each batch."""
    sizes = {"calibration_size": 10**6, "final_calibration_size": None}
    bench = open_bench(tickets, replace(OPTIONS, bn_images="augmented", **sizes))
    state = bench.pool[2].state
    bench.scorer(state)
    searched = {name: t.clone() for name, t in bench.model.state_dict().items()}
    for name, t in bench.recalibrated(state).items():
        assert torch.equal(t, searched[name]) or "num_batches" in name


HEADERS: list[tuple[dict[str, Any], str]] = [
    ({}, "augmented"),
    ({"crop_padding": 0}, "plain"),  # digits are not flipped
    ({"crop_padding": 0, "flip": "no"}, "plain"),
    ({"crop_padding": 0, "flip": "yes"}, "augmented"),
    ({"crop_padding": 0, "flip": "alternate"}, "augmented"),
    ({"crop_padding": None, "flip": "no"}, "augmented"),
    ({"crop_padding": 0, "augment": "resized-crop", "flip": "no"}, "augmented"),
    ({"augment": None, "crop_padding": 0}, "plain"),  # older files name no kind of crop
    ({"flip": None}, "auto"),
    ({"flip": "upside down"}, "auto"),
    ({"augment": "mixup"}, "auto"),
    ({"crop_padding": -1}, "auto"),
    ({"crop_padding": 10**9}, "auto"),
]


@pytest.mark.parametrize(("train", "mode"), HEADERS, ids=str)
def test_auto_is_what_the_tickets_say(tmp_path: Path, tickets: list[Path], train: dict[str, Any], mode: str) -> None:
    bench = open_bench(trained(tickets[2:], tmp_path, **train), OPTIONS)
    assert (bench.calibration.mode, bench.calibration.known) == (mode, mode != "auto")
    assert not [w for w in bench.warnings if "augmented" in w]
    if mode != "auto":
        assert decided(bench, 1) is bench


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({}, "auto"),
        ({"crop_padding": 0}, "plain"),
        ({"crop_padding": 0, "flip": "yes"}, "augmented"),
        ({"augment": "crop"}, "augmented"),
        ({"augment": "resized-crop"}, "augmented"),
        ({"flip": "no"}, "augmented"),  # crops are left
        ({"bn_images": "none"}, "none"),
        ({"bn_images": "plain"}, "plain"),
    ],
    ids=str,
)
def test_options_say_it_of_files_without_a_header(bare: list[Path], options: dict[str, Any], mode: str) -> None:
    assert open_bench(bare, replace(FOREIGN, **options)).calibration.mode == mode


def test_a_search_that_knows_is_another_than_one_that_supposes_the_same(bare: list[Path]) -> None:
    supposed, known = (open_bench(bare, replace(FOREIGN, augment=augment)) for augment in (None, "crop"))
    assert supposed.calibration.recipe == known.calibration.recipe
    before, after = (fingerprint(bench, 3) for bench in (supposed, known))
    assert [key for key in after if after[key] != before[key]] == ["augmentation"]


def test_options_overlay_headers(tmp_path: Path, tickets: list[Path]) -> None:
    files = trained(tickets, tmp_path, augment="crop", crop_padding=3, flip="yes")
    recipe = open_bench(files, replace(OPTIONS, flip="no")).calibration.recipe
    assert (recipe.crop_padding, recipe.flip, recipe.resized_crop) == (3, False, False)
    recipe = open_bench(files, replace(OPTIONS, crop_padding=1)).calibration.recipe
    assert (recipe.crop_padding, recipe.flip, recipe.resized_crop) == (1, True, False)
    recipe = open_bench(files, replace(OPTIONS, augment="resized-crop")).calibration.recipe
    assert (recipe.crop_padding, recipe.flip, recipe.resized_crop) == (0, True, True)


def test_where_nothing_is_known_augmented_takes_the_usual_and_says_so(bare: list[Path]) -> None:
    bench = open_bench(bare, replace(FOREIGN, bn_images="augmented"))
    (warning,) = (w for w in bench.warnings if "augmented" in w)
    assert "taking random crops with 1 pixels of padding without flips" in warning
    assert "\n" not in warning
    asked = open_bench(bare, replace(FOREIGN, bn_images="augmented", augment="crop"))
    assert not [w for w in asked.warnings if "augmented" in w]
    assert asked.calibration.recipe == bench.calibration.recipe


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"bn_images": "all"}, "bn_images: expected auto, plain, augmented or none, found 'all'"),
    ({}, {"augment": "mixup"}, "augment: expected crop or resized-crop, found 'mixup'"),
    ({}, {"flip": "up"}, "flip: expected auto, yes, no or alternate, found 'up'"),
    ({}, {"crop_padding": -1}, "crop_padding: expected 0 or more, found -1"),
    ({}, {"crop_padding": 9}, "crop_padding: expected at most 8 pixels, the side of an image, found 9"),
    ({}, {"augment": "resized-crop", "crop_padding": 1}, "crop_padding: resized-crop does not use it"),
    ({"augment": "resized-crop"}, {"crop_padding": 1}, "crop_padding: resized crops, which .* have none; leave it out"),
    ({"crop_padding": 0}, {"bn_images": "augmented"}, "bn_images: the tickets were trained on images as they are"),
    ({}, {"bn_images": "augmented", "crop_padding": 0, "flip": "no"}, "bn_images: the tickets were trained on"),
]


@pytest.mark.parametrize(("train", "options", "message"), REFUSED, ids=str)
def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path, tickets: list[Path], train: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    files = trained(tickets[2:], tmp_path, **train)
    with pytest.raises(PoolError, match=f"^{message}") as raised:
        open_bench(files, replace(OPTIONS, **options))
    assert "\n" not in str(raised.value)


def test_what_was_not_trained_with_can_be_named(tmp_path: Path, tickets: list[Path]) -> None:
    files = trained(tickets[2:], tmp_path, crop_padding=0)
    named = replace(OPTIONS, bn_images="augmented", crop_padding=2)
    assert open_bench(files, named).calibration.recipe.crop_padding == 2


# Where nothing is known, val decides.


def best_by_hand(bare: list[Path], select: str) -> str:
    """The best of three benches, each told what to take; of equals the least change."""
    merits = {}
    for mode in ("none", "plain", "augmented"):
        bench = open_bench(bare, replace(FOREIGN, bn_images=mode, select=select))
        states = [ticket.state for ticket in bench.pool]
        shares = [0.5 ** (3 - place) for place in range(4)]
        mean = {
            name: sum(w * s[name] for w, s in zip(shares, states, strict=True)) / sum(shares)
            for name in states[0]
            if states[0][name].is_floating_point()
        }
        mean = states[3] | {name: torch.as_tensor(t) for name, t in mean.items()}
        sizes = torch.cat([mean[name].abs().flatten() for name in bench.pool.prunable])
        least = sizes.topk(bench.pool.kept(3)).values.min()
        for name in bench.pool.prunable:
            mean[name] = torch.where(mean[name].abs() >= least, mean[name], 0.0)
        score = bench.scorer(mean)
        merits[mode] = score.correct if select == "accuracy" else -score.nll
    return max(merits, key=lambda mode: merits[mode])


@pytest.mark.parametrize("select", ["accuracy", "nll"])
def test_val_decides_where_nothing_is_known(bare: list[Path], select: str) -> None:
    bench = decided(open_bench(bare, replace(FOREIGN, select=select)), 3)
    assert bench.calibration.mode == best_by_hand(bare, select)


@pytest.mark.parametrize(("merits", "mode"), [([1, 1, 1], "none"), ([0, 1, 1], "plain"), ([0, 1, 2], "augmented")])
def test_of_equals_the_least_change_is_taken(
    bare: list[Path], monkeypatch: pytest.MonkeyPatch, merits: list[int], mode: str
) -> None:
    given = iter(merits)
    monkeypatch.setattr("lptool.pooling.choice.Choice.merit", lambda self, score: next(given))
    assert decided(open_bench(bare, FOREIGN), 3).calibration.mode == mode


def test_a_network_without_batchnorm_needs_no_decision(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, in_chans):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))\n"
    )
    for level in range(2):
        torch.manual_seed(level)
        conv, linear = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4, 10)
        state = {f"0.{n}": t for n, t in conv.state_dict().items()}
        state |= {f"3.{n}": t for n, t in linear.state_dict().items()}
        state["0.weight"].view(-1)[: 9 * level] = 0
        save_file(state, tmp_path / f"{level}.safetensors")
    files = sorted(tmp_path.glob("*.safetensors"))
    for asked in BN_IMAGES:
        bench = open_bench(files, replace(FOREIGN, arch=f"{tmp_path / 'net.py'}:net", bn_images=asked))
        assert bench.calibration.mode == "none"
        assert not [w for w in bench.warnings if "augmented" in w]
        assert decided(bench, 1) is bench


def test_barriers_try_nothing(bare: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lptool.pooling.job._best_on_val", lambda *_: pytest.fail("tried"))
    (undecided,), (plain,) = (
        barriers(open_bench(bare[:2], replace(FOREIGN, bn_images=mode))) for mode in ("auto", "plain")
    )
    assert undecided.scores == plain.scores


# The same bytes


def pooled(bare: list[Path], out: Path, on_progress: Callable[[Progress], None] = lambda _: None) -> str:
    return pool_target(open_bench(bare, FOREIGN), 3, out, on_progress=on_progress).sha256


def test_the_same_bytes_twice_and_after_a_cut_off(tmp_path: Path, bare: list[Path]) -> None:
    whole = pooled(bare, tmp_path / "a.safetensors")
    assert pooled(bare, tmp_path / "b.safetensors") == whole

    def interrupt(progress: Progress) -> None:
        if progress.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pooled(bare, tmp_path / "c.safetensors", interrupt)
    before = journal_of(tmp_path / "c.safetensors").read_bytes()
    assert pooled(bare, tmp_path / "c.safetensors") == whole
    assert journal_of(tmp_path / "c.safetensors").read_bytes().startswith(before)  # it went on


def test_the_file_says_what_was_taken(tmp_path: Path, bare: list[Path], tickets: list[Path]) -> None:
    mode = decided(open_bench(bare, FOREIGN), 3).calibration.mode
    result = pool_target(open_bench(bare, FOREIGN), 3, tmp_path / "a.safetensors")
    assert load_ticket(result.output).metadata.search.measured == mode
    result = pool_target(open_bench(tickets, OPTIONS), 3, tmp_path / "b.safetensors")
    trace = load_ticket(result.output).metadata.trace
    assert trace["bn_images"] == "augmented"
    assert trace["augmentation"] == {"crop_padding": 1, "flip": False, "resized_crop": False}


# What else is augmented, and how


def test_layers_are_fitted_to_images_as_in_training(tmp_path: Path, tickets: list[Path], bare: list[Path]) -> None:
    options = replace(OPTIONS, fit_images=10**6, bn_images="plain")

    def shown(bench: Bench) -> Tensor:
        return torch.cat(list(bench.rebuilder.images()))

    def plain(bench: Bench) -> Tensor:
        return torch.cat([images for images, _ in bench.batches(bench.data.train)(256)])

    known = open_bench(tickets, options)
    augmented = open_bench(tickets, replace(options, bn_images="augmented"))
    seen = augmented.batches(augmented.calibration.images(augmented.data.train))(256)
    assert torch.equal(shown(known), torch.cat([images for images, _ in seen]))
    (tmp_path / "as they are").mkdir()
    without = open_bench(trained(tickets, tmp_path / "as they are", crop_padding=0), options)
    foreign = open_bench(bare, replace(FOREIGN, fit_images=10**6))
    for bench in (without, foreign):
        assert torch.equal(shown(bench), plain(bench))


def test_resized_crops_are_taken_of_whole_pictures(tmp_path: Path, image_folder: Path) -> None:
    state = timm.create_model("resnet8_cifar", num_classes=3).state_dict()
    for level in range(2):
        changed = {n: t + level if n == "fc.bias" else t for n, t in state.items()}
        save_file(changed, tmp_path / f"{level}.safetensors")
    options = replace(OPTIONS, dataset=f"folder:{image_folder}", augment="resized-crop", flip="no", seed=5)
    bench = open_bench(sorted(tmp_path.glob("*.safetensors")), options)
    train, order = bench.data.train, [torch.arange(len(bench.data.train))]
    pictures = train.resized_crops(5)
    assert pictures is not None
    ((expected, labels),) = pictures.raw(order, CPU)
    ((found, same),) = bench.calibration.images(train).raw(order, CPU)
    assert torch.equal(found, expected)
    assert torch.equal(labels, same)


def test_the_words_are_those_of_training() -> None:
    from lptool.training.options import CHOICES

    assert (CHOICES["augment"], CHOICES["flip"]) == (AUGMENTS, FLIPS)
