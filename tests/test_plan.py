"""What a pooling is about to do: where its files go, and what its scores depend on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lptool.bench import PoolOptions, open_bench
from lptool.errors import OutputError
from lptool.pipeline import pool_target
from lptool.plan import fingerprint, is_folder, outputs_of

QUICK = PoolOptions(method="greedy", alphas=(0.5, 0.9), calibration_size=128, device="cpu")


def test_a_name_without_a_suffix_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "v1.5").mkdir()
    names = {
        "a": True,
        "a.safetensors": False,
        "a.onnx": False,
        "v1.5": True,
        "v2.5": False,
        f"{'a' * 300}.onnx": False,
    }
    assert {name: is_folder(tmp_path / name) for name in names} == names
    assert is_folder(f"{tmp_path}/v2.5/")


def test_names_that_are_neither_are_refused(tmp_path: Path, tickets: list[Path]) -> None:
    bench = open_bench(tickets, QUICK)
    for name in ("v2.5", "a.onnx"):
        with pytest.raises(OutputError, match=r"expected FILE\.safetensors or a folder, whose name .* ends in /"):
            outputs_of(bench, [3], tmp_path / name, overwrite=False)
    assert outputs_of(bench, [3], f"{tmp_path}/v2.5/", overwrite=False) == [tmp_path / "v2.5"]


def test_a_folder_is_refused_where_it_must_not_be(tmp_path: Path, tickets: list[Path]) -> None:
    bench = open_bench(tickets, QUICK)
    assert outputs_of(bench, [3], tmp_path / "new", overwrite=False) == [tmp_path / "new"]
    with pytest.raises(OutputError, match="run"):  # the folder of the tickets
        outputs_of(bench, [3], tickets[0].parent, overwrite=True)


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


def test_a_fingerprint_knows_the_code_of_a_network(tmp_path: Path, tickets: list[Path]) -> None:
    code = tmp_path / "net.py"
    found = []
    for comment in ("# one\n", "# two\n"):
        code.write_text(
            f"{comment}import timm\ndef net(**kwargs):\n    return timm.create_model('resnet8_cifar', **kwargs)\n"
        )
        found.append(fingerprint(open_bench(tickets, replace(QUICK, arch=f"{code}:net")), 3))
    assert json.loads(json.dumps(found[0])) == found[0]
    assert [key for key in found[0] if found[0][key] != found[1][key]] == ["arch_file"]


CHANGES = {
    "kept": {"sparsity": 0.9},
    "method": {"method": "soup"},
    "passes": {"passes": 2},
    "decay": {"decay": 0.8},
    "select": {"select": "nll"},
    "folds": {"folds": True},
    "alpha_search": {"alpha_search": "coarse"},
}


def test_a_fingerprint_knows_each_option_of_a_search(tickets: list[Path]) -> None:
    bench = open_bench(tickets, QUICK)
    before = fingerprint(bench, 3)
    assert before["kept"] == bench.pool.kept(3)
    for key, change in CHANGES.items():
        after = fingerprint(replace(bench, options=replace(QUICK, **change)), 3)  # type: ignore[arg-type]
        assert {name for name in after if after[name] != before[name]} - {"alphas"} == {key}
        assert json.loads(json.dumps(after)) == after
    for change in ({"per": "block"}, {"learning_steps": 7}, {"learning_rate": 0.5}):
        after = fingerprint(replace(bench, options=replace(QUICK, **change)), 3)  # type: ignore[arg-type]
        assert [name for name in after if after[name] != before[name]] == ["learning"]
