"""The classes of a data set beside those that a network tells apart: the same numbers have to mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lptool.checkpoints.header import DataSet
from lptool.data.images import Array
from lptool.errors import DataError, first_ten, one_line

MOST_CLASSES = 1_000_000  # more than any data set has; a label beyond is no class


def names_known(like: DataSet | None) -> tuple[str, ...]:
    """The names of the classes that a header lists; none where it lists two of one name."""
    names = like.class_names if like else ()
    return names if len(set(names)) == len(names) else ()


def named_in_order(where: str, found: Sequence[str], like: DataSet | None) -> tuple[tuple[str, ...], list[str]]:
    """The names of all classes in the order of the network's logits, and what a person should know.

    Args:
        found: the classes of the data, sorted.
        like: what a file says of the data its network was trained on; names in it decide, of which the data may lack
            some.

    Raises:
        DataError: the data have a class that the network does not know; or no names are known, and another count.
    """
    known, count = names_known(like), like.num_classes if like else None
    if not known:
        if count is not None and count != len(found):
            raise DataError(f"{where}: has {len(found)} classes, expected {count}, as the network was trained on")
        return tuple(found), []
    others = [one_line(name) for name in found if name not in known]
    if others:
        lacking = [one_line(name) for name in known if name not in found]
        also = f"; it knows instead: {first_ten(lacking, ', ')}" if lacking else ""
        raise DataError(f"{where}: has classes that the network was not trained on: {first_ten(others, ', ')}{also}")
    same = tuple(found) == known
    note = f"{where}: has {len(found)} of the {len(known)} classes that the network tells apart; matched by name"
    return known, [] if same else [note]


def check_named(names: Sequence[str], logits: int, where: str) -> None:
    """Refuse classes known by name where a network has another number of logits. Raises DataError."""
    if names and len(names) != logits:
        raise DataError(
            f"{where}: has {len(names)} classes, but the network tells {logits} apart, and no file says which "
            "is which; use data with a folder for each of its classes"
        )


def count_of_labels(where: str, labels: Mapping[str, Array], known: int | None) -> int:
    """How many classes there are.

    Args:
        labels: of each part of the data, int64 [N], train first. known: how many a network tells apart, or the source
            says.

    Raises:
        DataError: a label is no class, or class 0 has no training image while nobody says that there is one.
    """
    train = next(iter(labels.values()))
    low, high = int(train.min()), int(train.max())
    if known is None and 0 < low <= high < MOST_CLASSES:
        raise DataError(f"{where}: labels go from {low} to {high}, expected from 0; subtract {low} from all of them")
    count = known or min(high + 1, MOST_CLASSES)
    for part, found in labels.items():
        odd = next((int(end) for end in (found.min(), found.max()) if not 0 <= end < count), None)
        if odd is not None:
            like = "as the network was trained on" if known else "as in train"
            raise DataError(f"{where}: {part} has the class {odd}, expected 0 to {max(count, 1) - 1} {like}")
    return count
