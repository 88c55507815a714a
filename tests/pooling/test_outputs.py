"""What a pooling is about to do: where its files go, and what its scores depend on."""

from dataclasses import replace
from pathlib import Path

import pytest

from lptool.checkpoints.reading import load_ticket
from lptool.checkpoints.writing import DENSE, Form, save_ticket
from lptool.errors import OutputError
from lptool.pooling.fingerprint import control_key, fingerprint, key_of
from lptool.pooling.job import pool_target
from lptool.pooling.outputs import controls_of, is_of, outputs_of
from lptool.pooling.result import PoolResult
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
    assert outputs_of(replace(bench, options=QUICK), [0], outputs[0], overwrite=False) == outputs[:1]
    other = replace(bench, options=replace(QUICK, alphas=(0.5,)))
    with pytest.raises(OutputError, match=r"a_level_00.safetensors: exists"):
        outputs_of(other, [0], outputs[0], overwrite=False)


def test_what_a_search_wrote_in_one_form_is_not_replaced_by_another(tmp_path: Path, tickets: list[Path]) -> None:
    bench = open_bench(tickets, QUICK)
    for form in (DENSE, Form(True), Form(True, "bf16")):
        out = tmp_path / f"{form.packed}-{form.values}.safetensors"
        pool_target(bench, 3, out, form=form)
        for other in (DENSE, Form(True), Form(True, "bf16"), Form(True, "fp16")):
            if other == form:
                outputs_of(bench, [3], out, form=other, overwrite=False)
            else:
                with pytest.raises(OutputError, match="exists; choose another output or add --overwrite"):
                    outputs_of(bench, [3], out, form=other, overwrite=False)


def test_a_file_is_of_a_search_by_its_header(tmp_path: Path, tickets: list[Path], result: PoolResult) -> None:
    bench = open_bench(tickets, replace(QUICK, alphas=(0.5,), calibration_size=64))
    now = key_of(fingerprint(bench, 3), bench.options)
    (tmp_path / "text.safetensors").write_text("precious")
    assert is_of(result.output, now, DENSE)
    for change in ({"seed": 7}, {"final_calibration_size": None}):
        other = replace(bench, options=replace(bench.options, **change))
        assert not is_of(result.output, key_of(fingerprint(other, 3), other.options), DENSE)
    assert not any(is_of(path, now, DENSE) for path in (tickets[0], tmp_path / "text.safetensors", tmp_path / "none"))


def test_a_control_is_not_taken_for_the_pooled_model_of_its_search(tmp_path: Path, tickets: list[Path]) -> None:
    bench = open_bench(tickets, QUICK)
    key, out, control = key_of(fingerprint(bench, 3), QUICK), tmp_path / "a.safetensors", tmp_path / "c.safetensors"
    pool_target(bench, 3, out, control=control)
    assert [is_of(file, key, DENSE) for file in (out, control)] == [True, False]
    assert [is_of(file, control_key(key), DENSE) for file in (out, control)] == [False, True]
    assert controls_of(bench, [3], control, [out], form=DENSE, overwrite=False) == [control]
    assert controls_of(bench, [3], None, [out], form=DENSE, overwrite=False) == [None]
    with pytest.raises(OutputError, match="exists; choose another output or add --overwrite"):
        outputs_of(bench, [3], control, overwrite=False)


def test_a_file_that_was_changed_since_is_not_of_its_search(tmp_path: Path, result: PoolResult) -> None:
    bench = open_bench([member.file for member in result.members], replace(QUICK, alphas=(0.5,), calibration_size=64))
    ticket, now = load_ticket(result.output), key_of(fingerprint(bench, 3), bench.options)
    for name, change in (("same", 1.0), ("changed", 1.5)):
        state = ticket.state | {"fc.weight": change * ticket.state["fc.weight"]}
        save_ticket(replace(ticket, state=state), tmp_path / f"{name}.safetensors")
        assert is_of(tmp_path / f"{name}.safetensors", now, DENSE) == (name == "same")
