"""Folders of pictures as people have them, read in the order of torchvision's reader."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from lptool.checkpoints.header import DataSet, typed
from lptool.data.dataset import load_data
from lptool.data.image_folder import ImageFolder, part_folders
from lptool.data.images import Images
from lptool.data.sources import Parts, load_parts
from lptool.errors import DataError


def picture(path: Path, mode: str = "RGB", colour: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(
        mode, (8, 8), {"RGB": (200, 0, 0), "L": 70, "I;16": 257 * 9, "1": 1}[mode] if colour is None else colour
    ).save(path)
    return path


def lay_out(root: Path, *parts: str, mode: str = "RGB", classes: str = "ab") -> Path:
    for part in parts or ("train", "test"):
        for name in classes:
            for number in range(2):
                picture(root / part / name / f"{number}.png", mode)
    return root


def parts_of(root: Path, **given: Any) -> Parts:
    return load_parts(f"folder:{root}", None, None, **given)


def shape(images: Images) -> list[int]:
    return list(next(images.raw([torch.arange(len(images))], torch.device("cpu")))[0].shape)


def test_files_come_in_torchvisions_order_subfolders_and_links_too(image_folder: Path, tmp_path: Path) -> None:
    for place in (
        "b/10.png",
        "b/9.PNG",
        "b/deep/1.jpg",
        "b/a-deep/x/1.jpeg",
        "b-b/1.tif",
        "a/1.webp",
        "a/1.bmp",
        "B/1.ppm",
    ):
        picture(tmp_path / "train" / place)
    (tmp_path / "train" / "a" / "linked.png").symlink_to(tmp_path / "train" / "b" / "10.png")
    (tmp_path / "train" / "z").symlink_to(tmp_path / "train" / "b")
    for root in (tmp_path / "train", image_folder / "train"):
        ours, theirs = ImageFolder(root), datasets.ImageFolder(str(root))
        assert ours.samples == theirs.samples
        assert ours.classes == theirs.classes
        assert not ours.left_out


@pytest.mark.parametrize(("train", "val", "test"), [("train", "valid", "test"), ("Training", "validation", "testing")])
def test_parts_have_the_names_that_people_give_them(train: str, val: str, test: str, tmp_path: Path) -> None:
    found, notes = part_folders(lay_out(tmp_path, train, val, test))
    assert found == {"train": tmp_path / train, "val": tmp_path / val, "test": tmp_path / test}
    assert notes == []
    assert parts_of(tmp_path).val is not None


def test_two_folders_for_one_part_are_refused_and_unknown_ones_named(tmp_path: Path) -> None:
    assert part_folders(lay_out(tmp_path, "train", "test", "extra"))[1] == [
        f"folder:{tmp_path}: not used, as no part of train, val or test: extra"
    ]
    lay_out(tmp_path, "val", "valid")
    with pytest.raises(DataError, match="val and valid both are val"):
        parts_of(tmp_path)


def test_what_is_hidden_is_no_class_and_no_picture(tmp_path: Path) -> None:
    lay_out(tmp_path)
    expected = parts_of(tmp_path)
    for name in (
        "train/.ipynb_checkpoints/0.png",
        "train/__MACOSX/0.png",
        "train/a/._0.png",
        ".git/x.png",
        "train/a/.DS_Store",
    ):
        picture(tmp_path / "x.png").rename(
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True) or tmp_path / name
        )
    found = parts_of(tmp_path)
    assert (found.num_classes, len(found.train), found.class_names) == (2, len(expected.train), ("a", "b"))
    assert found.notes == ()


def test_files_that_are_no_pictures_are_counted_in_one_line(tmp_path: Path) -> None:
    lay_out(tmp_path)
    for name in ("train/a/1.gif", "train/a/2.gif", "test/b/notes.txt", "test/b/LICENSE", "train/stray.png"):
        (tmp_path / name).touch()
    [note] = parts_of(tmp_path).notes
    assert "files that are no pictures of a class are left out: 5 (2 .gif" in note
    assert load_data(f"folder:{tmp_path}", val_fraction=0.5).notes == (note,)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("I;16", 1), ("RGB", 3)])
def test_grey_pictures_stay_grey_where_all_are(mode: str, channels: int, tmp_path: Path) -> None:
    root = lay_out(tmp_path, mode=mode)
    assert shape(parts_of(root).train) == [4, channels, 8, 8]
    picture(root / "train" / "b" / "1.png")
    assert shape(parts_of(root).train) == [4, 3, 8, 8]


def test_pictures_of_sixteen_bits_are_not_white(tmp_path: Path) -> None:
    train = parts_of(lay_out(tmp_path, mode="I;16")).train
    pixels, _ = next(train.raw([torch.arange(4)], torch.device("cpu")))
    assert (pixels == 9).all()


def cut_off(path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(path)
    os.truncate(path, 300)


def bomb(path: Path) -> None:
    path.write_bytes(b"P6 20000 20000 255\n")


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 31)


ODD: dict[str, Any] = {
    "pipe": (os.mkfifo, "is no file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is no file"),
    "link to nowhere": (lambda path: path.symlink_to("gone"), "is no file"),
    "empty": (Path.touch, "no picture that Pillow can read"),
    "cut off": (cut_off, "truncated|cannot be decoded"),
    "bomb": (bomb, "decompression bomb"),
    "strip": (lambda path: Image.new("L", (100_000, 1)).save(path), "too long a strip"),
    "huge": (huge, "too many for a picture"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("first", [False, True])
def test_what_is_no_picture_is_named_in_one_line(kind: str, first: bool, tmp_path: Path) -> None:
    lay_out(tmp_path)
    make, message = ODD[kind]
    path = tmp_path / "train" / ("a" if first else "b") / f"{0 if first else 9}.png"
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(DataError, match=message) as caught:
        load_parts(f"folder:{tmp_path}", None, 64)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_class_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path)
    os.rename(os.fsencode(tmp_path / "train" / "b"), os.fsencode(tmp_path / "train") + b"/\xff")
    with pytest.raises(DataError, match="is no UTF-8"):
        parts_of(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "train" / "a").chmod(0)
    with pytest.raises(DataError, match="a: cannot be read"):
        parts_of(tmp_path)


def test_a_picture_that_is_replaced_while_it_streams_is_told(tmp_path: Path) -> None:
    folder = ImageFolder(lay_out(tmp_path) / "train")
    assert np.asarray(folder[1][0]).shape == (8, 8, 3)
    path = Path(folder.samples[1][0])
    picture(path, colour=(1, 2, 3))
    os.utime(path, ns=(folder.since, folder.since + 1))
    with pytest.raises(DataError, match=rf"{path}: was changed while it was in use"):
        folder[1]


# Beside a network that was trained before


def test_channels_and_classes_are_those_that_the_network_was_trained_on(tmp_path: Path) -> None:
    root = lay_out(tmp_path, mode="L", classes="ac")
    like = typed(DataSet, {"class_names": ["c", "b", "a"], "num_classes": 3, "image_shape": [3, 8, 8]})
    found = parts_of(root, like=like)
    assert shape(found.train) == [4, 3, 8, 8]
    assert (found.num_classes, found.class_names) == (3, ("c", "b", "a"))
    assert next(found.test.raw([torch.arange(4)], torch.device("cpu")))[1].tolist() == [2, 2, 0, 0]
    assert found.notes == (f"folder:{root}: has 2 of the 3 classes that the network tells apart; matched by name",)
    with pytest.raises(DataError, match="classes that the network was not trained on: c"):
        parts_of(root, like=typed(DataSet, {"class_names": ["a", "b"], "num_classes": 2}))
