"""Pictures of every mode that Pillow writes, against numpy and Pillow's own transposition."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from lptool.data.colours import is_grey, opened_picture, plain

RAMP = np.arange(0, 65_536, 257, dtype=np.uint16).reshape(16, 16)  # k · 257 is what 8 bits have as k


def through(picture: Image.Image, kind: str, **how: Any) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, kind, **how)
    return opened_picture(stream.getvalue())


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("grey", [True, False])
def test_sixteen_bits_are_scaled_to_eight(kind: str, grey: bool) -> None:
    picture = through(Image.fromarray(RAMP), kind)
    expected = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = np.asarray(plain(picture, grey))
    assert is_grey(picture)
    assert np.array_equal(found, expected if grey else np.stack([expected] * 3, 2))


@pytest.mark.parametrize("mode", ["I;16B", "I;16", "I"])
def test_sixteen_bits_are_rounded_in_every_order_of_bytes(mode: str) -> None:
    values = np.array([[0, 128, 129, 385, 386, 65_406, 65_407, 65_535]])
    kind = {"I;16B": ">u2", "I;16": "<u2", "I": "<i4"}[mode]
    picture = Image.frombytes(mode, (8, 1), values.astype(kind).tobytes())
    assert np.asarray(plain(picture, True)).tolist() == np.round(values / 257).astype(int).tolist()


@pytest.mark.parametrize("values", [np.float32([[0.5]]), np.int32([[70_000]]), np.int32([[-1]])])
def test_thirty_two_bits_have_no_known_scale(values: Any) -> None:
    with pytest.raises(ValueError, match="convert it to 8 or 16 bits"):
        plain(through(Image.fromarray(values), "TIFF"), True)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_other_modes_become_what_pillow_makes_of_them(mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    source = Image.fromarray(pixels).convert(mode)
    picture = through(source, "TIFF" if mode == "CMYK" else "PNG")
    assert is_grey(picture) == (mode in ("1", "L", "LA"))
    for target in ("L", "RGB"):
        assert np.array_equal(np.asarray(plain(picture, target == "L")), np.asarray(source.convert(target)))


def test_a_palette_with_transparent_colours_raises_no_warning() -> None:
    picture = Image.new("P", (4, 4))
    picture.putpalette([200, 0, 0, 0, 200, 0])
    found = through(picture, "PNG", transparency=b"\x00\x80")
    assert plain(found, False).getpixel((0, 0)) == (200, 0, 0)


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_stand_as_the_camera_was_held(kind: str, orientation: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(stream)).convert("RGB")
    found = plain(opened_picture(stream.getvalue()), False)
    assert found.size == ((8, 16) if orientation > 4 else (16, 8))
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_a_sixteen_bit_picture_is_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = plain(through(Image.fromarray(RAMP[:4]), "PNG", exif=exif), True)
    assert np.array_equal(np.asarray(found), np.rot90(np.arange(64, dtype=np.uint8).reshape(4, 16), -1))


def test_damaged_exif_data_turn_nothing_and_cost_no_picture() -> None:
    picture = through(Image.new("RGB", (4, 2), (9, 9, 9)), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert plain(picture, False).size == (4, 2)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a picture, found dict"):
        plain({"bytes": b""}, False)  # type: ignore[arg-type]
