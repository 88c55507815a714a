"""Val is what the tickets were not trained on."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lptool.checkpoints.reading import load_pool
from lptool.errors import DataError
from lptool.evaluation.setting import SettingOptions
from lptool.pooling.trained_on import data_of


def test_the_split_is_that_of_the_training(tickets: list[Path]) -> None:
    pool = load_pool(tickets)
    data, assumed = data_of(pool, SettingOptions(), None, None)
    then = pool.summaries[0].metadata.data
    assert (data.name, data.split["hash"], assumed) == ("digits", then.split.hash, [])
    assert torch.equal(torch.tensor(data.mean), torch.tensor(then.mean))


@pytest.mark.parametrize("other", [(0.1, None), (None, 7)])
def test_another_split_is_refused(tickets: list[Path], other: tuple[float | None, int | None]) -> None:
    with pytest.raises(DataError, match=r"level_00\.safetensors: was trained on another split of digits"):
        data_of(load_pool(tickets), SettingOptions(), *other)


def test_tickets_that_do_not_say_may_have_seen_val_and_the_line_says_so(tickets: list[Path], tmp_path: Path) -> None:
    for path in tickets:
        save_file(load_file(path), tmp_path / path.name)
    data, assumed = data_of(load_pool(tmp_path), SettingOptions(dataset="digits"), 0.5, 0)
    assert len(data.val) == 719
    assert [("flattered" in line, "normalised as measured" in line) for line in assumed] == [
        (True, False),
        (False, True),
    ]
