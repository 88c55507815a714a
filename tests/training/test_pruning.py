"""How many weights each level keeps, and which."""

import pytest
import torch
from torch import Tensor

from lptool.checkpoints.masks import kept_count, sparsity
from lptool.errors import TrainError
from lptool.training.pruning import next_mask, planned_counts
from tests.helpers.masks import is_nested

SHAPES = {"a": (40, 5), "b": (10, 10), "c": (300,)}
TOTAL = 600


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scales = {"a": 1.0, "b": 10.0, "c": 0.1}  # so that global pruning empties c long before b
    found = {name: torch.randn(shape, generator=generator) * scales[name] for name, shape in SHAPES.items()}
    return found | {"other": torch.zeros(3)}


def dense() -> dict[str, Tensor]:
    return {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_each_level_keeps_its_share_within_the_level_before(scope: str) -> None:
    mask, kept = dense(), TOTAL
    for level in range(1, 8):
        before, mask = mask, next_mask(weights(level), mask, level, 7, 0.2, scope)
        kept = round(kept * 0.8)
        assert is_nested(mask, before)
        assert mask.keys() == SHAPES.keys()
        assert abs(kept_count(mask) - kept) <= (0 if scope == "global" else 3 * level), "rounded in each layer"


def test_global_takes_the_largest_of_all_and_layer_the_largest_of_each() -> None:
    state = weights()
    everything = torch.cat([state[name].flatten() for name in SHAPES]).abs().sort(descending=True).values
    found = next_mask(state, dense(), 1, 1, 0.5, "global")
    for name, kept in found.items():
        assert torch.equal(kept, state[name].abs() >= everything[TOTAL // 2 - 1])
    for name, kept in next_mask(state, dense(), 1, 1, 0.5, "layer").items():
        by_size = state[name].flatten().abs().sort(descending=True).values
        assert torch.equal(kept, state[name].abs() >= by_size[kept.numel() // 2 - 1])


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_sparsities_asked_for_are_reached(scope: str) -> None:
    asked = (0.3, 0.35, 0.9)
    mask = dense()
    for level, expected in enumerate(asked, start=1):
        mask = next_mask(weights(level), mask, level, asked, 0.2, scope)
        assert sparsity(mask) == pytest.approx(expected, abs=1e-12 if scope == "global" else 2 / TOTAL)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("levels", [7, (0.3, 0.35, 0.9)])
def test_the_counts_are_known_before(scope: str, levels: int | tuple[float, ...]) -> None:
    mask, kept = dense(), [TOTAL]
    for level in range(1, (levels if isinstance(levels, int) else len(levels)) + 1):
        mask = next_mask(weights(level), mask, level, levels, 0.2, scope)
        kept.append(kept_count(mask))
    sizes = {name: found.numel() for name, found in dense().items()}
    assert planned_counts(sizes, levels, 0.2, scope) == kept
    with pytest.raises(TrainError, match="level 1: pruning would leave none of"):
        planned_counts(sizes, (0.9999,), 0.2, scope)


def test_nothing_left_is_refused_by_name() -> None:
    with pytest.raises(TrainError, match="level 1: pruning would leave none of the weights"):
        next_mask(weights(), dense(), 1, (0.9999,), 0.2, "global")
    uneven = dense() | {"b": torch.zeros(10, 10, dtype=torch.bool)}
    with pytest.raises(TrainError, match="level 3: pruning would leave none of b"):
        next_mask(weights(), uneven, 3, 4, 0.2, "layer")
