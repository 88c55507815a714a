"""One file made into another form: dense, packed, a Hugging Face folder, ONNX, a program, keys of `prune`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lptool.checkpoints.finding import checkpoint_file
from lptool.checkpoints.masks import sparsity
from lptool.checkpoints.metadata import Metadata
from lptool.checkpoints.places import WEIGHTS, check_folder, check_output, is_folder
from lptool.checkpoints.reading import file_sha256
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import Form, Sizes, sizes_of
from lptool.errors import OutputError
from lptool.evaluation.setting import SettingOptions
from lptool.export.accuracy import Change
from lptool.export.fitting import Fitting, fitting_form
from lptool.export.folder import for_folder
from lptool.export.onnx import PACKAGES
from lptool.export.source import complete, with_masks_of
from lptool.export.writers import WRITERS, Found, Job
from lptool.networks.onnx_file import check_packages

_KINDS = {".safetensors": "dense", ".onnx": "onnx", ".pt2": "program", ".pt": "prune keys"}


@dataclass(frozen=True)
class Conversion:
    """One file as written.

    Attributes:
        kind: `dense`, `packed`, `folder`, `onnx`, `program` or `prune keys`.
        sha256: of the file, or of the weights in the folder. bytes: likewise.
        sparsity: in [0, 1]. sizes: of the safetensors files that these weights make.
        plain_names: whether its tensors have the network's own names.
        change, difference, warnings: see `Found`. fitting: the form chosen for a size, where one was asked for.
    """

    source: Path
    output: Path
    kind: str
    sha256: str
    bytes: int
    sparsity: float
    sizes: Sizes
    metadata: Metadata
    plain_names: bool
    change: Change | None = None
    difference: float | None = None
    warnings: tuple[str, ...] = ()
    fitting: Fitting | None = None


def convert(
    source: Path,
    output: str | Path,
    form: Form,
    options: SettingOptions,
    *,
    int8: bool = False,
    max_drop: float | None = None,
    max_size: int | None = None,
    overwrite: bool = False,
    command: str | None = None,
    license: str | None = None,
) -> Conversion:
    """Write a checkpoint of any program in the form that the name of the output asks for.

    Args:
        source: a file, or a folder with one.
        output: `.safetensors` (dense or packed), `.onnx`, `.pt2` (a program of `torch.export`), `.pt` (keys of
            `torch.nn.utils.prune`), or a folder, which a name without a suffix is, and a text that ends in a slash.
        form: of a `.safetensors`.
        options: the architecture and the data, for files that do not say.
        int8: an `.onnx` computes in int8, calibrated on training images.
        max_drop: by how many points shorter values may lower accuracy on val; None allows any loss.
        max_size: how many bytes a `.safetensors` may have; what `form` leaves open is chosen by `fitting_form`.
        command, license: for the model card of a folder.

    Raises:
        CheckpointError: the source cannot be read. OutputError: the output must not or cannot be written, or loses too
            much.
        ArchError, DataError: what is written needs the architecture, and perhaps the data, and they are not known.

    >>> import lptool, torch
    >>> lptool.save_ticket(lptool.Ticket({"w": torch.eye(64)}, {"w": torch.eye(64) == 1}), "dense.safetensors")
    >>> made = lptool.convert(Path("dense.safetensors"), "packed.safetensors", Form(packed=True), SettingOptions())
    >>> made.sizes.dense > 10 * made.sizes.packed
    True
    """
    source = checkpoint_file(source)
    kind, output = _kind(output, form), Path(output)
    _check_usage(kind, output, form, int8=int8, max_drop=max_drop, max_size=max_size)
    _check(kind, source, output, overwrite=overwrite)
    ticket, sha256, warnings = complete(source, options, needs_arch=kind in ("folder", "onnx", "program"))
    unsaid = _unsaid(kind, ticket)
    ticket = _as_kind(kind, ticket)
    job = Job(source, sha256, ticket, output, kind, form, options, int8, max_drop, overwrite, command, license)
    if max_size is None:
        return _written(job, (*warnings, *unsaid))
    fitting = fitting_form(source, sha256, ticket, output, form, max_size, options)
    job = replace(job, form=fitting.form, kind="packed" if fitting.form.packed else "dense")
    return replace(_written(job, (*warnings, *fitting.warnings)), fitting=fitting)


def _written(job: Job, warnings: tuple[str, ...]) -> Conversion:
    found = WRITERS[job.kind](job)
    return _described(job, replace(found, warnings=tuple(dict.fromkeys((*warnings, *found.warnings)))))


def _kind(output: str | Path, form: Form) -> str:
    """Raises OutputError where the name does not go with what is asked for."""
    kind = "folder" if is_folder(output) else _KINDS.get(Path(output).suffix)
    if kind is None:
        raise OutputError(
            f"{output}: expected a name that ends in {', '.join(_KINDS)}, or a folder, "
            "whose name has no suffix or ends in /"
        )
    if form.packed and kind != "dense":
        raise OutputError(f"{output}: only a .safetensors file can be packed; leave out --packed, or name one")
    return "packed" if form.packed else kind


def _check_usage(
    kind: str, output: Path, form: Form, *, int8: bool, max_drop: float | None, max_size: int | None
) -> None:
    """Refuse what would do nothing for a file of this kind. Raises OutputError."""
    if int8 and kind != "onnx":
        raise OutputError(f"{output}: only an .onnx file computes in int8; name one, or pack with --values int8")
    if max_size is not None and kind not in ("dense", "packed"):
        raise OutputError(f"{output}: --max-size chooses the form of a .safetensors file; name one")
    if max_drop is not None and not (form.values or int8 or max_size is not None):
        raise OutputError(f"{output}: nothing is shortened, so that --max-drop has nothing to refuse; leave it out")


def _check(kind: str, source: Path, output: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, what must not or cannot be written. Raises OutputError, or SetupError for a package."""
    if kind == "folder":
        check_folder(output, [source], overwrite=overwrite)
    else:
        check_output(output, [source], overwrite=overwrite, suffix=output.suffix)
    if kind == "onnx":
        check_packages(PACKAGES)


def _as_kind(kind: str, ticket: Ticket) -> Ticket:
    """The ticket as a file of this kind holds it."""
    if kind == "prune keys":  # with masks of ones, where its own program goes on with them
        return ticket
    ticket = with_masks_of(ticket.metadata.prunable, ticket)
    return for_folder(ticket) if kind == "folder" else ticket


def _unsaid(kind: str, ticket: Ticket) -> list[str]:
    """A warning of what a file of this kind cannot say."""
    if kind != "folder" or ticket.metadata.dataset:
        return []
    unknown = "does not say its data set, so config.json cannot say its mean and std; name it with --dataset"
    return [f"{ticket.file}: {unknown}"]


def _described(job: Job, found: Found) -> Conversion:
    """What was written, as it lies there."""
    written, ticket = job.output / WEIGHTS if job.kind == "folder" else job.output, job.ticket
    return Conversion(
        source=job.source,
        output=job.output,
        kind=job.kind,
        sha256=file_sha256(written),
        bytes=written.stat().st_size,
        sparsity=sparsity(ticket.mask),
        sizes=sizes_of(ticket),
        metadata=ticket.metadata,
        plain_names=ticket.plain_names,
        **vars(found),
    )
