"""Pictures decoded once: where they are put, what is found again, and what goes wrong on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchvision.datasets import ImageFolder

from lptool.data import cache, pixel_file
from lptool.data.cache import decode_once
from lptool.data.images import Mapped, Streamed, image_shape
from lptool.data.pictures import Pictures
from lptool.data.pixel_file import Decoded
from lptool.data.shards import Shards, shard_files
from lptool.errors import DataError, LptoolError
from lptool.ranks import join_ranks
from tests.data.test_shards import shards  # noqa: F401  (a fixture)
from tests.helpers.processes import begin, on_two_ranks
from tests.test_ranks import Meeting, meeting  # noqa: F401  (a fixture)

SIDE = 16
SHAPE = (3, SIDE, SIDE)
COUNT = 24
ROOM = 10**9


@dataclass
class Places:
    """The folders that pictures may be put into, and how many bytes each has room for."""

    memory: Path
    user: Path
    temporary: Path
    asked: Path
    room: dict[Path, int]

    def files(self) -> list[Path]:
        """All that lies in them, hidden or not."""
        return [file for folder in self.room for file in folder.rglob("*") if file.is_file()]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return make_places(tmp_path, monkeypatch)


def make_places(root: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    memory, user, temporary, asked = (root / name for name in ("memory", "user/lptool", "temporary", "asked"))
    memory.mkdir(exist_ok=True)
    temporary.mkdir(exist_ok=True)
    found = Places(memory, user, temporary, asked, dict.fromkeys((memory, user, temporary, asked), ROOM))
    monkeypatch.setattr(cache, "MEMORY", memory)
    monkeypatch.setenv("XDG_CACHE_HOME", str(user.parent))
    # Of this module alone: the server that test processes are forked off wants a short path for its socket.
    monkeypatch.setattr(cache, "tempfile", SimpleNamespace(gettempdir=lambda: str(temporary)))
    monkeypatch.setattr(cache, "_room", lambda folder: found.room[folder])
    monkeypatch.setattr(pixel_file, "BLOCK", 5)
    return found


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_decodes(monkeypatch)


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with the number of every picture that is decoded."""
    real, found = Pictures.__getitem__, list[int]()

    def get(self: Pictures, index: int) -> Any:
        found.append(index)
        return real(self, index)

    monkeypatch.setattr(Pictures, "__getitem__", get)
    return found


@pytest.fixture
def folder(image_folder: Path, tmp_path: Path) -> Path:
    """Pictures that may be changed."""
    return Path(shutil.copytree(image_folder / "train", tmp_path / "pictures"))


def stream(folder: Path, side: int = SIDE) -> Streamed:
    pictures = Pictures(ImageFolder(str(folder)), side, grey=False)
    return Streamed(pictures, torch.arange(len(pictures)), pictures.crops)


def is_right(found: Decoded | None, images: Streamed) -> bool:
    """Whether these are the pictures and labels that decoding gives."""
    assert found is not None
    [(pixels, labels)] = images.raw([torch.arange(len(images))], torch.device("cpu"))
    return torch.equal(torch.tensor(found.pixels), pixels) and torch.equal(found.labels, labels)


def mapped_files(folder: Path) -> list[str]:
    """Files in a folder that this process has mapped, by the system's own account."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if f"{folder}/" in line]


# Where they are put


@pytest.mark.parametrize("full", [[], ["memory"], ["memory", "user"]])
def test_pictures_go_into_memory_else_the_users_cache_else_a_temporary_file(
    full: list[str], folder: Path, places: Places, decodes: list[int]
) -> None:
    for name in full:
        places.room[getattr(places, name)] = 1
    images = stream(folder)
    found, notes = decode_once(images, SHAPE)
    assert (sorted(decodes), notes) == (list(range(COUNT)), [])
    taken = [name for name in ("memory", "user", "temporary") if mapped_files(getattr(places, name))]
    assert taken == [["memory", "user", "temporary"][len(full)]]
    assert is_right(found, images)
    assert places.files() == []
    assert found is not None
    with pytest.raises(ValueError, match="read-only"):
        found.pixels[0] = 0


def test_without_room_anywhere_there_is_one_line_that_says_how_much_was_wanted(folder: Path, places: Places) -> None:
    places.room = dict.fromkeys(places.room, 2_000)
    found, [note] = decode_once(stream(folder), SHAPE, folder=places.asked)
    assert found is None
    size = COUNT * (8 + 3 * SIDE * SIDE) + 5 * 32
    assert "\n" not in note
    assert f"24 decoded pictures, {size / 1e6:.1f} MB, have no room" in note
    assert all(f"{place}: has room for 0.0 MB, wanted are 0.0 MB" in note for place in places.room)
    assert places.files() == []


def test_memory_takes_a_quarter_of_what_is_free_there_and_in_the_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10_000, 0, 4_000))
    monkeypatch.setattr(cache, "is_memory", lambda folder: folder == cache.MEMORY)
    monkeypatch.setattr(cache, "free_memory", lambda: 2_000)
    assert (cache._room(cache.MEMORY), cache._room(tmp_path)) == (500, 3_600)
    monkeypatch.setattr(cache, "free_memory", lambda: 8_000)
    assert cache._room(cache.MEMORY) == 1_000


@pytest.mark.parametrize("count", [1, 4, 5, 6, 23])
def test_any_number_of_pictures_in_any_order(count: int, folder: Path, places: Places) -> None:
    images = stream(folder).subset(torch.randperm(COUNT, generator=torch.Generator().manual_seed(count))[:count])
    for _ in range(2):
        assert is_right(decode_once(images, SHAPE, folder=places.asked)[0], images)


# What is found again


def kept_file(places: Places) -> Path:
    """The only file in the folder that was asked for."""
    [file] = [path for path in places.files() if path.is_relative_to(places.asked)]
    return file


def test_a_second_job_decodes_nothing(folder: Path, places: Places, decodes: list[int]) -> None:
    images = stream(folder)
    decode_once(images, SHAPE, folder=places.asked)
    before = kept_file(places).stat()
    decodes.clear()
    found, notes = decode_once(stream(folder), SHAPE, folder=places.asked)
    assert (decodes, notes) == ([], [])
    assert is_right(found, images)
    assert kept_file(places).stat() == before
    assert places.files() == [kept_file(places)]


def test_a_copy_of_the_folder_is_known_by_its_files(folder: Path, places: Places, decodes: list[int]) -> None:
    decode_once(stream(folder), SHAPE, folder=places.asked)
    decodes.clear()
    folder.rename(folder.with_name("moved"))
    decode_once(stream(folder.with_name("moved")), SHAPE, folder=places.asked)
    assert decodes == []


def test_shards_are_known_by_their_files(
    shards: Path,  # noqa: F811
    tmp_path: Path,
    places: Places,
    decodes: list[int],
) -> None:
    files = shard_files(Path(shutil.copytree(shards, tmp_path / "shards")))["train"]

    def run() -> int:
        pictures = Pictures(Shards(files), SIDE, grey=False)
        images = Streamed(pictures, torch.arange(len(pictures)))
        decodes.clear()
        found, notes = decode_once(images, SHAPE, folder=places.asked)
        count = len(decodes)
        assert (is_right(found, images), notes) == (True, [])
        return count

    assert (run(), run()) == (COUNT, 0)
    os.utime(files[1], ns=(0, 1))
    assert run() == COUNT


def longer(folder: Path) -> Streamed:
    """One file is longer, and as old as it was."""
    file = folder / "sky" / "3.jpg"
    old = file.stat().st_mtime_ns
    file.write_bytes(file.read_bytes() + b"\0")
    os.utime(file, ns=(old, old))
    return stream(folder)


def touched(folder: Path) -> Streamed:
    file = folder / "sky" / "3.jpg"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    return stream(folder)


def renamed(folder: Path) -> Streamed:
    (folder / "sky" / "3.jpg").rename(folder / "sky" / "33.jpg")
    return stream(folder)


def cropped(folder: Path) -> Streamed:
    crops = stream(folder).resized_crops(3)
    assert crops is not None
    return crops


def cropped_otherwise(folder: Path) -> Streamed:
    decode_once(cropped(folder), SHAPE, folder=folder.parent / "asked")
    crops = stream(folder).resized_crops(4)
    assert crops is not None
    return crops


OTHERS: list[Callable[[Path], Streamed]] = [
    longer,
    touched,
    renamed,
    cropped,
    cropped_otherwise,
    lambda folder: stream(folder).subset(torch.arange(23)),
    lambda folder: stream(folder).subset(torch.arange(COUNT).flip(0)),
    lambda folder: stream(folder, 20),
]


@pytest.mark.parametrize("other", OTHERS)
def test_other_pictures_are_not_taken_for_these(
    other: Callable[[Path], Streamed], folder: Path, places: Places, decodes: list[int]
) -> None:
    decode_once(stream(folder), SHAPE, folder=places.asked)
    images = other(folder)
    shape = image_shape(images)
    decodes.clear()
    found, notes = decode_once(images, shape, folder=places.asked)
    assert (sorted(decodes), notes) == (sorted(images.indices.tolist()), [])
    assert is_right(found, images)


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def lengthened(file: Path) -> None:
    os.truncate(file, file.stat().st_size + 1)


def changed_at(offset: int) -> Callable[[Path], None]:
    """One bit of a byte."""

    def change(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[offset] ^= 16
        file.write_bytes(content)

    return change


def swapped(file: Path) -> None:
    """What another job kept, under the name of this."""
    images = stream(file.parent.parent / "pictures").subset(torch.arange(COUNT).flip(0))
    decode_once(images, SHAPE, folder=file.parent)
    [other] = [path for path in file.parent.iterdir() if path != file]
    other.replace(file)


def linked(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


DAMAGES = {
    "cut off": (cut_off, "bytes, expected"),
    "emptied": (emptied, "is 0 bytes, expected"),
    "lengthened": (lengthened, "bytes, expected"),
    "a label": (changed_at(9), "checksums"),
    "a checksum": (changed_at(8 * COUNT + 40), "checksums"),
    "the first pixel": (changed_at(8 * COUNT + 5 * 32), "checksums"),
    "the last pixel": (changed_at(-1), "checksums"),
    "other pictures": (swapped, "checksums"),
    "a link": (linked, "symbolic links"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_never_read_and_is_made_anew(damage: str, folder: Path, places: Places) -> None:
    images, (change, said) = stream(folder), DAMAGES[damage]
    decode_once(images, SHAPE, folder=places.asked)
    file = kept_file(places)
    change(file)
    found, [note] = decode_once(images, SHAPE, folder=places.asked)
    assert is_right(found, images)
    assert note.startswith(f"{file}: ")
    assert said in note
    assert note.endswith("the pictures are decoded anew")
    assert decode_once(images, SHAPE, folder=places.asked)[1] == []


def test_what_another_user_put_there_is_not_read(
    folder: Path, places: Places, monkeypatch: pytest.MonkeyPatch, decodes: list[int]
) -> None:
    images = stream(folder)
    decode_once(images, SHAPE, folder=places.asked)
    decodes.clear()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    found, [note] = decode_once(images, SHAPE, folder=places.asked)
    assert "is of another user; the pictures are decoded anew" in note
    assert len(decodes) == COUNT
    assert is_right(found, images)


def test_pictures_without_files_to_know_them_by_are_kept_for_nobody(folder: Path, places: Places) -> None:
    class Unknown(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return COUNT

        def __getitem__(self, index: int) -> Any:
            return ImageFolder(str(folder))[index]

    pictures = Pictures(Unknown(), SIDE, grey=False)
    images = Streamed(pictures, torch.arange(COUNT))
    found, [note] = decode_once(images, SHAPE, folder=places.asked)
    assert is_right(found, images)
    assert "does not say which files it reads" in note
    assert places.files() == []


# Folders that cannot be used


def failing(places: Places, name: str, code: int, after: int = 0) -> Callable[..., Any]:
    """A function of `os` that fails for what lies in the folder asked for, from a call on."""
    real, calls = getattr(os, name), [0]

    def call(target: Any, *given: Any) -> Any:
        path = Path(os.readlink(f"/proc/self/fd/{target}")) if isinstance(target, int) else Path(target)
        if path.is_relative_to(places.asked):
            calls[0] += 1
            if calls[0] > after:
                raise OSError(code, os.strerror(code))
        return real(target, *given)

    return call


FAILURES = {
    "read-only": ("open", errno.EROFS, 0, "Read-only file system"),
    "of another user": ("open", errno.EACCES, 0, "Permission denied"),
    "full at once": ("posix_fallocate", errno.ENOSPC, 0, "No space left on device"),
    "full in the middle": ("pwrite", errno.ENOSPC, 7, "No space left on device"),
    "over quota in the end": ("fsync", errno.EDQUOT, 0, "Disk quota exceeded"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_folder_that_cannot_be_written_is_said_in_one_line_and_the_job_goes_on(
    failure: str, folder: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, code, after, said = FAILURES[failure]
    monkeypatch.setattr(os, name, failing(places, name, code, after))
    images = stream(folder)
    found, notes = decode_once(images, SHAPE, folder=places.asked)
    assert notes == [f"--cache-dir {places.asked}: {said}; going on without it"]
    assert is_right(found, images)
    assert places.files() == []


@pytest.mark.parametrize("deeper", ["", "deeper"])
def test_a_folder_that_is_none(deeper: str, folder: Path, places: Places) -> None:
    places.asked.write_text("a file")
    asked = places.asked / deeper
    places.room[asked] = ROOM
    images = stream(folder)
    found, notes = decode_once(images, SHAPE, folder=asked)
    assert notes == [f"--cache-dir {asked}: is not a folder; going on without it"]
    assert is_right(found, images)
    assert places.asked.read_text() == "a file"


@pytest.mark.parametrize("lacking", ["the system", "the file system"])
def test_a_folder_where_room_cannot_be_taken_beforehand(
    lacking: str, folder: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "the system":
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", failing(places, "posix_fallocate", errno.EOPNOTSUPP))
    images = stream(folder)
    for _ in range(2):
        found, notes = decode_once(images, SHAPE, folder=places.asked)
        assert is_right(found, images)
        assert notes == []
    assert places.files() == [kept_file(places)]


def test_a_file_that_cannot_get_its_name_serves_this_job(
    folder: Path, places: Places, monkeypatch: pytest.MonkeyPatch, decodes: list[int]
) -> None:
    """As in a folder with the sticky bit, where another user's file has that name."""

    def replace(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", replace)
    images = stream(folder)
    found, notes = decode_once(images, SHAPE, folder=places.asked)
    assert (len(decodes), len(notes)) == (COUNT, 1)
    assert is_right(found, images)
    assert places.files() == []


@pytest.mark.parametrize("asked", [False, True])
def test_the_last_place_that_fills_up_leaves_streaming(
    asked: bool, folder: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pwrite(*given: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    found, [note] = decode_once(stream(folder), SHAPE, folder=places.asked if asked else None)
    assert found is None
    assert "have no room" in note
    assert places.files() == []


ODD: dict[str, Callable[[Path], Any]] = {
    "link": lambda path: path.symlink_to("elsewhere"),
    "link to a file that fits": lambda path: path.symlink_to(path.with_name("real")),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "empty": Path.touch,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_of_ours_is_told_and_not_waited_for(kind: str, folder: Path, places: Places) -> None:
    images = stream(folder)
    decode_once(images, SHAPE, folder=places.asked)
    [path] = places.asked.iterdir()
    path.rename(path.with_name("real"))
    ODD[kind](path)
    found, notes = decode_once(images, SHAPE, folder=places.asked)
    assert is_right(found, images)
    assert len(notes) == (2 if kind == "folder" else 1)
    assert notes[0].startswith(f"{path}: ")
    assert "decoded anew" in notes[0]


@pytest.mark.parametrize("change", ["cut off", "written"])
@pytest.mark.parametrize("found_there", [False, True])
def test_a_kept_file_that_changes_meanwhile_is_one_line_and_no_signal(
    change: str, found_there: bool, folder: Path, places: Places
) -> None:
    images = stream(folder)
    for _ in range(1 + found_there):
        decoded, _ = decode_once(images, SHAPE, folder=places.asked)
    assert decoded is not None
    [path] = places.asked.iterdir()
    mapped = Mapped(images, torch.arange(COUNT), *decoded)
    assert len(next(mapped.raw([torch.arange(COUNT)], torch.device("cpu")))[0]) == COUNT
    if change == "cut off":
        os.truncate(path, 1)
    else:
        changed_at(-1)(path)
        os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=rf"{path}: was changed while it was in use"):
        next(mapped.raw([torch.arange(COUNT)], torch.device("cpu")))


def test_a_kept_file_that_another_job_replaces_stays_what_it_was(folder: Path, places: Places) -> None:
    images = stream(folder)
    decoded, _ = decode_once(images, SHAPE, folder=places.asked)
    assert decoded is not None
    [path] = places.asked.iterdir()
    path.with_name("new").write_bytes(b"")
    path.with_name("new").replace(path)
    decoded.check()
    assert is_right(decoded, images)


# Pictures that cannot be decoded, and jobs that end too early


@pytest.mark.parametrize("asked", [False, True])
def test_a_damaged_picture_is_named_and_nothing_is_left(asked: bool, folder: Path, places: Places) -> None:
    file = folder / "temple" / "5.jpg"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=rf"an image cannot be decoded: {file}"):
        decode_once(stream(folder), SHAPE, folder=places.asked if asked else None)
    assert places.files() == []


@pytest.mark.parametrize("asked", [False, True])
def test_ctrl_c_leaves_nothing(asked: bool, folder: Path, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Pictures.__getitem__

    def get(self: Pictures, index: int) -> Any:
        if index == 11:
            raise KeyboardInterrupt
        return real(self, index)

    monkeypatch.setattr(Pictures, "__getitem__", get)
    with pytest.raises(KeyboardInterrupt):
        decode_once(stream(folder), SHAPE, folder=places.asked if asked else None)
    assert places.files() == []


def killed_in_the_middle(root: Path, folder: Path, asked: Path | None) -> None:
    """A job that is killed as it decodes its twelfth picture."""
    with pytest.MonkeyPatch.context() as patch:
        make_places(root, patch)
        real = Pictures.__getitem__

        def get(self: Pictures, index: int) -> Any:
            if index == 11:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, index)

        patch.setattr(Pictures, "__getitem__", get)
        decode_once(stream(folder), SHAPE, folder=asked)


@pytest.mark.parametrize("asked", [False, True])
def test_a_killed_job_leaves_nothing_that_is_taken_for_whole(
    asked: bool, folder: Path, places: Places, tmp_path: Path
) -> None:
    kept = places.asked if asked else None
    child = begin(tmp_path / "child", killed_in_the_middle, tmp_path, folder, kept)
    assert child.end() == -signal.SIGKILL, child.stderr
    left = places.files()
    assert len(left) == asked
    images = stream(folder)
    found, notes = decode_once(images, SHAPE, folder=kept)
    assert is_right(found, images)
    assert notes == []
    assert not set(left) & set(places.files())
    assert len(places.files()) == asked


def test_what_a_living_job_is_filling_is_left_alone(folder: Path, places: Places) -> None:
    places.asked.mkdir()
    draft = places.asked / ".lptool-pixels-0123"
    with open(draft, "wb") as file:
        cache._lock(file)
        decode_once(stream(folder), SHAPE, folder=places.asked)
        assert draft.exists()
    decode_once(stream(folder).subset(torch.arange(3)), SHAPE, folder=places.asked)
    assert not draft.exists()


def test_two_jobs_at_once_both_have_the_right_pictures(
    folder: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins and ends while the first is half done."""
    real, second = Pictures.__getitem__, list[Any]()

    def get(self: Pictures, index: int) -> Any:
        if index == 11 and not second:
            second.append(None)
            second.append(decode_once(stream(folder), SHAPE, folder=places.asked))
        return real(self, index)

    monkeypatch.setattr(Pictures, "__getitem__", get)
    images = stream(folder)
    first = decode_once(images, SHAPE, folder=places.asked)
    for found, notes in (first, second[1]):
        assert is_right(found, images)
        assert notes == []
    third, notes = decode_once(images, SHAPE, folder=places.asked)
    assert is_right(third, images)
    assert (notes, places.files()) == ([], [kept_file(places)])


# Several processes, and several machines


def on_each_rank(root: Path, image_folder: Path) -> None:
    """All that two ranks of one machine shall see, in one start; each writes what it saw."""
    ranks, found = join_ranks(), dict[str, Any]()
    with pytest.MonkeyPatch.context() as patch:
        places = make_places(root, patch)
        decodes = count_decodes(patch)
        images = stream(image_folder / "train")

        def run(name: str, folder: Path | None = None, images: Streamed = images) -> None:
            decodes.clear()
            try:
                decoded, notes = decode_once(images, SHAPE, ranks, folder)
                count = list(decodes)
                found[name] = [count, decoded is not None and is_right(decoded, images), notes]
            except LptoolError as error:
                found[name] = [type(error).__name__, str(error)]

        run("alone")
        run("kept", places.asked)
        run("found", places.asked)
        ranks.gather(None)  # the other one may still be looking at the file
        if ranks.rank == 0:
            changed_at(-1)(kept_file(places))
        ranks.gather(None)
        run("damaged", places.asked)
        run("made anew", places.asked)
        with pytest.MonkeyPatch.context() as full:
            if ranks.rank == 1:
                full.setattr(os, "pwrite", failing(places, "pwrite", errno.ENOSPC, 3))
            run("full", places.asked, images.subset(torch.arange(23)))
        run("not decoded", places.asked, stream(root / "damaged"))
        found["files"] = sorted(path.name for path in places.files())
    (root / f"{ranks.rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def seen(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("ranks")
    damaged = shutil.copytree(image_folder / "train", root / "damaged") / "sky" / "7.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    for rank in on_two_ranks(root / "rank", on_each_rank, root, image_folder):
        assert rank.end() == 0, rank.stderr
    return [json.loads((root / f"{rank}.json").read_text()) for rank in range(2)]


def test_ranks_of_a_machine_decode_each_picture_once_between_them(seen: list[dict[str, Any]]) -> None:
    for name in ("alone", "kept", "damaged"):
        counts, right, _ = zip(*(rank[name] for rank in seen), strict=True)
        assert sorted(counts[0] + counts[1]) == list(range(COUNT))
        assert all(counts)
        assert right == (True, True)
    for name in ("found", "made anew"):
        assert [rank[name] for rank in seen] == [[[], True, []]] * 2


def test_ranks_say_what_is_wrong_once(seen: list[dict[str, Any]]) -> None:
    assert [len(rank["damaged"][2]) for rank in seen] == [1, 0]
    assert "checksums" in seen[0]["damaged"][2][0]
    assert [len(rank["full"][2]) for rank in seen] == [1, 0]
    assert "No space left on device; going on without it" in seen[0]["full"][2][0]
    assert [rank["full"][1] for rank in seen] == [True, True]


def test_where_one_rank_cannot_decode_a_picture_all_stop(seen: list[dict[str, Any]]) -> None:
    kinds = {rank["not decoded"][0] for rank in seen}
    assert kinds == {"DataError", "PeerError"}
    [said] = [rank["not decoded"][1] for rank in seen if rank["not decoded"][0] == "DataError"]
    assert "sky/7.jpg" in said
    assert [len(rank["files"]) for rank in seen] == [1, 1]  # that of the pictures that could be decoded


def test_machines_take_the_same_steps_though_one_has_no_room(
    meeting: Callable[[int], Meeting],  # noqa: F811
    folder: Path,
    places: Places,
    monkeypatch: pytest.MonkeyPatch,
    decodes: list[int],
) -> None:
    """Threads that are each the only rank of its machine: the second's memory is full, the third has no room at all."""

    def room(place: Path) -> int:
        rank = int(threading.current_thread().name)
        return 0 if rank == 2 or (rank == 1 and place == places.memory) else ROOM

    monkeypatch.setattr(cache, "_room", room)
    images = stream(folder)
    found = meeting(3).run(lambda ranks: decode_once(images, SHAPE, ranks))
    assert len(decodes) == 2 * COUNT
    (first, none), (second, silent), (third, said) = found
    assert is_right(first, images)
    assert is_right(second, images)
    assert (third, none, silent, len(said)) == (None, [], [], 1)
    assert places.files() == []
