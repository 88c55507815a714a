"""What tells one network and its images from another's of the same name, as documents say it; torch is not imported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lptool.provenance import arch_name
from lptool.report.documents import Part, is_number

# Of means and standard deviations of pixels in [0, 1], which vary where another part of the images was measured, as by
# another `split_seed`.
NEAR = 0.01


@dataclass(frozen=True)
class Setting:
    """What networks were built with, and what their images were normalised by.

    Attributes:
        arguments: of the architecture, as JSON.
        normalisation: means and standard deviations per channel, of images scaled to [0, 1].
    """

    arguments: str
    normalisation: tuple[float, ...]

    @classmethod
    def of(cls, model: Part) -> Setting | None:
        """Of a pooled model, or of a file that was evaluated; None where an older document does not say it.

        Raises:
            DocumentError: it is said in another way.
        """
        if not (model.has("arch_kwargs") and model.has("normalisation")):
            return None
        arguments, normalised = model.within("arch_kwargs").part, model.within("normalisation")
        numbers = (normalised.get(part, _are_numbers, "a list of numbers") for part in ("mean", "std"))
        return cls(json.dumps(arguments, sort_keys=True), tuple(float(number) for part in numbers for number in part))

    @classmethod
    def of_both(cls, a: Part, b: Part) -> Setting | None:
        """Of a file, and of the one it is beside what differs: its architecture too, which stands nowhere else.

        Raises:
            DocumentError: it is said in another way.
        """
        mine, other = cls.of(a), cls.of(b)
        if mine is None or other is None:
            return None
        first, second = json.loads(mine.arguments), json.loads(other.arguments)
        named = {"arch": a.name("arch", arch_name)} | first, {"arch": b.name("arch", arch_name)} | second
        odd = {key: named[1].get(key) for key in named[0] | named[1] if named[0].get(key) != named[1].get(key)}
        both = first | {f"other {key}": value for key, value in odd.items()}
        return cls(json.dumps(both, sort_keys=True), mine.normalisation + other.normalisation)

    def alike(self, other: Setting) -> bool:
        """Whether runs of both can be repetitions."""
        same = self.arguments == other.arguments and len(self.normalisation) == len(other.normalisation)
        return same and all(abs(a - b) <= NEAR for a, b in zip(self.normalisation, other.normalisation, strict=True))

    def words(self) -> dict[str, Any]:
        """By name; that of the normalisation has a space, which no argument has."""
        arguments: dict[str, Any] = json.loads(self.arguments)
        return arguments | {"image normalisation": [round(value, 4) for value in self.normalisation]}


def _are_numbers(found: Any) -> bool:
    return isinstance(found, list) and all(map(is_number, found))
