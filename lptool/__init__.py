"""Pool the checkpoints of an iterative-magnitude-pruning run into one more accurate sparse model.

The public names, loaded when first used, so that `lptool --help` does not wait for torch:

    find_checkpoints the checkpoints in files, folders and globs
    load_ticket      read one checkpoint
    load_state_dict  its tensors alone, dense whatever the file
    load_pool        read the checkpoints of a run: ordered, aligned, loaded one at a time
    save_ticket      write one `.safetensors` with exact zeros
    save_packed      write one small `.safetensors` of kept weights and their positions
    convert          write a checkpoint in another form: packed, folder, ONNX
    as_timm_config   the `config.json` that timm reads
    magnitude_prune  prune a state dict to an exact number of weights
    interpolate      mix two state dicts
    recalibrate_bn   renew BatchNorm statistics
    pool_tickets     the search, over a pool and a score function
    train_tickets    train the tickets of a run
    load_model       the network of a ticket, with its weights, from a file or a folder
    evaluate_files   scores on test, under corruptions, and costs of files, and every two of them compared
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lptool.checkpoints.finding import find_checkpoints as find_checkpoints
    from lptool.checkpoints.masks import magnitude_prune as magnitude_prune
    from lptool.checkpoints.pool import Pool as Pool
    from lptool.checkpoints.reading import load_pool as load_pool
    from lptool.checkpoints.reading import load_state_dict as load_state_dict
    from lptool.checkpoints.reading import load_ticket as load_ticket
    from lptool.checkpoints.ticket import Ticket as Ticket
    from lptool.checkpoints.writing import save_packed as save_packed
    from lptool.checkpoints.writing import save_ticket as save_ticket
    from lptool.errors import LptoolError as LptoolError
    from lptool.evaluation.job import evaluate_files as evaluate_files
    from lptool.evaluation.setup import EvaluateOptions as EvaluateOptions
    from lptool.export.conversion import convert as convert
    from lptool.export.timm_config import as_timm_config as as_timm_config
    from lptool.networks.architecture import load_model as load_model
    from lptool.pooling.choice import Choice as Choice
    from lptool.pooling.methods import pool_tickets as pool_tickets
    from lptool.pooling.mixing import interpolate as interpolate
    from lptool.pooling.scorer import Scorer as Scorer
    from lptool.scoring.batchnorm import recalibrate_bn as recalibrate_bn
    from lptool.scoring.score import Score as Score
    from lptool.training.job import train_tickets as train_tickets
    from lptool.training.options import TrainOptions as TrainOptions

_HOME = {
    "Choice": "pooling.choice",
    "EvaluateOptions": "evaluation.setup",
    "LptoolError": "errors",
    "Pool": "checkpoints.pool",
    "Score": "scoring.score",
    "Scorer": "pooling.scorer",
    "Ticket": "checkpoints.ticket",
    "TrainOptions": "training.options",
    "as_timm_config": "export.timm_config",
    "convert": "export.conversion",
    "evaluate_files": "evaluation.job",
    "find_checkpoints": "checkpoints.finding",
    "interpolate": "pooling.mixing",
    "load_model": "networks.architecture",
    "load_pool": "checkpoints.reading",
    "load_state_dict": "checkpoints.reading",
    "load_ticket": "checkpoints.reading",
    "magnitude_prune": "checkpoints.masks",
    "pool_tickets": "pooling.methods",
    "recalibrate_bn": "scoring.batchnorm",
    "save_packed": "checkpoints.writing",
    "save_ticket": "checkpoints.writing",
    "train_tickets": "training.job",
}
__all__ = sorted(_HOME)
__version__ = "0.2.0"  # the only place: pyproject.toml reads it here


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lptool' has no attribute {name!r}")
    return getattr(import_module(f"lptool.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # so that shells and editors complete the names that are not loaded yet
