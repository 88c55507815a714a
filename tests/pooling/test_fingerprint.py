"""What a pooling is about to do: where its files go, and what its scores depend on."""

import json
from dataclasses import replace
from pathlib import Path

from lptool.pooling.fingerprint import fingerprint
from lptool.pooling.setup import PoolOptions, open_bench

QUICK = PoolOptions(method="greedy", alphas=(0.5, 0.9), calibration_size=128, device="cpu")


CHANGES = {
    "kept": {"sparsity": 0.9},
    "method": {"method": "soup"},
    "passes": {"passes": 2},
    "decay": {"decay": 0.8},
    "select": {"select": "nll"},
    "alpha_search": {"alpha_search": "coarse"},
}


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
    fitting = replace(QUICK, method="reconstruct")
    before = fingerprint(replace(bench, options=fitting), 3)
    after = fingerprint(replace(bench, options=replace(fitting, mask="refit")), 3)
    assert [name for name in after if after[name] != before[name]] == ["mask"]
