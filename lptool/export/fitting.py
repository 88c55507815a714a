"""The form of a file that is to have no more than so many bytes: the best on val of those that fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lptool.checkpoints.packed import PackError
from lptool.checkpoints.ticket import Ticket
from lptool.checkpoints.writing import Form, check_finite, forms_from_whole
from lptool.errors import LptoolError, OutputError
from lptool.evaluation.setting import SettingOptions
from lptool.export.accuracy import Gauge
from lptool.scoring.score import Score


@dataclass(frozen=True)
class Fitting:
    """The form chosen, with `most` set, and why, in a few words; warnings."""

    form: Form
    reason: str
    warnings: tuple[str, ...] = ()


def fitting_form(
    source: Path, sha256: str, ticket: Ticket, output: Path, form: Form, most: int, options: SettingOptions
) -> Fitting:
    """The form of a `.safetensors` of at most `most` bytes: whole weights where they fit, else what is best on val.

    Of equally good ones it is the least shortened; also where the images cannot be had.

    Args:
        source: the file that the ticket came from. sha256: of it, then. ticket: as it is written. output: for messages.
        form: what is asked for already: packed, or the type of the weights.

    Raises:
        OutputError: no form is small enough; says the smallest that there is.
    """
    check_finite(ticket, output)
    sizes = sizes_in(forms_from_whole(replace(form, most=most)), ticket, output)
    fitting = [each for each, size in sizes.items() if size <= most]
    if not fitting:
        smallest = min(sizes, key=sizes.__getitem__)
        raise OutputError(
            f"{output}: not written, because no form of it has {most:,} bytes or less; the smallest, {smallest}, has "
            f"{sizes[smallest]:,}: allow so many, or convert a sparser file"
        )
    whole = [each for each in fitting if not each.values]
    if whole or len(fitting) == 1:
        return Fitting((whole or fitting)[0], "weights to the bit" if whole else "the only form that fits")
    try:
        gauge = Gauge.opened(source, options, sha256, with_val=True)
        scores = {each: gauge.val_of(each.as_read(ticket)) for each in fitting}
    except LptoolError:  # which is told of where accuracy before and after is not known
        return Fitting(fitting[0], "the least shortened that fits")
    return Fitting(best_on_val(scores), "the best on val of those that fit", gauge.notes)


def best_on_val(scores: dict[Form, Score]) -> Form:
    """The form with most images right; of equally good ones the first."""
    return max(scores, key=lambda form: scores[form].correct)


def sizes_in(forms: list[Form], ticket: Ticket, output: Path) -> dict[Form, int]:
    """The bytes of the file in each form that can hold the weights. Raises OutputError where none can."""
    sizes, failed = dict[Form, int](), ""
    for form in forms:
        try:
            sizes[form] = form.size(ticket)
        except PackError as error:
            failed = str(error)
    if not sizes:
        raise OutputError(f"{output}: not written: {failed}")
    return sizes
