"""Arrays as numpy and others write them: which way round they lie, and claims that their files do not keep."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lptool.data import arrays
from lptool.data.arrays import Rows, read_idx_pair, read_npz
from lptool.data.images import Array
from lptool.errors import DataError


def pixels(*shape: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, images: Any, labels: Any = (0, 1, 2, 0)) -> Path:
    np.savez(
        path, train_images=images, train_labels=np.asarray(labels), test_images=images, test_labels=np.asarray(labels)
    )
    return path


@pytest.mark.parametrize(
    ("shape", "first"),
    [
        ((4, 3, 8, 8), True),
        ((4, 1, 8, 8), True),
        ((4, 3, 8, 1), None),
        ((4, 3, 8, 3), None),
        ((4, 8, 8, 3), False),
        ((4, 3, 3, 3), None),
        ((4, 8, 8, 4), False),
        ((4, 4, 8, 8), True),
        ((4, 8, 8, 8), None),
        ((4, 8, 2, 8), None),
    ],
)
def test_channels_are_found_or_asked_for(shape: tuple[int, ...], first: bool | None, tmp_path: Path) -> None:
    images = pixels(*shape)
    path = write(tmp_path / "a.npz", images)
    if first is None:
        with pytest.raises(DataError, match=r"train_images: \[.*\] does not say which are the channels"):
            read_npz(path)
        return
    found, notes = read_npz(path)
    assert np.array_equal(found["train"].images, images if first else images.transpose(0, 3, 1, 2))
    assert len(notes) == 2 * first


def test_floats_of_the_unit_interval_become_eight_bits(tmp_path: Path) -> None:
    images = pixels(4, 8, 8)
    found, notes = read_npz(write(tmp_path / "a.npz", np.float32(images / 255)))
    assert np.array_equal(found["train"].images[:, 0], images)
    assert "train_images: are floats in [0, 1]" in notes[0]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.full((4, 8, 8), np.nan), (0, 1, 2, 0), "found float64 from nan to nan"),
        (
            pixels(4, 8, 8) * 1.0,
            (0, 1, 2, 0),
            "expected train_images uint8 or floats in .* found float64 from 0 to 255",
        ),
        (np.full((4, 8, 8), -0.5), (0, 1, 2, 0), "found float64 from -0.5 to -0.5"),
        (pixels(4, 8, 8).astype(np.uint16), (0, 1, 2, 0), "found uint16"),
        (pixels(4, 8, 8), np.eye(4, 3)[[0, 1, 2, 0]], "one-hot labels: save labels.argmax"),
        (pixels(4, 8, 8), ["cat", "dog", "cat", "dog"], "numbers from 0, in the order of the logits"),
        (pixels(4, 8, 8), (0.0, 1.0, 2.0, 0.0), "save labels.astype"),
        (pixels(4, 0, 8), (0, 1, 2, 0), "which is no image"),
    ],
)
def test_what_is_no_image_and_no_label_is_one_line_with_a_remedy(
    images: Array, labels: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_npz(write(tmp_path / "a.npz", images, labels))
    assert "\n" not in str(caught.value)


def npy(shape: tuple[int, ...], content: bytes, dtype: str = "|u1") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


def test_a_header_that_claims_more_than_there_is_costs_no_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        for part in ("train", "test"):
            file.writestr(f"{part}_images.npy", npy((10**9, 100, 100), b"1234"))
            file.writestr(f"{part}_labels.npy", npy((1,), b"\0"))
    with pytest.raises(DataError, match=r"train_images\.npy claims 10,000,000,000,\d+ bytes and has \d+"):
        read_npz(tmp_path / "a.npz")


def test_what_expands_beyond_free_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "free_memory", lambda: 100)
    with pytest.raises(DataError, match=r"train_images\.npy takes \d+ bytes, and 100 are free"):
        read_npz(write(tmp_path / "a.npz", pixels(4, 8, 8)))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz: cannot be read \(is a pipe"):
        read_npz(tmp_path / "a.npz")


def test_an_idx_file_that_expands_to_more_than_it_says_is_not_read_on(tmp_path: Path) -> None:
    head = b"\0\0\x08\x03" + struct.pack(">III", 1, 2, 2)
    (tmp_path / "i.gz").write_bytes(gzip.compress(head + bytes(10**7)))
    (tmp_path / "l.gz").write_bytes(gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 1) + b"\0"))
    with pytest.raises(DataError, match=r"i\.gz: not a whole gzipped IDX file"):
        read_idx_pair(tmp_path / "i.gz", tmp_path / "l.gz")
    (tmp_path / "i.gz").write_bytes(gzip.compress(head + bytes(4)))
    assert read_idx_pair(tmp_path / "i.gz", tmp_path / "l.gz").images.shape == (1, 1, 2, 2)


# Rows of a .npy file


def test_rows_are_those_of_numpy(tmp_path: Path) -> None:
    whole = pixels(7, 4, 5, 3)
    np.save(tmp_path / "a.npy", whole)
    rows = Rows(tmp_path / "a.npy", whole.shape)
    assert np.array_equal(rows[2:5], whole[2:5])
    assert np.array_equal(rows[:], whole)


@pytest.mark.parametrize("change", ["cut off", "written", "replaced"])
def test_rows_of_a_file_that_changes_are_one_line_and_no_signal(change: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, pixels(100, 64, 64, 3))
    rows = Rows(path, (100, 64, 64, 3))
    if change == "cut off":
        os.truncate(path, 5000)
    elif change == "written":
        with open(path, "r+b") as file:
            file.write(b"x")
        os.utime(path, ns=(1, 1))
    else:
        np.save(tmp_path / "b.npy", pixels(100, 64, 64, 3))
        (tmp_path / "b.npy").replace(path)
    with pytest.raises(DataError, match=r"a\.npy: was changed while it was in use"):
        rows[50:60]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        npy((10**12,), b""),
        npy((10,), b"123"),
        npy((1,), b"", "|O"),
        npy((2, 2), b"1234").replace(b"False", b"True "),
    ],
)
def test_what_is_no_whole_npy_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy: not a whole \.npy file .*download it again"):
        Rows(tmp_path / "a.npy", (10,))
