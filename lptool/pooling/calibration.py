"""What BatchNorm is recalibrated on: training images as they are, or augmented as in training.

A ticket's own statistics are those of augmented images, where training augmented them. What training did stands in the
tickets' headers; options say it of files that have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lptool.checkpoints.header import AUGMENTS, BN_IMAGES, FLIPS, Training
from lptool.checkpoints.summary import Summary
from lptool.data.augment import Recipe, recipe_of
from lptool.data.dataset import Data
from lptool.data.images import Images
from lptool.errors import PoolError, listed

Words = tuple[str, int | None, str]  # augment, crop padding and flip, as options of a training have them
USUAL: Words = ("crop", None, "auto")
TRIED = ("none", "plain", "augmented")  # where nothing is known; of equally good ones the first, the least change


@dataclass(frozen=True)
class Calibration:
    """How the images for BN recalibration are made, for the search and for the finished model alike.

    Attributes:
        mode: `plain`, `augmented`, `none`, or `auto` where that is still to be tried on val.
        recipe: how training augmented its images; the usual crops and flips where that is not `known`.
        shape: of an image, [C, H, W]. seed: of the draw.
    """

    mode: str
    recipe: Recipe
    known: bool
    shape: tuple[int, int, int]
    seed: int

    @property
    def used(self) -> str:
        """The mode; what nobody has decided is `plain`."""
        return "plain" if self.mode == "auto" else self.mode

    def images(self, train: Images) -> Images:
        """Training images as BatchNorm is recalibrated on them."""
        return self._augmented(train) if self.mode == "augmented" else train

    def as_trained(self, train: Images) -> Images:
        """Training images as training saw them, as far as that is known."""
        return self._augmented(train) if self.known else train

    def _augmented(self, train: Images) -> Images:
        return self.recipe.augmented(train, self.shape, self.seed)


def check_training(bn_images: str, augment: str | None, crop_padding: int | None, flip: str | None) -> None:
    """Refuse options that are no words of these. Raises PoolError."""
    if bn_images not in BN_IMAGES:
        raise PoolError(f"expected {listed(BN_IMAGES)}, found {bn_images!r}", "bn_images")
    for name, found, known in (("augment", augment, AUGMENTS), ("flip", flip, FLIPS)):
        if found not in (None, *known):
            raise PoolError(f"expected {listed(known)}, found {found!r}", name)
    if crop_padding is not None and crop_padding < 0:
        raise PoolError(f"expected 0 or more, found {crop_padding}", "crop_padding")
    if augment == "resized-crop" and crop_padding is not None:
        raise PoolError("resized-crop does not use it; leave it out", "crop_padding")


def calibration_of(
    bn_images: str, asked: Training, summaries: Sequence[Summary], data: Data, seed: int, *, has_bn: bool
) -> tuple[Calibration, list[str]]:
    """What is asked for, decided as far as headers and options go; and warnings of what was assumed.

    Args:
        asked: what options say of the training, over the tickets' headers. has_bn: whether the network has BatchNorm.

    Raises:
        PoolError: augmented images where training had none, or options that contradict the headers.
    """
    training = _training(asked, summaries, data.shape[1])
    known, shape = training is not None, data.shape
    recipe = recipe_of(*(training or USUAL), dataset=data.name, shape=shape)
    mode, warnings = bn_images, list[str]()
    if not has_bn:
        mode = "none"
    elif mode == "auto" and known:
        mode = "augmented" if recipe.changes else "plain"
    elif mode == "augmented" and not known:
        warnings = [_supposed(recipe)]
    elif mode == "augmented" and not recipe.changes:
        raise PoolError(
            "the tickets were trained on images as they are; take plain, or say how they were augmented with "
            "--augment, --crop-padding or --flip",
            "bn_images",
        )
    return Calibration(mode, recipe, known, shape, seed), warnings


def _supposed(recipe: Recipe) -> str:
    flips = "and flips" if recipe.flip else "without flips"
    return (
        f"how the tickets' images were augmented is not known; taking random crops with {recipe.crop_padding} "
        f"pixels of padding {flips} (name them with --augment, --crop-padding and --flip)"
    )


def _training(asked: Training, summaries: Sequence[Summary], side: int) -> Words | None:
    """What options say, over what the first header says that says it soundly; None where neither says anything."""
    headers = (summary.metadata.training for summary in summaries)
    said = next((found for found in headers if _sound(found, side)), None)
    if said is None and asked == Training(None, None, None):
        return None
    said = said or Training(None, None, None)
    augment = asked.augment or said.augment or "crop"
    if asked.crop_padding is not None and augment == "resized-crop":
        raise PoolError("resized crops, which the tickets were trained with, have none; leave it out", "crop_padding")
    padding = said.crop_padding if asked.crop_padding is None else asked.crop_padding
    if padding is not None and padding > side:
        raise PoolError(f"expected at most {side} pixels, the side of an image, found {padding}", "crop_padding")
    return augment, padding, asked.flip or said.flip or "auto"


def _sound(found: Training, side: int) -> bool:
    """Whether a header says how images were augmented, in words that lptool knows."""
    padding = 0 if found.crop_padding is None else found.crop_padding
    return found.flip in FLIPS and found.augment in (None, *AUGMENTS) and 0 <= padding <= side
