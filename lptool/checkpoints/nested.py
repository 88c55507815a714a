"""Where weights and masks lie in a PyTorch file: found by usual names, or named by the user as a dotted path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lptool.errors import CheckpointError, first_ten, one_line

HELP = "see docs/checkpoints.md"
_DEEPEST = 4  # dictionaries in one another, in which masks are looked for
_MASK_KEY = re.compile(r"(.*_)?masks?(_dict|_state_dict)?", re.IGNORECASE)  # masks, pruning_mask, mask_dict, …


@dataclass(frozen=True)
class Keys:
    """Where a PyTorch file keeps its weights and its masks, as dotted paths; None where lptool is to look for them.

    >>> at({"run": {"ema": 1}}, Keys(state="run.ema").state, "--state-key", "a.pt")
    1
    """

    state: str | None = None
    mask: str | None = None


USUAL = Keys()


def at(content: Any, path: str | None, option: str, file: str) -> Any:
    """What lies at a dotted path; all of it for None. Keys may have dots themselves, and lists go by number.

    Raises:
        CheckpointError: nothing lies there; says what there is.
    """
    found = content if not path else next(_at(content, path.split(".")), None)
    if found is None:
        there = sorted(map(str, content)) if isinstance(content, Mapping) else [type(content).__name__]
        raise CheckpointError(
            f"{file}: holds nothing at {option} {one_line(path or '')}; "
            f"found {one_line(first_ten(there, ', ')) or 'nothing'}; {HELP}"
        )
    return found


def _at(content: Any, parts: Sequence[str]) -> Iterator[Any]:
    """What lies at a path in parts, several of which may make a key."""
    if not parts:
        yield content
    if isinstance(content, list | tuple):
        content = {str(place): inner for place, inner in enumerate(content)}
    if isinstance(content, Mapping):
        keys = {count: ".".join(parts[:count]) for count in range(len(parts), 0, -1)}
        for count, key in keys.items():
            if key in content:
                yield from _at(content[key], parts[count:])


def masks_in(content: Any, keys: Keys, file: str) -> tuple[str, Any] | None:
    """The place of the masks in a file, and what lies there, as it is; None where nothing is called masks.

    Raises:
        CheckpointError: nothing lies at the key that the user names.
    """
    if keys.mask is not None:
        return keys.mask, at(content, keys.mask, "--mask-key", file)
    return next(_called_masks(content, "", set()), None)


def _is_of_sparsifier(content: Any) -> bool:
    """Whether it is the `state` of a sparsifier of torch.ao.pruning: {weight name: {"mask": …}}."""
    inner = list(content.values()) if isinstance(content, Mapping) else []
    return bool(inner) and all(isinstance(value, Mapping) and "mask" in value for value in inner)


def _called_masks(content: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Outer ones first; what is full of tensors is a state dict, and is not looked into."""
    if not isinstance(content, Mapping) or id(content) in seen or path.count(".") > _DEEPEST:
        return
    seen.add(id(content))  # a dictionary may hold itself
    inner = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, dict | list)}
    yield from ((f"{path}{key}", value) for key, value in inner.items() if _MASK_KEY.fullmatch(key) and value)
    yield from ((f"{path}{key}", value) for key, value in inner.items() if _is_of_sparsifier(value))
    for key, value in inner.items():
        yield from _called_masks(value, f"{path}{key}.", seen)
