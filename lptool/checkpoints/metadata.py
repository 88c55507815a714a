"""What a ticket's file says of itself: the JSON document under `lptool` in a safetensors header."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from lptool.checkpoints.header import (
    DataSet,
    SavedScore,
    SearchRecord,
    TimmImages,
    Training,
    score_in,
    typed,
    whole_number,
)
from lptool.errors import CheckpointError, one_line
from lptool.provenance import arch_name, data_name, without_folders

FORMAT_VERSION = 1
_LONGEST_NAME = 5000  # letters of an architecture, which may be a path
_DEEPEST = 50  # of objects and lists in one another; ours have four, and Python's JSON fails at some hundreds


@dataclass(frozen=True)
class Metadata:
    """What a file says of itself; the JSON document under `lptool` in a safetensors header.

    `dataset`, `train`, `trace` and `scores` are documents as they stand in the file, carried along whole, unknown keys
    too. They are read through `data`, `training`, `image_size`, `search` and `score`, which leave out what is odd.

    Attributes:
        kind: `ticket`, or `pooled` for what a search wrote: its output, and the control beside it.
        arch: name of the architecture, None where the file does not say.
        arch_kwargs: arguments to build it with, such as `num_classes`.
        level: IMP round, 0 dense; None where the file does not say.
        prunable: names of the tensors that pruning may touch; empty where the file does not say.
        dataset: name, normalisation and split of the data the ticket was trained on.
        train: every option that shaped the ticket.
        trace: for a pooled model: method, members with their sha256 and alpha.
        scores: for a pooled model: val and test scores.
        hint: what another program noted as `arch` beside the weights; not written.
        timm_config: what timm's `config.json` beside a file without our header says of its weights; not written.
    """

    kind: str = "ticket"
    arch: str | None = None
    arch_kwargs: dict[str, Any] = field(default_factory=dict)
    level: int | None = None
    prunable: tuple[str, ...] = ()
    dataset: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    trace: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    hint: str | None = None
    timm_config: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def data(self) -> DataSet:
        """What `dataset` says, as far as it is sound."""
        return typed(DataSet, self.dataset)

    @cached_property
    def timm_images(self) -> TimmImages:
        """What `timm_config` says, as far as it is sound."""
        return typed(TimmImages, self.timm_config)

    @cached_property
    def search(self) -> SearchRecord:
        """What `trace` says, as far as it is sound."""
        return typed(SearchRecord, self.trace)

    @cached_property
    def training(self) -> Training:
        """What `train` says of augmentation, as far as it is sound."""
        return typed(Training, self.train)

    @property
    def image_size(self) -> int | None:
        """The side in pixels that images were resized to; None where they were not, or have another in `dataset`."""
        side, shape = whole_number(self.train.get("image_size")), self.data.image_shape
        return None if side is None or side < 1 or (shape and shape[1:] != (side, side)) else side

    def score(self, part: str, row: str) -> SavedScore | None:
        """A score of a pooled model or its controls; None where there is no sound one: see `score_in`."""
        return score_in(self.scores, part, row)

    def without_folders(self) -> Metadata:
        """The same for others to read: files by their last names, nothing of where they lie on this machine."""
        arch = None if self.arch is None else arch_name(self.arch)
        dataset = without_folders(self.dataset) | ({"name": data_name(self.data.name)} if self.data.name else {})
        train, trace = without_folders(self.train), without_folders(self.trace)
        return replace(self, arch=arch, dataset=dataset, train=train, trace=trace)

    def to_json(self, sparsity: float) -> str:
        """The header document, with the sparsity of the state it describes."""
        document = asdict(self)
        kwargs = document.pop("arch_kwargs")
        del document["hint"], document["timm_config"]
        document["arch"] = {"name": self.arch, "kwargs": kwargs} if self.arch else None
        return json.dumps({"version": FORMAT_VERSION, "sparsity": sparsity, **document}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, file: str) -> Metadata:
        """Read a header document. Raises CheckpointError where it is not one of ours, or of a later version."""
        try:
            document = json.loads(text)
            check_depth(document)
            version = document["version"]
            if version != FORMAT_VERSION:
                found = one_line(str(version))[:40]
                raise CheckpointError(f"{file}: written in format {found}, expected {FORMAT_VERSION}; upgrade lptool")
            arch = document.get("arch") or {"name": None, "kwargs": {}}
            known = {key: document[key] for key in ("kind", "level", "dataset", "train", "trace", "scores")}
            # "" is no name, as in `to_json`.
            name, names = None if arch["name"] == "" else arch["name"], document["prunable"]
            if not isinstance(names, list):
                raise TypeError(f"expected a list of names, found {names!r}")
            metadata = cls(arch=name, arch_kwargs=arch["kwargs"], prunable=tuple(names), **known)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{file}: the `lptool` metadata in its header is damaged ({repr(error)[:200]})"
            ) from error
        return metadata._checked(file)

    def _checked(self, file: str) -> Metadata:
        check_arguments(self.arch_kwargs, file)
        documents = (self.arch_kwargs, self.dataset, self.train, self.trace, self.scores)
        sound = (
            self.kind in ("ticket", "pooled")
            and (self.arch is None or (isinstance(self.arch, str) and len(self.arch) <= _LONGEST_NAME))
            and (self.level is None or whole_number(self.level) is not None)
            and all(isinstance(name, str) for name in self.prunable)
            and all(isinstance(document, dict) for document in documents)
        )
        if not sound:
            raise CheckpointError(f"{file}: the `lptool` metadata in its header has values of the wrong type")
        return self


# Arguments of timm that load files, or anything from the net: to read a file makes nobody do that.
LOADING = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def check_arguments(kwargs: Any, file: str) -> None:
    """Refuse arguments of an architecture that would load something. Raises CheckpointError."""
    loading = [name for name in LOADING if isinstance(kwargs, dict) and name in kwargs]
    if loading:
        raise CheckpointError(
            f"{file}: wants its architecture built with {', '.join(loading)}, which could load anything"
        )


def check_depth(document: Any, left: int = _DEEPEST) -> None:
    """Raises ValueError for a document of JSON that is nested deeper than any of use."""
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    if not left:
        raise ValueError(f"more than {_DEEPEST} objects in one another")
    for value in inner:
        check_depth(value, left - 1)
