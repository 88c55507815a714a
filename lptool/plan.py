"""What a pooling is about to do: where its files go, how much it scores, and what its scores depend on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lptool import __version__
from lptool.bench import Bench, PoolOptions
from lptool.checkpoints import file_sha256
from lptool.errors import OutputError
from lptool.export import check_output
from lptool.folder import check_folder
from lptool.journal import check_journal, journal_of
from lptool.methods import alphas_of, mixes_at_most
from lptool.targets import kept_of


def outputs_of(bench: Bench, targets: Sequence[int], out: str | Path, *, overwrite: bool) -> list[Path]:
    """Where the pooled model of each target goes; refuses, before any search, what must not be written.

    What `is_folder` takes for one is a folder in the Hugging Face layout. With target `all` one file per level:
    `STEM_level_NN.safetensors` beside `out`, or in it where that is no name of such a file.

    Raises:
        OutputError: an output exists, is an input, or cannot be written; or the journal beside it is of another search.
    """
    folder = is_folder(out) and bench.options.target != "all"
    outputs = [_output_for(Path(out), bench.pool.level(target), bench.options.target) for target in targets]
    twice = {str(output) for output in outputs if outputs.count(output) > 1}
    if twice:
        raise OutputError(
            f"{', '.join(sorted(twice))}: two tickets have this level; pool them one by one with --target"
        )
    for target, output in zip(targets, outputs, strict=True):
        # Of several targets the first ones may be finished when the run is cut off: it writes them again, the same.
        again = bench.options.target == "all" and journal_of(output).exists()
        check_place(output, bench.inputs, folder=folder, overwrite=overwrite or again)
        check_journal(journal_of(output), fingerprint(bench, target), overwrite=overwrite)
    return outputs


def is_folder(output: str | Path) -> bool:
    """Whether an output is to be a folder: it is one, or its name has no suffix, or is a text that ends in a slash."""
    name = os.fspath(output)
    return name.endswith(("/", os.sep)) or not Path(name).suffix or os.path.isdir(name)


def check_place(output: Path, inputs: Sequence[str | Path], *, folder: bool, overwrite: bool) -> None:
    """Refuse, before any work, to put a pooled model where it must not be. Raises OutputError."""
    if not folder and output.suffix != ".safetensors":
        raise OutputError(
            f"{output}: expected FILE.safetensors or a folder, whose name has no suffix or ends in /; `lptool convert` "
            "makes other files of these"
        )
    (check_folder if folder else check_output)(output, inputs, overwrite=overwrite)


def _output_for(out: Path, level: int, target: str) -> Path:
    if target != "all":
        return out
    if out.suffix == ".safetensors":
        return out.with_name(f"{out.stem}_level_{level:02d}.safetensors")
    return out / f"level_{level:02d}.safetensors"


def evaluations_at_most(options: PoolOptions, tickets: int) -> int:
    """States that one search scores: the target twice (once without BN recalibration) and every mix."""
    alphas = alphas_of(options.method, options.alphas)
    return 1 + options.recalibrate + mixes_at_most(options.method, tickets, len(alphas), options.passes)


def fingerprint(bench: Bench, target: int) -> dict[str, Any]:
    """What the scores of a search depend on, as JSON values: inputs, options, data, versions, kind of device.

    Images that stream are known by their labels and number alone.
    """
    options = bench.options
    code = Path(bench.arch.rpartition(":")[0])  # of `file.py:callable`; no file for other names
    return {
        "tickets": [summary.sha256 for summary in bench.pool.summaries],
        "weights": [summary.weights for summary in bench.pool.summaries],  # also of files that lie beside the first
        "target": bench.pool.summaries[target].sha256,
        "method": options.method,
        "alphas": list(alphas_of(options.method, options.alphas)),
        "alpha_search": options.alpha_search,
        "kept": kept_of(bench, target),
        "passes": options.passes,
        "decay": options.decay,
        "select": options.select,
        "folds": options.folds,
        "learning": [options.per, options.learning_steps, options.learning_rate],
        "arch": bench.arch,
        "arch_kwargs": bench.arch_kwargs,
        "arch_file": file_sha256(code) if code.is_file() else None,
        "data": bench.data.describe(),
        "images": bench.digests,
        "bn_recalibration": options.recalibrate,
        "calibration_size": options.calibration_size,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "precision": str(bench.compute).removeprefix("torch."),
        "device": bench.device.type,
        "lptool": __version__,
        "torch": torch.__version__,
        "timm": version("timm"),
    }
