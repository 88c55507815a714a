"""Scores, against a plain loop over single images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lptool.errors import DataError
from lptool.evaluate import Batch, Score, Scorer, evaluate, hardest_first, margins, recalibrated

SIZES = (7, 7, 7, 4)
TOTAL = sum(SIZES)


def network(seed: int = 0) -> nn.Module:
    """A small BatchNorm network with dropout; another seed gives other weights and statistics."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 4)
    )
    net(torch.randn(32, 1, 4, 4))
    return net


def labelled_batches(seed: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, 1, 4, 4, generator=generator), torch.randint(4, (n,), generator=generator)) for n in SIZES]


def plain_loop(net: nn.Module, batches: list[Batch]) -> tuple[int, float]:
    """Images right and mean negative log-likelihood, one image at a time, in Python floats."""
    net = deepcopy(net).eval()
    correct, losses = 0, []
    for images, labels in batches:
        for image, label in zip(images, labels.tolist(), strict=True):
            logits = net(image[None])[0].tolist()
            correct += logits.index(max(logits)) == label
            losses.append(math.log(sum(math.exp(x - logits[label]) for x in logits)))
    return correct, sum(losses) / len(losses)


def assert_score(score: Score, correct: int, nll: float) -> None:
    assert (score.correct, score.n, score.complete) == (correct, TOTAL, True)
    assert score.nll == pytest.approx(nll, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_a_score_is_that_of_a_plain_loop(seed: int) -> None:
    net, batches = network(seed), labelled_batches(seed)
    score = evaluate(net, batches, TOTAL)
    correct, nll = plain_loop(net, batches)
    assert_score(score, correct, nll)
    assert score.accuracy == correct / TOTAL
    assert score.to_json() == {"accuracy": correct / TOTAL, "nll": score.nll, "n": TOTAL}


def test_by_hand() -> None:
    """Two classes with logits ±x: one right with p = 3/4, one wrong with p = 1/4."""
    x = math.log(3) / 2
    images, labels = torch.tensor([[x, -x], [x, -x]]), torch.tensor([0, 1])
    score = evaluate(nn.Identity(), [(images, labels)], 2)
    assert (score.correct, score.accuracy) == (1, 0.5)
    assert score.nll == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("guessing", range(len(SIZES) + 1))
def test_stopping_early_never_changes_a_decision(seed: int, guessing: int) -> None:
    """`complete and correct ≥ bar` is true exactly where the full score reaches the bar; a full score is the same.

    All images after the first `guessing` batches are right, so bars are reached at the very last moment too.
    """
    net = network(seed).eval()
    batches = [
        (images, labels if i < guessing else net(images).argmax(dim=1))
        for i, (images, labels) in enumerate(labelled_batches(seed))
    ]
    full = evaluate(net, batches, TOTAL)
    for bar in range(TOTAL + 3):
        score = evaluate(net, batches, TOTAL, bar)
        assert (score.complete and score.correct >= bar) == (full.correct >= bar)
        assert score == full if score.complete else score.n < TOTAL


@pytest.mark.parametrize("bar", [0, 10, 15, 19, 22, TOTAL])
def test_scoring_stops_after_the_first_batch_that_puts_the_bar_out_of_reach(bar: int) -> None:
    net, batches = network(), labelled_batches()
    after_each = [(plain_loop(net, batches[:i])[0], sum(SIZES[:i])) for i in range(1, len(SIZES) + 1)]
    expected = next((right, n) for right, n in after_each if right + TOTAL - n < bar or n == TOTAL)
    score = evaluate(net, iter(batches), TOTAL, bar)
    assert (score.correct, score.n) == expected


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bar", [0, TOTAL + 1])
def test_the_mode_is_restored_and_dropout_sleeps_meanwhile(training: bool, bar: int) -> None:
    net, batches = network().train(training), labelled_batches()
    first, again = (evaluate(net, batches, TOTAL, bar) for _ in range(2))
    assert first == again
    assert all(module.training == training for module in net.modules())
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(("channels", "label"), [(99, 0), (1, 99)], ids=["images", "labels"])
def test_the_mode_is_restored_after_an_exception(channels: int, label: int) -> None:
    net = network().train()
    with pytest.raises((RuntimeError, IndexError)):
        evaluate(net, [(torch.ones(2, channels, 4, 4), torch.tensor([0, label]))], 2)
    assert all(module.training for module in net.modules())
    assert not torch.is_inference_mode_enabled()


def test_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="no image to score on"):
        evaluate(network(), [], 0)


def test_nothing_of_the_model_changes() -> None:
    net = network()
    before = deepcopy(net.state_dict())
    evaluate(net, labelled_batches(), TOTAL)
    assert_same(net.state_dict(), before)


def assert_same(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(state) == list(expected)
    assert all(torch.equal(t, expected[name]) for name, t in state.items())


def by_update_bn(state: Mapping[str, Tensor], images: list[Tensor]) -> nn.Module:
    """The network of `state` with fresh statistics: torch's own update_bn, with dropout taken out."""
    net = network()
    net.load_state_dict(state)
    net[3] = nn.Identity()
    update_bn(images, net)
    return net.eval()


@pytest.mark.parametrize("seed", range(3))
def test_a_scorer_recalibrates_then_evaluates_whatever_was_scored_before(seed: int) -> None:
    val, calibration = labelled_batches(1), labelled_batches(2)
    scorer = Scorer(network(), lambda: val, TOTAL, lambda: calibration)
    state, other = network(seed).state_dict(), network(99).state_dict()
    before = deepcopy(state)
    expected = by_update_bn(state, [images for images, _ in calibration])
    for _ in range(2):
        assert_score(scorer(state), *plain_loop(expected, val))
        assert_score(scorer.as_is(state), *plain_loop(network(seed), val))
        scorer(other)
    assert scorer.evaluations == 6
    assert_same(state, before)


@pytest.mark.parametrize("bar", [0, TOTAL + 1])
def test_a_scorer_passes_the_bar_on(bar: int) -> None:
    scorer = Scorer(network(), labelled_batches, TOTAL, labelled_batches)
    state = network(1).state_dict()
    assert scorer(state, bar).complete == scorer.as_is(state, bar).complete == (bar == 0)


def test_without_calibration_a_scorer_takes_the_statistics_as_they_are() -> None:
    scorer, state = Scorer(network(), labelled_batches, TOTAL, None), network(1).state_dict()
    assert not scorer.recalibrates
    assert scorer(state) == scorer.as_is(state)


def test_a_model_without_batch_norm_is_scored_as_it_is() -> None:
    """And says so: calibration images are not asked for."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    scorer = Scorer(net, labelled_batches, TOTAL, lambda: pytest.fail("calibration images were asked for"))
    state = deepcopy(net.state_dict())
    assert not scorer.recalibrates
    assert_score(scorer(state), *plain_loop(net, labelled_batches()))
    assert Scorer(network(), labelled_batches, TOTAL, labelled_batches).recalibrates


def test_recalibrated_renews_mean_and_variance_and_passes_every_other_tensor_on() -> None:
    """`num_batches_tracked` stays, as it counts training steps; a half-precision state stays one."""
    state = {n: t.half() if t.is_floating_point() else t for n, t in network(1).state_dict().items()}
    before = deepcopy(state)
    calibration = labelled_batches(2)
    fresh = recalibrated(network(), state, lambda: calibration)
    oracle = by_update_bn(state, [images for images, _ in calibration]).state_dict()
    assert list(fresh) == list(state)
    for name, t in fresh.items():
        if name in ("1.running_mean", "1.running_var"):
            assert t.dtype == torch.float16
            torch.testing.assert_close(t.float(), oracle[name], rtol=1e-3, atol=1e-3)
        else:
            assert t is state[name]
    assert_same(state, before)


def test_recalibrated_statistics_do_not_follow_the_model() -> None:
    net, state = network(), network(1).state_dict()
    fresh = recalibrated(net, state, labelled_batches)
    expected = deepcopy(fresh)
    net.train()(torch.randn(8, 1, 4, 4))
    assert_same(fresh, expected)


def test_margins_by_hand() -> None:
    """The label's logit minus the largest other one: negative exactly where the image is wrong."""
    logits = torch.tensor([[5.0, 2.0, 1.0], [5.0, 2.0, 1.0], [0.0, 0.0, 0.5]])
    batches = [(logits[:2], torch.tensor([0, 1])), (logits[2:], torch.tensor([2]))]
    assert margins(nn.Identity(), batches).tolist() == [3.0, -3.0, 0.5]


@pytest.mark.parametrize("seed", range(5))
def test_an_image_is_wrong_where_its_margin_is_negative(seed: int) -> None:
    net, batches = network(seed), labelled_batches(seed)
    found = margins(net, batches)
    assert len(found) == TOTAL
    assert int((found > 0).sum()) == plain_loop(net, batches)[0]
    assert all(module.training for module in net.modules())


def test_the_hardest_images_come_first() -> None:
    """Most models wrong, then the smallest mean margin, then the order given; each image once."""
    by_two_models = torch.tensor([[1.0, -1.0, 9.0, -9.0, 1.0, -1.0], [1.0, -2.0, 1.0, 30.0, 1.0, -9.0]])
    assert hardest_first(by_two_models).tolist() == [5, 1, 3, 0, 4, 2]


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_forward_pass_computes_in_the_type_asked_for(compute: torch.dtype) -> None:
    """And the score is that of float32 but for rounding; weights stay float32."""
    net, batches, seen = network().eval(), labelled_batches(), []
    net.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    score = evaluate(net, batches, TOTAL, compute=compute)
    assert set(seen) == {compute}
    assert score.nll == pytest.approx(evaluate(net, batches, TOTAL).nll, rel=0.02)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_every_module_is_left_in_the_mode_it_came_in() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).train()
    net[0].eval()
    evaluate(net, [(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))], 3)
    assert [module.training for module in net.modules()] == [True, False, True]


def test_batches_that_hold_fewer_images_than_said_are_refused() -> None:
    with pytest.raises(DataError, match="expected 2 images to score on, but the batches hold none"):
        evaluate(nn.Linear(2, 2), [], 2)


def test_a_batchnorm_layer_under_two_names_is_renewed_under_both() -> None:
    shared = nn.BatchNorm1d(2)
    net = nn.Sequential(shared, shared)
    fresh = recalibrated(net, net.state_dict(), lambda: [(torch.randn(8, 2) + 3, torch.zeros(8))])
    assert torch.equal(fresh["0.running_mean"], fresh["1.running_mean"])
    assert fresh["0.running_mean"].abs().min() > 0
