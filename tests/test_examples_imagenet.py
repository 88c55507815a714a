"""`examples/imagenet.sh` is run on two processes and few pictures; docs/imagenet.md is compared with the plan."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from lptool.checkpoints.reading import load_ticket
from lptool.data.dataset import Data
from lptool.data.images import Streamed
from lptool.pooling.outputs import evaluations_at_most
from lptool.pooling.setup import PoolOptions
from lptool.ranks import Ranks
from lptool.training.plan import disk_of, plan_of
from lptool.training.presets import PRESETS, preset
from lptool.training.setup import UNWATCHED, open_run
from tests.helpers import processes
from tests.helpers.pages import ROOT, commands_in
from tests.helpers.processes import on_two_ranks

_TORCHRUN = 'torchrun() { note torchrun "$@"; }'  # its ranks are started here
IMAGENET = 1_281_167  # training images; 50,000 in its val, which is test here


@pytest.fixture(scope="module")
def done(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder RUNS, and what was said on stdout."""
    place, ranks = tmp_path_factory.mktemp("imagenet"), tmp_path_factory.mktemp("ranks")
    (place / "made").mkdir()
    (place / "pictures").mkdir()
    for part in ("train", "val"):  # as ImageNet has them: val is test, and val is made from train
        (place / "pictures" / part).symlink_to(image_folder / part)
    # 4 % of so few images would be one; and bf16 is slow where it is not at home
    given = "set -- --val-fraction 0.25 --precision fp32; DATA=pictures PROCESSES=2 RUNS=made TINY=1"
    script = (ROOT / "examples" / "imagenet.sh").read_text(encoding="utf-8")
    said = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for number, (program, *words) in enumerate(commands_in(f"{given}\n{_TORCHRUN}\n{script}", place)):
            assert (program, *words[:5]) == ("torchrun", "--standalone", "--nproc-per-node", "2", "-m", "lptool")
            first, other = on_two_ranks(ranks / f"{number}-", processes.lptool, *words[5:])
            assert (first.end(), other.end()) == (0, 0), first.stderr
            said += first.stdout
            if words[5] == "evaluate":
                (place / "made" / "imagenet.json").write_text(first.stdout, encoding="utf-8")
    return place / "made", said


def test_the_plan_comes_first_and_the_tickets_are_those_planned(done: tuple[Path, str]) -> None:
    runs, said = done
    plan, _ = json.JSONDecoder().raw_decode(said)
    assert [row["file"] for row in plan["levels"]] == [f"made/imagenet/level_0{level}.safetensors" for level in (0, 1)]
    assert (plan["computing"]["processes"], plan["computing"]["batch_per_process"]) == (2, 3)
    assert (plan["data"]["train"], plan["data"]["val"], plan["data"]["test"]) == (18, 6, 24)
    for row in plan["levels"]:
        ticket = load_ticket(runs.parent / row["file"])
        assert sum(int(kept.sum()) for kept in ticket.mask.values()) == row["kept"]
        assert (ticket.metadata.train["processes"], ticket.metadata.train["augment"]) == (2, "resized-crop")


def test_a_pooled_file_and_its_evaluation_are_left(done: tuple[Path, str]) -> None:
    runs, said = done
    pooled = load_ticket(runs / "imagenet.safetensors")
    assert pooled.metadata.kind == "pooled"
    assert "wrote made/imagenet.safetensors" in said
    found = json.loads((runs / "imagenet.json").read_text())
    assert [Path(model["file"]).name for model in found["files"]] == [
        "imagenet.safetensors",
        "level_00.safetensors",
        "level_01.safetensors",
    ]


class Blank(Dataset[tuple[torch.Tensor, int]]):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(3, 224, 224, dtype=torch.uint8), 0


def imagenet(fraction: float) -> Data:
    """Of ImageNet's size, and of nothing else."""
    val = round(IMAGENET * fraction)
    parts = [Streamed(Blank(), torch.arange(count)) for count in (IMAGENET - val, val, 50_000)]
    return Data("folder:imagenet", *parts, 1000, (3, 224, 224), (0.5,) * 3, (0.3,) * 3, {"hash": "abc"})


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("paper-imagenet")])
def test_the_page_on_imagenet_says_what_the_plan_says(name: str, tmp_path: Path) -> None:
    chosen = preset(name)
    data, cpu = imagenet(chosen.options.val_fraction), torch.device("cpu")
    run = open_run(chosen.options, chosen.levels, tmp_path, None, cpu, data, Ranks(0, 8), UNWATCHED)
    told: dict[str, Any] = {**plan_of(run), "disk": disk_of(run)}
    epochs = 90 + 8 * 85
    assert told["computing"]["steps_per_epoch"] == -(-1_229_920 // 1024) == 1_202
    assert told["computing"]["batch_per_process"] == 128
    assert told["costs"]["steps"] == epochs * 1_202
    assert told["costs"]["images_trained"] == epochs * 1_229_920
    assert told["costs"]["images_scored"] == epochs * 51_247
    page = re.sub(r"\s+", " ", (ROOT / "docs" / "imagenet.md").read_text(encoding="utf-8"))
    scorings = {method: evaluations_at_most(PoolOptions(method=method), 9) for method in ("auto", "greedy", "window")}
    assert "at most {auto} scorings with `auto`, {greedy} with `greedy`".format(**scorings) in page
    assert "`--method window` pools with {window} scorings".format(**scorings) in page
    images = (f"{scorings[method] * (51_247 + 1_024):,}" for method in ("auto", "greedy"))
    assert " and ".join(images) + " images forward" in page
    options, table = PoolOptions(), 3 * (51_247 + 50_000)
    assert options.final_calibration_size == options.calibration_size == 1_024
    assert f"{2 * 1_024 + table:,}" in page
    assert f"{2 * 1_229_920 + table:,}" in page
    decoded = 51_247 + 50_000 + max(options.fit_images, options.calibration_size)
    assert f"{decoded:,} and {decoded * 224 * 224 * 3 / 1e9:.1f} GB" in page
    assert all(f"{scorings[method] * 51_247:,}" in page for method in ("auto", "greedy"))
    for count in (told["costs"][key] for key in ("steps", "images_trained", "images_scored")):
        assert f"{count:,}" in page
    megabytes = [round(told["disk"][key] / 1e6) for key in ("ticket_bytes", "to_write_bytes")]
    parameters, kept = told["costs"]["parameters"], told["levels"][-1]["kept"]
    row = f"| `{name}` | {parameters:,} | {kept:,} | {megabytes[0]:,} MB | {megabytes[1]:,} MB |"
    assert row in page, row
