"""Pictures named one by one or in folders: found in one order, and the pixels that a data set has of them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lptool.data.dataset import load_data
from lptool.data.images import InMemory, resized
from lptool.data.loose import LoosePictures, pictures_at
from lptool.errors import DataError


def test_folders_give_their_pictures_in_order_and_each_once(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/1.jpg", "a.jpeg", "c.d/readme", "notes.txt", ".hidden/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = pictures_at([tmp_path / "b" / "2.PNG", tmp_path])
    assert [os.path.relpath(file, tmp_path) for file in found.files] == ["b/2.PNG", "a.jpeg", "b/1.jpg"]
    assert not found.unreadable
    assert found.notes == ["files in folders that are no pictures are left out: 2 (1 .txt, 1 without)"]


def test_a_folder_without_pictures_is_told_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = pictures_at([tmp_path / "empty", tmp_path / "named.dat"])
    assert found.files == [str(tmp_path / "named.dat")]  # whatever its name; whether it is one is seen when it is read
    assert list(found.unreadable) == [str(tmp_path / "empty")]
    assert found.unreadable[str(tmp_path / "empty")].startswith("no picture in it (jpg, jpeg, png")
    assert found.notes == []


@pytest.mark.parametrize("side", [16, 40])
def test_pixels_are_those_that_a_data_set_has(image_folder: Path, side: int) -> None:
    test = load_data(f"folder:{image_folder}", image_size=side).test
    assert isinstance(test, InMemory)
    loose = LoosePictures(pictures_at([image_folder / "test"]).files, (3, side, side))
    assert len(loose) == len(test)
    for place in range(len(loose)):
        pixels, readable = loose[place]
        assert readable
        assert torch.equal(pixels, test.images[place])


def test_a_picture_lying_on_its_side_and_one_of_16_bits(tmp_path: Path) -> None:
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(values).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray((values // 257).astype(np.uint8)).save(tmp_path / "turned.png", exif=exif)
    deep, turned = (LoosePictures([str(tmp_path / name)], (1, 64, 64))[0][0][0] for name in ("deep.png", "turned.png"))
    assert torch.equal(deep, torch.from_numpy(((values.astype(int) + 128) // 257).astype(np.uint8)))
    assert torch.equal(turned, torch.from_numpy((values // 257).astype(np.uint8)).rot90(-1))


def test_as_arrays_pictures_are_scaled_whole(tmp_path: Path) -> None:
    pixels = torch.randint(256, (3, 20, 30), dtype=torch.uint8)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    file = str(tmp_path / "a.png")
    assert torch.equal(LoosePictures([file], (3, 12, 12), whole=True)[0][0], resized(pixels[None], (12, 12))[0])
    assert torch.equal(LoosePictures([file], (3, 20, 30))[0][0], pixels)
    assert LoosePictures([file], (3, 10, 12))[0][0].shape == (3, 10, 12)


def test_what_cannot_be_read_is_black_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    (tmp_path / "b").mkdir()
    loose = LoosePictures([str(tmp_path / name) for name in ("a.jpg", "b", "c.png")], (3, 4, 4))
    assert [loose[place][1] for place in range(3)] == [0, 0, 0]
    assert not loose[0][0].any()
    reasons = [loose.reason(place) for place in range(3)]
    expected = "cannot be read (is a folder, expected a file)", "cannot be read (No such file or directory)"
    assert reasons == ["no picture that Pillow can read", *expected]


def test_four_channels_are_no_picture() -> None:
    with pytest.raises(DataError, match="takes images of 4 channels, and pictures have 1 or 3"):
        LoosePictures([], (4, 8, 8))
