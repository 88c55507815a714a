"""Batch sizes that shrink to what fits, and the probe, on a clock that the tests set."""

from __future__ import annotations

import gc
import logging
import re
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lptool.errors import SetupError
from lptool.scoring import batching
from lptool.scoring.batching import LARGEST, SMALLEST, BatchSize, is_out_of_memory, probe

CPU = torch.device("cpu")
CANT_ALLOCATE = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."
OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError(CANT_ALLOCATE),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB, max allowed: 1 GB)."),
]
OTHER_ERRORS = [RuntimeError("shape '[2]' is invalid"), ValueError("can't allocate memory"), KeyboardInterrupt()]

named_by_type = pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)


def room_for(images: int, error: BaseException, tried: list[int] | None = None) -> Callable[[int], str]:
    """A pass in which at most so many images fit."""

    def run(batch_size: int) -> str:
        if tried is not None:
            tried.append(batch_size)
        if batch_size > images:
            raise error
        return f"ran {batch_size}"

    return run


@named_by_type
@pytest.mark.parametrize(
    ("start", "room", "sizes"),
    [(64, 64, [64]), (64, 63, [64, 32]), (100, 20, [100, 50, 25, 12]), (7, 1, [7, 3, 1]), (1, 1, [1])],
)
def test_a_batch_size_halves_until_it_fits(error: Exception, start: int, room: int, sizes: list[int]) -> None:
    tried: list[int] = []
    batch_size = BatchSize(start)
    assert batch_size.fit(room_for(room, error, tried)) == f"ran {sizes[-1]}"
    assert tried == sizes
    assert batch_size.images == sizes[-1]


def test_the_smaller_size_is_kept() -> None:
    batch_size, tried = BatchSize(64), list[int]()
    batch_size.fit(room_for(20, MemoryError()))
    batch_size.fit(room_for(99, MemoryError(), tried))
    assert tried == [16]


def test_each_halving_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    batch_size = BatchSize(64)
    batch_size.fit(room_for(20, MemoryError()))
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert [re.findall(r"\d+", message) for message in caplog.messages] == [["64"], ["32"]]
    batch_size.fit(room_for(20, MemoryError()))
    assert len(caplog.records) == 2


def test_nothing_is_said_where_all_fits(caplog: pytest.LogCaptureFixture) -> None:
    BatchSize(64).fit(room_for(64, MemoryError()))
    assert not caplog.records


@named_by_type
@pytest.mark.parametrize("start", [1, 5])
def test_where_not_one_image_fits_there_is_an_error(error: Exception, start: int) -> None:
    tried: list[int] = []
    with pytest.raises(SetupError, match="not even one image fits in memory"):
        BatchSize(start).fit(room_for(0, error, tried))
    assert tried[-1] == 1


@pytest.mark.parametrize("error", OTHER_ERRORS, ids=lambda error: type(error).__name__)
def test_other_errors_pass_through_and_nothing_is_halved(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    batch_size = BatchSize(64)
    with pytest.raises(type(error)) as raised:
        batch_size.fit(room_for(0, error))
    assert raised.value is error
    assert batch_size.images == 64
    assert not caplog.records


def test_an_allocation_that_truly_fails_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def test_what_a_failed_pass_held_is_free_before_the_next() -> None:
    """Else half the images would not fit either."""
    held: list[weakref.ref[Tensor]] = []

    def run(batch_size: int) -> bool:
        activations = torch.zeros(batch_size)
        held.append(weakref.ref(activations))
        if batch_size > 1:
            raise MemoryError
        return all(ref() is None for ref in held[:-1])

    gc.disable()
    try:
        assert BatchSize(4).fit(run)
    finally:
        gc.enable()


@pytest.fixture(autouse=True)
def as_long_as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_SECONDS", 0.1)


class Clock:
    """Stands still but for `forward`, which takes as long as told of a batch; keeps the sizes it was given."""

    def __init__(self, seconds: Callable[[int], float], room: int = 10**9) -> None:
        self.now, self.sizes = 0.0, list[int]()
        self._seconds, self._room = seconds, room

    def perf_counter(self) -> float:
        return self.now

    def forward(self, images: Tensor) -> None:
        if len(images) > self._room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        self.sizes.append(len(images))
        self.now += self._seconds(len(images))

    def probe(self, monkeypatch: pytest.MonkeyPatch, device: torch.device = CPU) -> int:
        monkeypatch.setattr(batching, "time", SimpleNamespace(perf_counter=self.perf_counter))
        return probe(self.forward, (1, 2, 2), device)


def at_rates(rates: dict[int, float]) -> Callable[[int], float]:
    """The seconds a batch takes at so many images per second."""
    return lambda images: images / rates[images]


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({32: 1000, 64: 2000, 128: 4000, 256: 8000, 512: 16000}, 512),
        ({32: 4000, 64: 4000, 128: 4000, 256: 4000, 512: 4000}, 32),
        ({32: 1000, 64: 3700, 128: 3800, 256: 4000, 512: 3900}, 64),
        ({32: 3500, 64: 3500, 128: 4000, 256: 3500, 512: 3500}, 128),
        ({32: 1000, 64: 9100, 128: 1000, 256: 9200, 512: 10000}, 64),
        ({32: 3601, 64: 4000, 128: 3000, 256: 2000, 512: 1000}, 32),
    ],
)
def test_the_smallest_size_nearly_as_fast_as_any_is_taken(
    rates: dict[int, float], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 10 % of the highest rate."""
    assert Clock(at_rates(rates)).probe(monkeypatch) == best


@pytest.mark.parametrize("seed", range(20))
def test_no_smaller_size_is_as_fast_and_no_size_much_faster(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [32, 64, 128, 256, 512]
    spread = torch.rand(len(sizes), generator=torch.Generator().manual_seed(seed)) * 0.4 + 0.6
    rates = dict(zip(sizes, (spread * 5000).tolist(), strict=True))
    taken = Clock(at_rates(rates)).probe(monkeypatch)
    assert rates[taken] > 0.899 * max(rates.values())
    assert all(rates[size] < 0.901 * max(rates.values()) for size in sizes if size < taken)


def test_the_fastest_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a slow first one nor a slow one later makes a size look slow."""
    clock = Clock(lambda images: 0.5 if images == 512 and clock.sizes.count(512) in (1, 3) else 0.02)
    assert clock.probe(monkeypatch) == 512
    assert clock.sizes.count(512) == 3


def test_the_first_pass_of_a_size_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(lambda images: 1e-6 if clock.sizes == [32] else 0.001)
    assert clock.probe(monkeypatch) == 512


@pytest.mark.parametrize(("room", "best"), [(100, 64), (32, 32), (1, 32)])
def test_the_probe_ends_where_memory_does(room: int, best: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though more images would be faster; where not even the first size fits, a batch size halves itself later."""
    clock = Clock(lambda images: 0.05, room)
    assert clock.probe(monkeypatch) == best
    assert max(clock.sizes, default=0) <= room


def test_another_error_of_a_forward_pass_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        probe(nn.Linear(3, 3), (1, 2, 2), CPU)


@pytest.mark.parametrize(("seconds_per_image", "largest"), [(1.0, 32), (1 / 40, 64), (1 / 200, 256)])
def test_the_probe_ends_early_on_a_slow_network(
    seconds_per_image: float, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first size that takes more than a second: no larger one is tried, though it would be faster."""
    clock = Clock(lambda images: images * seconds_per_image)
    assert clock.probe(monkeypatch) == SMALLEST
    assert max(clock.sizes) == largest
    assert clock.sizes.count(largest) == 2


@pytest.mark.parametrize(("device", "largest"), [(CPU, LARGEST["cpu"]), (torch.device("meta"), LARGEST["cuda"])])
def test_no_batch_is_larger_than_the_largest(
    device: torch.device, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though more images are always faster. A device without a limit of its own has the one of a GPU."""
    clock = Clock(lambda images: 0.05)
    assert clock.probe(monkeypatch, device) == max(clock.sizes) == largest
    assert min(clock.sizes) == SMALLEST


def test_images_are_as_the_network_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(images: Tensor) -> None:
        assert images.shape[1:] == (3, 4, 5)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert not torch.is_grad_enabled()

    monkeypatch.setattr(batching, "_SECONDS", 1e-6)
    probe(forward, (3, 4, 5), CPU)
    assert torch.is_grad_enabled()


def test_a_real_network_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_SECONDS", 0.005)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()
    net(torch.zeros(1, 1, 8, 8))
    before = {name: t.clone() for name, t in net.state_dict().items()}
    assert probe(net, (1, 8, 8), CPU) in (32, 64, 128, 256, 512)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_real_network_is_probed_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_SECONDS", 0.005)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).cuda().eval()
    assert SMALLEST <= probe(net, (1, 8, 8), torch.device("cuda")) <= LARGEST["cuda"]


def test_the_probe_tries_nothing_above_the_largest_asked_for_but_always_the_smallest() -> None:
    for largest, expected in ((1, [SMALLEST]), (100, [32, 64]), (128, [32, 64, 128])):
        tried: list[int] = []
        probe(lambda images, tried=tried: tried.append(len(images)), (1, 2, 2), CPU, largest)  # type: ignore[misc]
        assert sorted(set(tried)) == expected
