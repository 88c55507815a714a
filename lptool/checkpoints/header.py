"""The documents in a ticket's header as typed values: what is sound of them, and None or nothing for the rest.

A header may come from another program or a later lptool, lack any part, and hold anything anywhere. What is typed here
is read; what is written again is the document itself, whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

AUGMENTS = ("crop", "resized-crop")  # the words of training, here for all rooms that read or write them
FLIPS = ("auto", "yes", "no", "alternate")
BN_IMAGES = ("auto", "plain", "augmented", "none")  # what BatchNorm may be recalibrated on
CONTROLS = ("ticket", "ticket_bn")
ROWS = {"ticket": "ticket", "ticket_bn": "ticket + BN", "pooled": "pooled"}  # as people read them
CONTROL = "control"  # in place of a method, in the header of a control that was written beside a pooled model
VERDICTS = ("helped", "within chance", "hurt")
# What BatchNorm statistics of a pooled model were measured on, where they were measured again.
MEASURED_ON = {"plain": "training images as they are", "augmented": "training images augmented as in training"}
_LARGEST = 1e15  # of a number that means something here; JSON knows integers of any length

Typed = TypeVar("Typed")


@dataclass(frozen=True)
class Split:
    """How val was held out: a `fraction` in (0, 1) chosen by a `seed`; digests of its indices and of all labels."""

    fraction: float | None
    seed: int | None
    hash: str | None
    labels: str | None


@dataclass(frozen=True)
class DataSet:
    """The data that a ticket was trained on; lists are empty where the header does not say.

    Attributes:
        name: as `load_data` takes it.
        class_names: in the order of the logits.
        image_shape: channels, height and width in pixels.
        mean, std: per channel, of images scaled to [0, 1].
    """

    name: str | None
    num_classes: int | None
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split: Split

    @property
    def is_of_arrays(self) -> bool:
        """Whether its images come as arrays of pixels, all of one size, and not as pictures of any."""
        name = self.name or ""
        return name.startswith("npz:") or (name != "" and not set(name) & set(":/"))


@dataclass(frozen=True)
class TimmImages:
    """What timm's `config.json` says of images and classes; None or nothing where it does not say.

    Attributes:
        input_size: channels, height and width in pixels.
        mean, std: per channel, of images scaled to [0, 1].
        interpolation, crop_pct, crop_mode: how pictures become images of that size, in timm's words.
        label_names: in the order of the logits.
    """

    input_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str | None
    crop_pct: float | None
    crop_mode: str | None
    label_names: tuple[str, ...]


@dataclass(frozen=True)
class Training:
    """How images were augmented in training, in the words of `TrainOptions`."""

    augment: str | None
    crop_padding: int | None
    flip: str | None


@dataclass(frozen=True)
class Member:
    """A ticket of the pool: its file, without a folder where lptool wrote it, and the digest of that.

    `alpha` is in [0, 1] as a rule.
    """

    file: str | None
    sha256: str | None
    level: int | None
    alpha: float | None
    accepted: bool | None


@dataclass(frozen=True)
class Shares:
    """What each group of tensors takes of each ticket, densest first: `values[group][ticket]`; at least one each."""

    groups: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Verdict:
    """Whether a pooled model helped, on test, against the better of its controls on val.

    Attributes:
        word: one of VERDICTS. against: the control, `ticket` or `ticket_bn`.
        gain: in accuracy. p: of the exact McNemar test. n_val, n_test: images.
        nll_rise: how much higher the mean NLL is on val, in nats; nll_error: the standard error of that, over images.
            None where one is not finite.
    """

    word: str
    against: str
    gain: float
    p: float
    n_val: int
    n_test: int
    nll_rise: float | None
    nll_error: float | None


@dataclass(frozen=True)
class SearchRecord:
    """How a pooled model was found.

    Attributes:
        method, chosen: what was asked for, and what that took in the end.
        members: the candidates in the order in which the search took them.
        shipped: `pooled`, or the control written in its place: `ticket` or `ticket_bn`.
        verdict: None in older files.
        evaluations: states scored on val.
        bn_images: `plain`, `augmented` or `none`. bn_recalibration: older files say only whether there was any.
    """

    method: str | None
    chosen: str | None
    target: Member
    members: tuple[Member, ...]
    coefficients: Shares | None
    shipped: str | None
    verdict: Verdict | None
    evaluations: int | None
    bn_images: str | None
    bn_recalibration: bool | None

    @property
    def is_control(self) -> bool:
        """Whether nothing was pooled: the file is what a pooled model is compared with."""
        return self.method == CONTROL

    @property
    def tickets(self) -> list[str]:
        """Digests of the files that it is known to be made of or beside, sorted; none where the header lacks them."""
        return sorted({ticket.sha256 for ticket in (self.target, *self.members) if ticket.sha256})

    @property
    def measured(self) -> str | None:
        """`bn_images`, also of older files, which knew training images as they are alone."""
        return self.bn_images or {True: "plain", False: "none", None: None}[self.bn_recalibration]


@dataclass(frozen=True)
class SavedScore:
    """A score of the header: `accuracy` in [0, 1] over `n` images, one at least, and the mean NLL where it is known."""

    accuracy: float
    nll: float | None
    n: int


def typed(kind: type[Typed], document: Any) -> Typed:
    """Each field from the key of its name, where the value is of the field's type. Raises nothing.

    >>> typed(Member, {"file": "a.safetensors", "level": "3", "search": "0f"})
    Member(file='a.safetensors', sha256=None, level=None, alpha=None, accepted=None)
    """
    found = _object(document)
    return kind(**{f.name: _READ[str(f.type)](found.get(f.name)) for f in fields(kind)})  # type: ignore[arg-type]


def score_in(scores: dict[str, Any], part: str, row: str) -> SavedScore | None:
    """A score of `val` or `test`, in the row `ticket`, `ticket_bn` or `pooled`; None where it is no such thing."""
    found = _object(_object(scores.get(part)).get(row))
    accuracy, n = _number(found.get("accuracy")), whole_number(found.get("n"))
    if accuracy is None or n is None or not 0 <= accuracy <= 1 or n <= 0:
        return None
    return SavedScore(accuracy, _number(found.get("nll")), n)


def whole_number(value: Any) -> int | None:
    """A whole number that means something; True is none."""
    return value if type(value) is int and abs(value) < _LARGEST else None


def _number(value: Any) -> float | None:
    """A finite number, whole or not, as it stands in the file."""
    return value if type(value) in (int, float) and abs(value) < _LARGEST else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _instance(kind: type[Typed], value: Any) -> Typed | None:
    return value if isinstance(value, kind) else None


def _all(read: Callable[[Any], Typed | None], values: Any) -> tuple[Typed, ...]:
    """The values of a list; none of them where one is odd."""
    found = tuple(map(read, values)) if isinstance(values, list | tuple) else ()
    return () if None in found else found  # type: ignore[return-value]


def _members(values: Any) -> tuple[Member, ...]:
    """The objects of a list; what else is in it is left out."""
    return tuple(typed(Member, value) for value in _instance(list, values) or () if isinstance(value, dict))


def _split(value: Any) -> Split:
    found = typed(Split, value)
    return found if found.fraction is None or 0 < found.fraction < 1 else replace(found, fraction=None)


def _shares(value: Any) -> Shares | None:
    """None where it is no whole table of numbers."""
    groups = _READ["tuple[str, ...]"](_object(value).get("groups"))
    values = _all(lambda row: _READ["tuple[float, ...]"](row) or None, _object(value).get("values"))
    whole = values and len(values) == len(groups) and len(set(map(len, values))) == 1
    return Shares(groups, values) if whole else None


def verdict_in(value: Any) -> Verdict | None:
    """None where anything but what is said of the NLL is missing or odd. Raises nothing."""
    found = _object(value)
    known = found.get("word") in VERDICTS and found.get("against") in CONTROLS
    numbers = {name: _number(found.get(name)) for name in ("gain", "p", "nll_rise", "nll_error")}
    counts = {name: whole_number(found.get(name)) for name in ("n_val", "n_test")}
    gain, p = numbers["gain"], numbers["p"]
    sound = known and gain is not None and abs(gain) <= 1 and p is not None and 0 <= p <= 1
    if not sound or not all(count is not None and count > 0 for count in counts.values()):
        return None
    return Verdict(found["word"], found["against"], **numbers, **counts)  # type: ignore[arg-type]


# From the type of a field, as it is written above, to what reads it.
_READ: dict[str, Callable[[Any], Any]] = {
    "str | None": partial(_instance, str),
    "bool | None": partial(_instance, bool),
    "int | None": whole_number,
    "float | None": _number,
    "tuple[str, ...]": partial(_all, partial(_instance, str)),
    "tuple[int, ...]": partial(_all, whole_number),
    "tuple[float, ...]": partial(_all, _number),
    "Split": _split,
    "Member": partial(typed, Member),
    "tuple[Member, ...]": _members,
    "Shares | None": _shares,
    "Verdict | None": verdict_in,
}
