"""From files to a pooled file: what is written is what was scored, and val alone decides."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import lptool
from lptool.checkpoints import file_sha256, load_ticket, read_header
from lptool.errors import ArchError, DataError, LptoolError, OutputError, PoolError
from lptool.masks import kept_count
from lptool.pipeline import PoolOptions, choose_targets, evaluations_at_most, pool_target, prepare

QUICK = PoolOptions(alphas=(0.5, 0.9), calibration_size=128, device="cpu")


def right(model: nn.Module, bench: lptool.pipeline.Bench, images: object) -> int:  # type: ignore[name-defined]
    """Images right, counted by a plain loop."""
    model.eval()
    with torch.no_grad():
        batches = bench.batches(images)()  # type: ignore[arg-type]
        return sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)


@pytest.mark.parametrize("method", ["greedy", "average"])
@pytest.mark.parametrize("recalibrate", [True, False])
def test_the_file_scores_what_the_result_says(
    tmp_path: Path, tickets: list[Path], method: str, recalibrate: bool
) -> None:
    options = replace(QUICK, method=method, recalibrate=recalibrate)
    bench = prepare(tickets, tmp_path / "out.safetensors", options)
    result = pool_target(bench, choose_targets(bench)[0])
    model = timm.create_model("resnet8_cifar", num_classes=10, in_chans=1)
    for state, row in ((load_file(result.output), "pooled"), (load_file(tickets[-1]), "ticket")):
        model.load_state_dict(state)  # strict: the architecture's own names and no other
        assert right(model, bench, bench.data.test) == result.test[row].correct
        assert right(model, bench, bench.data.val) == result.val[row].correct
    assert ("ticket_bn" in result.val) == recalibrate
    assert result.val["pooled"].correct >= max(score.correct for score in result.val.values())
    assert result.trace.evaluations == evaluations_at_most(options, len(tickets))
    assert kept_count(load_ticket(result.output).mask) == kept_count(load_ticket(tickets[-1]).mask)
    assert result.sha256 == file_sha256(result.output)


def test_ticket_bn_is_the_ticket_with_update_bn_over_all_training_images(tmp_path: Path, tickets: list[Path]) -> None:
    bench = prepare(tickets, tmp_path / "out.safetensors", QUICK)
    result = pool_target(bench, 3)
    model = timm.create_model("resnet8_cifar", num_classes=10, in_chans=1)
    model.load_state_dict(load_file(tickets[3]))
    torch.optim.swa_utils.update_bn(bench.batches(bench.data.train)(), model)
    assert right(model, bench, bench.data.test) == result.test["ticket_bn"].correct


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, tickets: list[Path]) -> None:
    shas = {pool_target(prepare(tickets, tmp_path / name, QUICK), 3).sha256 for name in ("a", "b")}
    assert len(shas) == 1


def test_the_header_tells_how_the_file_was_made(tmp_path: Path, tickets: list[Path]) -> None:
    result = pool_target(prepare(tickets, tmp_path / "out.safetensors", QUICK), 2)
    document = json.loads(read_header(result.output)["lptool"])
    assert (document["kind"], document["level"], document["arch"]["name"]) == ("pooled", 2, "resnet8_cifar")
    assert document["trace"]["target"]["sha256"] == file_sha256(tickets[2])
    assert [m["sha256"] for m in document["trace"]["members"]] == [file_sha256(tickets[i]) for i in (1, 3, 0)]
    assert document["scores"]["test"]["pooled"] == result.test["pooled"].to_json()
    assert str(tmp_path) not in json.dumps(document)


def test_without_an_accepted_candidate_the_start_is_written(tmp_path: Path, tickets: list[Path]) -> None:
    """At alpha 1 every mix is the recalibrated target; against a target better as it is, none is accepted."""
    bench = prepare(tickets, tmp_path / "out.safetensors", replace(QUICK, alphas=(0.0,)))
    result = pool_target(bench, 0)  # the dense ticket with a sparser one in its place
    if not result.trace.accepted:
        assert not result.improved
        assert result.val["pooled"] in (result.val["ticket"], result.val["ticket_bn"])


def test_targets(tmp_path: Path, tickets: list[Path]) -> None:
    bench = prepare(tickets, tmp_path / "out.safetensors", QUICK)
    correct = [right(_model(path), bench, bench.data.val) for path in tickets]
    matching = max(i for i, score in enumerate(correct) if score >= correct[0])
    expected = {"sparsest": [3], "all": [0, 1, 2, 3], "2": [2], str(tickets[1]): [1], "matching": [matching]}
    for target, places in expected.items():
        assert choose_targets(replace(bench, options=replace(QUICK, target=target))) == places
    with pytest.raises(PoolError, match=r"no target '7': expected .* a level \(0, 1, 2, 3\)"):
        choose_targets(replace(bench, options=replace(QUICK, target="7")))


def _model(path: Path) -> nn.Module:
    return lptool.load_model(path)


def test_all_writes_one_file_per_level(tmp_path: Path, tickets: list[Path]) -> None:
    for out, expected in ((tmp_path / "a.safetensors", "a_level_02.safetensors"), (tmp_path / "d", "d/level_02.safetensors")):
        bench = prepare(tickets, out, replace(QUICK, target="all"))
        assert bench.output_for(2) == tmp_path / expected
    (tmp_path / "a_level_03.safetensors").touch()
    with pytest.raises(OutputError, match="a_level_03.safetensors: exists"):
        prepare(tickets, tmp_path / "a.safetensors", replace(QUICK, target="all"))


def test_val_must_hold_no_image_the_tickets_were_trained_on(tmp_path: Path, tickets: list[Path]) -> None:
    for other in (replace(QUICK, split_seed=1), replace(QUICK, val_fraction=0.1)):
        with pytest.raises(DataError, match="was trained on another split"):
            prepare(tickets, tmp_path / "out", other)


def test_tickets_that_say_nothing_need_arch_and_data_and_are_warned_about(tmp_path: Path, tickets: list[Path]) -> None:
    silent = []
    for path in tickets:
        silent.append(tmp_path / path.name)
        save_file(load_file(path), silent[-1])
    with pytest.raises(DataError, match="does not say its data set; name it with --dataset"):
        prepare(silent, tmp_path / "out", QUICK)
    with pytest.raises(ArchError, match="does not say its architecture; name it with --arch"):
        prepare(silent, tmp_path / "out", replace(QUICK, dataset="digits"))
    bench = prepare(silent, tmp_path / "out", replace(QUICK, dataset="digits", arch="resnet8_cifar"))
    assert "does not say which images it was trained on" in bench.warnings[0]
    assert [bench.pool.kept(i) for i in range(4)] == sorted((bench.pool.kept(i) for i in range(4)), reverse=True)


def test_a_wrong_architecture_lists_what_differs(tmp_path: Path, tickets: list[Path]) -> None:
    with pytest.raises(ArchError) as error:
        prepare(tickets, tmp_path / "out", replace(QUICK, arch="resnet20_cifar"))
    assert "does not fit architecture 'resnet20_cifar' (72 tensors)" in str(error.value)
    assert "layer1.1.conv1.weight: missing in the file" in str(error.value)
    assert "… and 62 more" in str(error.value)


def test_nothing_is_written_when_something_is_wrong(tmp_path: Path, tickets: list[Path]) -> None:
    for files, options in ((tickets[:1], QUICK), (tickets, replace(QUICK, dataset="nope"))):
        with pytest.raises(LptoolError):
            prepare(files, tmp_path / "out" / "a.safetensors", options)
    assert list(tmp_path.iterdir()) == []
