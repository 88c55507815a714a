"""The commands that write, each in a sandbox with what it needs, for the injection of faults."""

from __future__ import annotations

from dataclasses import dataclass

from tests.reliability.material import ARCH, TRAIN

POOL = [
    "pool",
    "in/run",
    *ARCH,
    "--dataset",
    "npz:in/data.npz",
    "--method",
    "greedy",
    "--alphas",
    "0.5",
    "--calibration-size",
    "24",
]


@dataclass(frozen=True)
class Job:
    """A command in a sandbox with `in/` and `net.py`; `before` are commands that leave what lies there already.

    Attributes:
        refuses: whether the command, run again, may say that its output exists.
    """

    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    refuses: bool = False


TRAIN_FIRST = ("--preset", "quickstart", "--levels", "1", "--arch", "net.py:certain", "--dataset", "npz:in/data.npz",
               "--method", "average", "--device", "cpu", "--calibration-size", "24")  # fmt: skip


_DATA = ("--dataset", "npz:in/data.npz")


def _convert(output: str, *more: str) -> tuple[str, ...]:
    return ("convert", "in/run/level_02.safetensors", output, *ARCH, *more)


_EVALUATE = (
    "evaluate",
    "in/run/level_01.safetensors",
    "in/run/level_02.safetensors",
    *ARCH,
    "--dataset",
    "npz:in/data.npz",
)
_COMPARE = ("compare", "in/gains0.json", "in/gains1.json")
_OTHER = ("convert", "in/run/level_01.safetensors")
JOBS = {
    "train": Job(("train", "-o", "run", *TRAIN, "--levels", "1")),
    "train, more levels": Job(
        ("train", "-o", "run", *TRAIN, "--levels", "2"), (("train", "-o", "run", *TRAIN, "--levels", "1"),)
    ),
    "train, best": Job(("train", "-o", "run", *TRAIN, "--levels", "1", "--keep", "best", "--optimizer", "adamw")),
    "pool": Job((*POOL, "-o", "a.safetensors")),
    "pool, overwrite": Job((*POOL, "-o", "a.safetensors", "--overwrite"), ((*_OTHER, "a.safetensors"),)),
    "pool, report": Job((*POOL, "-o", "a.safetensors", "--report", "a.html"), refuses=True),
    "pool, folder": Job((*POOL, "-o", "a/"), refuses=True),
    "pool, folder, overwrite": Job((*POOL, "-o", "a/", "--overwrite"), ((*_OTHER, "a/", *ARCH),)),
    "pool, all targets": Job((*POOL, "-o", "a/", "--target", "all")),
    "pool, packed": Job((*POOL, "-o", "a.safetensors", "--packed", "--values", "bf16")),
    "pool, control": Job((*POOL, "-o", "a.safetensors", "--control", "c.safetensors")),
    "pool, new folders": Job((*POOL, "-o", "b/c/a.safetensors")),
    "pool, train first": Job(("pool", "--train", "run", "-o", "a.safetensors", *TRAIN_FIRST)),
    "convert": Job(_convert("a.safetensors"), refuses=True),
    "convert, packed, overwrite": Job(
        _convert("a.safetensors", "--packed", "--overwrite"), ((*_OTHER, "a.safetensors"),)
    ),
    "convert, folder": Job(_convert("a/"), refuses=True),
    "convert, folder, overwrite": Job(_convert("a/", "--overwrite"), ((*_OTHER, "a/", *ARCH),)),
    "convert, prune keys": Job(_convert("a.pt", "--overwrite"), ((*_OTHER, "a.pt"),)),
    "compare": Job((*_COMPARE, "--csv", "a.csv", "--latex", "a.tex", "--figure", "a.svg")),
    "compare, overwrite": Job(
        (*_COMPARE, "--figure", "a.pdf", "--overwrite"), (("compare", "in/gains0.json", "--figure", "a.pdf"),)
    ),
    "convert, int8, overwrite": Job(
        _convert("a.safetensors", "--packed", "--values", "int8", "--max-drop", "100", "--overwrite", *_DATA),
        ((*_OTHER, "a.safetensors"),),
    ),
    "convert, to a size": Job(_convert("a.safetensors", "--max-size", "4kB", *_DATA), refuses=True),
    "convert, program": Job(_convert("a.pt2", "--overwrite", *_DATA)),
    "convert, onnx": Job(_convert("a.onnx", "--overwrite", *_DATA)),
    "evaluate, report": Job((*_EVALUATE, "--report", "a.html"), refuses=True),
    "evaluate, report, overwrite": Job(
        (*_EVALUATE, "--report", "a.html", "--overwrite"), ((*_EVALUATE, "--report", "a.html"),)
    ),
}
