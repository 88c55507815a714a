"""A ticket that float32 holds and int8 does not: one weight that no image reaches is ten thousand times the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lptool
from lptool.checkpoints.reading import load_ticket


def fragile(ticket: Path, file: Path) -> Path:
    """Of a `resnet8_cifar`: what the huge weights multiply is 0, as its BatchNorm and the ReLU after it make it so."""
    found = load_ticket(ticket)
    state, mask = {n: t.clone() for n, t in found.state.items()}, {n: m.clone() for n, m in found.mask.items()}
    state["layer1.0.bn1.weight"][0], state["layer1.0.bn1.bias"][0] = 0.0, -1.0
    state["layer1.0.conv2.weight"][:, 0, 0, 0] = 1e4
    mask["layer1.0.conv2.weight"][:, 0, 0, 0] = True
    lptool.save_ticket(replace(found, state=state, mask=mask), file)
    return file
