"""What pooling one target comes to, in words that other code asks for."""

from dataclasses import replace

import pytest

from lptool.pooling.result import PoolResult


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("shipped", ["pooled", "ticket"])
def test_only_a_mix_that_is_written_is_an_improvement(result: PoolResult, shipped: str, accepted: bool) -> None:
    steps = tuple(replace(step, accepted=accepted) for step in result.trace.steps)
    found = replace(result, shipped=shipped, trace=replace(result.trace, steps=steps))
    assert found.improved is (shipped == "pooled" and accepted)
