"""What a pooling is about to do: where its files go, and what its scores depend on."""

from dataclasses import replace
from pathlib import Path

import pytest

from lptool.errors import OutputError
from lptool.pooling.job import pool_target
from lptool.pooling.outputs import outputs_of
from lptool.pooling.setup import PoolOptions, open_bench

QUICK = PoolOptions(method="greedy", alphas=(0.5, 0.9), calibration_size=128, device="cpu")


def test_all_writes_one_file_per_level(tmp_path: Path, tickets: list[Path]) -> None:
    bench = open_bench(tickets, replace(QUICK, target="all"))
    beside = outputs_of(bench, [2, 3], tmp_path / "a.safetensors", overwrite=False)
    assert beside == [tmp_path / "a_level_02.safetensors", tmp_path / "a_level_03.safetensors"]
    assert outputs_of(bench, [2], tmp_path / "d", overwrite=False) == [tmp_path / "d" / "level_02.safetensors"]
    beside[1].touch()
    with pytest.raises(OutputError, match=r"a_level_03.safetensors: exists"):
        outputs_of(bench, [2, 3], tmp_path / "a.safetensors", overwrite=False)


def test_all_goes_on_where_it_was_cut_off(tmp_path: Path, tickets: list[Path]) -> None:
    """Files of targets that were finished are its own, and written again; any other file is refused."""
    options = replace(QUICK, target="all")
    bench = open_bench(tickets, options)
    outputs = outputs_of(bench, [0, 1], tmp_path / "a.safetensors", overwrite=False)
    first = pool_target(bench, 0, outputs[0])
    again = open_bench(tickets, options)
    assert outputs_of(again, [0, 1], tmp_path / "a.safetensors", overwrite=False) == outputs
    assert pool_target(again, 0, outputs[0]).sha256 == first.sha256
    assert again.scorer.images == {"val": 0, "calibration": 0}
    with pytest.raises(OutputError, match=r"a_level_00.safetensors: exists"):
        outputs_of(replace(bench, options=QUICK), [0], outputs[0], overwrite=False)
