"""Networks as programs of `torch.export`, which torch runs without the code that made them; each checked on images."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lptool.checkpoints.places import write_atomically
from lptool.errors import OutputError, first_line
from lptool.export.onnx import checked_difference, with_one_alone
from lptool.networks.onnx_file import quiet
from lptool.scoring.batchnorm import in_eval_mode


def save_program(
    model: nn.Module,
    path: str | Path,
    images: Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    replace: bool = True,
) -> float:
    """Write a network, as it is in eval mode, as one `.pt2` file that `torch.export.load(path).module()` gives back.

    It takes float32 images [batch, C, H, W], and gives logits [batch, classes], for batches of any size. It is read
    again and run on all of `images`, and on the first of them alone. The file appears whole or not at all.

    Args:
        model: on the CPU, in float32; its modes are restored.
        images: normalised float batches [B, C, H, W] on the CPU; their shape is taken from the first.
        metadata: name → text, kept in the file: `torch.export.load` fills them into its `extra_files`.
        replace: a file that is there.

    Returns:
        The largest absolute difference between a logit of the network and of the file, at most `TOLERANCE`.

    Raises:
        DataError: there are no images.
        OutputError: torch cannot export this network, or the file does not compute the same, or cannot be written or
            must not be replaced.
    """
    first, checked = with_one_alone(images, path)

    def write(draft: Path) -> float:
        draft.write_bytes(_exported(model, first.shape[1:], metadata or {}, path))
        return checked_difference(model, lambda: _read(draft), checked, path, "torch")

    with in_eval_mode(model):
        return write_atomically(path, write, replace=replace)


def _exported(model: nn.Module, shape: tuple[int, ...], metadata: Mapping[str, str], path: str | Path) -> bytes:
    """The content of the file, for images of this shape. Raises OutputError."""
    black = torch.zeros(2, *shape)  # of one image, torch would take the batch size for fixed
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(model, (black,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
            _forget_places(program)
            made = io.BytesIO()
            torch.export.save(program, made, extra_files=dict(metadata))
            return made.getvalue()
    except Exception as error:  # a user's own code may raise anything
        raise OutputError(
            f"{path}: not written, because torch cannot export this network ({first_line(error)}); "
            "change its forward so that torch.export.export takes it, or write a .safetensors"
        ) from error


def _forget_places(program: Any) -> None:
    """Take out of a program where on this machine the code lies that it was made of."""
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)


def _read(file: Path) -> nn.Module:
    with quiet():
        program: nn.Module = torch.export.load(io.BytesIO(file.read_bytes())).module()
        return program
