"""Scores, against a plain loop over single images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from lptool.errors import DataError
from lptool.scoring.score import (
    Batch,
    Graded,
    Score,
    cast_forward,
    mark,
    merged,
    predict,
    recalibrated,
    scaled_nll_of,
    score_of,
)

SIZES = (7, 7, 7, 4)
TOTAL = sum(SIZES)


def network(seed: int = 0) -> nn.Sequential:
    """A small BatchNorm network with dropout; another seed gives other weights and statistics."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 4)
    )
    net(torch.randn(32, 1, 4, 4))
    return net


def labelled_batches(seed: int = 1, sizes: tuple[int, ...] = SIZES) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, 1, 4, 4, generator=generator), torch.randint(4, (n,), generator=generator)) for n in sizes]


def images_of(batches: list[Batch]) -> list[Tensor]:
    return [images for images, _ in batches]


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


def evaluate(net: nn.Module, batches: Iterable[Batch]) -> Score:
    return score_of(*predict(net, batches))


def assert_same(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(state) == list(expected)
    assert all(torch.equal(t, expected[name]) for name, t in state.items())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [SIZES, (25,), (1, 24), (1, 1, 1)])
def test_a_score_is_that_of_a_plain_loop(seed: int, sizes: tuple[int, ...]) -> None:
    net, batches = network(seed), labelled_batches(seed, sizes)
    score = evaluate(net, batches)
    correct, nll = plain_loop(net, batches)
    assert (score.correct, score.n, score.complete) == (correct, sum(sizes), True)
    assert score.nll == pytest.approx(nll, rel=1e-5)
    assert score.accuracy == correct / sum(sizes)
    assert score.to_json() == {"accuracy": correct / sum(sizes), "nll": score.nll, "n": sum(sizes)}


def test_by_hand() -> None:
    """Two classes with logits ±x: one right with p = 3/4, one wrong with p = 1/4."""
    x = math.log(3) / 2
    images, labels = torch.tensor([[x, -x], [x, -x]]), torch.tensor([0, 1])
    score = evaluate(nn.Identity(), [(images, labels)])
    assert (score.correct, score.accuracy) == (1, 0.5)
    assert score.nll == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_each_image_is_marked_by_hand() -> None:
    """Equal logits: the first class wins, and every class is as likely."""
    right, loss = mark(torch.tensor([[0.0, 0.0], [0.0, 0.0], [9.0, -9.0]]), torch.tensor([0, 1, 1]))
    assert right.tolist() == [True, False, False]
    assert loss.tolist() == pytest.approx([math.log(2), math.log(2), 18 + math.exp(-18)])


@pytest.mark.parametrize("sizes", [(25,), (24, 1), (3, 14, 8)])
def test_scores_of_parts_of_any_size_come_to_that_of_all_images(sizes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    logits, labels = 3 * torch.randn(25, 4, generator=generator), torch.randint(4, (25,), generator=generator)
    parts = [score_of(*part) for part in zip(logits.split(sizes), labels.split(sizes), strict=True)]
    whole, found = score_of(logits, labels), merged(parts)
    assert (found.correct, found.n, found.complete) == (whole.correct, 25, True)
    assert found.nll == pytest.approx(whole.nll, rel=1e-6)
    assert len(sizes) == 1 or found.nll != pytest.approx(sum(p.nll for p in parts) / len(parts), rel=0.01)


def test_batches_may_be_an_iterator() -> None:
    net, batches = network(), labelled_batches()
    assert evaluate(net, iter(batches)) == evaluate(net, batches)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_and_dropout_sleeps_meanwhile(training: bool) -> None:
    net, batches = network().train(training), labelled_batches()
    assert evaluate(net, batches) == evaluate(net, batches)
    assert all(module.training == training for module in net.modules())


def test_every_module_is_left_in_the_mode_it_came_in() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).train()
    net[0].eval()
    evaluate(net, [(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))])
    assert [module.training for module in net.modules()] == [True, False, True]


@pytest.mark.parametrize(("channels", "label"), [(99, 0), (1, 99)], ids=["images", "labels"])
def test_the_mode_is_restored_after_an_exception(channels: int, label: int) -> None:
    net = network().train()
    with pytest.raises((RuntimeError, IndexError)):
        evaluate(net, [(torch.ones(2, channels, 4, 4), torch.tensor([0, label]))])
    assert all(module.training for module in net.modules())
    assert torch.is_grad_enabled()


def test_switched_off_gradients_do_not_leak() -> None:
    """The model can be trained afterwards."""
    net, batches = network(), labelled_batches()
    evaluate(net, batches)
    assert torch.is_grad_enabled()
    assert not any(t.is_inference() for t in net.state_dict().values())
    net(batches[0][0]).sum().backward()
    assert net[0].weight.grad.abs().sum() > 0


def test_nothing_of_the_model_changes() -> None:
    net = network()
    before = deepcopy(net.state_dict())
    evaluate(net, labelled_batches())
    assert_same(net.state_dict(), before)
    assert all(p.grad is None for p in net.parameters())


def test_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="no image to score on"):
        evaluate(network(), [])


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_forward_pass_computes_in_the_type_asked_for(compute: torch.dtype) -> None:
    """And the score is that of float32 but for rounding; weights stay float32."""
    net, batches, seen = network().eval(), labelled_batches(), set()
    net.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    forward = cast_forward(net, compute)
    with torch.inference_mode():
        score = score_of(*(torch.cat(part) for part in zip(*[(forward(x), y) for x, y in batches], strict=True)))
    assert seen == {compute}
    assert score.nll == pytest.approx(plain_loop(net, batches)[1], rel=0.02)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert cast_forward(net, compute)(batches[0][0]).dtype == compute
    assert not torch.is_autocast_enabled("cpu")


def test_nan_is_never_right_and_minus_infinity_is_no_class() -> None:
    """Torch takes NaN for the largest: the class of its place, or 0 where all are, would be right by chance."""
    logits = torch.tensor([[math.nan] * 2, [0.0, math.nan], [-math.inf, 0.0], [0.0, -math.inf]])
    labels = torch.tensor([0, 1, 1, 0])
    assert mark(logits, labels)[0].tolist() == [False, False, True, True]
    found = Graded.of(logits, labels)
    assert (found.right.tolist(), found.among_five.tolist()) == ([False, False, True, True],) * 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_told_and_left_out_of_json(value: float) -> None:
    score = evaluate(nn.Identity(), [(torch.tensor([[1.0, 0.0], [0.0, value]]), torch.tensor([0, 0]))])
    assert not math.isfinite(score.nll)
    assert score.to_json() == {"accuracy": score.correct / 2, "nll": None, "n": 2}


def test_scores_are_equal_whatever_state_they_name() -> None:
    assert Score(3, 0.5, 4, state="a") == Score(3, 0.5, 4, state="b")
    assert Score(3, 0.5, 4) != Score(3, 0.5, 4, complete=False)


def by_update_bn(state: Mapping[str, Tensor], images: list[Tensor]) -> nn.Module:
    """The network of `state` with fresh statistics: torch's own update_bn, with dropout taken out."""
    net = network()
    net.load_state_dict(state)
    net[3] = nn.Identity()
    update_bn(images, net)
    return net.eval()


def test_recalibrated_renews_mean_and_variance_and_passes_every_other_tensor_on() -> None:
    """`num_batches_tracked` stays, as it counts training steps; a half-precision state stays one."""
    state = {n: t.half() if t.is_floating_point() else t for n, t in network(1).state_dict().items()}
    before = deepcopy(state)
    calibration = labelled_batches(2)
    fresh = recalibrated(network(), state, iter(calibration))
    oracle = by_update_bn(state, images_of(calibration)).state_dict()
    assert list(fresh) == list(state)
    for name, t in fresh.items():
        if name in ("1.running_mean", "1.running_var"):
            assert t.dtype == torch.float16
            torch.testing.assert_close(t.float(), oracle[name], rtol=1e-3, atol=1e-3)
        else:
            assert t is state[name]
    assert_same(state, before)


def test_recalibrated_does_not_depend_on_what_the_model_held_before() -> None:
    state, calibration = network(1).state_dict(), labelled_batches(2)
    assert_same(recalibrated(network(5), state, calibration), recalibrated(network(6), state, calibration))


def test_recalibrated_statistics_do_not_follow_the_model() -> None:
    net, state = network(), network(1).state_dict()
    fresh = recalibrated(net, state, labelled_batches())
    expected = deepcopy(fresh)
    net.train()(torch.randn(8, 1, 4, 4))
    assert_same(fresh, expected)


def test_recalibrated_tensors_are_no_inference_tensors() -> None:
    net = network()
    fresh = recalibrated(net, network(1).state_dict(), labelled_batches())
    assert not any(t.is_inference() for t in (*fresh.values(), *net.state_dict().values()))
    assert torch.is_grad_enabled()


def test_a_state_without_batch_norm_comes_back_as_it_is() -> None:
    net = nn.Linear(2, 2)
    state = net.state_dict()
    assert all(t is state[name] for name, t in recalibrated(net, state, []).items())


def test_recalibrating_on_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="at least one calibration image"):
        recalibrated(network(), network(1).state_dict(), [])


def test_a_batchnorm_layer_under_two_names_is_renewed_under_both() -> None:
    shared = nn.BatchNorm1d(2)
    net = nn.Sequential(shared, shared)
    state = deepcopy(net.state_dict())
    fresh = recalibrated(net, state, [(torch.tensor([[1.0, 2.0], [3.0, 8.0]]), torch.zeros(2))])
    assert torch.equal(fresh["0.running_mean"], fresh["1.running_mean"])
    assert torch.equal(fresh["0.running_var"], fresh["1.running_var"])
    assert not torch.equal(fresh["0.running_mean"], state["0.running_mean"])


def test_the_scaled_nll_is_the_least_over_temperatures() -> None:
    """Against a fine grid; the same for logits of any scale, and never above the plain NLL."""
    draw = torch.Generator().manual_seed(0)
    for spread in (0.1, 1.0, 30.0):
        labels = torch.randint(5, (200,), generator=draw)
        logits = spread * (torch.randn(200, 5, generator=draw) + F.one_hot(labels, 5))
        found = scaled_nll_of(logits, labels)
        assert found is not None
        grid = [float(F.cross_entropy(logits * 10**exponent, labels)) for exponent in torch.linspace(-4, 3, 2000)]
        assert found == pytest.approx(min(grid), abs=1e-4)
        assert found <= float(F.cross_entropy(logits, labels)) + 1e-6


def test_the_scaled_nll_of_odd_logits() -> None:
    labels = torch.tensor([0, 1])
    assert scaled_nll_of(torch.tensor([[math.nan, 0.0], [0.0, 1.0]]), labels) is None
    assert scaled_nll_of(torch.zeros(2, 4), labels) == pytest.approx(math.log(4))  # every temperature is as good
    assert scaled_nll_of(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), labels) == pytest.approx(0, abs=1e-3)  # all right
    wrong = scaled_nll_of(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), labels)  # all wrong: infinitely hot is best
    assert wrong == pytest.approx(math.log(2), abs=1e-3)
