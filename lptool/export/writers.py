"""The files that `convert` writes, one function for each kind of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lptool.checkpoints.masks import sparsity
from lptool.checkpoints.packed import PackError
from lptool.checkpoints.places import new_folder
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import Form, check_finite, save_prune_keys
from lptool.data.dataset import Data
from lptool.data.images import Images, sample
from lptool.errors import LptoolError, OutputError
from lptool.evaluation.setting import SettingOptions
from lptool.export.accuracy import Change, Gauge, needing_val
from lptool.export.folder import write_folder
from lptool.export.onnx import save_onnx
from lptool.export.onnx_int8 import CALIBRATION_BATCH, CALIBRATION_IMAGES, save_int8_onnx
from lptool.export.program import save_program

_CHECKED_ON = 64  # test images that a network in another form is compared with torch on


@dataclass(frozen=True)
class Found:
    """What came out while a file was written.

    Attributes:
        change: the scores before and after, where values were shortened and the data can be had.
        difference: largest absolute difference of logits between the file's network and torch's.
        warnings: what a person should know.
    """

    change: Change | None = None
    difference: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """What is written, and how: see `conversion.convert`."""

    source: Path
    sha256: str  # of the source, as it was when the ticket was read
    ticket: Ticket
    output: Path
    kind: str
    form: Form
    options: SettingOptions
    int8: bool
    max_drop: float | None
    overwrite: bool
    command: str | None
    license: str | None


def _write_safetensors(job: Job) -> Found:
    found = _shortened(job) if job.form.values else Found()
    job.form.save(job.ticket, job.output, replace=job.overwrite)
    return found


def _shortened(job: Job) -> Found:
    """The scores before and after, of the weights that will be read; a warning where they cannot be had.

    Raises:
        OutputError: they lose too much, or a weight does not fit. LptoolError: they cannot be had, and had to be.
    """
    check_finite(job.ticket, job.output)
    try:
        shortened = job.form.as_read(job.ticket)
    except PackError as error:
        raise OutputError(f"{job.output}: not written: {error}") from error
    try:
        with needing_val(job.max_drop):
            gauge = Gauge.opened(job.source, job.options, job.sha256, with_val=job.max_drop is not None)
            change = gauge.change(shortened)
    except LptoolError as error:
        if job.max_drop is not None:
            raise
        return Found(warnings=(f"accuracy before and after is not known: {error}",))
    change.check(job.max_drop, job.output)
    return Found(change, warnings=gauge.notes)


def _write_prune_keys(job: Job) -> Found:
    save_prune_keys(job.ticket, job.output, replace=job.overwrite)
    return Found()


def _write_folder(job: Job) -> Found:
    with new_folder(job.output, overwrite=job.overwrite) as folder:
        write_folder(job.ticket, folder, command=job.command, documents={}, license=job.license)
    return Found()


def _write_network(job: Job) -> Found:
    """Export through the network on the CPU, as the file is checked there too, on test images."""
    with needing_val(job.max_drop):
        on_cpu = replace(job.options, device="cpu")
        gauge = Gauge.opened(job.source, on_cpu, job.sha256, with_val=job.max_drop is not None)
    data, model = gauge.subject.data, gauge.subject.network.model
    header = job.ticket.metadata.to_json(sparsity(job.ticket.mask))
    metadata = {"lptool": header, "mean": json.dumps(data.mean), "std": json.dumps(data.std)}
    test = data.test.subset(torch.arange(min(_CHECKED_ON, len(data.test))))
    checked = _batches(data, test, _CHECKED_ON)
    if job.int8:
        return _write_int8(job, gauge, checked, metadata)
    save = save_program if job.kind == "program" else save_onnx
    return Found(difference=save(model, job.output, checked, metadata, replace=job.overwrite))


def _write_int8(job: Job, gauge: Gauge, checked: Iterable[Tensor], metadata: dict[str, str]) -> Found:
    def judge(before: nn.Module, after: nn.Module) -> Change:
        change = Change(gauge.scores(before), gauge.scores(after))
        change.check(job.max_drop, job.output)
        return change

    data, model = gauge.subject.data, gauge.subject.network.model
    seen = _batches(data, sample(data.train, CALIBRATION_IMAGES, seed=0), CALIBRATION_BATCH)
    change = save_int8_onnx(model, job.output, checked, seen, judge, metadata, replace=job.overwrite)
    return Found(change, warnings=gauge.notes)


def _batches(data: Data, images: Images, size: int) -> Iterator[Tensor]:
    return (batch for batch, _ in data.batches(images, size, torch.device("cpu")))


WRITERS: dict[str, Callable[[Job], Found]] = {
    "dense": _write_safetensors,
    "packed": _write_safetensors,
    "folder": _write_folder,
    "onnx": _write_network,
    "program": _write_network,
    "prune keys": _write_prune_keys,
}
