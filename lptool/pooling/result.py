"""What pooling one target comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lptool.checkpoints.header import Verdict
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.writing import Form, Sizes
from lptool.pooling.outcome import SearchTrace
from lptool.scoring.metrics import Comparison
from lptool.scoring.score import Score


@dataclass(frozen=True)
class Member:
    """One ticket of the pool; its sparsity in [0, 1]; the digest of its file."""

    file: str
    level: int
    sparsity: float
    sha256: str


@dataclass(frozen=True)
class Layer:
    """One prunable tensor: its density in the target ticket and in the pooled model, in [0, 1]."""

    name: str
    shape: tuple[int, ...]
    before: float
    after: float


@dataclass(frozen=True)
class WrittenControl:
    """A control as it was written; `holds` is `ticket_bn`, or `ticket` where BatchNorm is not recalibrated."""

    output: Path
    sha256: str
    holds: str


@dataclass(frozen=True)
class PoolResult:
    """One pooled model, as written; plain values, so that one process can send it to another.

    Attributes:
        sparsity: of the file. members: the pool's tickets, by place.
        val, test: scores of `ticket` (the target as it is), `ticket_bn` (recalibrated; absent where the user
            wants none, or the network has no BatchNorm) and `pooled` (the file written).
        against: control → the file written and the control, on the same test images.
        verdict: against the better of them on val. gains: the same image by image, int8 [n of test]: see `combined`.
        shipped: `pooled`, or the control that is written because nothing better on val was found.
        layers: the prunable tensors, in the network's order. metadata: as in the file's header.
        plain_names: whether its tensors have the network's own names. form: how it is written.
        written: bytes of the file. sizes: of one in each form.
        control: the file of the control, where one was asked for.
        rounded: the score on test of the file as written, where its values are kept in a shorter type.
        options: that shaped it, see `shaping`.
        warnings: what was assumed of the tickets and the data, or is unusual in them.
        device: that was searched on. threads: of the CPU, where that is the device. seconds: all that it took.
    """

    output: Path
    sha256: str
    sparsity: float
    members: tuple[Member, ...]
    trace: SearchTrace
    shipped: str
    val: dict[str, Score]
    test: dict[str, Score]
    against: dict[str, Comparison]
    verdict: Verdict
    layers: tuple[Layer, ...]
    metadata: Metadata
    plain_names: bool
    form: Form
    written: int
    sizes: Sizes
    control: WrittenControl | None
    rounded: Score | None
    options: dict[str, Any]
    device: str
    threads: int | None
    warnings: tuple[str, ...]
    gains: Tensor = field(compare=False, repr=False)
    seconds: float = 0.0

    @property
    def improved(self) -> bool:
        """Whether the output is made of more than the target."""
        return self.shipped == "pooled" and bool(self.trace.accepted)
