"""One picture of any kind as 8 bits, the right way up: grey or RGB."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from lptool.errors import first_line

_ORIENTATION = 0x0112  # the EXIF tag in which a camera says how it was held
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def opened_picture(content: bytes) -> Image.Image:
    """A picture of which only the head is read yet: its size and its colours."""
    with warnings.catch_warnings():  # of odd pictures, which nobody can act on among thousands
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(content))


def is_grey(picture: Image.Image) -> bool:
    """Whether a picture has one channel, beside what is transparent."""
    return picture.mode in ("1", "L", "LA", "La", "I", "F") or picture.mode.startswith("I;16")


def plain(picture: Image.Image, grey: bool) -> Image.Image:
    """The picture in mode L or RGB, turned as its EXIF data say; 16 bits become 8, what is transparent is not.

    Raises:
        Exception: whatever Pillow raises on a damaged file.
    """
    if not isinstance(picture, Image.Image):
        raise ValueError(f"expected a picture, found {type(picture).__name__}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture.load()
        return _upright(_in_eight_bits(picture)).convert("L" if grey else "RGB")


def reason_of(error: BaseException) -> str:
    """Why a picture cannot be decoded, in one line."""
    return "no picture that Pillow can read" if isinstance(error, UnidentifiedImageError) else first_line(error)


def _upright(picture: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data, of a picture that is sound
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    """Of 16 bits the range 0 … 65,535 becomes 0 … 255; Pillow alone would make all above 255 white."""
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return picture
    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 65_535:
        raise ValueError("has pixels of 32 bits, whose scale is not known; convert it to 8 or 16 bits")
    scaled = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))  # 65,535 is 255 · 257
    scaled.info = picture.info  # EXIF data among it
    return scaled
