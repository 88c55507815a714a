"""What many tests share: tickets of the embedded digits and a pooled model of them, and a folder of real pictures."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Of torch, before it is imported: else a thread that waits for another keeps a core busy that the other tests need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:  # torch takes seconds to import, and the process that hands out the tests has no use for it
    from lptool.pooling.result import PoolResult


# Files that begin processes. One worker has them all, as what the processes are forked off takes seconds to start; and
# it begins with them, so that no core waits for them at the end.
PROCESSES = (
    "test_ranks.py",
    "training/test_job.py",
    "training/test_parallel.py",
    "test_examples_imagenet.py",
    "test_contributing.py",
    "test_structure.py",
    "cli/test_ending.py",
    "cli/test_as_typed.py",
    "data/test_cache.py",
    "pooling/test_decoding.py",
    "reliability/test_fuzz.py",
    "reliability/test_injection.py",
)

# Files that call torch's exporter, whose import takes as long: one worker has these too.
EXPORTS = (
    "export/test_onnx.py",
    "export/test_onnx_int8.py",
    "export/test_program.py",
    "export/test_writers.py",
    "export/test_conversion.py",
    "networks/test_onnx_file.py",
    "cli/test_convert.py",
    "test_examples_engineer.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files above first; each file whole."""

    def rank(item: pytest.Item) -> int:
        return next((place for place, name in enumerate(PROCESSES) if item.nodeid.startswith(f"tests/{name}")), 99)

    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """A fifth of this time, in which all is imported, would go into looking for garbage, of which there is none."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()  # from here on only what the tests make is looked at
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """`--dist loadfile`, for which the files of each list above are one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid).removeprefix("tests/")
            return "processes" if file in PROCESSES else "exports" if file in EXPORTS else file

    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The files of tests are spread over the cores; and float sums depend on the number of threads.

    Commands leave it as it is, and measure nothing, as the environment names it.
    """
    import torch

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def files_need_not_outlive_the_machine() -> Iterator[None]:
    """What tests write need not be on the disk before they go on; a failing disk is pretended where it matters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def batch_sizes_are_chosen_at_once() -> Iterator[None]:
    """One pass of the smallest size is enough: more of them take a quarter of a search as short as those here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lptool.scoring.batching._SECONDS", 1e-9)
        yield


@pytest.fixture(scope="session", autouse=True)
def digits_are_read_once() -> Iterator[None]:
    """Reading them anew for every command of hundreds, from text that is zipped, takes longer than most commands."""
    from sklearn import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_digits", functools.cache(datasets.load_digits))
        yield


@pytest.fixture(scope="session", autouse=True)
def templates_are_compiled_once() -> Iterator[None]:
    """To compile that of the model card takes four times as long as to fill it in."""
    import jinja2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.Environment, "from_string", functools.cache(jinja2.Environment.from_string))
        yield


@pytest.fixture(scope="session")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four tickets of one run (levels 0 to 3). Read them; copy before you change one."""
    from lptool.training.job import train_tickets
    from tests.helpers.training import DIGITS

    return train_tickets(DIGITS, 3, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real pictures as folder:DIR expects them: train, val and test with three classes of eight pictures each.

    Pieces of 30 to 70 pixels a side, cut from scikit-learn's two photographs; most are JPEGs, and each class has a
    grey, a palette and an RGBA PNG. Read them; copy before you change one.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images  # [427, 640, 3] each
    views = {"flower": flower, "sky": china[:130], "temple": china[200:]}
    forms = ["L", "P", "RGBA"] + ["RGB"] * 5
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("pictures")
    for part in ("train", "val", "test"):
        for name, view in views.items():
            (root / part / name).mkdir(parents=True)
            for number, form in enumerate(forms):
                height, width = rng.integers(30, 71, 2)
                top, left = rng.integers(view.shape[0] - height), rng.integers(view.shape[1] - width)
                piece = Image.fromarray(view[top : top + height, left : left + width]).convert(form)
                piece.save(root / part / name / f"{number}.{'jpg' if form == 'RGB' else 'png'}")
    return root


@pytest.fixture(scope="session")
def result(tickets: list[Path], tmp_path_factory: pytest.TempPathFactory) -> PoolResult:
    """The tickets pooled into their sparsest."""
    from lptool.pooling.job import pool_target
    from lptool.pooling.setup import PoolOptions, open_bench

    options = PoolOptions(method="greedy", alphas=(0.5,), calibration_size=64, device="cpu")
    return pool_target(open_bench(tickets, options), 3, tmp_path_factory.mktemp("out") / "a.safetensors")
