"""Networks as ONNX files, each checked against the network itself on real images before it appears."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lptool.checkpoints.places import write_atomically
from lptool.errors import DataError, OutputError, first_line
from lptool.networks.onnx_file import OnnxNetwork, check_packages, quiet
from lptool.scoring.batchnorm import in_eval_mode

# By how much a logit may differ at most: float32 sums in another order, and BatchNorm folded into the convolutions.
TOLERANCE = 1e-4
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def save_onnx(
    model: nn.Module,
    path: str | Path,
    images: Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    replace: bool = True,
) -> float:
    """Write a network, as it is in eval mode, as one ONNX file with its weights inside.

    Its input `images` is float32 [batch, C, H, W], its output `logits` [batch, classes], for batches of any size.
    onnxruntime then runs the file on all of `images`, and on the first of them alone. The file appears whole or not at
    all.

    Args:
        model: on the CPU, in float32; its modes are restored.
        images: normalised float batches [B, C, H, W] on the CPU; their shape is taken from the first.
        metadata: key → text, kept in the file under `metadata_props`.
        replace: a file that is there.

    Returns:
        The largest absolute difference between a logit of the network and of the file, at most `TOLERANCE`.

    Raises:
        SetupError: a package is missing.
        DataError: there are no images.
        OutputError: torch cannot export this network, or the file does not compute the same, or cannot be written or
            must not be replaced.
    """
    check_packages(PACKAGES)
    with in_eval_mode(model):
        return write_atomically(path, lambda draft: fill(draft, model, path, images, metadata or {}), replace=replace)


def fill(
    file: Path, model: nn.Module, path: str | Path, images: Iterable[Tensor], metadata: Mapping[str, str]
) -> float:
    """Write a network in eval mode to `file`, checked, which shall become `path`: as `save_onnx`."""
    first, checked = with_one_alone(images, path)
    _save(_exported(model, first.shape[1:], path), file, metadata)
    return checked_difference(model, lambda: OnnxNetwork(file), checked, path, "onnxruntime")


def with_one_alone(images: Iterable[Tensor], path: str | Path) -> tuple[Tensor, Iterator[Tensor]]:
    """The first batch, and all batches after its first image alone: a file whose batch size is fixed takes not both.

    Raises:
        DataError: there are no images.
    """
    batches = iter(images)
    first = next(batches, None)
    if first is None:
        raise DataError(f"{path}: not written, because there are no images to check it on; give at least one")
    return first, itertools.chain((first[:1], first), batches)


def _exported(model: nn.Module, shape: tuple[int, ...], path: str | Path) -> Any:
    """The ONNX program that torch makes of a network in eval mode, for images of this shape. Raises OutputError."""
    black = torch.zeros(2, *shape)  # of one image, torch would take the batch size for fixed
    try:
        with quiet():
            return torch.onnx.export(
                model,
                (black,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: "batch"},),
            )
    except Exception as error:  # a user's own code may raise anything
        reason = first_line(error.__cause__ or error)  # torch's own error says first which of its steps failed
        raise OutputError(
            f"{path}: not written, because torch cannot export this network to ONNX ({reason}); "
            "change its forward so that torch.export.export takes it, or write a .safetensors"
        ) from error


def _save(program: Any, file: Path, metadata: Mapping[str, str]) -> None:
    """Write torch's ONNX program as one file, with `metadata` alone: torch's notes name files of this machine."""
    graph = program.model.graph
    for part in (graph, *graph):
        part.metadata_props.clear()
    program.model.metadata_props.update(metadata)
    with quiet():
        program.save(file, external_data=False)


def checked_difference(
    model: nn.Module, load: Callable[[], nn.Module], batches: Iterable[Tensor], path: str | Path, runner: str
) -> float:
    """How far the logits of a file differ from its network's, at most.

    Args:
        load: gives the network that the file is, run by `runner`.
        path: what the file shall become.

    Raises:
        DataError: the images cannot be had.
        OutputError: the difference is above the tolerance, or the file does not run.
    """
    try:
        difference = _largest_difference(model, load(), batches)
    except DataError:
        raise
    except Exception as error:  # onnxruntime has many error types of its own
        raise OutputError(
            f"{path}: not written, because {runner} cannot run what torch exported ({first_line(error)}); upgrade "
            f"{runner}, or write a .safetensors"
        ) from error
    if not difference <= TOLERANCE:  # so that NaN is refused too
        raise OutputError(
            f"{path}: not written, because its logits in {runner} differ from the network's by {difference:.2g}, "
            f"expected at most {TOLERANCE:g}; upgrade {runner}, or write a .safetensors"
        )
    return difference


def _largest_difference(model: nn.Module, other: nn.Module, batches: Iterable[Tensor]) -> float:
    """The largest absolute difference of logits between two networks; NaN where any is NaN."""
    with torch.no_grad():
        return float(torch.stack([(other(batch) - model(batch)).abs().max() for batch in batches]).max())
