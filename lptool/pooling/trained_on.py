"""The images that tickets were trained on, split as they were then; others would flatter the scores."""

from __future__ import annotations

from collections.abc import Sequence

from lptool.checkpoints.pool import Pool
from lptool.checkpoints.summary import Summary
from lptool.data.dataset import Data
from lptool.errors import DataError, one_line, said_by
from lptool.evaluation.setting import (
    SettingOptions,
    check_image_shape,
    check_normalisation,
    matching_data,
    measured_note,
    naming_data,
    normalisation_of,
)


def data_of(
    pool: Pool, options: SettingOptions, val_fraction: float | None, split_seed: int | None
) -> tuple[Data, list[str]]:
    """The data the tickets were trained on, split as it was then; warnings of what was assumed of it.

    Raises:
        DataError: val would hold images that the tickets were trained on, or images do not fit the network.
    """
    normalisation = normalisation_of(pool.summaries, options.mean, options.std)
    place = (options.dataset, options.data_dir)
    data = matching_data(pool.summaries, *place, normalisation, val_fraction, split_seed)
    source = next((summary.file for summary in naming_data(pool.summaries)), None)
    with said_by(None if options.mean or options.std else source):
        check_normalisation(data)
    check_image_shape(data, pool.summaries)
    _check_unseen(data, pool.summaries)
    unknown = "does not say which images it was trained on; if val's are among them, its scores are flattered"
    # One line is enough: the tickets are of one run, and mostly of one program.
    assumed = [f"{s.file} {unknown}" for s in pool.summaries if not s.metadata.dataset][:1]
    return data, [*data.notes, *assumed, *[measured_note(data)] * (normalisation is None)]


def _check_unseen(data: Data, summaries: Sequence[Summary]) -> None:
    """Refuse data of another split than the tickets say they were trained on."""
    for summary in naming_data(summaries):
        name, then, now = summary.metadata.data.name, summary.metadata.data.split, data.split
        # Val is the same images by its indices, and by the labels where both are known.
        if then.hash != now["hash"] or (None not in (then.labels, now["labels"]) and then.labels != now["labels"]):
            raise DataError(
                f"{summary.file}: was trained on another split of {one_line(str(name))}, so val would "
                "hold images it has seen; use its data set and leave out --val-fraction and --split-seed"
            )
