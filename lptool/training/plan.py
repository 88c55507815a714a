"""What a run of the trainer is about to do: its levels, steps, images and bytes, all of it checked, nothing written."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from lptool.data.images import InMemory, most_workers
from lptool.device import pick_device, threads_on
from lptool.ranks import ALONE, Ranks
from lptool.scoring.weights import weights_of
from lptool.training.folder import RunFolder
from lptool.training.options import Levels, TrainOptions, count_of
from lptool.training.pruning import planned_counts
from lptool.training.setup import UNWATCHED, Run, open_run
from lptool.training.trial import tried


def plan_training(
    options: TrainOptions,
    levels: Levels,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    device: str = "auto",
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """What `train_tickets` would do with the same arguments, as JSON values; refuses what that would refuse.

    The data set is opened, and downloaded where training would; the output folder is not touched.

    Raises:
        LptoolError: as `train_tickets` does before its first step.
    """
    where = ranks.agree(lambda: pick_device(device))
    asked = (options, levels, Path(out), data_dir, where, None, ranks, UNWATCHED)
    run = ranks.first_ahead(lambda: tried(open_run(*asked)))
    ranks.on_first(lambda: run.folder.check(run.identity, run.sparsities))
    free = ranks.on_first(lambda: _free_bytes(run.folder))
    return {**plan_of(run), "disk": {**disk_of(run), "free_bytes": free}}


def plan_of(run: Run) -> dict[str, Any]:
    """Levels, data, processes and how much is computed."""
    levels, val = _levels_of(run), len(run.data.val)
    return {
        "folder": str(run.folder.path),
        "levels": levels,
        "data": _data_of(run),
        "computing": _computing_of(run),
        "costs": {
            "steps": sum(row["steps"] for row in levels),
            "images_trained": sum(row["images_trained"] for row in levels),
            "images_scored": val * sum(run.options.epochs - row["first_epoch"] for row in levels),
            "parameters": sum(p.numel() for p in run.model.parameters()),
        },
        "options": run.options.to_json(),
    }


def _levels_of(run: Run) -> list[dict[str, Any]]:
    """What each level keeps and trains; all but the first begin at the rewind point."""
    options, steps, train = run.options, run.steps_per_epoch, len(run.data.train)
    state = weights_of(run.model)
    sizes = {name: state[name].numel() for name in run.prunable}
    counts = planned_counts(sizes, run.levels, options.rate, options.scope)
    first_epoch, first_step = divmod(run.rewind_step, steps)
    not_again = first_epoch * train + sum(len(batch) for batch in run.batches[:first_step])  # images, by later levels
    return [
        {
            "file": str(run.folder.level(level)),
            "sparsity": 1 - kept / counts[0],
            "kept": kept,
            "first_epoch": first_epoch if level else 0,
            "steps": options.epochs * steps - (run.rewind_step if level else 0),
            "images_trained": options.epochs * train - (not_again if level else 0),
            "done": run.folder.level(level).exists(),
        }
        for level, kept in enumerate(counts)
    ]


def _data_of(run: Run) -> dict[str, Any]:
    data = run.data
    return {
        "name": data.name,
        "train": len(data.train),
        "val": len(data.val),
        "test": len(data.test),
        "classes": data.num_classes,
        "image_shape": list(data.shape),
        "streams": not isinstance(data.train, InMemory),
    }


def _computing_of(run: Run) -> dict[str, Any]:
    batch, processes = max(len(batch) for batch in run.batches), run.ranks.count
    return {
        "device": str(run.device),
        "threads": threads_on(run.device),
        "precision": str(run.compute).removeprefix("torch."),
        "processes": processes,
        "batch": batch,
        "batch_per_process": math.ceil(batch / processes),
        "steps_per_epoch": run.steps_per_epoch,
        "decoders_per_process": 0 if isinstance(run.data.train, InMemory) else most_workers(),
    }


def disk_of(run: Run) -> dict[str, int]:
    """Bytes of a ticket, of what lies beside the tickets for a rerun, and of all that is still to be written.

    Beside the tickets lie the weights to rewind to and the state of the last epoch. The latter counts twice, because
    the new one is written whole before it replaces the old one.
    """
    options = run.options
    ticket = _bytes(run.model.state_dict().values())
    # Beside each parameter AdamW keeps two tensors, SGD with momentum one.
    moments = 2 if options.optimizer == "adamw" else int(options.momentum > 0)
    epoch = ticket * (2 if options.keep == "best" else 1) + moments * _bytes(run.model.parameters())
    resume = ticket + 2 * epoch
    missing = sum(not run.folder.level(level).exists() for level in range(count_of(run.levels) + 1))
    return {"ticket_bytes": ticket, "resume_bytes": resume, "to_write_bytes": missing * ticket + resume}


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _free_bytes(folder: RunFolder) -> int:
    """Of the disk that the folder is to lie on."""
    return shutil.disk_usage(folder.check_writable()).free
