"""Networks as ONNX files that compute in int8, quantised by onnxruntime on training images.

Static quantisation in QDQ form (a QuantizeLinear and a DequantizeLinear around each operator), weights per output
channel, activations by the least and the largest value that they take on the calibration images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from lptool.checkpoints.places import write_atomically
from lptool.errors import DataError, OutputError, first_line
from lptool.export.onnx import PACKAGES, fill, with_one_alone
from lptool.networks.onnx_file import OnnxNetwork, check_packages, quiet
from lptool.scoring.batchnorm import in_eval_mode

CALIBRATION_IMAGES = 256  # of train, at most; not augmented
CALIBRATION_BATCH = 32

_Found = TypeVar("_Found")


def save_int8_onnx(
    model: nn.Module,
    path: str | Path,
    images: Iterable[Tensor],
    calibration: Iterable[Tensor],
    judge: Callable[[nn.Module, nn.Module], _Found],
    metadata: Mapping[str, str] | None = None,
    *,
    replace: bool = True,
) -> _Found:
    """Write a network, as it is in eval mode, as an ONNX file that computes in int8.

    Its input and output are those of `save_onnx`, in float32 as there. The same network as ONNX in float32 is compared
    with torch first. The file appears whole or not at all.

    Args:
        model: on the CPU, in float32; its modes are restored.
        images: normalised float batches [B, C, H, W] on the CPU, to compare on.
        calibration: likewise, of training images.
        judge: gets the network in float32 and in int8, both run by onnxruntime; raises LptoolError to refuse the file.
        metadata: key → text, kept in the file under `metadata_props`.
        replace: a file that is there.

    Returns:
        What `judge` does.

    Raises:
        SetupError: a package is missing.
        DataError: there are no images.
        OutputError: torch cannot export this network or onnxruntime cannot quantise it, or the file cannot be written
            or must not be replaced.
    """
    check_packages(PACKAGES)

    def write(draft: Path) -> _Found:
        with _temporary_files_in(draft.parent) as folder:
            whole = Path(folder) / "float.onnx"
            fill(whole, model, path, images, metadata or {})
            _quantise(whole, draft, path, calibration, metadata or {})
            return judge(OnnxNetwork(whole), OnnxNetwork(draft))

    with in_eval_mode(model):
        return write_atomically(path, write, replace=replace)


@contextmanager
def _temporary_files_in(draft: Path) -> Iterator[str]:
    """A folder in that of the draft, for onnxruntime's temporary files too: of a killed command nothing stays."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(dir=draft) as folder:
        tempfile.tempdir = folder
        try:
            yield folder
        finally:
            tempfile.tempdir = before


def _quantise(
    whole: Path, file: Path, path: str | Path, calibration: Iterable[Tensor], metadata: Mapping[str, str]
) -> None:
    """Round a float32 ONNX file into `file`, and try it. Raises OutputError, or DataError without images."""
    first, batches = with_one_alone(calibration, path)
    try:
        with quiet():
            _round(_prepared(whole), file, batches, metadata)
        session = OnnxNetwork(file)
        odd = [len(batch) for batch in (first[:1], first) if not bool(session(batch).isfinite().all())]
    except DataError:  # of the images
        raise
    except Exception as error:  # onnxruntime has many error types of its own
        raise OutputError(
            f"{path}: not written, because onnxruntime cannot quantise this network ({first_line(error)}); leave out "
            "--int8, or try another version of onnxruntime"
        ) from error
    if odd:
        raise OutputError(f"{path}: not written, because the network's logits in int8 are not finite; leave out --int8")


def _prepared(whole: Path) -> Path:
    """With the shapes of all tensors and operators fused, as onnxruntime asks for before it quantises."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = whole.with_name("prepared.onnx")
    try:
        quant_pre_process(whole, ready)
    except Exception:  # its symbolic inference does not know all operators, and is not needed for most networks
        quant_pre_process(whole, ready, skip_symbolic_shape=True)
    return ready


def _round(ready: Path, file: Path, batches: Iterable[Tensor], metadata: Mapping[str, str]) -> None:
    """Write `file`, with `metadata` alone: onnxruntime adds notes of its own."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.contiguous().numpy()}

    quantize_static(
        ready,
        file,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )
    made = onnx.load(file)
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, dict(metadata))
    onnx.save(made, file)
