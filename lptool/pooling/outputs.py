"""What a pooling is about to do: where its files go, and how much it scores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lptool.checkpoints.containers import PACKED
from lptool.checkpoints.places import WEIGHTS, check_output, check_place, is_folder
from lptool.checkpoints.reading import open_checkpoint
from lptool.checkpoints.writing import DENSE, Form
from lptool.errors import CheckpointError, OutputError
from lptool.pooling.catalogue import methods_of, mixes_at_most
from lptool.pooling.fingerprint import control_key, fingerprint, key_of
from lptool.pooling.journal import check_journal, journal_of
from lptool.pooling.setup import Bench, PoolOptions


def outputs_of(
    bench: Bench, targets: Sequence[int], out: str | Path, *, form: Form = DENSE, overwrite: bool
) -> list[Path]:
    """Where the pooled model of each target goes; refuses, before any search, what must not be written.

    What `is_folder` takes for one is a folder in the Hugging Face layout. With target `all` one file per level:
    `STEM_level_NN.safetensors` beside `out`, or in it where that is no name of such a file. A file that this very
    search wrote, its weights to the bit, may be there already and is written again.

    Raises:
        OutputError: an output exists, is an input, or cannot be written; or the journal beside it is of another search.
    """
    folder = is_folder(out) and bench.options.target != "all"
    outputs = [_output_for(Path(out), bench.pool.level(target), bench.options.target) for target in targets]
    twice = {str(output) for output in outputs if outputs.count(output) > 1}
    if twice:
        raise OutputError(
            f"{', '.join(sorted(twice))}: two tickets have this level; pool them one by one with --target"
        )
    for target, output in zip(targets, outputs, strict=True):
        now = fingerprint(bench, target)
        again = may_replace(output, key_of(now, bench.options), form, overwrite=overwrite)
        check_place(output, bench.inputs, folder=folder, overwrite=again)
        check_journal(journal_of(output), now, overwrite=overwrite)
    return outputs


def controls_of(
    bench: Bench, targets: Sequence[int], control: Path | None, outputs: Sequence[Path], *, form: Form, overwrite: bool
) -> list[Path | None]:
    """Where the control of each target goes, named as `outputs_of` names outputs; None where none is asked for.

    A control that this very search wrote may be there already and is written again.

    Raises:
        OutputError: a control exists, is an input, an output or in one, or cannot be written.
    """
    if control is None:
        return [None] * len(targets)
    places = [_output_for(control, bench.pool.level(target), bench.options.target) for target in targets]
    for target, place in zip(targets, places, strict=True):
        check_apart(place, outputs, "--control")
        key = control_key(key_of(fingerprint(bench, target), bench.options))
        again = may_replace(place, key, form, overwrite=overwrite)
        check_output(place, bench.inputs, overwrite=again)
    return list(places)


def check_apart(place: Path, outputs: Sequence[Path], option: str) -> None:
    """Refuse what would be written over an output, or into one that is a folder. Raises OutputError."""
    taken, real = {os.path.realpath(output) for output in outputs}, Path(os.path.realpath(place))
    if taken & {str(real), *map(str, real.parents)}:
        raise OutputError(f"{place}: is the output or lies in it; choose another {option}")


def may_replace(output: Path, key: str, form: Form, *, overwrite: bool) -> bool:
    """Whether what is at `output` may be replaced: as the user says, else where the search with this key wrote it."""
    return overwrite or is_of(output, key, form)


def is_of(output: Path, key: str, form: Form) -> bool:
    """Whether the file, or that in the folder, was written by the search with this key in this form, as it is now."""
    file = output / WEIGHTS if output.is_dir() else output
    if output.is_symlink() or file.is_symlink() or not file.is_file():
        return False
    try:
        checkpoint = open_checkpoint(file)
        trace, packed = checkpoint.metadata.trace, checkpoint.contents.format == PACKED
        of_this = trace.get("search") == key and packed == form.packed
        return of_this and trace.get("weights") == form.digest(checkpoint.summary.weights)
    except CheckpointError:  # none of ours
        return False


def _output_for(out: Path, level: int, target: str) -> Path:
    if target != "all":
        return out
    if out.suffix == ".safetensors":
        return out.with_name(f"{out.stem}_level_{level:02d}.safetensors")
    return out / f"level_{level:02d}.safetensors"


def evaluations_at_most(options: PoolOptions, tickets: int) -> int:
    """States that one search scores: the target twice (once without BN recalibration) and every mix."""
    names = methods_of(options.method)
    return 1 + (options.bn_images != "none") + mixes_at_most(names, tickets, options.alphas, options.passes)
