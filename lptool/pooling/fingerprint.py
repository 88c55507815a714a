"""What the scores of a search depend on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lptool import __version__
from lptool.checkpoints.reading import file_sha256
from lptool.evaluation.setting import SettingOptions
from lptool.pooling.catalogue import alphas_of, needs
from lptool.pooling.setup import Bench, PoolOptions
from lptool.pooling.targets import kept_of


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
        "learning": [options.per, options.learning_steps, options.learning_rate],
        "fit": [options.fit_images, options.fit_positions] if needs(options.method, "rebuilder") else None,
        "mask": options.mask if needs(options.method, "rebuilder") else None,
        "arch": bench.arch,
        "arch_kwargs": bench.arch_kwargs,
        "arch_file": file_sha256(code) if code.is_file() else None,
        "data": bench.data.describe(),
        "images": bench.digests,
        "bn_images": options.bn_images,
        "augmentation": asdict(bench.calibration.recipe) if bench.calibration.known else None,
        "calibration_size": options.calibration_size,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "precision": str(bench.compute).removeprefix("torch."),
        "device": bench.device.type,
        # Other versions may compute, or round, in another way.
        "lptool": __version__,
        "torch": torch.__version__,
        "timm": version("timm"),
    }


def key_of(now: dict[str, Any], options: PoolOptions) -> str:
    """In 16 hex digits all that a pooled model comes from, so that its header tells whether it is of this search.

    Args:
        now: the fingerprint of the search. options: those that it was made by.
    """
    whole = {**now, "final_calibration_size": options.final_calibration_size}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def shaping(options: PoolOptions) -> dict[str, Any]:
    """What shapes a result beside its method, target, data and network, as asked for; as JSON values.

    Without `seed`: results that differ in it alone are repetitions.
    """
    apart = {field.name for field in fields(SettingOptions)} | {"target", "sparsity", "method", "seed"}
    named = {field.name: getattr(options, field.name) for field in fields(options) if field.name not in apart}
    return named | {"alphas": list(options.alphas)}


def control_key(key: str) -> str:
    """The key of the control that a search writes, which is not taken for its pooled model, nor that for it."""
    return f"{key}-control"
