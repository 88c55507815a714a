"""WebDataset shards: tar files made here of real picture files, as the format's writers lay them out."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder

from lptool.data import pictures
from lptool.data.images import Images, InMemory, Streamed
from lptool.data.shards import Shards, shard_files
from lptool.data.sources import Parts, load_parts
from lptool.errors import DataError

CPU = torch.device("cpu")
SIDE = 32


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def sample(key: str, picture: Path, label: int) -> list[tuple[str, bytes]]:
    """As timm's shards of ImageNet have it: class, picture and a note."""
    note = json.dumps({"label": label, "filename": picture.name}).encode()
    return [(f"{key}.cls", b"%d" % label), (f"{key}{picture.suffix}", picture.read_bytes()), (f"{key}.json", note)]


def write_shards(root: Path, image_folder: Path, parts: dict[str, str]) -> Path:
    """Each part of the folder as shards of ten pictures; `parts` gives the name that a part has there."""
    for part, name in parts.items():
        files = ImageFolder(str(image_folder / part)).samples
        samples = [sample(f"{k:06}", Path(file), label) for k, (file, label) in enumerate(files)]
        for shard, start in enumerate(range(0, len(samples), 10)):
            members = [member for one in samples[start : start + 10] for member in one]
            write_tar(root / f"pictures-{name}-{shard:04}.tar", members)
    return root


@pytest.fixture(scope="session")
def shards(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = {"train": "train", "val": "validation", "test": "test"}
    return write_shards(tmp_path_factory.mktemp("shards"), image_folder, parts)


def pixels_and_labels(images: Images | None) -> tuple[Tensor, list[int]]:
    assert images is not None
    pixels, labels = next(images.raw([torch.arange(len(images))], CPU))
    return pixels, labels.tolist()


def assert_same_images(ours: Images | None, theirs: Images | None) -> None:
    (a, a_labels), (b, b_labels) = pixels_and_labels(ours), pixels_and_labels(theirs)
    assert torch.equal(a, b)
    assert a_labels == b_labels


def assert_same_parts(ours: Parts, theirs: Parts) -> None:
    assert ours.num_classes == theirs.num_classes
    for part in ("train", "val", "test"):
        assert_same_images(getattr(ours, part), getattr(theirs, part))


def test_shards_of_a_folder_give_what_the_folder_gives(shards: Path, image_folder: Path) -> None:
    folder = load_parts(f"folder:{image_folder}", None, SIDE)
    assert_same_parts(load_parts("wds/pictures", shards, SIDE), folder)
    assert_same_parts(load_parts(f"wds/{shards}", None, SIDE), folder)


def test_shards_larger_than_memory_stream_and_are_cropped_as_the_folder_is(
    shards: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_parts(f"folder:{image_folder}", None, SIDE)
    assert isinstance(expected.train, InMemory)
    monkeypatch.setattr(pictures, "IN_MEMORY_BYTES", 1)
    parts = load_parts("wds/pictures", shards, SIDE)
    assert isinstance(parts.train, Streamed)
    assert_same_parts(parts, expected)
    assert_same_images(parts.train.resized_crops(3), expected.train.resized_crops(3))


def test_pictures_are_found_by_index_in_any_order(shards: Path, image_folder: Path) -> None:
    ours, folder = Shards(shard_files(shards)["train"]), ImageFolder(str(image_folder / "train"))
    assert len(ours) == len(folder) == 24
    assert ours.classes.tolist() == folder.targets
    for index in (23, 0, 9, 10):
        assert np.array_equal(np.asarray(ours[index][0].convert("RGB")), np.asarray(folder[index][0]))
        assert ours[index][1] == folder[index][1]


def test_without_test_shards_val_is_kept_for_the_end_as_with_folders(image_folder: Path, tmp_path: Path) -> None:
    root = write_shards(tmp_path, image_folder, {"train": "train", "val": "val"})
    parts = load_parts("wds/pictures", root, SIDE)
    assert parts.val is None
    assert_same_images(parts.test, load_parts(f"folder:{image_folder}", None, SIDE).val)


# Which file belongs to which part


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_parts_are_told_by_words_in_the_path(tmp_path: Path) -> None:
    touch(tmp_path, "in1k_train-01.tar", "in1k_train-00.tar", "val/00.tar", "testify-00.tar", "x-train.tar.gz")
    found = {part: [str(file.relative_to(tmp_path)) for file in files] for part, files in shard_files(tmp_path).items()}
    assert found == {"train": ["in1k_train-00.tar", "in1k_train-01.tar"], "val": ["val/00.tar"]}


def test_parts_are_told_by_the_info_file_where_there_is_one(tmp_path: Path) -> None:
    touch(tmp_path, "a.tar", "b.tar", "x-train-9.tar")
    splits = {"train": {"filenames": ["b.tar", "a.tar"]}, "validation": {"filenames": ["c.tar"]}}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {**splits, "minival": {"filenames": ["d.tar"]}}}))
    assert shard_files(tmp_path) == {"train": [tmp_path / "b.tar", tmp_path / "a.tar"], "val": [tmp_path / "c.tar"]}


@pytest.mark.parametrize("content", ["{", "[]", '{"splits": {"train": {}}}', '{"splits": {"train": 3}}'])
def test_an_info_file_of_another_kind_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "_info.json").write_text(content)
    with pytest.raises(DataError, match=r"_info\.json: expected splits with filenames"):
        shard_files(tmp_path)


@pytest.mark.parametrize(
    ("names", "found"),
    [((), "none"), (("train-0.tar",), "train"), (("val-0.tar", "test-0.tar"), "val, test"), (("0.tar",), "none")],
)
def test_missing_parts_are_told_with_what_is_expected(names: tuple[str, ...], found: str, tmp_path: Path) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=rf"expected tar files of train and of val or test.*found {found}$"):
        load_parts("wds/x", tmp_path, None)


# What lies in a tar file


@pytest.fixture
def jpeg(image_folder: Path) -> Path:
    return image_folder / "train" / "sky" / "5.jpg"


def test_other_files_and_samples_without_a_picture_are_passed_over(jpeg: Path, tmp_path: Path) -> None:
    content = jpeg.read_bytes()
    members = [
        ("README", b"no sample"),
        ("text.cls", b"1"),
        ("text.txt", b"no picture"),
        ("deep.er/a.b.cls", b"8"),  # the sample deep.er/a has no class of its own, but no picture either
        ("deep.er/c.CLS", b"2\n"),
        ("deep.er/c.JPG", content),
        ("d.seg.png", b"a picture beside the picture"),
        ("d.png", content),
        ("d.cls", b" 3 "),
    ]
    found = Shards([write_tar(tmp_path / "x.tar", members)])
    assert found.classes.tolist() == [2, 3]
    assert np.array_equal(np.asarray(found[0][0]), np.asarray(found[1][0]))


@pytest.mark.parametrize("text", [None, b"cat", b"-1", b"", b"1.5"])
def test_a_sample_without_a_class_number_is_named(text: bytes | None, jpeg: Path, tmp_path: Path) -> None:
    members = [("n/7.jpg", jpeg.read_bytes()), *([] if text is None else [("n/7.cls", text)])]
    with pytest.raises(DataError, match=r"x\.tar: n/7\.cls: expected the class as a number from 0, found "):
        Shards([write_tar(tmp_path / "x.tar", members)])


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut off in a header": lambda tar: tar[:1200],
    "cut off in a picture": lambda tar: tar[:1700],
    "cut off between two samples": lambda tar: tar[:1024],
    "empty": lambda tar: b"",
    "no tar": lambda tar: b"x" * 2000,
    "compressed": gzip.compress,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_tar_file_is_named(damage: str, jpeg: Path, tmp_path: Path) -> None:
    file = write_tar(tmp_path / "x.tar", sample("0", jpeg, 0))
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(DataError, match=rf"{file}: not a whole, uncompressed tar file \("):
        Shards([file])


def test_a_missing_tar_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.tar: .*No such file"):
        Shards([tmp_path / "gone.tar"])


def test_a_class_that_train_has_not_is_refused(jpeg: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", [*sample("0", jpeg, 0), *sample("1", jpeg, 1)])
    write_tar(tmp_path / "val.tar", sample("0", jpeg, 2))
    with pytest.raises(DataError, match="val has the class 2, expected 0 to 1 as in train"):
        load_parts("wds/x", tmp_path, None)


def test_a_part_without_a_picture_is_refused(jpeg: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", sample("0", jpeg, 0))
    write_tar(tmp_path / "val.tar", [("0.txt", b"")])
    with pytest.raises(DataError, match=r"the shards of val hold no picture \(jpg, jpeg, png, webp, .*\)"):
        load_parts("wds/x", tmp_path, None)


# Samples as other writers lay them out


def shard_of(tmp_path: Path, members: Iterable[tuple[str, bytes]]) -> Shards:
    return Shards([write_tar(tmp_path / "x.tar", members)])


def test_a_class_need_not_follow_its_picture(jpeg: Path, tmp_path: Path) -> None:
    content, keys = jpeg.read_bytes(), ["b", "a", "c"]
    pictures_first = [(f"{key}.jpg", content) for key in keys] + [
        (f"{key}.cls", b"%d" % n) for n, key in enumerate(keys)
    ]
    assert shard_of(tmp_path, pictures_first).classes.tolist() == [0, 1, 2]
    assert shard_of(tmp_path, pictures_first[::-1]).classes.tolist() == [2, 1, 0]


def test_one_name_twice_is_two_samples(jpeg: Path, tmp_path: Path) -> None:
    assert shard_of(
        tmp_path, [*sample("a", jpeg, 0), *sample("b", jpeg, 1), *sample("a", jpeg, 2)]
    ).classes.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["s1.v2.jpg", "s1.v2.cls"], [1]),
        (["s1.v2.jpg", "s1.cls"], [1]),
        (["s1.v1.jpg", "s1.v1.cls", "s1.v2.jpg", "s1.v2.cls"], [1, 3]),
        (["s1.jpg", "s1.cls", "s1.mask.png"], [1]),
        (["s1.jpg", "s1.png", "s1.cls"], [2]),
    ],
)
def test_pictures_with_points_in_their_names_are_not_dropped(
    names: list[str], classes: list[int], jpeg: Path, tmp_path: Path
) -> None:
    members = [(name, b"%d" % n if name.endswith("cls") else jpeg.read_bytes()) for n, name in enumerate(names)]
    assert shard_of(tmp_path, members).classes.tolist() == classes


def test_of_two_pictures_with_one_class_none_is_guessed(jpeg: Path, tmp_path: Path) -> None:
    members = [("s.left.jpg", jpeg.read_bytes()), ("s.right.jpg", jpeg.read_bytes()), ("s.cls", b"1")]
    with pytest.raises(
        DataError, match=r"x\.tar: s: expected one picture, or a class .* found s\.left\.jpg, s\.right\.jpg"
    ):
        shard_of(tmp_path, members)


def test_samples_with_a_class_and_no_picture_are_counted(jpeg: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_tar(tmp_path / f"{part}.tar", [*sample("0", jpeg, 0), ("1.gif", b"GIF89a"), ("1.cls", b"0")])
    [note] = load_parts("wds/x", tmp_path, None).notes
    assert "left out 2 samples with a class and no picture (jpg, " in note


@pytest.mark.parametrize("text", [b"9" * 30, b"9" * 5000, b"1" + b" " * 10**6 + b"x", "Ⅷ".encode(), b"\xff"])
def test_a_class_that_no_network_could_have_is_named(text: bytes, jpeg: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_tar(tmp_path / f"{part}.tar", [("7.jpg", jpeg.read_bytes()), ("7.cls", text)])
    with pytest.raises(DataError, match=r"class"):
        load_parts("wds/x", tmp_path, None)


def test_labels_from_one_are_refused(jpeg: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_tar(tmp_path / f"{part}.tar", [*sample("0", jpeg, 1), *sample("1", jpeg, 2)])
    with pytest.raises(DataError, match="labels go from 1 to 2, expected from 0; subtract 1"):
        load_parts("wds/x", tmp_path, None)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_member_without_content_is_named(kind: bytes, jpeg: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        header = tarfile.TarInfo("a.jpg")
        header.type, header.linkname = kind, "/etc/passwd"
        tar.addfile(header)
    with pytest.raises(DataError, match=r"x\.tar: a\.jpg: has holes or is a link"):
        Shards([tmp_path / "x.tar"])


def test_a_sparse_member_is_named(tmp_path: Path) -> None:
    """As GNU tar 1.0 writes it: the map of what is no hole comes first in the content."""
    content = b"1\n0\n4\n".ljust(512, b"\0") + b"1234"
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        header = tarfile.TarInfo("GNUSparseFile.0/a.jpg")
        header.size = len(content)
        sparse = {"major": "1", "minor": "0", "name": "a.jpg", "realsize": "99999999999"}
        header.pax_headers = {f"GNU.sparse.{key}": value for key, value in sparse.items()}
        tar.addfile(header, io.BytesIO(content))
    with pytest.raises(DataError, match=r"x\.tar: a\.jpg: has holes or is a link"):
        Shards([tmp_path / "x.tar"])


@pytest.mark.parametrize("size", ["-512", "-1024", str(10**13)])
@pytest.mark.parametrize("name", ["a.jpg", "other"])
def test_a_size_that_leads_back_or_out_of_the_file_is_refused(size: str, name: str, tmp_path: Path) -> None:
    """A size below 0 would make tarfile read the same header for ever."""
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        header = tarfile.TarInfo(name)
        header.pax_headers = {"size": size}
        tar.addfile(header)
    with pytest.raises(DataError, match=r"x\.tar: not a whole, uncompressed tar file"):
        Shards([tmp_path / "x.tar"])


@pytest.mark.parametrize("file", ["/etc/hosts", "../x.tar", "a/../../x.tar"])
def test_an_info_file_names_no_file_elsewhere(file: str, tmp_path: Path) -> None:
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": {"filenames": [file]}}}))
    with pytest.raises(DataError, match=r"_info\.json: names '.*', expected files beside it"):
        shard_files(tmp_path)


def test_hidden_shards_are_passed_over_and_pipes_refused(jpeg: Path, tmp_path: Path) -> None:
    touch(tmp_path, "._train-0.tar", ".git/train.tar")
    os.mkfifo(tmp_path / "train-0.tar")
    write_tar(tmp_path / "val-0.tar", sample("0", jpeg, 0))
    with pytest.raises(DataError, match=r"[^_]train-0\.tar: cannot be read \(is a pipe, expected a file"):
        load_parts("wds/x", tmp_path, None)


@pytest.mark.parametrize("change", ["cut off", "replaced"])
def test_a_shard_that_changes_while_it_is_read_is_told(change: str, jpeg: Path, tmp_path: Path) -> None:
    found = shard_of(tmp_path, sample("0", jpeg, 0))
    if change == "cut off":
        os.truncate(tmp_path / "x.tar", 1100)
    else:
        write_tar(tmp_path / "y.tar", sample("0", jpeg, 1)).replace(tmp_path / "x.tar")
    with pytest.raises(DataError, match=r"x\.tar: was changed while it was in use"):
        found[0]


def test_a_damaged_picture_in_a_shard_is_named(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_tar(tmp_path / f"{part}.tar", [("0.jpg", b"no picture"), ("0.cls", b"0")])
    with pytest.raises(DataError, match=r"train\.tar: the picture at byte 512: no picture that Pillow can read"):
        load_parts("wds/x", tmp_path, None)
