"""An ONNX file as a network: its weights counted, its forward pass by onnxruntime on the CPU.

All is read from the bytes of the one file; tensors that lie in others are refused.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lptool.checkpoints.evidence import of_pruning
from lptool.checkpoints.files import OpenedFile, reading
from lptool.checkpoints.masks import Mask
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.summary import Summary
from lptool.checkpoints.ticket import Ticket
from lptool.errors import CheckpointError, SetupError, first_line, one_line

FORMAT = "onnx"
_READING = ("onnx", "onnxruntime")

# Before it is imported: else onnxruntime 1.32 notes what runs where in files of its own, and sends that to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def is_onnx(path: str | Path) -> bool:
    """Whether a name is one of an ONNX file."""
    return Path(path).suffix == ".onnx"


def check_packages(packages: Sequence[str] = _READING) -> None:
    """Refuse, before any work, what needs optional packages that are missing. Raises SetupError."""
    for package in packages:
        try:
            with quiet():
                importlib.import_module(package)
        except ImportError as error:
            raise SetupError(
                f"ONNX files need the package {package}, which cannot be imported ({first_line(error)}). "
                "Install it: pip install 'lptool[onnx]'"
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch's exporter and its helpers print, warn and log: steps, deprecations, whole programs."""
    before = logging.root.manager.disable
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


class OnnxNetwork(nn.Module):
    """Runs a file: float32 images [B, C, H, W] in, logits out where it is of a classifier, on the images' device."""

    def __init__(self, path: str | Path) -> None:
        """With as many threads as torch has. Raises CheckpointError where onnxruntime does not take the file."""
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # silent, because what fails raises
        options.intra_op_num_threads = torch.get_num_threads()
        content, _, _ = _read(path)
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has many error types of its own
            raise _damaged(path, error) from error
        self._input, self._one_by_one = _images_of(self._session.get_inputs(), path)
        self._output = _logits_of([output.name for output in self._session.get_outputs()], path)
        self._thread = ThreadPoolExecutor(1)

    def forward(self, images: Tensor) -> Tensor:
        """What the file makes of the images, in one go or, where it takes no more than one, in turn."""
        parts = images.split(1) if self._one_by_one else (images,)
        return torch.cat([torch.from_numpy(self._run(part)) for part in parts]).to(images.device)

    def _run(self, images: Tensor) -> Any:
        """In a thread of its own, as a program in the file may take for ever, and Ctrl-C ends the wait for it."""
        from onnxruntime import RunOptions

        options = RunOptions()
        given = {self._input: images.contiguous().cpu().numpy()}
        running = self._thread.submit(self._session.run, [self._output], given, options)
        try:
            return running.result()[0]
        except BaseException:
            options.terminate = True  # or the process would wait for it at its end
            raise


def _images_of(inputs: Sequence[Any], path: str | Path) -> tuple[str, bool]:
    """The name of the only input, and whether it takes one image alone. Raises CheckpointError."""
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        kinds = ", ".join(each.type for each in inputs) or "none"
        raise CheckpointError(f"{path}: expected one input, of float32 images, found {kinds}")
    size = next(iter(inputs[0].shape), None)
    if isinstance(size, int) and size > 1:
        raise CheckpointError(
            f"{path}: takes batches of {size} images and no others; export it with a batch of any size"
        )
    return inputs[0].name, size == 1


def _logits_of(outputs: Sequence[str], path: str | Path) -> str:
    """The only output, or that of the name `logits`. Raises CheckpointError."""
    if len(outputs) == 1:
        return outputs[0]
    if "logits" in outputs:
        return "logits"
    found = ", ".join(map(one_line, outputs)) or "none"
    raise CheckpointError(f"{path}: expected one output, of logits, or one that is called logits, found {found}")


def onnx_ticket(path: str | Path) -> tuple[Ticket, str]:
    """The floating-point tensors of a file, the zeros of those of two or more dimensions as its mask; and its sha256.

    What the file says of itself is the header that lptool wrote into it.

    Raises:
        SetupError: a package is missing. CheckpointError: the file cannot be read.
    """
    check_packages()
    _, proto, sha256 = _read(path)
    try:
        said = {entry.key: entry.value for entry in proto.metadata_props}
        state = weights_in(proto.graph)
    except Exception as error:  # protobuf's and numpy's own
        raise _damaged(path, error) from error
    metadata = Metadata.from_json(said["lptool"], str(path)) if "lptool" in said else Metadata()
    mask: Mask = {name: t != 0 for name, t in state.items() if t.dim() >= 2 and bool((t == 0).any())}
    return Ticket(state, mask, metadata, str(path)), sha256


def onnx_summary(path: str | Path) -> Summary:
    """What a file is, as of any checkpoint. Raises as `onnx_ticket`."""
    ticket, sha256 = onnx_ticket(path)
    prunable = tuple(name for name in ticket.metadata.prunable if name in ticket.state)
    if prunable:  # our own header knows better than the zeros
        mask = {name: ticket.state[name] != 0 for name in prunable}
        ticket = replace(ticket, mask=mask)
    summary = replace(Summary.of(ticket), format=FORMAT, sha256=sha256, mask_source="metadata" if prunable else "zeros")
    return of_pruning([replace(summary, metadata=replace(ticket.metadata, prunable=prunable))])[0]


def _read(path: str | Path) -> tuple[bytes, Any, str]:
    """The content of a file, as bytes and parsed, and its sha256. Raises CheckpointError."""
    import onnx

    file = OpenedFile(path)
    with reading(path):
        content, sha256 = file.content(0, file.stamp.size), file.sha256()
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own
        raise _damaged(path, error) from error
    if any(tensor.external_data for tensor in _tensors_in(proto)):  # onnxruntime would open them
        raise CheckpointError(f"{path}: has tensors in other files; save it as one")
    return content, proto, sha256


def _tensors_in(message: Any) -> Iterator[Any]:
    """Every tensor of a model: initializers, and those in the attributes, subgraphs and functions of nodes."""
    from onnx import TensorProto

    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type:
            for part in value if isinstance(value, Iterable) else (value,):
                yield from _tensors_in(part)


def weights_in(graph: Any) -> dict[str, Tensor]:
    """The tensors of floating-point numbers; of a quantised one what it stands for, under the name without that."""
    from onnx import numpy_helper

    arrays = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    rounding = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    settings = {name for node in rounding for name in node.input[1:]}  # scales and zero points, which are no weights
    state = {name: array for name, array in arrays.items() if array.is_floating_point() and name not in settings}
    for node in rounding:
        if node.input[0] in arrays and node.op_type == "DequantizeLinear":
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            steps, scale, *zero = (arrays[name] for name in node.input if name)
            shape = [-1 if scale.dim() and side == axis % steps.dim() else 1 for side in range(steps.dim())]
            centred = steps.float() - (zero[0].float().view(shape) if zero else 0)
            state[node.input[0].removesuffix("_quantized")] = centred * scale.view(shape)
    return state


def _damaged(path: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: not an ONNX file that onnxruntime can run ({first_line(error)}); export it again")
