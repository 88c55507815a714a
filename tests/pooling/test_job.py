"""From files to a pooled file: what is written is what was scored, and val alone decides."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lptool
from lptool.checkpoints.masks import kept_count
from lptool.checkpoints.reading import file_sha256, load_ticket
from lptool.checkpoints.safetensors_file import SafetensorsFile
from lptool.data.images import Images
from lptool.errors import ArchError, DataError
from lptool.pooling.catalogue import METHODS, RATIOS
from lptool.pooling.choice import Choice
from lptool.pooling.gradient import Slope
from lptool.pooling.job import pool_target
from lptool.pooling.outputs import evaluations_at_most
from lptool.pooling.scorer import Scorer
from lptool.pooling.search import Learning
from lptool.pooling.setup import NOISE, Bench, PoolOptions, open_bench
from lptool.pooling.targets import choose_targets, kept_at
from lptool.report.pool import pool_document
from lptool.scoring.score import Score

QUICK = PoolOptions(method="greedy", alphas=(0.5, 0.9), calibration_size=128, device="cpu")


def right(model: nn.Module, bench: Bench, images: Images) -> int:
    """Images right, counted by a plain loop."""
    model.eval()
    with torch.no_grad():
        return sum(int((model(x).argmax(1) == y).sum()) for x, y in bench.batches(images)(256))


@pytest.mark.parametrize("method", ["greedy", "average"])
@pytest.mark.parametrize("bn_images", ["plain", "augmented", "none"])
def test_the_file_scores_what_the_result_says(tmp_path: Path, tickets: list[Path], method: str, bn_images: str) -> None:
    options = replace(QUICK, method=method, bn_images=bn_images)
    bench = open_bench(tickets, options)
    result = pool_target(bench, choose_targets(bench)[0], tmp_path / "out.safetensors")
    model = timm.create_model("resnet8_cifar", num_classes=10, in_chans=1)
    for state, row in ((load_file(result.output), "pooled"), (load_file(tickets[-1]), "ticket")):
        model.load_state_dict(state)  # strict: the architecture's own names and no other
        assert right(model, bench, bench.data.test) == result.test[row].correct
        assert right(model, bench, bench.data.val) == result.val[row].correct
    assert ("ticket_bn" in result.val) == (bn_images != "none")
    assert result.val["pooled"].correct >= max(score.correct for score in result.val.values())
    assert result.trace.evaluations == evaluations_at_most(options, len(tickets))
    assert kept_count(load_ticket(result.output).mask) == kept_count(load_ticket(tickets[-1]).mask)
    assert result.sha256 == file_sha256(result.output)


@pytest.mark.parametrize("bn_images", ["plain", "augmented"])
def test_ticket_bn_is_the_ticket_with_update_bn_over_all_training_images(
    tmp_path: Path, tickets: list[Path], bn_images: str
) -> None:
    bench = open_bench(tickets, replace(QUICK, bn_images=bn_images))
    result = pool_target(bench, 3, tmp_path / "out.safetensors")
    model = timm.create_model("resnet8_cifar", num_classes=10, in_chans=1)
    model.load_state_dict(load_file(tickets[3]))
    torch.optim.swa_utils.update_bn(bench.batches(bench.calibration.images(bench.data.train))(256), model)
    assert right(model, bench, bench.data.test) == result.test["ticket_bn"].correct


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, tickets: list[Path]) -> None:
    shas = {pool_target(open_bench(tickets, QUICK), 3, tmp_path / name).sha256 for name in ("a", "b")}
    assert len(shas) == 1


def test_the_header_tells_how_the_file_was_made(tmp_path: Path, tickets: list[Path]) -> None:
    result = pool_target(open_bench(tickets, QUICK), 2, tmp_path / "out.safetensors")
    document = json.loads(SafetensorsFile(result.output).header["lptool"])
    assert (document["kind"], document["level"], document["arch"]["name"]) == ("pooled", 2, "resnet8_cifar")
    assert document["trace"]["target"]["sha256"] == file_sha256(tickets[2])
    assert [m["sha256"] for m in document["trace"]["members"]] == [file_sha256(tickets[i]) for i in (1, 3, 0)]
    assert document["scores"]["test"]["pooled"] == result.test["pooled"].to_json()
    assert str(tmp_path) not in json.dumps(document)


def test_without_an_accepted_candidate_the_start_is_written(tmp_path: Path, tickets: list[Path]) -> None:
    """A bar that no mix reaches: every scoring of a mix is made to find nothing right."""
    bench = open_bench(tickets, QUICK)
    score, calls = bench.scorer, []

    class Harsh(Scorer):
        def __call__(self, state: Mapping[str, Tensor], bar: int = 0) -> Score:
            calls.append(bar)
            return score(state) if len(calls) == 1 else replace(score(state), correct=0)

    vars(bench)["scorer"] = Harsh(score.model, score._val, score.val_size, score._calibration)
    result = pool_target(bench, 3, tmp_path / "out.safetensors")
    assert result.trace.accepted == ()
    assert not result.improved
    better = max(("ticket", "ticket_bn"), key=lambda row: result.val[row].correct)
    assert result.val["pooled"].correct == result.val[better].correct
    assert result.test["pooled"] in (result.test["ticket"], result.test["ticket_bn"])


def _model(path: Path) -> nn.Module:
    return lptool.load_model(path)


def test_val_must_hold_no_image_the_tickets_were_trained_on(tickets: list[Path]) -> None:
    for other in (replace(QUICK, split_seed=1), replace(QUICK, val_fraction=0.1)):
        with pytest.raises(DataError, match="was trained on another split"):
            open_bench(tickets, other)


def test_tickets_that_say_nothing_are_guessed_aloud_and_need_a_data_set(tmp_path: Path, tickets: list[Path]) -> None:
    silent = []
    for path in tickets:
        silent.append(tmp_path / path.name)
        save_file(load_file(path), silent[-1])
    with pytest.raises(DataError, match="does not say its data set; name it with --dataset"):
        open_bench(silent, QUICK)
    bench = open_bench(silent, replace(QUICK, dataset="digits"))
    said = "\n".join(bench.warnings)
    assert "guessed resnet8_cifar, because all 44 tensors have its names and shapes" in said
    assert "does not say which images it was trained on" in said
    assert "normalised as measured on train" in said
    assert [bench.pool.kept(i) for i in range(4)] == sorted((bench.pool.kept(i) for i in range(4)), reverse=True)


@pytest.mark.parametrize("method", ["greedy", "uniform", "soup", "learned"])
def test_files_without_masks_make_a_dense_model(tmp_path: Path, tickets: list[Path], method: str) -> None:
    """Such as fine-tuned models of one pretrained network."""
    dense = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for seed, path in enumerate(dense):
        torch.manual_seed(seed)
        save_file({n: t + 1e-3 * torch.randn(t.shape) if t.ndim else t for n, t in load_file(tickets[0]).items()}, path)
    bench = open_bench(dense, replace(QUICK, dataset="digits", method=method, learning_steps=2))
    assert any("dense" in warning for warning in bench.warnings)
    result = pool_target(bench, 1, tmp_path / "out.safetensors")
    assert result.sparsity == 0
    assert result.val["pooled"].correct >= max(score.correct for score in result.val.values())


def test_a_wrong_architecture_lists_what_differs(tickets: list[Path]) -> None:
    with pytest.raises(ArchError) as error:
        open_bench(tickets, replace(QUICK, arch="resnet20_cifar"))
    assert "does not fit architecture 'resnet20_cifar' (72 tensors)" in str(error.value)
    assert "layer1.1.conv1.weight: missing in the file" in str(error.value)
    assert "… and 62 more" in str(error.value)


# Sparsity asked for


@pytest.mark.parametrize("method", ["average", "soup"])
@pytest.mark.parametrize("sparsity", [0.6, 0.93])
def test_a_file_of_the_sparsity_asked_for(tmp_path: Path, tickets: list[Path], method: str, sparsity: float) -> None:
    """Exactly; the ticket that it is compared with is pruned to it too."""
    options = replace(QUICK, method=method, sparsity=sparsity, precision="fp32")
    bench = open_bench(tickets, options)
    (target,) = choose_targets(bench)
    result = pool_target(bench, target, tmp_path / "out.safetensors")
    total = bench.pool.kept(0)
    keep, ticket = round(total * (1 - sparsity)), load_ticket(result.output)
    names = list(bench.pool.prunable)
    assert kept_count(ticket.mask) == keep
    assert sum(int(t.count_nonzero()) for n, t in load_file(result.output).items() if n in names) <= keep
    assert result.sparsity == 1 - keep / total
    assert result.members[target].sparsity == 1 - bench.pool.density(target) < result.sparsity
    assert json.loads(SafetensorsFile(result.output).header["lptool"])["sparsity"] == pytest.approx(
        1 - keep / total, abs=1e-9
    )
    document = pool_document(result)
    assert (document["sparsity"], document["target"]["sparsity"]) == (result.sparsity, result.members[target].sparsity)
    state, mask = load_ticket(tickets[target]).state, load_ticket(tickets[target]).mask
    flat = torch.cat([(state[n] * mask[n]).flatten().abs() for n in names])
    limit = flat.sort(descending=True).values[keep - 1]
    model = _model(tickets[target])
    model.load_state_dict({n: t * (t.abs() >= limit) if n in names else t for n, t in state.items()})
    assert right(model, bench, bench.data.val) == result.val["ticket"].correct
    assert result.trace.ticket.correct == result.val["ticket"].correct


# Methods and choices


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_every_method_comes_to_a_file(tmp_path: Path, tickets: list[Path], method: str) -> None:
    options = replace(QUICK, method=method, alphas=(0.5,), learning_steps=2)
    bench = open_bench(tickets[1:], options)
    result = pool_target(bench, 1, tmp_path / "out.safetensors")
    assert result.trace.evaluations == evaluations_at_most(options, 3)
    assert kept_count(load_ticket(result.output).mask) == bench.pool.kept(1)
    assert result.val["pooled"].correct >= max(score.correct for score in result.val.values())
    document = json.loads(SafetensorsFile(result.output).header["lptool"])["trace"]
    assert document["method"] == method
    assert [member["level"] for member in document["members"]] == [
        bench.pool.level(step.candidate) for step in result.trace.steps
    ]
    if method == "learned":
        again = pool_target(open_bench(tickets[1:], options), 1, tmp_path / "again.safetensors")
        assert again.sha256 == result.sha256


def test_what_is_written_is_the_best_on_val_by_the_choice(tmp_path: Path, tickets: list[Path]) -> None:
    """Its test scores are those of the file, whatever they are."""
    for select in ("accuracy", "nll"):
        bench = open_bench(tickets, replace(QUICK, select=select))
        result = pool_target(bench, 3, tmp_path / f"{select}.safetensors")
        best = {
            "accuracy": max(score.correct for score in result.val.values()),
            "nll": min(score.nll for score in result.val.values()),
        }
        pooled = result.val["pooled"]
        assert {"accuracy": pooled.correct, "nll": pooled.nll}[select] == best[select]
        assert bench.choice == bench.scorer.choice == Choice(select)


def test_the_slope_is_of_the_training_images_of_the_bench(tickets: list[Path]) -> None:
    """With noise, and without augmentation; the seed is that of the options."""
    bench, again, other = (open_bench(tickets, replace(QUICK, seed=seed, precision="fp32")) for seed in (0, 0, 1))
    state = bench.pool[3].state
    found, expected = bench.slope(state, 0), again.slope(state, 0)
    assert set(found) == {name for name, _ in bench.model.named_parameters()}
    assert all(torch.equal(t, expected[name]) for name, t in found.items())
    assert not torch.equal(found["fc.weight"], other.slope(state, 0)["fc.weight"])
    train = bench.data.train
    by_hand = Slope(bench.model, bench.batches(train), len(train), noise=NOISE)(state, 0)
    assert all(torch.equal(t, by_hand[name]) for name, t in found.items())
    options = replace(QUICK, per="block", learning_steps=7, learning_rate=0.5)
    assert replace(bench, options=options).learning == Learning("block", 7, 0.5)


def test_every_option_of_the_search_reaches_it(
    tmp_path: Path, tickets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, object] = {}

    def search(pool: object, score: object, **given: object) -> None:
        told.update(given)
        raise KeyboardInterrupt

    monkeypatch.setattr("lptool.pooling.job.pool_tickets", search)
    plain = {"method": "auto", "alphas": (0.3,), "alpha_search": "coarse", "passes": 3, "decay": 0.4}
    chosen = {"select": "nll", "per": "block", "learning_steps": 7, "learning_rate": 0.5}
    bench = open_bench(tickets, PoolOptions(**plain, **chosen, sparsity=0.9, device="cpu"))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        pool_target(bench, 2, tmp_path / "a.safetensors")
    expected = {"target": 2, "keep": kept_at(bench.pool, 0.9), "choice": Choice("nll"), **plain}
    assert {name: told[name] for name in expected} == expected
    assert (told["learning"], told["gradient"]) == (Learning("block", 7, 0.5), bench.slope)
    assert told["score_as_is"] == bench.scorer.as_is


def test_how_many_states_a_search_scores_at_most() -> None:
    """Of four tickets; the target as it is, and recalibrated."""
    options = replace(QUICK, passes=3)
    assert evaluations_at_most(options, 4) == 2 + 3 * 2 * 3
    assert evaluations_at_most(replace(options, bn_images="none"), 4) == 1 + 3 * 2 * 3
    assert evaluations_at_most(replace(options, method="average"), 4) == 2 + 3 * 3
    assert evaluations_at_most(replace(options, method="window"), 4) == 2 + len(RATIOS)
    assert evaluations_at_most(replace(options, method="learned", learning_steps=9), 4) == 2 + len(RATIOS) + 1
